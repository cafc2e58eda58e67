"""What `wasmsr remote` does: one end of a pair, what it gives to programs, and its lines."""
