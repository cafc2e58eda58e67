"""Tests of channels: functions of `env`, and their state."""
