"""The store: instances, host functions and one thread, run to outcomes."""
