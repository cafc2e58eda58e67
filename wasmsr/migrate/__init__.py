"""Live migration: who owns a program, and how it changes hands. Policy only, no gRPC.

In the order of a move: `terms` (what is said between two ends), `ports` (a program, a host and a
peer as this room sees them), `events` (what a watcher is told), `journal` (what is on disk),
`ownership` (what the journal's record means to who asks), `modules` (the cache of modules),
`source` and `destination` (the two halves of the hand-over), `node` (one end: both halves, back and
forth), `hosting` (the port of programs, filled by `wasmsr.program`).

docs/migration-protocol.md is the specification; house rule: never two owners.
"""
