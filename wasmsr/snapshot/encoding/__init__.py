"""Snapshots as bytes: the container, its sections, a writer and a reader."""
