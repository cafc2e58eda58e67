"""Programs as graphs of compute and memory elements."""
