"""The options of the command: kinds of values, rows, and which argument belongs to whom."""
