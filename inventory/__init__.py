"""Which hosts there are, how to reach them, and what each can do."""
