"""Ownership: who may run a program, and whose effects count. It has no network and no guest."""
