"""Tools for snapshots that nobody runs: check, merge, convert, compare, take memory out."""
