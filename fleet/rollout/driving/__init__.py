"""Who drives: processes, their claims and heartbeats, and the one engine that makes legs durable."""
