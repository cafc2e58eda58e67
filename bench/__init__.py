"""Measurements: README.md in this folder lists the commands."""
