"""Snapshots: a paused machine as a value, and that value as bytes.

In the order in which data flows: `state` (the value), `capture` (from and to a machine), `check`
(what holds of every value), `pages` (which pages of memory are stored), `sections` (parts of the
value as payloads), `container` (payloads as protected bytes), `writer` and `reader` (the whole),
`format` (the front door: `encode`, `decode`, `save`, `load`), `inspect` (a snapshot for people).
"""
