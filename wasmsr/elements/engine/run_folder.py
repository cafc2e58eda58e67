"""A run on disk: its graph, its input, what has ended, logs, and the images of its memories.

Everything that a later `resume` needs is in `journal.jsonl`. A line has copies that have ended,
with their results, and the numbers of the images of memories that belong to them: all of it counts
or nothing. Files of results are made from it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.action_json import action_json, read_graph
from wasmsr.elements.folder.element import ElementGraph
from wasmsr.elements.running import LARGEST_RESULT
from wasmsr.errors import printable, reason

RUN_ID = re.compile(r"r-[0-9a-f]{8}")
LOCK_TRIES = 20
"""How often a run is tried to be locked, 10 ms apart."""
LAST_LINES = 10
"""Lines of a log that an error shows."""
LAST_BYTES = 1 << 14
"""Bytes of a log that are read for them."""


class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where it is; its name is the id of the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1
        self._journal = -1

    @classmethod
    def create(cls, runs: Path, graph: ElementGraph, params: Any) -> RunFolder:
        """Make the folder of a new run and take it.

        Raises:
            ElementError: It cannot be made.
        """
        run = cls(runs / f"r-{os.urandom(4).hex()}")
        part = runs / f".{run.ident}.part"  # no run until it is whole
        try:
            for name in ("results", "logs", "memory"):
                (part / name).mkdir(mode=0o700, parents=True)
            small_files.create(part / "input.json", json.dumps(params).encode())
            small_files.create(part / "graph.json", json.dumps(action_json(graph)).encode())
            part.rename(run.path)
            small_files.sync_folder(runs)
        except OSError as error:
            raise ElementError(f"{printable(run.path)}: {error.strerror or error}") from error
        run.take()
        return run

    @classmethod
    def find(cls, runs: Path, ident: str) -> RunFolder:
        """Return a run by its id or the beginning of it.

        Raises:
            ElementError: There is none, or more than one.
        """
        try:
            names = sorted(name for name in os.listdir(runs) if RUN_ID.fullmatch(name))
        except FileNotFoundError:
            names = []
        found = [name for name in names if name.startswith(ident)]
        if len(found) != 1:
            what = "more than one run begins" if found else "no run begins"
            raise ElementError(
                f"{what} with {printable(ident)}", hint="`wasmsr dag runs` lists them"
            )
        return cls(runs / found[0])

    @property
    def ident(self) -> str:
        """The id of the run."""
        return self.path.name

    def graph(self) -> ElementGraph:
        """Return the graph of the run."""
        graph, faults = read_graph(self.path / "graph.json")
        if faults:
            raise ElementError(f"{self.ident}: {faults[0]}")
        return graph

    # ---- who runs it -----------------------------------------------------------------------------

    def take(self) -> None:
        """Take the run, so that no other process runs it.

        Raises:
            ElementError: Another process has it.
        """
        try:
            self._lock = os.open(self.path / "taken", os.O_RDWR | os.O_CREAT, 0o600)
            _lock(self._lock)
            os.ftruncate(self._lock, 0)
            os.write(self._lock, str(os.getpid()).encode())
            self._journal = os.open(
                self.path / "journal.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600
            )
            self._mend()
        except BlockingIOError:
            raise ElementError(f"run {self.ident} is running in another process") from None
        except OSError as error:
            raise ElementError(f"{printable(self.path)}: {error.strerror or error}") from error

    def _mend(self) -> None:
        """Cut off a line that was not written whole: its copy counts as not ended."""
        data = (self.path / "journal.jsonl").read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.ftruncate(self._journal, whole)

    def give_back(self) -> None:
        """Let others take the run."""
        for descriptor in (self._journal, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._journal = self._lock = -1

    def lock_copies(self, patience: float) -> int:
        """Return a descriptor that holds a lock as long as a process has it open.

        The forker and all copies have it. They end soon after a scheduler that was killed, and
        until then they may still write to the files of the run.

        Args:
            patience: Seconds in which those of an earlier scheduler must have ended.

        Raises:
            ElementError: They have not, or the file cannot be opened.
        """
        ends = time.monotonic() + patience
        try:
            descriptor = os.open(self.path / "copies", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ElementError(f"{printable(self.path)}: {error.strerror or error}") from error
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > ends:
                    os.close(descriptor)
                    raise ElementError(
                        f"elements of run {self.ident} still run, though what has started them "
                        "has ended",
                        hint=f"`fuser {self.path / 'copies'}` finds them",
                    ) from None
            time.sleep(0.01)

    def runner(self) -> int | None:
        """Return the process that runs it, or None."""
        try:
            descriptor = os.open(self.path / "taken", os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):
                return int(os.read(descriptor, 20))
            return None
        finally:
            os.close(descriptor)
        return None

    def stop(self, patience: float) -> bool:
        """Ask the process that runs it to end; return whether it runs no longer."""
        pid = self.runner()
        ends = time.monotonic() + patience
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while self.runner() is not None:
            if time.monotonic() > ends:
                return False
            time.sleep(0.02)
        return True

    # ---- what has ended --------------------------------------------------------------------------

    def note(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write entries of the journal, and return when they are on the disk.

        Raises:
            ElementError: They cannot be written.
        """
        text = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        try:
            while text:
                text = text[os.write(self._journal, text) :]
            os.fdatasync(self._journal)
        except OSError as error:
            raise ElementError(f"{printable(self.path)}: {error.strerror or error}") from error

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of the journal; a damaged line ends it.

        Raises:
            ElementError: A line in it is damaged.
        """
        try:
            lines = (self.path / "journal.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for number, line in enumerate(lines[:-1], 1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("it is no object")
            except ValueError as error:
                raise ElementError(
                    f"run {self.ident}: line {number} of its journal is damaged: {reason(error)}"
                ) from None
            yield entry

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield what the journal has of each copy that has ended well.

        Raises:
            ElementError: A line in it is damaged.
        """
        for entry in self.entries():
            if "result" in entry:  # of a version that wrote a line for each
                yield entry
            yield from entry.get("ended", ())

    # ---- files of one copy -----------------------------------------------------------------------

    def result(self, element: str, index: int) -> Path:
        """Return the file of a result."""
        return self.path / "results" / f"{element}@{index}.json"

    def log(self, element: str, index: int) -> Path:
        """Return the file of what a copy writes."""
        return self.path / "logs" / f"{element}@{index}.log"

    def output(self, element: str, index: int) -> Path:
        """Return the file of the standard output of a copy in WebAssembly."""
        return self.path / "results" / f"{element}@{index}.out"

    def saved(self, element: str, index: int) -> Path:
        """Return the folder of the states in which a copy in WebAssembly was saved."""
        return self.path / "saved" / f"{element}@{index}"

    def last_lines(self, element: str, index: int) -> list[str]:
        """Return the last lines that a copy wrote, as they can be shown."""
        try:
            with self.log(element, index).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - LAST_BYTES))
                text = file.read(LAST_BYTES).decode("utf-8", "replace")
        except OSError:
            return []
        return [printable(line, 200) for line in text.splitlines()[-LAST_LINES:]]

    def read_result(self, element: str, index: int) -> str:
        """Return the JSON that a copy has left.

        Raises:
            ElementError: It has left none, or no JSON.
        """
        try:
            data, _ = small_files.read(self.result(element, index), LARGEST_RESULT)
            json.loads(data)
            return data.decode()
        except (OSError, ValueError, RecursionError) as error:
            raise ElementError(f"{printable(element)} left no result: {reason(error)}") from error


def _lock(descriptor: int) -> None:
    """Lock a run; who only asks for its runner has the lock for a moment, too.

    Raises:
        BlockingIOError: Another process has it.
    """
    for left in reversed(range(LOCK_TRIES)):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
        time.sleep(0.01)


def params_of(path: Path, parents: Mapping[str, int]) -> Any:
    """Return the parameters of an element: the input of the run, or the results of its parents.

    Args:
        path: The folder of the run.
        parents: For each parent its number of copies.
    """
    if not parents:
        return json.loads((path / "input.json").read_bytes())
    results = path / "results"
    return {
        name: [json.loads((results / f"{name}@{at}.json").read_bytes()) for at in range(copies)]
        for name, copies in parents.items()
    }
