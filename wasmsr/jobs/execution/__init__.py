"""Executions of jobs: what they get, how they run, what they leave."""
