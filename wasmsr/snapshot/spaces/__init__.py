"""Spaces: the bytes that version 2 of the format stores as pages, each at its place."""
