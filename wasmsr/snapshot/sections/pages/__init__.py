"""Memories and their pages."""
