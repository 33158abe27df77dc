"""net-policy: see README.md."""
