"""snapshot.bin: from a `Snapshot` to bytes and back, for a file, a pipe and the wire alike.

`encode` gives pieces that may be written or sent as they are, `Decoder` takes pieces however they
are cut, `save` and `load` put a file around them. The format is specified in
docs/snapshot-format.md; this file knows the order of the sections, `sections` their payloads,
`pages` the memories, `container` the bytes around all of them.
"""

from __future__ import annotations

import mmap
import os
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from struct import error as StructError
from typing import NamedTuple, TypeAlias

from wasmsr.errors import (
    DigestError,
    FormatError,
    HandedOver,
    SnapshotError,
    UnportableState,
    VersionError,
)
from wasmsr.snapshot import sections
from wasmsr.snapshot.check import check
from wasmsr.snapshot.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    FLAG_HANDED,
    HEADER,
    IGNORABLE,
    MAGIC,
    SECTION,
    TITLES,
    Buffer,
    Header,
    Kind,
    Rows,
    Tree,
    check_batch,
    open_batch,
    section_bytes,
    section_title,
    store_batches,
    tree_digest,
)
from wasmsr.snapshot.pages import PAGE_SIZE, PageMap, Placement, scan
from wasmsr.snapshot.state import PAGE, MemoryState, Snapshot

Path: TypeAlias = str | os.PathLike[str]

DEFAULT_LIMIT = 8 << 30
"""Bytes that a snapshot's memories, tables and modules may take together when it is read. Untouched
memory is not committed, so that this bounds what a file claims more than what it costs."""
MESSAGE_LIMIT = 16 << 20
"""Bytes of all msgpack sections together; what they unpack to is some ten times larger."""
MODULE_LIMIT = 1 << 30
"""Bytes of all embedded modules together."""
_LAZY = 1 << 20
_CHUNK = 1 << 20
_MSGPACK = frozenset(
    (
        Kind.LINEAGE,
        Kind.LIMITS,
        Kind.STORE,
        Kind.SEGMENTS,
        Kind.EXTERNS,
        Kind.COUNTERS,
        Kind.WASI,
    )
)
_REQUIRED = (Kind.LINEAGE, Kind.LIMITS, Kind.STORE, Kind.THREAD)


# Writing -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """A snapshot ready to be written: payloads (those before and after the binaries), binaries,
    pages, and the digests of all of them."""

    before: list[tuple[int, bytes]]
    binaries: list[bytes]
    after: list[tuple[int, bytes]]
    pages: PageMap
    rows: Rows


def _plan(snapshot: Snapshot) -> _Plan:
    try:
        check(snapshot)
        pages = scan([memory.data for memory in snapshot.memories])
        before = [
            (Kind.LINEAGE, sections.pack_lineage(snapshot.lineage)),
            (Kind.LIMITS, sections.pack_limits(snapshot.limits)),
            (Kind.STORE, sections.pack_store(snapshot)),
            (Kind.SEGMENTS, sections.pack_segments(snapshot.instances)),
            (Kind.THREAD, sections.pack_thread(snapshot.thread)),
            (Kind.GLOBALS, sections.pack_globals(snapshot.globals)),
            (Kind.TABLES, sections.pack_tables(snapshot.tables)),
            (Kind.EXTERNS, sections.pack_externs(snapshot.externs)),
            (Kind.COUNTERS, sections.pack_counters(snapshot.executed)),
            (Kind.WASI, sections.pack_wasi(snapshot.wasi)),
        ]
        after = [
            (Kind.MEMORIES, sections.pack_memories(snapshot)),
            (Kind.PAGE_INDEX, pages.index()),
        ]
    except (StructError, TypeError, AttributeError) as error:
        raise FormatError(f"the snapshot has a value of the wrong type: {error}") from error
    rows = Rows()
    messages = 0
    for kind, payload in before:
        if payload:
            rows.add(kind, len(payload), tree_digest(payload))
            if kind in _MSGPACK:
                messages += len(payload)
    if messages > MESSAGE_LIMIT:
        raise UnportableState(
            f"the program's state besides memory is larger than {MESSAGE_LIMIT >> 20} MiB",
            hint="WASI buffers and host objects behind externrefs are what can be that large",
        )
    binaries = [module.binary for module in snapshot.modules if module.binary]
    if binaries:
        tree = Tree()
        for binary in binaries:
            tree.update(binary)
        rows.add(Kind.BINARIES, sum(map(len, binaries)), tree.digest())
    for kind, payload in after:
        if payload:
            rows.add(kind, len(payload), tree_digest(payload))
    if pages.stored:
        rows.add(Kind.PAGE_DATA, pages.stored * PAGE_SIZE, pages.digest())
    return _Plan(before, binaries, after, pages, rows)


def encode(snapshot: Snapshot, *, compress: bool = True, handed: bool = False) -> Iterator[bytes]:
    """The bytes of a snapshot, in pieces.

    Everything is checked and the digests are made before this returns; the pieces are made one
    after the other, in bounded memory, from the snapshot's own buffers, which must not change until
    then. The same snapshot gives the same bytes (with the same release of zstd).

    Args:
        compress: store pages and embedded modules in zstd where that is smaller.
        handed: mark it as handed over to another host (see `HandedOver`).
    Raises:
        UnportableState: something in it cannot be written; the message names it.
        FormatError: it says what no machine can be in.
    """
    plan = _plan(snapshot)
    rows = plan.rows
    header = Header(FLAG_HANDED if handed else 0, len(rows), rows.plain, rows.digests()[0])
    return _joined(_pieces(plan, header, compress))


def _pieces(plan: _Plan, header: Header, compress: bool) -> Iterator[bytes]:
    yield header.encode()
    for kind, payload in plan.before:
        yield from section_bytes(kind, payload)
    if plan.binaries:
        yield SECTION.pack(Kind.BINARIES, 0, 0, sum(map(len, plan.binaries)))
        yield from store_batches(_cut(plan.binaries), compress)
    for kind, payload in plan.after:
        yield from section_bytes(kind, payload)
    if plan.pages.stored:
        yield SECTION.pack(Kind.PAGE_DATA, 0, 0, plan.pages.stored * PAGE_SIZE)
        yield from store_batches(plan.pages.batches(), compress)


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of a batch and more: small writes and messages are slow."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= BATCH_SIZE:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def _cut(binaries: list[bytes]) -> Iterator[Buffer]:
    """Modules one after the other, in batches."""
    rest = b""
    for binary in binaries:
        view = memoryview(binary)
        start = 0
        if rest:
            start = min(BATCH_SIZE - len(rest), len(view))
            rest += view[:start]
            if len(rest) == BATCH_SIZE:
                yield rest
                rest = b""
        while len(view) - start >= BATCH_SIZE:
            yield view[start : start + BATCH_SIZE]
            start += BATCH_SIZE
        rest += view[start:]
    if rest:
        yield rest


def content_digest(snapshot: Snapshot) -> bytes:
    """A digest (32 bytes) of everything but the lineage: equal exactly if the states are."""
    return _plan(snapshot).rows.digests()[1]


# Reading -----------------------------------------------------------------------------------------


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
        allocate: gives that many zero bytes for a memory; writable, format "B". By default a
            bytearray, for large memories fresh pages of the operating system.
    Attributes:
        header: the header once 64 bytes are there.
        plain: bytes of payload read so far, of `header.plain`.
        content: after `finish`, the content digest.
    """

    def __init__(self, *, limit: int = DEFAULT_LIMIT, allocate: Allocate | None = None) -> None:
        self.header: Header | None = None
        self.plain = 0
        self.content = b""
        self._limit = limit
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
        last = messages = 0
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
            if kind in _MSGPACK:
                messages += plain
                if messages > MESSAGE_LIMIT:
                    raise FormatError(f"the {section_title(kind)} section is too large")
            first = codec, size, crc
            if kind == Kind.PAGE_DATA:
                self._check_size(plain, placement.stored * PAGE_SIZE)
                yield from self._pages(plain, first, placement, memories)
                continue
            if kind == Kind.BINARIES:
                self._check_size(plain, _binaries_size(payloads.get(Kind.STORE)))
                self._reserve(plain)
                if plain > MODULE_LIMIT:
                    raise FormatError("the embedded modules are too large")
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

    def _reserve(self, size: int) -> None:
        self._limit -= size
        if self._limit < 0:
            raise FormatError(
                f"the {section_title(self._kind)} section asks for {-self._limit} bytes more "
                "than may be read",
                hint="a larger limit can be given",
            )

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
            if not kind & IGNORABLE:
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

    def _memories(self, payload: Buffer) -> list[MemoryState]:
        shapes = sections.parse_memories(payload)
        self._reserve(sum(size * PAGE for _, _, size in shapes))
        memories: list[MemoryState] = []
        for minimum, maximum, size in shapes:
            try:
                data = self._allocate(size * PAGE)
            except (MemoryError, OSError) as error:
                raise SnapshotError(
                    f"there is no room for the snapshot's memory of {size * PAGE} bytes"
                ) from error
            memories.append(MemoryState(minimum, maximum, data))
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
        snapshot = Snapshot(
            modules=modules,
            host_functions=hosts,
            instances=instances,
            tables=[] if tables is None else sections.parse_tables(tables, self._limit),
            memories=memories,
            globals=[] if cells is None else sections.parse_globals(cells),
            thread=sections.parse_thread(payloads[Kind.THREAD]),
            limits=sections.parse_limits(payloads[Kind.LIMITS]),
            lineage=sections.parse_lineage(payloads[Kind.LINEAGE]),
            externs=[] if externs is None else sections.parse_externs(externs),
            wasi=None if wasi is None else sections.parse_wasi(wasi),
            executed=None if counters is None else sections.parse_counters(counters),
        )
        check(snapshot)
        return snapshot


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


def decode(data: Buffer | mmap.mmap, *, limit: int = DEFAULT_LIMIT) -> Snapshot:
    """Read a snapshot that is in memory.

    Args:
        limit: bytes that its memories, tables and embedded modules may take in all.
    Raises:
        FormatError, VersionError, DigestError: what is wrong with it.
    """
    decoder = Decoder(limit=limit)
    decoder.feed(memoryview(data))
    return decoder.finish()


# Files -------------------------------------------------------------------------------------------


def save(snapshot: Snapshot, path: Path, *, compress: bool = True, handed: bool = False) -> int:
    """Write a snapshot to a file; the number of bytes written.

    The file appears by rename when it is complete and on the disk, so that a full disk or a crash
    leaves the old one as it was. Like a core dump it may hold secrets, so only its owner may read
    it. What is not a regular file (a pipe, a device) is written directly.

    Raises:
        SnapshotError: it could not be written; nothing of it is left.
        UnportableState, FormatError: as `encode`.
    """
    return save_pieces(encode(snapshot, compress=compress, handed=handed), path)


def save_pieces(pieces: Iterator[bytes], path: Path) -> int:
    """Write what `encode` gives, or what came over the wire, as `save` does."""
    target = os.path.realpath(os.fspath(path))
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            if os.path.isdir(target):
                raise SnapshotError(f"cannot write the snapshot: {path} is a folder")
            with open(target, "wb") as file:
                return sum(file.write(piece) for piece in pieces)
        return _replace(pieces, target)
    except OSError as error:
        raise SnapshotError(
            f"cannot write the snapshot to {path}: {error.strerror or error}",
            hint="nothing was left half-written; free some space or name another folder",
        ) from error


def _replace(pieces: Iterator[bytes], target: str) -> int:
    folder, name = os.path.split(target)
    number, temporary = tempfile.mkstemp(prefix=f".{name[:200]}.", suffix=".part", dir=folder)
    try:
        with open(number, "wb", buffering=0) as file:
            written = 0
            for piece in pieces:
                view = memoryview(piece)
                while len(view):
                    count = file.write(view) or 0
                    written += count
                    view = view[count:]
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)
    return written


def _sync_folder(folder: str) -> None:
    """Make a rename last. Some file systems cannot, and the file itself is safe by now."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def load(path: Path, *, adopt: bool = False, limit: int = DEFAULT_LIMIT) -> Snapshot:
    """Read a snapshot from a file.

    Args:
        adopt: read it even if it was handed over to another host.
        limit: bytes that its memories, tables and embedded modules may take in all.
    Raises:
        SnapshotError: the file cannot be read.
        HandedOver: another host owns the program now.
        FormatError, VersionError, DigestError: what is wrong with it.
    """
    decoder = read_file(path, Decoder(limit=limit))
    snapshot = decoder.finish()
    if decoder.header is not None and decoder.header.handed and not adopt:
        raise HandedOver(
            f"the program in {path} was handed over to another host, which owns it now",
            hint="--adopt resumes it here nevertheless; then it may run twice",
        )
    return snapshot


def read_file(path: Path, decoder: Decoder) -> Decoder:
    """Feed a file to a decoder, which is returned."""
    try:
        with open(path, "rb", buffering=0) as file:
            if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                raise SnapshotError(f"cannot read the snapshot: {path} is a folder")
            while piece := file.read(_CHUNK):
                decoder.feed(piece)
    except OSError as error:
        raise SnapshotError(
            f"cannot read the snapshot {path}: {error.strerror or error}"
        ) from error
    return decoder


def mark_handed(path: Path) -> None:
    """Mark a snapshot file as handed over, on the disk when this returns.

    Sixty-four bytes are written in place, within one sector, so that a crash leaves the old header
    or the new one; the header's own checksum would show anything else. The mark says who owns the
    program, not what it is, and is not part of the digests.

    Raises:
        SnapshotError: the file cannot be written; FormatError and its kin: it is no snapshot.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            data = file.read(HEADER.size)
            if len(data) < HEADER.size:
                raise FormatError(f"{path} is not a snapshot")
            old = Header.decode(data)
            file.seek(0)
            new = Header(old.flags | FLAG_HANDED, old.sections, old.plain, old.root)
            file.write(new.encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise SnapshotError(
            f"cannot mark {path} as handed over: {error.strerror or error}"
        ) from error
