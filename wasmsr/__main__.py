"""`python -m wasmsr`: the same as the command `wasmsr`."""

from __future__ import annotations

from wasmsr.cli import command

if __name__ == "__main__":
    command()
