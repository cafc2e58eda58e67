"""Memories as pages: the core's functions over them."""
