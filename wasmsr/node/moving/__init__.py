"""Moves of programs between nodes: what a worker and its supervisor do, and the node's end."""
