"""The description of a run: one record, and the one reader of it."""
