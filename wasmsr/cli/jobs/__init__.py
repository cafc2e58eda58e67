"""The commands of `wasmsr job` that run jobs and say what became of them."""
