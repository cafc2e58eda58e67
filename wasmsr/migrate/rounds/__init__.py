"""Pre-copy: how the memories of a program leave in rounds, and when the program is stopped."""
