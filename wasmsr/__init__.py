"""wasmsr: a WebAssembly runtime in which every running program can be paused, saved and resumed."""

__version__ = "0.1.0"
