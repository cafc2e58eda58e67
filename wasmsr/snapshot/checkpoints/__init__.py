"""Checkpoints: snapshots in a folder, one whole and then what changed, beside the program."""
