"""BTF itself: bytes to types and back, found by id and by name."""
