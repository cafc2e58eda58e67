"""The orchestrator of a fleet: what runs where, kept in a file of SQLite. No transport."""
