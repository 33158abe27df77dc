"""The live face: screens over the record. It reads, and asks by writing a request; it never acts on a host."""
