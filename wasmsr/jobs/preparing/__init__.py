"""A request of an execution is checked whole before anything is made."""
