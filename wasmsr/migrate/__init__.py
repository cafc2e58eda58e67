"""Live migration: who owns a program, and how the owner changes. Policy only, without a network.

`protocol` has the values that two ends exchange, `ports` what the room needs of programs, hosts and
peers. The wings are `journal` (decisions on disk), `handover` (the move), `hosting` (this host),
`files` and `streams` (what an end keeps for programs that come and go).
docs/migration-protocol.md is the specification. A program never has two owners.
"""
