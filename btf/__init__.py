"""What a kernel and an object are made of: bytes in, values out. This room knows no host, database or network."""
