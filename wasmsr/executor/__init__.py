"""The executor: many programs by id, in this process or in a worker process. It has no network."""
