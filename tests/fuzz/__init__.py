"""Random testing; `make fuzz` runs it for longer."""
