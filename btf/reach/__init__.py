"""Guarded or fatal: which instructions a kernel's verifier would look at."""
