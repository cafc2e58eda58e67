"""Tests of WASI: streams and sockets."""
