"""Tests of `wasmsr.wasi`: the calls, the sandbox, waiting, capture and restore."""
