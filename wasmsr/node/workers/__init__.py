"""Worker processes of a node: forked from warm parents, confined, and found again."""
