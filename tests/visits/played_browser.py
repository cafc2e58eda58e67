"""A browser that this process plays: our own engine runs the program, and its state is sent."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.port import HELD
from wasmsr.node.visits.apart import HEAD
from wasmsr.node.visits.visit import BrowserVisit
from wasmsr.snapshot.runnable import plain_state as plain
from wasmsr.snapshot.runnable.outgoing import plain_program
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.tools.export import known_modules
from wasmsr.snapshot.tools.opened import open_snapshot


class PlayedBrowser:
    """Runs a program that a node has lent."""

    def __init__(self, visit: BrowserVisit, left: Path, module: bytes, folder: Path) -> None:
        """Take the program.

        Args:
            visit: The visit.
            left: The file of the state in which it left.
            module: Its module.
            folder: For files.
        """
        self.visit, self._folder = visit, folder
        path = folder / "module.wasm"
        path.write_bytes(module)
        self._executor = LocalExecutor()
        with left.open("rb") as file:
            self._program = self._executor.adopt(
                file.fileno(), {"program": os.fspath(path)}, streams=(-1, HELD, HELD)
            )
        self._sent = {"stdout": 0, "stderr": 0}
        self._number = 0

    def run(self, instructions: int) -> None:
        """Run so many instructions."""
        self._executor.step(self._program, instructions)

    def written(self, stream: str = "stdout") -> bytes:
        """Return what the program has written since the last state that was sent."""
        return self._executor.logs(self._program, stream, self._sent[stream])[1]

    def state(self) -> SnapshotState:
        """Return the state of the program."""
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            self._executor.snapshot(self._program, file.fileno())
            self._opened = open_snapshot(file.name)
        return self._opened.state

    def body(self, **changes: Any) -> bytes:
        """Return the state as it is sent; `changes` are lies about it."""
        state = replace(self.state(), wasi=None, files=None, **changes)
        modules = [bytes(one.binary) for one in known_modules(self._opened, []) if one is not None]
        program = plain_program(state, modules, any_host=True)
        parts = {
            kind: bytes(part) for kind, part in plain.split_parts(memoryview(program.head)).items()
        }
        whole = plain.join_parts({**parts, plain.PAGES: b"".join(program.pages())})
        output, errors = self.written(), self.written("stderr")
        head = HEAD.pack(5_000_000_000, len(output), len(errors))
        return head + output + errors + gzip.compress(whole, 1)

    def send(self, body: bytes | None = None) -> dict[str, Any]:
        """Send the state, and return the answer."""
        data = self.body() if body is None else body
        answer = self.visit.take(self._number + 1, io.BytesIO(data), len(data))
        self._number += 1
        for stream in self._sent:
            self._sent[stream] += len(self.written(stream))
        return answer
