"""Snapshots for people: as text, as data for JSON, and as one line."""
