"""Two ends of `wasmsr remote` as processes, for the tests that type commands.

What an end writes is read at once by threads, whoever waits for what: an end that writes into a
full pipe would stand still, and the other one wait for it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from tests.migrate.test_killing import free_ports

PATIENCE = 120.0
"""Seconds until something that must happen counts as stuck, on a machine that is busy."""


class Output:
    """What a process writes: its lines of standard output, and what it says on standard error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.said: list[str] = []
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._read, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _listen(self) -> None:
        assert self.process.stderr
        self.said.extend(self.process.stderr)

    def line(self) -> str | None:
        """The next line, when it comes; None after the last."""
        try:
            line = self.lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"nothing comes; it said {''.join(self.said)}") from None
        if line is None:
            self.lines.put(None)
        return line

    def rest(self) -> tuple[str, str]:
        """All that comes until the process ends, and what it said."""
        lines = []
        while (line := self.line()) is not None:
            lines.append(line)
        self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return "".join(lines), "".join(self.said)


class Ends:
    """Two ends, by the names a and b, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.work = folder / "work"
        self.work.mkdir()
        self.ports = dict(zip("ab", free_ports(), strict=True))
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._outputs: dict[str, Output] = {}

    def start(self, end: str, *more: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        other = "b" if end == "a" else "a"
        command = [sys.executable, "-m", "wasmsr", "remote", "--json"]
        command += ["--port", str(self.ports[end]), "--peer", str(self.ports[other])]
        command += ["--state-dir", str(self.state), *more]
        process = subprocess.Popen(
            command,
            cwd=self.work,
            # The user's own folder, where the key is that all state directories begin with.
            env={**os.environ, "XDG_STATE_HOME": str(self.folder / "home")},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes[end] = process
        self._outputs[end] = Output(process)
        return process

    def listen(self, end: str, *more: str) -> None:
        """Starts an end that waits, and comes back when it does: the other one gives up soon."""
        self.start(end, *more)
        self.until(end, "listening")

    def rest(self, end: str) -> tuple[str, str]:
        """Waits for the end of an end; the rest of what it wrote, and what it said."""
        return self._outputs[end].rest()

    def events(self, end: str) -> tuple[list[dict[str, object]], str]:
        """Waits for the end of an end; its events that were not asked for, and what it said."""
        out, err = self.rest(end)
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")], err

    def line(self, end: str) -> str:
        """The next line that it writes."""
        line = self._outputs[end].line()
        assert line is not None, f"{end} has ended: {self._outputs[end].said}"
        return line

    def until(self, end: str, kind: str) -> dict[str, object]:
        """Reads the events of an end up to the first of a kind."""
        while True:
            event: dict[str, object] = json.loads(self.line(end))
            if event["event"] == kind:
                return event

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for output in self._outputs.values():
            output.rest()
