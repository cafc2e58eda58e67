"""Output of programs that an executor keeps: in memory, in a pipe, in files."""
