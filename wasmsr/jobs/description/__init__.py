"""The job file: reading it, its schema, and the job that it describes."""
