"""The rules of the house as tests: what the tree may contain and who may import whom."""
