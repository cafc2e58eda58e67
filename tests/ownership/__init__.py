"""Tests of the room `ownership`."""
