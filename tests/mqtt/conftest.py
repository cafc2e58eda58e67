"""Fixtures for all tests of the room."""

from tests.mqtt.served import broker, orchestrator

__all__ = ["broker", "orchestrator"]
