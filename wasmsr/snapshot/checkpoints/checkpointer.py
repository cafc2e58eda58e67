"""Writes checkpoints beside a program that runs.

The program is paused while its state is captured and its dirty pages are copied. Digests,
compression, writing and fsync are done by a thread afterwards, one checkpoint at a time. A
checkpoint that comes due while the one before it is written is skipped and counted.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from wasmsr import reserve
from wasmsr.errors import SnapshotError, reason
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.encoding.writer import encode
from wasmsr.snapshot.format import save_pieces
from wasmsr.snapshot.memory.dirty_pages import DirtyConsumer, DirtyTracker
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, scatter
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.spaces.space_pages import Base, Runs, Written
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.policy import WRITE_PLAIN, WriteTrust

if TYPE_CHECKING:
    from array import array

    from wasmsr.interp.store.interface import StoreInterface

KEEP = 3
"""How many complete checkpoints a folder keeps."""
MERGE_AFTER = 16
"""How many increments may be below a checkpoint before they are merged."""

HEAD_START = 0.005
"""Seconds for which a writing thread waits, so that the program goes on first: otherwise it waits
for Python's lock, which the writing thread gives up after 5 ms only."""


@dataclass(slots=True)
class _Space:
    """What was copied of a memory: the runs, their pages, and what the base has there."""

    size: int
    runs: array[int]
    now: bytearray
    before: bytearray | None


@dataclass(slots=True)
class Done:
    """A checkpoint that was written.

    Attributes:
        number: Its number.
        size: Bytes of its file.
        full: Whether it has all pages.
        pages: How many pages were copied while the program was paused.
        root: Its root digest.
    """

    number: int
    size: int
    full: bool
    pages: int
    root: bytes


class Checkpointer:
    """Takes checkpoints of one program into one folder.

    Args:
        folder: The folder; the caller holds its lock.
        keep: How many complete checkpoints to keep.
        merge_after: How many increments may be below a checkpoint before they are merged.
        done: Called on the writing thread for each checkpoint.
        failed: Called on the writing thread with the error of one that could not be written.
        trust: Keys that sign and encrypt each checkpoint.

    Attributes:
        skipped: Checkpoints that came due while another was written.
        written: Checkpoints that are complete.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        *,
        keep: int = KEEP,
        merge_after: int = MERGE_AFTER,
        done: Callable[[Done], None] = lambda done: None,
        failed: Callable[[BaseException], None] = lambda error: None,
        trust: WriteTrust = WRITE_PLAIN,
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.merge_after = merge_after
        self.trust = trust
        self.skipped = self.written = 0
        self._done, self._failed = done, failed
        self._next = max(folder.numbers(), default=0) + 1
        self._thread: threading.Thread | None = None
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stands = threading.Event()
        self._stands.set()
        self._store: StoreInterface | None = None
        self._tracker: DirtyTracker | None = None
        self._consumer: DirtyConsumer | None = None
        self._base: Base | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return not self._stands.is_set()

    def take(self, store: StoreInterface, capture: Callable[[], SnapshotState]) -> bool:
        """Take a checkpoint of a paused program, which may go on when this returns.

        Args:
            store: The program's store.
            capture: Returns its state, whose memories are the store's own.

        Returns:
            Whether one is taken; False if the one before it is still being written.

        Raises:
            UnportableState: The program holds something that no snapshot can carry.
            SnapshotError: The host has no room.
        """
        if self.busy:
            self.skipped += 1
            return False
        self._begin()
        state = capture()
        if self._store is not store:  # the first one, or the program has another store now
            self._forget()
        try:
            work = self._copy(store, state)
        except (OSError, MemoryError) as error:
            self._forget()
            raise SnapshotError(f"no checkpoint was taken: {reason(error)}") from error

        self._stands.clear()
        self._work.put(work)
        return True

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete, or has failed."""
        self._stands.wait()

    def close(self, *, keep: bool = False) -> None:
        """Wait for the checkpoint that is being written, and release what the host keeps.

        Args:
            keep: Release nothing, because the program may still run.
        """
        self.wait()
        if not keep:
            self._forget()
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None

    def _begin(self) -> None:
        """Start the writing thread, which lives until `close`: to start one takes milliseconds.

        Raises SnapshotError.
        """
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._write_all, name="wasmsr-checkpoint", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise SnapshotError(f"no checkpoint was taken: {error}") from error
        self._thread = thread

    def _write_all(self) -> None:
        """Do what the queue has until it gives None."""
        while (work := self._work.get()) is not None:
            time.sleep(HEAD_START)
            try:
                with reserve.lent():
                    work()
            finally:
                del work  # it holds the copies of pages
                self._stands.set()

    def _forget(self) -> None:
        if self._tracker is not None and self._consumer is not None:
            self._tracker.leave(self._consumer)
        self._store = self._tracker = self._consumer = self._base = None

    def _copy(self, store: StoreInterface, state: SnapshotState) -> Callable[[], None]:
        """Copy the dirty pages; return what is to be done while the program runs."""
        base = self._base
        if self._tracker is None or self._consumer is None:
            self._tracker = DirtyTracker.of(store)
            self._consumer = self._tracker.consumer()
            self._store = store
        if base is None:
            with self._tracker.changes(self._consumer):
                copies = [
                    replace(memory, data=self._tracker.copied(SpaceName(MEMORY_SPACE, number)))
                    for number, memory in enumerate(state.memories)
                ]
            whole = replace(state, memories=copies)
            return lambda: self._write(whole, None, None)
        spaces: list[_Space] = []
        with self._tracker.changes(self._consumer) as changes:
            for number, memory in enumerate(state.memories):
                space = SpaceName(MEMORY_SPACE, number)
                old = changes.old(space, changes.pairs(space))
                size = len(memory.data)
                spaces.append(_Space(size, changes[space], changes.now(space), old))
        bare = replace(state, memories=[replace(one, data=b"") for one in state.memories])
        return lambda: self._write_changes(bare, base, spaces)

    def _write_changes(self, state: SnapshotState, base: Base, spaces: list[_Space]) -> None:
        """Write an increment from what was copied."""
        try:
            memories = [
                replace(memory, data=_sparse(space.size, space.runs, space.now))
                for memory, space in zip(state.memories, spaces, strict=True)
            ]
            olds = [
                None if one.before is None else _sparse(one.size, one.runs, one.before)
                for one in spaces
            ]
        except (OSError, MemoryError) as error:
            self._base = None
            return self._failed(error)

        def old(name: SpaceName, runs: Runs) -> bytes | None:
            view = olds[name.number]
            if view is None:
                return None
            parts = [view[first * PAGE_SIZE : (first + n) * PAGE_SIZE] for first, n in runs]
            return b"".join(parts)

        dirty = [list(zip(space.runs[::2], space.runs[1::2], strict=True)) for space in spaces]
        self._write(replace(state, memories=memories), replace(base, old=old), dirty)

    def _write(self, state: SnapshotState, base: Base | None, dirty: list[Runs] | None) -> None:
        """Write a checkpoint, then remove and merge what is old."""
        got: list[Written] = []
        number = self._next
        try:
            pieces = encode(
                state, version=2, base=base, dirty=dirty, written=got.append, trust=self.trust
            )
            size = save_pieces(pieces, self.folder.file(number))
        except BaseException as error:  # noqa: BLE001 (the program runs on; the caller is told)
            # What was dirty is lost to the next increment: begin anew with a full one.
            self._base = None
            return self._failed(error)
        self._next = number + 1
        self.written += 1
        found = got[0]
        modules = {one.digest for one in state.modules if one.binary}
        chunks = {digest for digest, _ in state.files or ()}
        if base is not None:
            modules |= set(base.modules)  # type: ignore[call-overload]
            chunks |= set(base.chunks)  # type: ignore[call-overload]
        depth = 0 if base is None else base.depth + 1
        self._base = Base(found.root, found.content, depth, found.trees, modules, chunks)
        pages = sum(count for runs in dirty or () for _, count in runs)
        self._done(Done(number, size, base is None, pages, found.root))
        try:
            self._tidy(number)
        except (SnapshotError, OSError, MemoryError) as error:
            self._failed(error)
        return None

    def _tidy(self, number: int) -> None:
        """Merge a chain that is too long, and remove the checkpoints that nobody needs."""
        heads = self.folder.heads()
        chain = self.folder.chain(number, heads)
        if len(chain) > self.merge_after + self.keep and self._base is not None:
            # The oldest that is kept becomes full. Its root stays, so those above it find it.
            oldest = chain[-self.keep]
            merge(self.folder, oldest, self.trust)
            self._base.depth = self.keep - 1
        self.folder.prune(self.keep)


def merge(folder: CheckpointFolder, number: int, trust: WriteTrust = WRITE_PLAIN) -> int:
    """Replace a checkpoint by its full form, with the same number and root; return its size.

    Its signatures stay. None is made: what is in the folder may have been replaced by others.

    Args:
        folder: The folder.
        number: The number of the checkpoint.
        trust: The key that encrypts.

    Raises:
        SnapshotError: A file is damaged, or there is no room; the checkpoint is as it was.
    """
    heads = folder.heads()
    *_, last = folder.links(number, heads)
    trust = WriteTrust(encrypt=trust.encrypt).keeping(last.decoder.signatures, last.decoder.root)
    state = last.read.state
    pieces = encode(state, version=2, handed=heads[number].handed, trust=trust)
    return save_pieces(pieces, folder.file(number))


def _sparse(size: int, runs: array[int], pages: bytearray) -> memoryview:
    """Return a memory that has bytes only in these pages."""
    if not size:
        return memoryview(b"")
    view = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    scatter(pages, runs, view, fresh=True)
    return view


__all__ = ["KEEP", "MERGE_AFTER", "Checkpointer", "Done", "merge"]
