"""One end of `wasmsr remote` that also notes when its engine runs.

    python -m bench.migrate.end NOTES PEER WORDS…

It is `wasmsr WORDS…`, and writes a line of JSON to the file NOTES whenever the engine begins or
stops to execute instructions: the time (CLOCK_MONOTONIC, which all processes of a machine share),
and the bytes that this process and the one that writes PEER have given to write calls, which are
those for files: gRPC sends otherwise. (`write_bytes` counts up to 64 times as much where a page of
a large file is written.) So the downtime of a move is known whatever the ends themselves say. The
process ends with its parent.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from bench.migrate.child import end_with_parent
from wasmsr.cli.entry import main as wasmsr
from wasmsr.interp.store.store import Store

WRITTEN = re.compile(rb"^wchar: (\d+)", re.MULTILINE)


class Notes:
    """The notes of this process. The thread that runs the engine writes them."""

    def __init__(self, path: Path, peer: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._own = os.open("/proc/self/io", os.O_RDONLY)
        self._peer = peer
        self._peer_io: int | None = None
        self.note("begins", time.monotonic())

    def note(self, what: str, when: float) -> None:
        """Write a line."""
        other = self._other() if what != "begins" else 0
        text = f'{{"what": "{what}", "when": {when:.6f}, "pid": {os.getpid()}'
        text += f', "own": {_written(self._own)}, "peer": {other}}}\n'
        os.write(self._file, text.encode())

    def _other(self) -> int:
        """Return what the peer has written to the disk; 0 while it is not there."""
        try:
            if self._peer_io is None:
                found = re.search(r'"pid": (\d+)', self._peer.read_text())
                if found is None:
                    return 0
                self._peer_io = os.open(f"/proc/{found[1]}/io", os.O_RDONLY)
            return _written(self._peer_io)
        except OSError:
            return 0


def _written(file: int) -> int:
    found = WRITTEN.search(os.pread(file, 500, 0))
    return int(found[1]) if found else 0


def watch(notes: Notes) -> None:
    """Note when a store runs and when it stops."""
    run = Store.run

    def noted(self: Store, *words: Any, **more: Any) -> Any:
        notes.note("runs", time.monotonic())
        try:
            return run(self, *words, **more)
        finally:
            notes.note("stands", time.monotonic())

    Store.run = noted  # type: ignore[method-assign]


def main() -> int:
    """Run the command line and return the exit code."""
    end_with_parent()
    watch(Notes(Path(sys.argv[1]), Path(sys.argv[2])))
    sys.argv[1:] = sys.argv[3:]
    return wasmsr()


if __name__ == "__main__":
    sys.exit(main())
