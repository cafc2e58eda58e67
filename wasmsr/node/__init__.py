"""A node: programs of many people, each in a worker process; the supervisor runs none."""
