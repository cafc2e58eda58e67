"""The state of a program that arrives while it still runs elsewhere: first pages, then the rest.

What arrives is hostile. Limits are checked before anything is allocated, and nothing is handed out
before all of it is verified.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock

from wasmsr.errors import DigestError, FormatError, SnapshotError
from wasmsr.interp.outcomes import Limits
from wasmsr.snapshot.encoding.container import HEADER, MAPPED, Buffer
from wasmsr.snapshot.encoding.read_limits import BESIDE
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.live.carried import IncomingFiles
from wasmsr.snapshot.live.early import EarlyRest
from wasmsr.snapshot.live.image import LiveImage
from wasmsr.snapshot.live.memories import LiveMemories
from wasmsr.snapshot.memory.adoption import unload
from wasmsr.snapshot.memory.page_engine import Runs
from wasmsr.snapshot.sections.pages.padding import FILE_PADDING, PADDING
from wasmsr.snapshot.state import SnapshotState


class IncomingState:
    """Takes the pages of memories in any order, as often as they come, and then the rest.

    One thread calls `resize`, `take`, `zeros`, `take_files`, `feed` and `finish`; any thread may
    call `sync` meanwhile. Only `sync` writes pages to the image, so that the thread that receives
    them does not wait for a disk; after `finish` it makes the image complete.

    Args:
        limit: Bytes that all memories may have together.
        limits: Limits of the store in which the state is to be restored.
        files: Bytes of content of carried files.
        image: A descriptor of an empty regular file, open for reading and writing. It becomes a
            mapped snapshot with the mark of hand-over, and stays the caller's. None for no image.
        rest: An estimate of the bytes of the rest. If it is far too small, the image must be
            written twice.
        expected: An estimate of the bytes of files that come before the rest; likewise.

    Attributes:
        root: The root digest, after `finish`.
    """

    def __init__(
        self,
        *,
        limit: int,
        limits: Limits | None,
        files: int,
        image: int | None,
        rest: int = 0,
        expected: int = 0,
    ) -> None:
        self.root = b""
        self._lock = Lock()
        # Is held while pages are written to their places, and taken before the other lock.
        self._writing = Lock()
        self._memories = LiveMemories(limit, limits)
        self._files = IncomingFiles(files)
        self._file = image
        self._image: LiveImage | None = None
        if image is not None:
            expected = min(expected, files)
            self._image = LiveImage(image, rest, self._memories, self._files, expected)
        self._decoder: Decoder | None = Decoder(
            limit=limit + BESIDE,
            limits=limits,
            files=files,
            allocate=self._allocate,
            map_pages=self._region,
        )
        self._asked = self._given = self._fed = 0
        self._closed = self._finished = False
        self._failure: Exception | None = None

    def resize(self, number: int, pages: int) -> None:
        """Give a memory so many pages of 4 KiB, never fewer than before.

        Args:
            number: Its address. The first call for each memory comes in their order.
            pages: All pages that it has now.

        Raises:
            FormatError: The size or the number cannot be, or a limit forbids it.
            SnapshotError: The host has no room.
            OSError: The image cannot be written.
        """
        with self._lock:
            self._check_open()
            self._memories.resize(number, pages)
            if self._image is not None:
                self._image.resize(number)

    def take(self, number: int, runs: Runs, data: Buffer) -> None:
        """Put pages of a memory to their places.

        Args:
            number: The memory's address.
            runs: First page and number of pages, in turn; ascending, without overlap.
            data: The pages, one after the other.

        Raises:
            FormatError: There are no such pages, or not as many; nothing is written then.
        """
        with self._lock:
            self._check_open()
            self._memories.get(number).take(runs, data)
            if self._image is not None:
                self._image.unwritten.append((number, runs))

    def zeros(self, number: int, runs: Runs) -> None:
        """Make pages of a memory zeros.

        Args:
            number: The memory's address.
            runs: As for `take`.

        Raises:
            FormatError: As `take`.
        """
        with self._lock:
            self._check_open()
            changed = self._memories.get(number).clear(runs)
            if self._image is not None:
                self._image.unwritten.append((number, changed))

    def take_files(self, digests: Sequence[bytes], lengths: Sequence[int], data: Buffer) -> None:
        """Keep chunks of carried files, which come before the rest.

        Args:
            digests: Digest of each, 32 bytes.
            lengths: Bytes of each, 1 to 64 KiB.
            data: The chunks, one after the other.

        Raises:
            FormatError: They cannot be, came before, or are more than may come.
            DigestError: One is not what its digest names.
            OSError: There is no room for them. Every later call raises the same.
        """
        self._files.check(digests, lengths, data)  # without the lock: it takes long
        with self._writing, self._lock:  # they may come to where pages are now
            self._check_open()
            if self._fed:
                raise FormatError("pieces of files come after the rest has begun")
            try:
                if self._image is not None:
                    self._image.open_area()
                self._files.keep(digests, lengths, data)
                if self._image is not None:
                    self._image.grown()
            except OSError as error:
                self._failure = error  # a part of them may be in the image, and no index names it
                raise

    def piece(self, digest: bytes) -> bytes | None:
        """Return a chunk of carried files that has come, or None. Raises OSError."""
        with self._lock:
            if self._closed or digest not in self._files.contents:
                return None
            return self._files.contents.read(digest)

    def sync(self) -> None:
        """Write the image to the disk as far as it is, and bring the digests up to date.

        Pages that have come are no longer mapped here, so that little is left to unmap in the
        downtime. After `finish` the image is a snapshot when this returns.

        Raises:
            OSError: The disk does not take it. The next call writes again what is missing.
        """
        self._write_pages()
        with self._lock:
            if not self._finished:
                for number in range(len(self._memories)):
                    self._memories[number].tree.root()
                    unload(self._memories[number].data)
        if self._file is not None:
            os.fdatasync(self._file)

    def _write_pages(self) -> None:
        """Write pages to the image, one batch at a time: so nobody waits for all of them."""
        while True:
            with self._writing:
                with self._lock:
                    image = self._image
                    if image is None:
                        return
                    image.settle()
                    if not image.unwritten:
                        if self._finished:
                            image.complete()
                            self._let_go()
                        return
                    number, runs = image.unwritten.popleft()
                image.write(number, runs)

    def foresee(self, early: EarlyRest) -> None:
        """Take note of an earlier rest, after its `finish` and before the rest.

        What it has is read and written now, and not again when the rest repeats it.

        Raises:
            OSError: The image cannot be written.
        """
        with self._lock:
            self._check_open()
            assert self._decoder is not None
            self._decoder.earlier = early.give()
            if self._image is not None:
                self._image.foresee(early.data)

    def feed(self, piece: Buffer, foreseen: int | None = None) -> None:
        """Take the next bytes of the rest, however they are cut.

        Args:
            piece: The bytes.
            foreseen: Where they are in the earlier rest; None if they are not from there.

        Raises:
            FormatError, VersionError, DigestError: What is wrong with them.
            OSError: The image cannot be written. Every later call raises the same.
        """
        with self._writing, self._lock:  # as for `take_files`
            self._check_open()
            view = memoryview(piece)
            held = max(0, HEADER.size - self._fed)
            try:
                for at, part in ((0, view[:held]), (held, view[held:])):
                    if part:
                        self._feed(part, None if foreseen is None else foreseen + at)
            except (SnapshotError, OSError) as error:
                self._failure = error
                raise

    def _feed(self, view: memoryview, foreseen: int | None) -> None:
        decoder = self._decoder
        assert decoder is not None
        decoder.feed(view)
        header = decoder.header
        if header is not None and (header.version < 2 or header.form != MAPPED):
            raise FormatError(
                f"the rest has version {header.version} and the form {header.form_name}: it must "
                "be the head of a mapped snapshot"
            )
        if decoder.complete and self._fed + len(view) > decoder.head_size:
            raise FormatError("bytes follow the end of the rest")
        if self._image is not None:
            self._image.append(view, foreseen)
        self._fed += len(view)

    def finish(self) -> SnapshotState:
        """Return the state, all of it verified; the next `sync` completes the image.

        The state's memories are the ones that were filled: `adopt` lays a store over them. A store
        changes no page of them, so `sync` may write them while the program is restored, but not
        while it runs.

        Raises:
            FormatError: The rest ends too early, or has other memories than were sent.
            DigestError: A memory has other content than the rest names.
            OSError: The image cannot be written. It is no snapshot then.
        """
        with self._writing, self._lock:
            self._check_open()
            decoder = self._decoder
            assert decoder is not None
            state = decoder.finish()
            if len(state.memories) != len(self._memories):
                raise FormatError(
                    f"the rest has {len(state.memories)} memories, and {len(self._memories)} "
                    "were sent"
                )
            for padding in (PADDING, FILE_PADDING):
                if any(size.kind == padding.kind for size in decoder.sections):
                    raise FormatError(f"the rest has a {padding.name} section")
            self._add_files(state)
            wrong = self._memories.compare(decoder.space_digests)
            if wrong:
                raise DigestError(
                    f"the pages of memory {wrong[0]} that were sent are not those that its digest "
                    "names"
                )
            if self._image is not None:
                self._image.finish(decoder)
            self.root = decoder.root
            # It refers to this object, and would keep the memories until Python looks for cycles.
            self._decoder = None
            self._closed = self._finished = True
            if self._image is None:
                self._let_go()
            return state

    def _add_files(self, state: SnapshotState) -> None:
        """Add the chunks that came before to those of the rest."""
        if not len(self._files):
            return
        if state.files is not None:
            for digest, length in state.files:
                if digest not in self._files.contents:
                    self._files.keep([digest], [length], state.files.read(digest))
        state.files = self._files.contents

    def close(self) -> None:
        """Let go of everything that has arrived, an image that is not complete included.

        What `finish` has returned stays.
        """
        with self._writing, self._lock:
            if not self._closed:
                self._files.close()
            self._closed = True
            self._decoder = None
            self._let_go()

    def _let_go(self) -> None:
        self._image = None
        self._memories.clear()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise ValueError("the state is complete, or was given up")

    def _allocate(self, size: int) -> bytearray | memoryview:
        """Give the decoder the next memory in place of a new one."""
        number, self._asked = self._asked, self._asked + 1
        sent = len(self._memories[number].data) if number < len(self._memories) else 0
        if number >= len(self._memories) or sent != size:
            raise FormatError(f"memory {number} has {size} bytes, and {sent} were announced")
        return self._memories[number].data

    def _region(self, offset: int, length: int) -> memoryview:
        """Give the decoder the next memory in place of a region of a file."""
        number, self._given = self._given, self._given + 1
        return memoryview(self._memories[number].data)


__all__ = ["IncomingState"]
