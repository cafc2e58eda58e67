"""Leases of a node: programs that survive the loss of their host."""
