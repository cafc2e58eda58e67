"""The configuration of a node: a file, environment variables and flags, in rising order."""
