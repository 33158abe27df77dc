"""BTF kept by exact kernel build, and where it comes from: images, modules, trees of archives."""
