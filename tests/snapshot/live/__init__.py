"""Snapshots that arrive in rounds."""
