"""The programs we ship, a folder each: manifest, builds, adapter."""
