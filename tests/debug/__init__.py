"""Tests of wasmsr.debug."""
