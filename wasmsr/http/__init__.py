"""Transports over HTTP: here is the register in etcd."""
