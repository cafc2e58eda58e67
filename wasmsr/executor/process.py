"""An executor whose programs run in a worker process.

The methods are those of `port.MovesPrograms`; not every worker moves programs.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wasmsr import errors
from wasmsr.executor.messages import METHODS, check_hello, receive, send
from wasmsr.executor.old_workers import KILL_SECONDS, call, kill, living
from wasmsr.executor.port import ExecutorError, ProgramStatus
from wasmsr.runspec.run_spec import SpecError

ERRORS = "worker.errors"
"""The file, in a folder of workers, for what the last worker says of its own failure."""

HELLO_SECONDS = 20.0
"""How long a worker may take to say hello: it starts Python meanwhile."""

QUICK = frozenset(("programs", "resume", "lease", "logs", "called"))
"""Methods that a worker answers at once."""

TIMED = frozenset(("wait", "pause", "cancel"))
"""Methods that a worker answers within their timeout."""

ADOPT_SECONDS = 2.0
"""How long an old worker may take to say hello to a new supervisor."""

ENDED = "the worker has ended, and its programs with it"
"""What every call says once the worker is gone."""


class ProcessExecutor:
    """A worker process with programs. `close` ends the worker and its programs.

    Attributes:
        process: The worker, if this process started it.
        pid: Its process id.
        patience: Seconds in which it must answer a call that takes no time; None waits for ever.
        on_gone: Is called, on a thread of this object, when the worker has ended.
    """

    patience: float | None = None
    on_gone: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        *,
        folder: Path | None = None,
        end: socket.socket | None = None,
        wait: float = 30.0,
        hello: float | None = None,
    ) -> None:
        """Start a worker, or take over one that waits for a supervisor.

        Args:
            folder: Where the worker has its locks; it then outlives this process, and waits for a
                new supervisor. See `old_workers.py`.
            end: A connection to a worker that somebody else has started.
            wait: How many seconds a new worker waits.
            hello: Within how many seconds the worker must say what it is.

        Raises:
            ExecutorError: No worker answers, or one of another version.
        """
        self.process: subprocess.Popen[bytes] | None = None
        if end is None:
            end, theirs = socket.socketpair()
            words = [sys.executable, "-m", "wasmsr.executor.worker", str(theirs.fileno())]
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                words += [os.fspath(folder), str(wait)]
            with theirs, _errors(folder) as errors:
                self.process = subprocess.Popen(
                    words,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    # What outlives us must not keep our streams open for those who read them.
                    stdout=None if folder is None else subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=folder is not None,  # a signal to us is none to the worker
                )
        end.settimeout(hello or (HELLO_SECONDS if self.process else ADOPT_SECONDS))
        try:
            said = receive(end)
            self.pid = check_hello(said[0] if said else None)
        except BaseException:
            end.close()
            if self.process is not None:
                self.process.kill()
                self.process.wait()
            raise
        end.settimeout(None)
        self._end = end
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, Future[Any]] = {}
        self._gone = False
        self._outlives = folder is not None
        self._reader = threading.Thread(target=self._read, name="wasmsr-executor", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the worker and its programs."""
        with self._lock:
            self._gone = True
        if self.process is None or self._outlives:
            with suppress(ExecutorError):
                send(self._end, [0, "end", {}])
        with suppress(OSError):  # the worker may be gone
            self._end.shutdown(socket.SHUT_RDWR)
        if self.process is not None:
            self.process.wait()
        self._end.close()

    def kill(self) -> None:
        """Kill the worker, whatever it does, and return when it is gone. Its programs end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with self._lock:
            self._gone = True
        if self.process is not None:
            self.process.wait()
        self._reader.join(KILL_SECONDS)  # the socket ends with the process
        self._end.close()

    def _read(self) -> None:
        """Hand replies to the calls that wait for them, until the worker ends."""
        reason = ENDED
        try:
            while (message := receive(self._end)) is not None:
                (number, fine, value), descriptors = message
                for descriptor in descriptors:
                    os.close(descriptor)
                with self._lock:
                    waiting = self._open.pop(number, None)
                if waiting is not None:
                    waiting.set_result((fine, value))
        except (ExecutorError, OSError) as error:
            reason = f"{reason}: {error}"
        with self._lock:
            self._gone = True
            left, self._open = self._open, {}
        for waiting in left.values():
            waiting.set_exception(ExecutorError(reason))
        self.on_gone()

    @property
    def is_gone(self) -> bool:
        """Whether the worker has ended, or was given up."""
        with self._lock:
            return self._gone

    def _call(self, method: str, **values: Any) -> Any:
        """Return what a method of the worker's executor returns, or raise what it raises."""
        descriptors: list[int] = []
        for name in METHODS[method]:
            given = values[name]
            if isinstance(given, int):
                values[name] = len(descriptors) if given >= 0 else given
                descriptors += [given] if given >= 0 else []
            else:
                values[name] = list(given)
                for at, descriptor in enumerate(given):
                    if descriptor >= 0:
                        values[name][at] = len(descriptors)
                        descriptors.append(descriptor)
        reply: Future[Any] = Future()
        with self._lock:
            if self._gone:
                raise ExecutorError(ENDED)
            number = next(self._numbers)
            self._open[number] = reply
            try:
                send(self._end, [number, method, values], descriptors)
            except BaseException as error:
                self._open.pop(number, None)
                if isinstance(error.__cause__, OSError):  # the reader has not heard of it yet
                    raise ExecutorError(ENDED) from error
                raise
        try:
            fine, value = reply.result(self._limit(method, values))
        except TimeoutError:
            raise ExecutorError(
                f"worker {self.pid} has not answered for {self.patience} s",
                hint="it is frozen or overloaded; kill it, or wait longer",
            ) from None
        if fine:
            return value
        raise reported(value)

    def _limit(self, method: str, values: Mapping[str, Any]) -> float | None:
        """Return within how many seconds the worker must answer a call."""
        if self.patience is None:
            return None
        if method in TIMED:
            given = values["timeout"]
            return None if given is None else given + self.patience
        return self.patience if method in QUICK else None

    def start(
        self,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
        paused: bool = False,
    ) -> bytes:
        """Start a program; see `port.Executor.start`."""
        id: bytes = self._call(
            "start", spec=dict(spec), program=program, streams=streams, paused=paused
        )
        return id

    def adopt(
        self,
        snapshot: int,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
        fork: int = 0,
    ) -> bytes:
        """Take over a program from a snapshot; see `port.Executor.adopt`."""
        more = {"fork": fork} if fork else {}  # an older worker does not have it
        id: bytes = self._call(
            "adopt", snapshot=snapshot, spec=dict(spec), program=program, streams=streams, **more
        )
        return id

    def restore(
        self,
        folder: str,
        root: bytes,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
    ) -> bytes:
        """Take over a program from a checkpoint; see `port.Executor.restore`."""
        id: bytes = self._call(
            "restore", folder=folder, root=root, spec=dict(spec), program=program, streams=streams
        )
        return id

    def programs(self) -> list[bytes]:
        """Return the ids of all programs."""
        ids: list[bytes] = self._call("programs")
        return ids

    def wait(self, program: bytes, timeout: float | None = None) -> ProgramStatus:
        """Return what the program does; see `port.Executor.wait`."""
        return ProgramStatus(**self._call("wait", program=program, timeout=timeout))

    def pause(self, program: bytes, timeout: float | None = None) -> bool:
        """Pause the program; see `port.Executor.pause`."""
        paused: bool = self._call("pause", program=program, timeout=timeout)
        return paused

    def resume(self, program: bytes) -> None:
        """Let the program run on."""
        self._call("resume", program=program)

    def lease(self, program: bytes, pause_at: int | None, end_at: int | None) -> None:
        """Give the program a deadline; see `port.Executor.lease`."""
        self._call("lease", program=program, pause_at=pause_at, end_at=end_at)

    def snapshot(self, program: bytes, file: int) -> int:
        """Write the snapshot of a program; see `port.Executor.snapshot`."""
        size: int = self._call("snapshot", program=program, file=file)
        return size

    def checkpoint(self, program: bytes, folder: str, keep: int = 3) -> dict[str, Any]:
        """Write a checkpoint of the program; see `port.Executor.checkpoint`."""
        found: dict[str, Any] = self._call("checkpoint", program=program, folder=folder, keep=keep)
        return found

    def cancel(self, program: bytes, timeout: float | None = None) -> bool:
        """End the program; see `port.Executor.cancel`."""
        gone: bool = self._call("cancel", program=program, timeout=timeout)
        return gone

    def logs(self, program: bytes, stream: str, offset: int = 0) -> tuple[int, bytes]:
        """Return output of the program; see `port.Executor.logs`."""
        start, data = self._call("logs", program=program, stream=stream, offset=offset)
        return start, data

    def stats(self, program: bytes) -> dict[str, Any]:
        """Return figures of the program; see `port.Executor.stats`."""
        found: dict[str, Any] = self._call("stats", program=program)
        return found

    def called(self, program: bytes) -> list[list[int]]:
        """Return the functions that were called; see `port.Executor.called`."""
        found: list[list[int]] = self._call("called", program=program)
        return found

    def run_to(self, program: bytes, conditions: Mapping[str, Any]) -> None:
        """Let the program run to a condition; see `port.Executor.run_to`."""
        self._call("run_to", program=program, conditions=dict(conditions))

    def step(self, program: bytes, count: int = 1) -> ProgramStatus:
        """Execute instructions one at a time; see `port.Executor.step`."""
        return ProgramStatus(**self._call("step", program=program, count=count))

    def frames(self, program: bytes) -> list[dict[str, Any]]:
        """Return the frames, innermost first; see `port.Executor.frames`."""
        found: list[dict[str, Any]] = self._call("frames", program=program)
        return found

    def read_memory(self, program: bytes, memory: int, address: int, size: int) -> bytes:
        """Return bytes of a memory; see `port.Executor.read_memory`."""
        data: bytes = self._call(
            "read_memory", program=program, memory=memory, address=address, size=size
        )
        return data

    def mark(self, program: bytes) -> int:
        """Keep the state of the program; see `port.Executor.mark`."""
        number: int = self._call("mark", program=program)
        return number

    def rewind(self, program: bytes, mark: int) -> None:
        """Put the program back into a kept state; see `port.Executor.rewind`."""
        self._call("rewind", program=program, mark=mark)

    def describe(self, program: bytes) -> dict[str, Any]:
        """Return what another host must have; see `port.MovesPrograms.describe`."""
        found: dict[str, Any] = self._call("describe", program=program)
        return found

    def leave(self, program: bytes, end: int, held: Sequence[bytes] = (), files: int = 0) -> None:
        """Begin to send a program away; see `port.MovesPrograms.leave`."""
        more = {"files": files} if files else {}  # an older worker does not have it
        self._call("leave", program=program, end=end, held=list(held), **more)

    def arrive(
        self,
        program: bytes,
        spec: Mapping[str, Any],
        end: int,
        *,
        image: int = -1,
        file: int = -1,
        rest: int = 0,
        files: int = 0,
    ) -> None:
        """Begin to take in a program; see `port.MovesPrograms.arrive`."""
        self._call(
            "arrive", program=program, spec=dict(spec), end=end, image=image, file=file, rest=rest,
            files=files,
        )  # fmt: skip

    def sync(self, program: bytes) -> None:
        """Write an image to the disk; see `port.Executor.sync`."""
        self._call("sync", program=program)


def old_executors(folder: Path, seconds: float = ADOPT_SECONDS) -> list[ProcessExecutor]:
    """Adopt or kill every old worker of a folder. Call it before anything is restored.

    Args:
        folder: The folder.
        seconds: How long a worker may take to say hello. It pauses its programs first.

    Returns:
        The workers that are adopted; their programs are paused.

    Raises:
        ExecutorError: A worker could neither be adopted nor killed.
    """
    found = []
    for name, process in living(folder):
        end = call(folder, name, seconds)
        if end is not None:
            try:
                found.append(ProcessExecutor(end=end, hello=seconds))
                continue
            except (ExecutorError, OSError):
                end.close()
        kill(folder, name, process)
    living(folder)  # removes what killed workers left
    return found


@contextmanager
def _errors(folder: Path | None) -> Iterator[int | None]:
    """Give the descriptor for errors of a worker that outlives us: a file; None for our own."""
    if folder is None:
        yield None
        return
    with open(folder / ERRORS, "wb") as file:
        yield file.fileno()


def reported(value: Mapping[str, Any]) -> errors.WasmsrError:
    """Return the error that a process reports: its own class where that can be made of a text."""
    from wasmsr.program.exports import ExportError  # only here: a client needs no programs

    kinds = {"ExecutorError": ExecutorError, "SpecError": SpecError, "ExportError": ExportError}
    kind = kinds.get(value["kind"], getattr(errors, value["kind"], None))
    if isinstance(kind, type) and issubclass(kind, errors.WasmsrError):
        with suppress(TypeError):  # a class that needs more than a text
            return kind(value["message"], hint=value["hint"])
    error = ExecutorError(f"{value['kind']}: {value['message']}", hint=value["hint"])
    error.exit_code = value["code"]
    return error
