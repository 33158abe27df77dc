"""Lab hosts: real differences on one machine, each a namespaced host with its own sshd. Decides nothing."""
