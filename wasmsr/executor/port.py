"""The port of an executor: what a host of programs offers, as plain data, bytes and descriptors.

`local.LocalExecutor` has its programs in this process. `process.ProcessExecutor` has them in a
worker process behind a socket. Callers cannot tell the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wasmsr.errors import WasmsrError

ID_BYTES = 16
"""Bytes of a program's id."""

LOG_BYTES = 1 << 20
"""Bytes of each output stream that an executor keeps; older bytes are dropped."""

HELD = -2
"""In place of a descriptor of an output: the executor holds all of it until `logs` has given it."""

RING = -3
"""The same: the executor writes the last bytes of it to files; see `output/rings.py`."""

FRAMES = -4
"""The same: the executor writes all of it to a log of frames; see `output/frames.py`."""

LARGEST_READ = 1 << 20
"""Bytes that one call of `logs` or `read_memory` returns at most."""


class ExecutorError(WasmsrError):
    """The executor has no such program, the program is in another state, or the worker is gone."""


@dataclass(frozen=True)
class ProgramStatus:
    """What a program does now.

    Attributes:
        state: The value of a `ProgramState`: "running", "paused", "stop", "hit", "fuel", "idle",
            "ended" or "failed".
        ending: "finished", "exited", "trapped", "fuel" or "failed" for a program that has ended;
            "" for one that can run on.
        code: The exit code of the ending.
        sentence: The ending for people, or "".
        exit: The whole number that an exited program gave, 0 to 2**32 - 1; `code` has 8 bits of it.
        trap: The name of the trap of a trapped program, or "".
    """

    state: str
    ending: str = ""
    code: int = 0
    sentence: str = ""
    exit: int = 0
    trap: str = ""


class Executor(Protocol):
    """A host of programs. A program is named by its id, `ID_BYTES` bytes.

    Every method but `programs` raises `ExecutorError` for an id that is not here, and may be called
    from any thread. Methods that look into a program need one that does not run.
    """

    def start(
        self,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
        paused: bool = False,
    ) -> bytes:
        """Start a program and return its id.

        Args:
            spec: The run, as `RunSpec.as_dict` gives it.
            program: The id; b"" makes a random one.
            streams: Descriptors of standard input, output and errors, -1 for none. The executor
                duplicates them. Without an output the executor keeps the last bytes for `logs`.
                A fourth one is a socket whose other end gives channels (`channels.conduit`).
                With `HELD` it keeps all bytes that `logs` has not given, and the program waits
                when they are too many. With `RING` it keeps the last bytes in files; results of an
                export follow the output there.
            paused: Leave it before its first instruction; `resume` lets it run.
        """

    def adopt(
        self,
        snapshot: int,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
        fork: int = 0,
    ) -> bytes:
        """Take over a paused program from a snapshot and return its id; `resume` lets it run.

        Args:
            snapshot: A descriptor from which the snapshot is read to its end.
            spec: What the program gets here; the rest is in the snapshot.
            program: The id; b"" makes a random one.
            streams: As for `start`.
            fork: The number of the fork that it is: it calls `wasmsr_forked` first, if it exports
                that. 0 for a program that is no fork.
        """

    def restore(
        self,
        folder: str,
        root: bytes,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
    ) -> bytes:
        """Take over a paused program from a checkpoint and return its id.

        Args:
            folder: The folder of the checkpoints.
            root: The root digest of the one to restore.
            spec: What the program gets here; the rest is in the checkpoint.
            program: The id; b"" makes a random one.
            streams: As for `start`.
        """

    def programs(self) -> list[bytes]:
        """Return the ids of all programs."""

    def wait(self, program: bytes, timeout: float | None = None) -> ProgramStatus:
        """Return the status as soon as the program does not run, or after `timeout` seconds."""

    def pause(self, program: bytes, timeout: float | None = None) -> bool:
        """Pause the program.

        Returns:
            True if the program does not run. False if it did not pause within `timeout` seconds;
            the program then runs on.
        """

    def resume(self, program: bytes) -> None:
        """Let a paused program run on."""

    def lease(self, program: bytes, pause_at: int | None, end_at: int | None) -> None:
        """Give the program a deadline, or a later one; None for none.

        The executor pauses the program at `pause_at` by itself, and `resume` refuses from then on.
        A host call with an effect outside compares the time with `end_at` first.
        A worker process whose program has not paused at `end_at` ends itself.

        Args:
            pause_at: Nanoseconds of `realtime.boot`.
            end_at: The same.
        """

    def snapshot(self, program: bytes, file: int) -> int:
        """Write the snapshot of a paused program to a descriptor and return its size in bytes."""

    def checkpoint(self, program: bytes, folder: str, keep: int = 3) -> dict[str, Any]:
        """Write a checkpoint of the program, which runs on while it is written.

        The first one is whole, later ones have what changed. A program that runs is paused while
        its changed pages are copied.

        Args:
            folder: The folder of the checkpoints; nothing else writes there.
            keep: How many of them stay.

        Returns:
            "root" (the root digest), "number", "size" (bytes of the file), "output" (bytes of each
            kept stream that the program had written).
        """

    def cancel(self, program: bytes, timeout: float | None = None) -> bool:
        """End the program and forget it; False if it did not pause within `timeout` seconds."""

    def logs(self, program: bytes, stream: str, offset: int = 0) -> tuple[int, bytes]:
        """Return output of the program.

        Args:
            stream: "stdout" or "stderr".
            offset: Bytes of the stream that the caller has already. Of an output that is held, the
                executor drops them.

        Returns:
            The offset of the first byte returned, and at most `LARGEST_READ` bytes. The offset is
            larger than the one asked for where older bytes were dropped.
        """

    def stats(self, program: bytes) -> dict[str, Any]:
        """Return figures of the program.

        Returns:
            "executed" (instructions, None if not counted), "memory" (bytes of all memories; None
            while the program runs), "module" (SHA-256 in hex), "seconds" (times of capture,
            restore and so on, by name).
        """

    def called(self, program: bytes) -> list[list[int]]:
        """Return the functions of the program's module that were called; the program may run.

        Returns:
            What `wasmsr.interp.modules.ahead.compile_ahead` takes.
        """

    def run_to(self, program: bytes, conditions: Mapping[str, Any]) -> None:
        """Let a paused program run until one of the conditions holds; `wait` tells when.

        Args:
            conditions: Fields of `StopConditions`: "stop", "breakpoints", "memory", "call". Counts
                are from the last start or resume of the program's description.
        """

    def step(self, program: bytes, count: int = 1) -> ProgramStatus:
        """Execute `count` instructions of a paused program and return its status."""

    def frames(self, program: bytes) -> list[dict[str, Any]]:
        """Return the frames of a paused program, innermost first, with bits of their values.

        "name" is the function's name in its module.
        """

    def read_memory(self, program: bytes, memory: int, address: int, size: int) -> bytes:
        """Return bytes of a memory (by its address in the store) of a paused program."""

    def mark(self, program: bytes) -> int:
        """Keep the state of a paused program in memory and return the number of the state."""

    def rewind(self, program: bytes, mark: int) -> None:
        """Put a paused program back into a state that `mark` kept; files of the host stay."""


class MovesPrograms(Executor, Protocol):
    """An executor whose programs move between hosts; those of a node's workers do."""

    def describe(self, program: bytes) -> dict[str, Any]:
        """Return what another host must have and allow to take the program, as plain data."""

    def leave(self, program: bytes, end: int, held: Sequence[bytes] = (), files: int = 0) -> None:
        """Begin to send a program away; it may be running, and runs on.

        The program must not be started or saved by other calls until `end` is closed. Then
        everything that was kept for it is released.

        Args:
            program: The program.
            end: A connected socket, on which the other side asks for its state; see
                `wasmsr.node.moving.conversation`.
            held: Digests of the pieces of files that the destination has.
            files: Most bytes of pieces of files that it takes in the rounds.
        """

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
        """Begin to take in a program that comes from another host.

        When the other side has said so, the program is here, paused; `resume` lets it run.

        Args:
            program: Its id.
            spec: The run; the rest is in its state.
            end: A connected socket, on which the other side gives its state.
            image: A descriptor of an empty file that becomes a snapshot of what comes, or -1.
            file: A descriptor from which a snapshot is read to its end, in place of a state that
                comes in rounds; or -1.
            rest: About how many bytes the state has besides the memories.
            files: About how many bytes of pieces of files come before the rest.
        """

    def sync(self, program: bytes) -> None:
        """Write what the image of a program that arrives has to the disk."""
