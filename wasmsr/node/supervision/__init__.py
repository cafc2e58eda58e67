"""The supervisor of a node: its programs, its notes of them, and what it finds after a crash."""
