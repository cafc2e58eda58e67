"""This host as a place for programs; the one wing of the room that uses the engine."""
