"""The command line: thin commands on top of everything else; nothing heavy is imported at start-up.

A command line passes `entry` (streams, the last error), then `quick` (a line of `run` that needs no
help) or `app` and `commands` (click). `options` divides and reads the line, `running` carries out a
run, `moving` carries out `remote`, and `words` reports.
"""

from __future__ import annotations

from wasmsr.cli.entry import command, main

__all__ = ["command", "main"]
