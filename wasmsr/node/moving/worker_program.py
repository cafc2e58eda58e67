"""A program in a worker, as the hand-over sees it (`migrate.ports.MovableProgram`)."""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from wasmsr.errors import EXIT_HOST
from wasmsr.executor.output.rings import read_ring, ring_bounds
from wasmsr.executor.port import ExecutorError
from wasmsr.executor.process import ProcessExecutor
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.ports import Buffer, FileBatch, Stays
from wasmsr.migrate.protocol import (
    Description,
    Ending,
    KeptOutput,
    ModuleName,
    MountName,
    ProgramLimits,
)
from wasmsr.node.moving.conversation import Conversation
from wasmsr.node.moving.travel_record import travel_out
from wasmsr.node.supervision.node_folder import ProgramFolder
from wasmsr.node.supervision.program_record import STREAMS, ProgramRecord, ProgramStanding
from wasmsr.node.supervision.submissions import SUFFIX
from wasmsr.snapshot.live.outgoing import PageBatch
from wasmsr.wasi.filesystem.mounts import CARRYING

PIECE = 1 << 20
"""Bytes that are read at a time."""

UNKNOWN_FILES = "unexpected keyword argument 'files'"
"""What a worker says that cannot be asked for files in the rounds: a part of Python's sentence."""


class WorkerProgram:
    """A thin proxy: the worker has the program, and the supervisor only copies its bytes.

    Attributes:
        id: The program's id.
        executor: The worker.
        record: What the node notes of the program.
        path: The file of its module.
    """

    def __init__(
        self,
        executor: ProcessExecutor,
        record: ProgramRecord,
        folder: ProgramFolder,
        module: Path,
        close: Callable[[], None],
    ) -> None:
        """Make it of the parts of a program of a node.

        Args:
            executor: Its worker, which has it.
            record: Its record.
            folder: Its folder.
            module: The file of its module.
            close: Ends the worker and releases what is kept for the program here.
        """
        self.id = bytes.fromhex(record.program)
        self.executor, self.record = executor, record
        self._folder, self.path, self._close = folder, module, close
        self._leased = False

    def describe(self) -> Description:
        """Return what a destination must have."""
        found = self.executor.describe(self.id)
        return Description(
            modules=tuple(ModuleName(*one) for one in found["modules"]),
            snapshot_format=found["snapshot_format"],
            features=tuple(found["features"]),
            mounts=tuple(MountName(*one) for one in found["mounts"]),
            limits=ProgramLimits(*found["limits"]),
            record=travel_out(self.record),
        )

    def module(self, digest: bytes) -> Buffer:
        """Return the binary of one of its modules, which are in one folder, by digest."""
        return mapped(self.path.with_name(digest.hex() + SUFFIX))

    def start(self) -> None:
        """Let it run, unless somebody has asked that it stands."""
        if self.record.standing is ProgramStanding.PAUSED:
            return
        try:
            self.executor.resume(self.id)
        except ExecutorError:
            if not self._leased:
                raise  # otherwise its worker is gone, or the lease is too old: its owner sees that

    def pause(self, timeout: float) -> bool:
        """Pause it; return False if `timeout` seconds were not enough."""
        try:
            return self.executor.pause(self.id, timeout)
        except ExecutorError:
            if not self._leased:
                raise
            self._end_worker()
            return True

    def wait(self, timeout: float | None) -> Ending | None:
        """Return how it ended, or None; a program whose worker is gone has ended."""
        try:
            status = self.executor.wait(self.id, timeout)
        except ExecutorError as error:
            return Ending("failed", EXIT_HOST, error.message)
        return Ending(status.ending, status.code, status.sentence) if status.ending else None

    def guard(self, may: Callable[[], bool]) -> None:
        """Put it under a lease, which the worker compares itself; it has not begun yet."""
        self._leased = True
        self.lease(0, 0)

    def lease(self, pause_at: int, end_at: int) -> None:
        """Tell the worker the times of a new lease."""
        try:
            self.executor.lease(self.id, pause_at, end_at)
        except ExecutorError:
            self._end_worker()

    def _end_worker(self) -> None:
        """Kill a worker that does not obey, or is gone: what it has is of no use under a lease."""
        if not self.executor.is_gone:
            self.executor.kill()

    def leave(self, held: Collection[bytes] = (), known: int = 0, files: int = 0) -> WorkerLeaving:
        """Begin to send it away."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                if not any(mount.mode in CARRYING for mount in self.describe().mounts):
                    files = 0
                try:
                    self.executor.leave(self.id, theirs.fileno(), list(held), files)
                except ExecutorError as error:
                    if not files or UNKNOWN_FILES not in error.message:
                        raise
                    # A worker of an earlier version, which outlives its supervisor, sends its files
                    # in the rest. It has begun nothing.
                    self.executor.leave(self.id, theirs.fileno(), list(held))
                return WorkerLeaving(Conversation(ours), self._folder.output)
            except BaseException:
                ours.close()
                raise

    def left(self, epoch: int, received: Path | None) -> None:
        """Take note that it has left: the worker's memory goes with the worker."""

    def pieces(self) -> Iterator[Buffer]:
        """Return the paused program's whole snapshot."""
        with tempfile.TemporaryFile(dir=self._folder.path) as file:
            self.executor.snapshot(self.id, file.fileno())
            file.seek(0)
            while piece := file.read(PIECE):
                yield piece

    def close(self) -> None:
        """End the worker."""
        self._close()


class WorkerLeaving:
    """A program that leaves its worker (`migrate.ports.Leaving`).

    Attributes:
        rest_size, rest_seconds, method, files_size, early, sizes, digest, parts: As in the port.
    """

    def __init__(self, conversation: Conversation, output: Path) -> None:
        self._worker = conversation
        self._output = output
        self._sent = dict.fromkeys(STREAMS, -1)
        # A worker of an earlier version, which outlives its supervisor, says nothing of files.
        self.rest_size, self.rest_seconds, self.method, *files = conversation.ask("begin")
        self._takes_files = bool(files)
        self.files_size: int = files[0] if files else 0
        self.early: Buffer = b"".join(conversation.items("early"))
        self.sizes: Sequence[int] = ()
        self.digest = b""
        self.parts: dict[str, float] = {}

    def called(self) -> Iterator[CalledFunctions]:
        """Return the functions that have code in the worker."""
        try:
            for module, deterministic, metered, native, some in self._worker.items("called"):
                functions = array("I", some)
                yield CalledFunctions(module, deterministic, metered, native, functions)
        except ExecutorError as error:
            # A worker outlives its supervisor: one of an earlier version has no such question.
            if error.message != repr("called"):
                raise

    def round(self, stays: Stays, timeout: float) -> bool:
        """Begin a round; the decision whether the program stays paused is made here."""
        stands, self.sizes, self.parts = self._worker.ask("round", timeout, asked=stays)
        return bool(stands)

    def sample(self, count: int) -> tuple[bytes, int]:
        """Return some pages of the round, and of how many."""
        data, looked = self._worker.ask("sample", count)
        return data, looked

    def batches(self) -> Iterator[PageBatch]:
        """Return the pages of the round."""
        for memory, data, *runs in self._worker.items("batches"):
            first, zeros, known = (array("Q", one) for one in runs)
            yield PageBatch(memory, first, data, zeros, known)

    def files(self) -> Iterator[FileBatch]:
        """Return pieces of carried files that the peer has not got."""
        if not self._takes_files:
            return
        for digests, lengths, data in self._worker.items("files"):
            yield FileBatch(tuple(digests), tuple(lengths), data)

    def output(self) -> Iterator[KeptOutput]:
        """Return kept output that this has not returned before, from the files of the rings."""
        for stream in STREAMS:
            had = self._sent[stream]
            start, data = read_ring(self._output, stream, max(0, had), PIECE)
            while data:
                yield KeptOutput(stream, start, data)
                self._sent[stream] = start + len(data)
                start, data = read_ring(self._output, stream, self._sent[stream], PIECE)
            end = ring_bounds(self._output, stream)[1]
            if had < 0 and self._sent[stream] < 0:  # nothing is kept of what it has written
                self._sent[stream] = end
                yield KeptOutput(stream, end, b"")

    def rest(self, *, since: bool = False) -> Iterator[Buffer | tuple[int, int]]:
        """Return the rest of the state."""
        for part in self._worker.items("rest", since):
            if isinstance(part, bytes):
                yield part
            elif part[0] == "digest":
                self.digest = part[1]
            else:
                yield part[0], part[1]

    def slow(self, share: float) -> None:
        """Let the program stand for this share of the time."""
        self._worker.ask("slow", share)

    def close(self) -> None:
        """Have the worker release what it keeps."""
        self._worker.close()


def mapped(path: Path) -> memoryview:
    """Return the bytes of a file, of which those that are used are read. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return memoryview(mmap.mmap(opened, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(opened)


__all__ = ["WorkerLeaving", "WorkerProgram", "mapped"]
