"""Tests of the room `ssh`."""
