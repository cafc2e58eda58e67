"""`wasmsr run` at work: from options to a program, signals, keys, timers and files."""
