"""Tests of `wasmsr.program` and `wasmsr.library`."""
