"""tcp-flow: one record for every TCP connection that ends."""
