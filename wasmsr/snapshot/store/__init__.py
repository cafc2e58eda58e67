"""The store of snapshots: many snapshots in one place, equal pages once."""
