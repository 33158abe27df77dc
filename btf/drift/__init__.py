"""What changed between kernels: what that does to an object without breaking it, and the change itself."""
