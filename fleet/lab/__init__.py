"""Lab hosts: real differences on one machine, namespaced hosts and emulated kernels. Decides nothing."""
