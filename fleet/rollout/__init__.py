"""Carrying a plan out: waves, steps on hosts, baking, gates, halt and rollback; durable across crashes."""
