"""The command line, on top of everything else: thin commands, nothing heavy imported at start-up.

In the order in which a command line travels: `entry` (streams, the error layer), `quick` (a line of
`run` that needs no help) or `app` (the group, logging) and `run_command`, `argv` (whose argument is
whose), `options` (text to values), `programs` (the four named programs), `run` and `launch` (from
options to a program), `session` (signals, keys and timers while it runs), `report` (how it
ended, in words and as JSON), `inspect` (what is in a snapshot).
"""

from __future__ import annotations

from wasmsr.cli.entry import command, main

__all__ = ["command", "main"]
