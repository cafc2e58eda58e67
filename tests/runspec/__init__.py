"""Tests of the room `runspec`."""
