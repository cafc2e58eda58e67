"""The threads of a program."""
