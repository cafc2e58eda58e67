"""A node as a device of a fleet: it runs the modules that an orchestrator gives to it."""
