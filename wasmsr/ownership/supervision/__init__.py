"""Supervision: a worker process for each leased program, its checkpoints, output and end."""
