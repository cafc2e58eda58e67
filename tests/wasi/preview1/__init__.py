"""Tests of WASI: the calls, one by one and against other implementations."""
