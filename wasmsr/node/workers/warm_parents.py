"""The supervisor's side of the warm parents: one for each module or snapshot used lately."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.messages import receive, send
from wasmsr.executor.port import ExecutorError
from wasmsr.executor.process import ProcessExecutor, reported
from wasmsr.node.workers import sandbox_calls
from wasmsr.node.workers.confinement import Confinement
from wasmsr.node.workers.warm_snapshot import WarmSnapshot

PARENTS = 8
"""Warm parents at a time; the least recently used one ends for one more."""

LOAD_SECONDS = 120.0
"""How long a warm parent may take to start Python and to load its module."""

LOAD_MEMORY = 2 << 30
"""Bytes of memory that a warm parent may take for Python and its module (RLIMIT_DATA)."""

FORK_SECONDS = 20.0
"""How long a fork may take, and the worker until it answers."""


LEARN_AT = frozenset(1 << n for n in range(1, 11))
"""After so many workers a warm parent makes code of the functions that one of them has called."""

PLAIN = frozenset(
    ("PATH", "HOME", "LANG", "TZ", "VIRTUAL_ENV", "WASMSR_TIER", "ASAN_OPTIONS", "UBSAN_OPTIONS")
)
"""Variables that workers get, besides those of Python and of the C library."""


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker has its files.

    Attributes:
        folder: Its locks and its socket; see `executor/old_workers.py`.
        output: The rings of its output.
        temporary: What vanishes with it.
        carried: Carried trees, of each program in a folder of its own.
    """

    folder: Path
    output: Path
    temporary: Path
    carried: Path


class WarmParent:
    """One warm parent process.

    Attributes:
        process: The process.
        is_broken: Whether it has ended, or has not answered.
        about: What its module is; see `module_about`.
    """

    def __init__(
        self, path: Path, digest: str, features: str | None, snapshot: WarmSnapshot | None = None
    ) -> None:
        """Start the process, and wait until it has loaded the module.

        Args:
            path: The module's file.
            digest: SHA-256 of the file in hexadecimal digits.
            features: What the module may need, as for `Module`.
            snapshot: The state in which the programs begin; None: before their first instruction.

        Raises:
            WasmsrError: Module or snapshot cannot be loaded, or the process does not answer.
        """
        self._turn = threading.Lock()
        self.is_broken = False
        self._workers = 0
        self._last: weakref.ref[ProcessExecutor] | None = None
        self._end, theirs = socket.socketpair()
        words = [sys.executable, "-m", "wasmsr.node.workers.warm_parent", str(theirs.fileno())]
        # Secrets of the supervisor can be in its variables.
        kept = {name: value for name, value in os.environ.items() if _is_plain(name)}
        with theirs:
            self.process = subprocess.Popen(
                words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, env=kept, start_new_session=True,
                cwd=os.sep,  # not where the node was started: -m would import what is there
            )  # fmt: skip
        try:
            said = self._ask(
                "load", LOAD_SECONDS, path=os.fspath(path), digest=digest, features=features,
                memory=LOAD_MEMORY, snapshot=None if snapshot is None else list(snapshot),
            )  # fmt: skip
            self.about: Mapping[str, Any] = said["about"]
        except BaseException:
            self.close()
            raise

    def _ask(
        self, method: str, seconds: float, descriptors: list[int] | None = None, **values: Any
    ) -> Any:
        self._end.settimeout(seconds)
        try:
            send(self._end, [0, method, values], descriptors)
            reply = receive(self._end)
        except ExecutorError:
            self.is_broken = True
            raise
        if reply is None:
            self.is_broken = True
            raise ExecutorError(f"the warm parent {self.process.pid} has ended")
        (_, fine, value), _ = reply
        if not fine:
            raise reported(value)
        return value

    def fork(
        self, place: WorkerPlace, confinement: Confinement, *, ring: int, wait: float
    ) -> ProcessExecutor:
        """Return a new worker.

        Args:
            place: Where it has its files.
            confinement: What it may do.
            ring: Bytes that each stream of output keeps.
            wait: How many seconds it waits for a new supervisor when this one ends.

        Raises:
            ExecutorError: It does not start.
        """
        for folder in (place.folder, place.output, place.temporary):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours, theirs = socket.socketpair()
        with theirs, open(place.folder / "worker.errors", "wb") as errors, self._turn:
            self._ask(
                "fork", FORK_SECONDS, [theirs.fileno(), errors.fileno()],
                folder=os.fspath(place.folder), temporary=os.fspath(place.temporary),
                carried=os.fspath(place.carried),
                rings=os.fspath(place.output), ring_bytes=ring, wait=wait,
                confinement=confinement.as_dict(),
            )  # fmt: skip
        try:
            made = ProcessExecutor(folder=place.folder, end=ours, hello=FORK_SECONDS)
            self._learn_from(made)
            return made
        except ExecutorError as error:
            said = (place.folder / "worker.errors").read_bytes()[-2000:].decode("utf-8", "replace")
            last = said.strip().rpartition("\n")[2]
            raise ExecutorError(f"the worker does not start: {last or error.message}") from error

    def _learn_from(self, worker: ProcessExecutor) -> None:
        """Count a new worker, and learn now and then from the one before it, which has run."""
        with self._turn:
            self._workers += 1
            before = None if self._last is None else self._last()
            self._last = weakref.ref(worker)
            due = self._workers in LEARN_AT and before is not None
        if due:  # on another thread: a worker can be frozen, and whoever starts one does not wait
            threading.Thread(
                target=self._learn, args=(before,), name="wasmsr-learn", daemon=True
            ).start()

    def _learn(self, worker: ProcessExecutor) -> None:
        with suppress(WasmsrError):  # either of the two processes has ended
            for program in worker.programs():
                functions = worker.called(program)
                with self._turn:
                    self._ask("compile", LOAD_SECONDS, functions=functions)

    def close(self) -> None:
        """End the process; its workers stay."""
        self._end.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


def _is_plain(name: str) -> bool:
    """Return whether a variable may reach workers: what Python and the C library start with."""
    return name in PLAIN or name.startswith(("PYTHON", "LC_", "LD_"))


ParentKey = tuple[str, str | None, WarmSnapshot | None]


class WarmParents:
    """The warm parents of a node, by module and snapshot. Any thread may call its methods."""

    def __init__(self, most: int = PARENTS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._parents: OrderedDict[ParentKey, WarmParent] = OrderedDict()
        self._loading: dict[ParentKey, threading.Lock] = {}
        with suppress(OSError):  # not Linux: nobody tells how a worker ended
            sandbox_calls.adopt_orphans()

    def worker(
        self, module: Path, digest: str, features: str | None, place: WorkerPlace,
        confinement: Confinement, *, ring: int, wait: float, snapshot: WarmSnapshot | None = None,
    ) -> ProcessExecutor:  # fmt: skip
        """Return a new worker for a module or a snapshot; see `WarmParent` for the arguments."""
        for _ in range(2):
            parent = self._parent(module, digest, features, snapshot)
            try:
                return parent.fork(place, confinement, ring=ring, wait=wait)
            except ExecutorError:
                if not parent.is_broken:
                    raise
                self._drop(
                    (digest, features, snapshot), parent
                )  # it was ended meanwhile, or killed
        raise ExecutorError("two warm parents have ended before they gave a worker")

    def load(
        self, module: Path, digest: str, features: str | None, snapshot: WarmSnapshot | None = None
    ) -> None:
        """Have a warm parent for a module. Raises WasmsrError if it cannot be loaded."""
        self._parent(module, digest, features, snapshot)

    def about(self, module: Path, digest: str, features: str | None) -> Mapping[str, Any]:
        """Return what a module is. Raises WasmsrError if it cannot be loaded."""
        return self._parent(module, digest, features, None).about

    def _parent(
        self, module: Path, digest: str, features: str | None, snapshot: WarmSnapshot | None
    ) -> WarmParent:
        key = digest, features, snapshot
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                found = self._parents.get(key)
                if found is not None and found.process.poll() is None:
                    self._parents.move_to_end(key)
                    return found
            made = WarmParent(module, digest, features, snapshot)
            old = []
            with self._lock:
                if found is not None:
                    old.append(found)
                self._parents[key] = made
                self._parents.move_to_end(key)
                while len(self._parents) > self._most:
                    gone, parent = self._parents.popitem(last=False)
                    self._loading.pop(gone, None)
                    old.append(parent)
            for parent in old:
                parent.close()
            return made

    def _drop(self, key: ParentKey, parent: WarmParent) -> None:
        with self._lock:
            if self._parents.get(key) is parent:
                del self._parents[key]
        parent.close()

    def processes(self) -> Mapping[str, int]:
        """Return the process id of each warm parent, by the module's digest."""
        with self._lock:
            return {digest: one.process.pid for (digest, *_), one in self._parents.items()}

    def close(self) -> None:
        """End all warm parents."""
        with self._lock:
            parents, self._parents = list(self._parents.values()), OrderedDict()
        for parent in parents:
            parent.close()


def reap(process: int, seconds: float = 5.0) -> int | None:
    """Return the status with which a worker ended; None if it is nobody's child here."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found, status = os.waitpid(process, os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return status
        time.sleep(0.005)
    return None
