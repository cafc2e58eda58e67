"""What snapshots, checkpoints, restores and forks cost, each figure next to its limit."""
