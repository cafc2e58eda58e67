"""Jobs of one machine: a list on disk, and a process that runs what is in it."""
