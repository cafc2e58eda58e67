"""Memory that programs read and write over a wire, and what serves it."""
