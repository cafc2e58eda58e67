"""One command-line program: its module, its store and its WASI, on a worker thread."""
