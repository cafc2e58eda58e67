"""Mapped snapshots: their form, what admits them, and programs over them."""
