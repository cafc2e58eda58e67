"""Tests of the room `executor`."""
