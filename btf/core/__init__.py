"""CO-RE: what an object asks of a kernel's types, what it gets, and the least BTF that answers the same."""
