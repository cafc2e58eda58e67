"""The commands of memories and elements."""
