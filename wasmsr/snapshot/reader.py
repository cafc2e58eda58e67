"""From the bytes of snapshot.bin to a `Snapshot`, however they are cut into pieces.

Reading is hostile: every length is checked before anything is allocated, memories are filled while
pieces arrive, and nothing is handed out before all of it has been verified.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Generator
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias

from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot import sections
from wasmsr.snapshot.check import check
from wasmsr.snapshot.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    HEADER,
    IGNORABLE,
    MAGIC,
    MODULE_LIMIT,
    SECTION,
    TITLES,
    Buffer,
    Header,
    Kind,
    Rows,
    Tree,
    check_batch,
    open_batch,
    section_title,
    tree_digest,
)
from wasmsr.snapshot.pages import PAGE_SIZE, Placement
from wasmsr.snapshot.room import DEFAULT_LIMIT, FILES_LIMIT, Room
from wasmsr.snapshot.state import PAGE, MemoryState, Snapshot

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits
    from wasmsr.wasi.state.contents import Contents

_LAZY = 1 << 20
_REQUIRED = (Kind.LINEAGE, Kind.LIMITS, Kind.STORE, Kind.THREAD)


class SectionSize(NamedTuple):
    """A section as it was read: its kind, bytes of payload, bytes in the file with all heads."""

    kind: int
    plain: int
    stored: int


_Parser: TypeAlias = Generator[int, Buffer, Snapshot]
Allocate: TypeAlias = Callable[[int], "bytearray | memoryview"]


class Decoder:
    """Reads a snapshot from pieces, in memory bounded by what it holds and one batch.

    Memories are filled while pieces arrive; nothing is handed out before all has been verified.

    Args:
        limit: bytes that memories, tables and embedded modules may take in all.
        limits: of the store in which the snapshot is to be restored; see `Room`.
        files: bytes of content of files, which wait in a temporary file if they are many.
        allocate: gives that many zero bytes for a memory; writable, format "B". By default a
            bytearray, for large memories fresh pages of the operating system.
    Attributes:
        header: the header once 64 bytes are there.
        plain: bytes of payload read so far, of `header.plain`.
        content: after `finish`, the content digest.
    """

    def __init__(
        self,
        *,
        limit: int = DEFAULT_LIMIT,
        limits: Limits | None = None,
        files: int = FILES_LIMIT,
        allocate: Allocate | None = None,
    ) -> None:
        self.header: Header | None = None
        self.plain = 0
        self.content = b""
        self._room = Room(limit, files, limits)
        self._files: Contents | None = None
        self._allocate = allocate or _allocate
        self._pending = bytearray()
        self._kind = 0
        self._sizes: list[tuple[int, int, int]] = []
        self._rows = Rows()
        self._snapshot: Snapshot | None = None
        self._failure: SnapshotError | None = None
        self._parser = self._parse()
        self._need = next(self._parser)

    def feed(self, piece: Buffer) -> None:
        """Take the next bytes.

        Raises:
            FormatError, VersionError, DigestError: what is wrong with the bytes so far. Every later
                call raises the same.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._feed(memoryview(piece))
        except SnapshotError as error:
            self._failure = error
            self._parser.close()
            raise

    def _feed(self, view: memoryview) -> None:
        start = 0
        pending = self._pending
        while start < len(view):
            if self._snapshot is not None:
                raise FormatError("bytes follow the end of the snapshot")
            need = self._need
            chunk: Buffer
            if pending:
                part = view[start : start + need - len(pending)]
                pending += part
                start += len(part)
                if len(pending) < need:
                    return
                chunk = bytes(pending)
                pending.clear()
            elif len(view) - start >= need:
                chunk = view[start : start + need]
                start += need
            else:
                pending += view[start:]
                return
            try:
                self._need = self._parser.send(chunk)
            except StopIteration as done:
                self._snapshot = done.value

    def finish(self) -> Snapshot:
        """The snapshot, all of it verified.

        Raises:
            FormatError: the bytes end too early; or what `feed` raised.
        """
        if self._failure is not None:
            raise self._failure
        if self._snapshot is None:
            begin = bytes(self._pending[: len(MAGIC)])
            if self.header is None and not MAGIC.startswith(begin):
                raise FormatError(f"this is not a snapshot: it begins with {begin.hex(' ')}")
            missing = self._need - len(self._pending)
            where = f"after its {section_title(self._kind)} section begins"
            raise FormatError(
                f"the snapshot is cut off {where if self._kind else 'in its header'}: "
                f"{missing} or more bytes are missing",
                hint="it was not written or sent to its end",
            )
        return self._snapshot

    def _parse(self) -> _Parser:
        header = self.header = Header.decode((yield HEADER.size))
        payloads: dict[int, Buffer] = {}
        memories: list[MemoryState] = []
        placement = Placement()
        last = 0
        for _ in range(header.sections):
            head = yield FIRST.size
            kind, flags, reserved, plain, codec, size, crc = FIRST.unpack(head)
            self._kind = kind
            if kind <= last or flags or reserved or not plain or kind not in TITLES:
                self._check_head(kind, flags or reserved, plain, last)
            last = kind
            self.plain += plain
            if self.plain > header.plain:
                raise FormatError("the snapshot's sections are larger than its header says")
            self._room.enter(kind, plain)
            first = codec, size, crc
            if kind == Kind.PAGE_DATA:
                self._check_size(plain, placement.stored * PAGE_SIZE)
                yield from self._pages(plain, first, placement, memories)
                continue
            if kind == Kind.FILE_DATA:
                yield from self._file_data(plain, first, payloads.get(Kind.FILE_INDEX))
                continue
            if kind == Kind.BINARIES:
                self._check_size(plain, _binaries_size(payloads.get(Kind.STORE)))
                self._room.take(kind, plain)
            elif kind == Kind.PAGE_INDEX:
                self._room.index(plain, [len(m.data) for m in memories])
            if plain <= BATCH_SIZE:
                check_batch(kind, codec, size, plain)
                payload = open_batch(kind, codec, crc, bytes((yield size)), plain)
                self._finish(kind, plain, FIRST.size + size, tree_digest(payload))
            else:
                payload = yield from self._payload(kind, plain, first)
            if kind == Kind.MEMORIES:
                memories = self._memories(payload)
            elif kind == Kind.PAGE_INDEX:
                placement = Placement.parse(payload, [len(m.data) for m in memories])
            else:
                payloads[kind] = payload
        return self._assemble(header, payloads, memories, placement)

    def _check_head(self, kind: int, flags: int, plain: int, last: int) -> None:
        title = section_title(kind)
        if flags:
            raise FormatError(f"the head of the {title} section has unknown flags")
        if kind not in TITLES and not kind & IGNORABLE:
            raise VersionError(
                f"the snapshot has a section of {title}, which this wasmsr does not know",
                hint="read it with the wasmsr that wrote it, or a newer one",
            )
        if kind <= last:
            raise FormatError(f"the {title} section is out of order or there twice")
        if not plain:
            raise FormatError(f"the {title} section is empty and should be absent")

    def _check_size(self, plain: int, expected: int) -> None:
        if plain != expected:
            raise FormatError(
                f"the {section_title(self._kind)} section has {plain} bytes in place of {expected}"
            )

    def _finish(self, kind: int, plain: int, stored: int, digest: bytes) -> None:
        self._rows.add(kind, plain, digest)
        self._sizes.append((kind, plain, stored))

    @property
    def sections(self) -> list[SectionSize]:
        """The sections read so far."""
        return [SectionSize(*size) for size in self._sizes]

    def _batch(
        self, kind: int, length: int, head: tuple[int, int, int] | None
    ) -> Generator[int, Buffer, tuple[Buffer, int]]:
        """The plain bytes of the next batch and its stored length; its head, or read it."""
        codec, size, crc = head or BATCH.unpack((yield BATCH.size))
        check_batch(kind, codec, size, length)
        return open_batch(kind, codec, crc, (yield size), length), size

    def _payload(
        self, kind: int, plain: int, head: tuple[int, int, int]
    ) -> Generator[int, Buffer, Buffer]:
        """A payload of more than one batch; empty for a section that is skipped."""
        stored = SECTION.size
        payload = bytearray()
        tree = Tree()
        for start in range(0, plain, BATCH_SIZE):
            data, size = yield from self._batch(
                kind, min(BATCH_SIZE, plain - start), None if start else head
            )
            stored += BATCH.size + size
            tree.update(data)
            if kind in TITLES:
                payload += data
        self._finish(kind, plain, stored, tree.digest())
        return payload

    def _pages(
        self,
        plain: int,
        head: tuple[int, int, int],
        placement: Placement,
        memories: list[MemoryState],
    ) -> Generator[int, Buffer, None]:
        """The page data section, written into the memories."""
        stored = SECTION.size
        views = [memoryview(memory.data) for memory in memories]
        tree = Tree()
        for start in range(0, plain, BATCH_SIZE):
            data, size = yield from self._batch(
                Kind.PAGE_DATA, min(BATCH_SIZE, plain - start), None if start else head
            )
            stored += BATCH.size + size
            tree.update(data)
            placement.fill(start // PAGE_SIZE, data, views)
        placement.repeat(views)
        self._finish(Kind.PAGE_DATA, plain, stored, tree.digest())

    def _file_data(
        self, plain: int, head: tuple[int, int, int], index: Buffer | None
    ) -> Generator[int, Buffer, None]:
        """The file data section, each chunk verified on its way into a temporary file."""
        from wasmsr.wasi.state.contents import Contents, digest_of

        chunks = sections.parse_file_index(index or b"")
        self._check_size(plain, sum(length for _, length in chunks))
        if plain > self._room.files:
            raise FormatError(
                f"the snapshot carries {plain} bytes of files, more than the {self._room.files} "
                "that may be read",
                hint="--carry-limit SIZE allows more",
            )
        stored, position = SECTION.size, 0
        tree, rest, spool, files = Tree(), bytearray(), _spool(), Contents()
        waiting = iter(chunks)
        wanted = next(waiting, None)
        for start in range(0, plain, BATCH_SIZE):
            data, size = yield from self._batch(
                Kind.FILE_DATA, min(BATCH_SIZE, plain - start), None if start else head
            )
            stored += BATCH.size + size
            tree.update(data)
            rest += data
            used = 0
            while wanted is not None and len(rest) - used >= wanted[1]:
                digest, length = wanted
                piece = bytes(rest[used : used + length])
                if digest_of(piece) != digest:
                    raise DigestError("a piece of a file in the snapshot is not what it should be")
                _write(spool, piece)
                files.add_spooled(digest, length, spool, position)
                position += length
                used += length
                wanted = next(waiting, None)
            del rest[:used]
        self._finish(Kind.FILE_DATA, plain, stored, tree.digest())
        self._files = files

    def _memories(self, payload: Buffer) -> list[MemoryState]:
        shapes = sections.parse_memories(payload)
        self._room.memories([size for _, _, size, _ in shapes])
        memories: list[MemoryState] = []
        for minimum, maximum, size, address64 in shapes:
            try:
                data = self._allocate(size * PAGE)
            except (MemoryError, OSError) as error:
                raise SnapshotError(
                    f"there is no room for the snapshot's memory of {size * PAGE} bytes"
                ) from error
            memories.append(MemoryState(minimum, maximum, data, address64))
        return memories

    def _assemble(
        self,
        header: Header,
        payloads: dict[int, Buffer],
        memories: list[MemoryState],
        placement: Placement,
    ) -> Snapshot:
        if self.plain != header.plain:
            raise FormatError("the snapshot's sections are smaller than its header says")
        root, self.content = self._rows.digests()
        if root != header.root:
            raise DigestError("the snapshot is damaged: its content is not what its digest names")
        for kind in _REQUIRED:
            if kind not in payloads:
                raise FormatError(f"the snapshot has no {section_title(kind)} section")
        if placement.stored and all(kind != Kind.PAGE_DATA for kind, _, _ in self._sizes):
            raise FormatError("the snapshot has no page data section")
        if Kind.FILE_INDEX in payloads and self._files is None:
            raise FormatError("the snapshot has no file data section")
        modules, embedded, hosts, instances = sections.parse_store(payloads[Kind.STORE])
        position = 0
        if any(embedded):
            binaries = memoryview(payloads.get(Kind.BINARIES, b""))
            for module, inside in zip(modules, embedded, strict=True):
                if inside:
                    module.binary = bytes(binaries[position : position + module.size])
                    position += module.size
        get = payloads.get
        segments, cells, tables = get(Kind.SEGMENTS), get(Kind.GLOBALS), get(Kind.TABLES)
        externs, counters, wasi = get(Kind.EXTERNS), get(Kind.COUNTERS), get(Kind.WASI)
        if segments is not None:
            sections.parse_segments(segments, instances)
        if (identities := get(Kind.IDENTITIES)) is not None:
            sections.parse_identities(identities, hosts)
        names, thrown = get(Kind.TAGS), get(Kind.EXCEPTIONS)
        tags = [] if names is None else sections.parse_tags(names, instances)
        snapshot = Snapshot(
            modules=modules,
            host_functions=hosts,
            instances=instances,
            tables=[] if tables is None else sections.parse_tables(tables, self._room),
            memories=memories,
            globals=[] if cells is None else sections.parse_globals(cells),
            thread=sections.parse_thread(payloads[Kind.THREAD]),
            limits=sections.parse_limits(payloads[Kind.LIMITS]),
            lineage=sections.parse_lineage(payloads[Kind.LINEAGE]),
            externs=[] if externs is None else sections.parse_externs(externs),
            wasi=None if wasi is None else sections.parse_wasi(wasi, get(Kind.ORIGIN)),
            executed=None if counters is None else sections.parse_counters(counters),
            files=self._files,
            tags=tags,
            exceptions=[] if thrown is None else sections.parse_exceptions(thrown, tags),
        )
        check(snapshot)
        return snapshot


def _spool() -> IO[bytes]:
    """A file without a name; small ones stay in memory."""
    import tempfile

    return tempfile.SpooledTemporaryFile(max_size=MODULE_LIMIT >> 4)


def _write(spool: IO[bytes], piece: bytes) -> None:
    try:
        spool.write(piece)
    except OSError as error:
        raise SnapshotError(
            f"there is no room for the snapshot's files: {error.strerror or error}"
        ) from error


def _binaries_size(store: Buffer | None) -> int:
    if store is None:
        return 0
    modules, embedded, _, _ = sections.parse_store(store)
    return sum(m.size for m, inside in zip(modules, embedded, strict=True) if inside)


def _allocate(size: int) -> bytearray | memoryview:
    if size < _LAZY:
        return bytearray(size)
    # Not a bytearray, which would write its zeros: most of a large memory may never be touched.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def decode(
    data: Buffer | mmap.mmap, *, limit: int = DEFAULT_LIMIT, limits: Limits | None = None
) -> Snapshot:
    """Read a snapshot that is in memory.

    Args:
        limit: bytes that its memories, tables and embedded modules may take in all.
        limits: of the store in which it is to be restored.
    Raises:
        FormatError, VersionError, DigestError: what is wrong with it.
    """
    decoder = Decoder(limit=limit, limits=limits)
    decoder.feed(memoryview(data))
    return decoder.finish()
