"""RunOptions of the command: kinds of values, rows, and whose argument is whose."""
