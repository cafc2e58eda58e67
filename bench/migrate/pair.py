"""Two ends on a line, and a program that goes to and fro between them."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.migrate.lines import Place
from bench.migrate.subjects import Subject

NAMES = ("a", "b")
LISTEN_SECONDS = 60.0
SILENT_SECONDS = 300.0
"""An end that says nothing for so long while its program should move is stuck."""


def free_ports() -> list[int]:
    """Return two ports of this machine on which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Stuck(Exception):
    """The ends do not do what they should; the message has what they said."""


@dataclass
class Said:
    """What one end has said.

    Attributes:
        events: Its events, each with the time at which it came as "when" (`time.monotonic`).
        counts: What the program has counted there: time and number.
        words: What it said on standard error.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    counts: list[tuple[float, int]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


class End:
    """One process of `wasmsr remote`, by `bench.migrate.end`.

    Attributes:
        name: "a" or "b".
        said: What it has said.
        notes: The file of what its engine did.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, notes: Path, subject: Subject,
        cores: frozenset[int], environment: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.name = name
        self.said = Said()
        self.notes = notes
        self._subject = subject
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        )
        os.sched_setaffinity(self.process.pid, cores)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._follow, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def _follow(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            now = time.monotonic()
            if line.startswith("{"):
                try:
                    self.said.events.append({**json.loads(line), "when": now})
                    continue
                except ValueError:
                    pass
            count = self._subject.count(line)
            if count is not None:
                self.said.counts.append((now, count))

    def _listen(self) -> None:
        assert self.process.stderr
        self.said.words.extend(self.process.stderr)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return its events of a kind."""
        return [event for event in list(self.said.events) if event.get("event") == kind]

    def status(self, field: str) -> int:
        """Return a number of bytes of /proc/PID/status, such as VmHWM; 0 if it has ended."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        for line in text.splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * (1024 if line.endswith("kB") else 1)
        return 0

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except OSError:
            return 0

    def stop(self) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(10)


class Pair:
    """Two ends and the program that moves between them.

    Args:
        subject: The program.
        places: Where the two ends are.
        folder: An empty folder, on the disk that the journals are to be on.
        cores: The processors that both ends use.
        options: More options of `wasmsr remote` for both ends.
        environment: More variables for both.

    Attributes:
        ends: The ends by name.
        alone: Most memory of the end that runs the program, before the program moves.
    """

    def __init__(
        self,
        subject: Subject,
        places: tuple[Place, Place],
        folder: Path,
        cores: frozenset[int],
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.subject = subject
        self.began = time.monotonic()
        self._places = dict(zip(NAMES, places, strict=True))
        self._folder = folder
        self._cores = cores
        self._options = list(options)
        self._environment = environment or {}
        self.ends: dict[str, End] = {}
        self.alone = 0

    def __enter__(self) -> Pair:
        """Start both ends."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End both ends."""
        self.close()

    def _start(self) -> None:
        files = self._folder / "files"
        files.mkdir()
        key = self._folder / "key"
        key.touch(0o600)
        key.write_text(secrets.token_hex(32))
        both, starting = self.subject.prepared(files)
        seconds = {"a": self.subject.first, "b": self.subject.then}
        ports = dict(zip(NAMES, free_ports(), strict=True))
        for name in reversed(NAMES):
            there = NAMES[name == "a"]
            notes = {one: self._folder / f"{one}.notes" for one in NAMES}
            address = self._places[name].address
            words = ["remote", "--json", "--every", str(seconds[name]), *self._options, *both]
            words += ["--port", str(ports[name]), "--token-file", str(key)]
            words += ["--peer", f"{self._places[there].address}:{ports[there]}"]
            words += ["--state-dir", str(self._folder / f"state-{name}")]
            words += [] if address == "127.0.0.1" else ["--listen", address]
            words += ["--send", *starting] if name == "a" else []
            command = [*self._places[name].inside, sys.executable, "-m", "bench.migrate.end"]
            command += [str(notes[name]), str(notes[there]), *words]
            end = End(
                name, command, self._folder, notes[name], self.subject, self._cores,
                self._environment,
            )  # fmt: skip
            self.ends[name] = end
            if name == "b":
                self._wait_until(self._listens, LISTEN_SECONDS)
                if not self.subject.program:  # it may not fill its memory before it moves
                    self.alone = end.status("VmRSS") + (self.subject.memory << 16)

    def _listens(self) -> bool:
        return bool(self.ends["b"].of_kind("listening"))

    def _wait_until(self, true: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            self.check()
            if time.monotonic() > deadline:
                raise Stuck(f"nothing happens within {seconds:.0f} s; {self.words()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise Stuck if an end has ended; note its memory before the first move."""
        first = self.ends.get("a")
        # An end asks whether the program may come before it starts it, and then for each move.
        if first and not self.arrivals() and len(first.of_kind("prepared")) < 2:
            self.alone = max(self.alone, first.status("VmRSS"))
        for end in self.ends.values():
            if (code := end.process.poll()) is not None:
                time.sleep(0.2)
                raise Stuck(f"end {end.name} ended with code {code}; {self.words()}")

    def refusals(self) -> list[str]:
        """Return why attempts to move the program failed."""
        ends = self.ends.values()
        return [str(event["message"]) for end in ends for event in end.of_kind("not-moved")]

    def words(self) -> str:
        """Return what the ends said last on standard error, and of moves that failed."""
        said = [
            f"{end.name}: {' / '.join(text.strip() for text in end.said.words[-3:])}"
            for end in self.ends.values()
        ]
        return "; ".join([*said, *self.refusals()[-1:]])

    def arrivals(self) -> int:
        """Return how often the program has arrived."""
        return sum(len(end.of_kind("arrived")) for end in self.ends.values())

    @property
    def ready(self) -> bool:
        """Whether the program has come so far that its moves count."""
        if self.subject.counted is None:
            return bool(self.ends["a"].of_kind("started"))
        return any(end.said.counts for end in self.ends.values())

    def move(self, times: int, watch: Callable[[], None] = lambda: None) -> float:
        """Wait until the program has moved.

        Args:
            times: How often, from the moment on from which moves count.
            watch: Called about every 50 ms.

        Returns:
            The moment from which moves count (`time.monotonic`).
        """
        self._wait_until(lambda: self.ready, SILENT_SECONDS)
        counts_from, first = time.monotonic(), self.arrivals()
        last, seen = counts_from, first
        while (now := self.arrivals()) < first + times:
            watch()
            self.check()
            if now != seen:
                last, seen = time.monotonic(), now
            if time.monotonic() - last > SILENT_SECONDS + self.subject.first:
                raise Stuck(f"no move within {SILENT_SECONDS:.0f} s; {self.words()}")
            time.sleep(0.05)
        time.sleep(0.1)
        return counts_from

    def close(self) -> None:
        """End both ends, the one without the program first."""
        for name in reversed(NAMES):
            if name in self.ends:
                self.ends[name].stop()
