"""Frozen samples of every version of the snapshot format."""
