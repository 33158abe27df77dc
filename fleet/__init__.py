"""Decides which build runs where, rolls it out, records and shows it."""
