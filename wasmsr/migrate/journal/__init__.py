"""The decisions of an end on disk, and what follows from a record."""
