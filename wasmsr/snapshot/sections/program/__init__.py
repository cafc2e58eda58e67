"""What a program is made of, but for memories and the thread."""
