"""Tests of the room `mem`."""
