"""What belongs to the host's side: WASI, files, and the modules themselves."""
