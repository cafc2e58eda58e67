"""Tests of the room `elements`."""
