"""Tests of the room `rpc`."""
