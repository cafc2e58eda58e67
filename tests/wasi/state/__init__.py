"""Tests of WASI: states that are saved and restored."""
