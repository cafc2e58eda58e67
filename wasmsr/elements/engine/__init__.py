"""The engine of one machine: a scheduler, and processes that it has made."""
