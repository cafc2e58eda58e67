"""Tests of the snapshot as a value and as bytes."""
