"""Compiled BPF objects: what their bytes say, the same on every machine."""
