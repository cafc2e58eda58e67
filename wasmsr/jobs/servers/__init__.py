"""Executions of jobs on wasmsr nodes."""
