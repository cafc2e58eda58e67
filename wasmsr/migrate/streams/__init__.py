"""Standard streams of programs that are away from where they started."""
