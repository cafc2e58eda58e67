"""The store of snapshots."""
