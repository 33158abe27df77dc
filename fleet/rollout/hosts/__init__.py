"""What is done to hosts, one step and one look at a time."""
