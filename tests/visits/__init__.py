"""Programs of a node that visit a browser."""
