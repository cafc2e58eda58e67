"""From the bytes of snapshot.bin to a `SnapshotState`, however they are cut into pieces.

The bytes are hostile. The reader checks each length before it allocates anything, fills memories
while pieces arrive, and hands nothing out before all of it is verified. The sections (`registry`)
read the payloads.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.check import check
from wasmsr.snapshot.earlier import EarlierState
from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    FLAG_TRAILER,
    HEADER,
    MAGIC,
    MAPPED,
    SECTION,
    TRAILER,
    Buffer,
    Header,
    Rows,
    Tree,
    check_batch,
    check_crc,
    open_batch,
    read_trailer,
    tree_digest,
)
from wasmsr.snapshot.encoding.read_limits import DEFAULT_LIMIT, FILES_LIMIT, ReadLimits
from wasmsr.snapshot.encoding.registry import BY_KIND, SECTIONS
from wasmsr.snapshot.encoding.section import (
    Allocate,
    Draft,
    MapPages,
    ReadBase,
    Section,
    UnknownSection,
)
from wasmsr.snapshot.spaces.places import aligned, check_places, file_size
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.encryption import ENCRYPTION_HEAD, TAG, BatchCipher
from wasmsr.snapshot.trust.policy import READ_ANY, ReadTrust
from wasmsr.snapshot.trust.signatures import Signature

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits

_LAZY = 1 << 20
"""Bytes from which on a memory consists of fresh pages of the operating system."""


class SectionSize(NamedTuple):
    """A section as it was read: its kind, bytes of payload, bytes in the file with all heads."""

    kind: int
    plain: int
    stored: int


_Parser: TypeAlias = Generator[int, Buffer, SnapshotState]


class Decoder:
    """Reads a snapshot from pieces, in memory bounded by what it holds and one batch.

    Args:
        limit: Bytes that memories, tables and embedded modules may have together.
        limits: Limits of the store in which the snapshot is to be restored; see `ReadLimits`.
        files: Bytes of content of files. They go to a temporary file if they are many.
        allocate: Gives that many zero bytes for a memory; writable, format "B". By default a
            bytearray, for large memories fresh pages of the operating system.
        find_base: Returns the base of an incremental snapshot by its root digest. The reader takes
            over the base's memories.
        trust: Keys that decrypt, and whose signature is asked for.
        earlier: An earlier state of the same program; sections that are the same take its content.
        map_pages: Returns the bytes of a mapped file by offset and length. With it, a mapped
            snapshot ends with its trailer: its pages are neither read nor compared with their
            digests, and bytes after the trailer are ignored.

    Attributes:
        earlier: As given; it may be set until the end of the bytes.
        header: The header once 64 bytes are there.
        plain: Bytes of payload read so far, of `header.plain`.
        content: After `finish`, the content digest.
        root: After `finish`, the root digest.
    """

    def __init__(
        self,
        *,
        limit: int = DEFAULT_LIMIT,
        limits: Limits | None = None,
        files: int = FILES_LIMIT,
        allocate: Allocate | None = None,
        find_base: Callable[[bytes], ReadBase] | None = None,
        trust: ReadTrust = READ_ANY,
        map_pages: MapPages | None = None,
        earlier: EarlierState | None = None,
    ) -> None:
        self.earlier = earlier
        self.header: Header | None = None
        self._trust = trust
        self._cipher: BatchCipher | None = None
        self.plain = 0
        self.content = self.root = b""
        self._draft = Draft(ReadLimits(limit, files, limits), allocate or _allocate)
        if find_base is not None:
            self._draft.find_base = find_base
        self._draft.map_pages = map_pages
        self._pending = bytearray()
        self._section: Section | None = None
        self._sizes: list[tuple[int, int, int]] = []
        self._rows = Rows()
        self._state: SnapshotState | None = None
        self._failure: SnapshotError | None = None
        self._parser = self._parse()
        self._need = next(self._parser)

    def feed(self, piece: Buffer) -> None:
        """Take the next bytes.

        Raises:
            FormatError, VersionError, DigestError: What is wrong with the bytes so far. Every later
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
            if self._state is not None:
                if self._draft.form == MAPPED and self._draft.map_pages is not None:
                    return
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
                self._state = done.value

    def finish(self) -> SnapshotState:
        """Return the snapshot, all of it verified.

        Raises:
            FormatError: The bytes end too early; or what `feed` raised.
        """
        if self._failure is not None:
            raise self._failure
        if self._state is None:
            begin = bytes(self._pending[: len(MAGIC)])
            if self.header is None and not MAGIC.startswith(begin):
                raise FormatError(f"this is not a snapshot: it begins with {begin.hex(' ')}")
            missing = self._need - len(self._pending)
            where = "in its header"
            if self._section is not None:
                where = f"after its {self._section.name} section begins"
            raise FormatError(
                f"the snapshot is cut off {where}: {missing} or more bytes are missing",
                hint="it was not written or sent to its end",
            )
        return self._state

    @property
    def trees(self) -> list[SpaceTree]:
        """The digests of the memories' pages, by number; none in version 1."""
        return [space.tree for space in self._draft.spaces]

    @property
    def stored_pages(self) -> list[list[tuple[int, int]]]:
        """The runs of pages (first, count) that the snapshot itself has, for each memory.

        After `finish`, in version 2; none of a mapped snapshot.
        """
        runs = self._draft.page_runs
        return [runs.of_space(number) for number in range(len(runs.spaces))]

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """The signatures over the root, whoever made them; known after `finish`."""
        return self._draft.signatures

    @property
    def sections(self) -> list[SectionSize]:
        """The sections read so far."""
        return [SectionSize(*size) for size in self._sizes]

    @property
    def stored(self) -> int:
        """Bytes of the file; known after `finish`."""
        return file_size(self.head_size, self._draft.places)

    @property
    def complete(self) -> bool:
        """Whether the snapshot was read to its end."""
        return self._state is not None

    @property
    def space_digests(self) -> list[bytes]:
        """What the section *spaces* says of the memories, by number; known after `finish`."""
        return self._draft.space_digests

    @property
    def head_size(self) -> int:
        """Bytes up to the end of the last section, or of the trailer; known after `finish`."""
        trailer = TRAILER.size if self.header is not None and self.header.version > 1 else 0
        trailer += 0 if self._cipher is None else ENCRYPTION_HEAD.size
        return HEADER.size + trailer + sum(stored for _, _, stored in self._sizes)

    def _parse(self) -> _Parser:
        header = self.header = Header.decode((yield HEADER.size))
        draft = self._draft
        draft.version, draft.form = header.version, header.form
        self._rows = Rows(header.version)
        if header.encrypted:
            data = bytes((yield ENCRYPTION_HEAD.size))
            self._cipher = BatchCipher.of(data, header.form, self._trust.keys)
        last = 0
        for _ in range(header.sections):
            kind, flags, reserved, plain, codec, size, crc = FIRST.unpack((yield FIRST.size))
            section = BY_KIND.get(kind)
            if section is None or header.version not in section.versions:
                section = UnknownSection(kind)
            self._section = section
            unknown = isinstance(section, UnknownSection)
            if kind <= last or flags or reserved or not plain or unknown:
                _check_head(section, flags or reserved, plain, last)
            last = kind
            self.plain += plain
            if self.plain > header.plain:
                raise FormatError("the snapshot's sections are larger than its header says")
            section.enter(draft.limits, plain)
            section.begin(draft, plain)
            payload = yield from self._payload(section, plain, (codec, size, crc))
            if section.early:
                section.parse(payload, draft)
            else:
                draft.payloads[kind] = payload
        root = header.root
        if header.version > 1:
            self._section = None
            root = read_trailer((yield TRAILER.size))
            if not header.flags & FLAG_TRAILER and root != header.root:
                raise DigestError("the snapshot's trailer has another root digest than its header")
        self._check_root(header, root)
        if header.form == MAPPED:
            yield from self._regions()
        return self._assemble(header)

    def _regions(self) -> Generator[int, Buffer, None]:
        """Read the pages of a mapped snapshot, or map them."""
        draft = self._draft
        at = self.head_size
        check_places(at, draft.places, draft.padding)
        for number, place in enumerate(draft.places):
            if draft.map_pages is not None:
                draft.set_space(number, draft.map_pages(place.offset, place.length))
                continue
            yield from _padding(place.offset - at)
            at = place.offset + place.length
            for start in range(0, place.length, BATCH_SIZE):
                data = yield min(BATCH_SIZE, place.length - start)
                draft.page_runs.fill(number, start, data)
        if draft.map_pages is None and draft.places:
            yield from _padding(aligned(at) - at)

    def _payload(
        self, section: Section, plain: int, head: tuple[int, int, int]
    ) -> Generator[int, Buffer, Buffer]:
        """Read a payload; an empty one is returned for a section whose sink took it."""
        sink = section.sink(self._draft)
        if sink is None and plain <= BATCH_SIZE:  # nearly always
            data, size = yield from self._batch(section, 0, plain, plain, head)
            self._finish(section, plain, FIRST.size + size, tree_digest(data))
            return bytes(data)
        stored = SECTION.size
        payload = bytearray()
        tree = Tree()
        carrier = section.carrier and self._draft.version > 1
        for start in range(0, plain, BATCH_SIZE):
            length = min(BATCH_SIZE, plain - start)
            first = None if start else head
            data, size = yield from self._batch(section, start, length, plain, first)
            stored += BATCH.size + size
            if not carrier:
                tree.update(data)
            if sink is None:
                payload += data
            else:
                sink.take(start, data)
        if sink is not None:
            sink.close()
        self._finish(section, plain, stored, tree.digest())
        return payload

    def _batch(
        self,
        section: Section,
        start: int,
        length: int,
        plain: int,
        head: tuple[int, int, int] | None,
    ) -> Generator[int, Buffer, tuple[Buffer, int]]:
        """Return the plain bytes of the next batch and its stored length; read its head if None."""
        codec, size, crc = head or BATCH.unpack((yield BATCH.size))
        compressible = section.compressible or section.ignorable
        draft = self._draft
        name, cipher = section.name, self._cipher if section.encrypted else None
        inner = size if cipher is None else size - TAG
        check_batch(name, codec, inner, length, compressible, version=draft.version)
        stored = yield size
        check_crc(name, crc, stored)
        if cipher is not None:
            number = start // BATCH_SIZE
            stored = cipher.open(name, section.kind, plain, number, codec, stored)

        def old() -> bytes:
            return section.old(draft, start, length)

        return open_batch(name, codec, None, stored, length, old), size

    def _finish(self, section: Section, plain: int, stored: int, digest: bytes) -> None:
        carrier = section.carrier and self._draft.version > 1
        self._rows.add(section.kind, plain, digest, carrier=carrier)
        self._sizes.append((section.kind, plain, stored))

    def _check_root(self, header: Header, root: bytes) -> None:
        if self.plain != header.plain:
            raise FormatError("the snapshot's sections are smaller than its header says")
        self.root, self.content = self._rows.digests()
        if self.root != root:
            raise DigestError("the snapshot is damaged: its content is not what its digest names")
        if self._cipher is not None:
            self._check_encryption(self._cipher)
        self._trust.check(self._draft.signatures, root)

    def _assemble(self, header: Header) -> SnapshotState:
        draft = self._draft
        seen = {kind for kind, _, _ in self._sizes}
        sections = [section for section in SECTIONS if header.version in section.versions]
        for section in sections:
            if section.kind not in seen:
                section.absent(draft)
        for section in sections:
            if not section.early and section.kind in seen and not self._adopted(section):
                section.parse(draft.payloads[section.kind], draft)
            if draft.base is not None:
                section.inherit(draft, draft.base)
        if self._cipher is not None:
            self._cipher.check_program(module.digest for module in draft.state.modules)
        check(draft.state, self.earlier)
        return draft.state

    def _adopted(self, section: Section) -> bool:
        """Return whether a section is as it was earlier, and the draft has its content."""
        earlier, draft = self.earlier, self._draft
        if earlier is None or earlier.payloads.get(section.kind) != draft.payloads[section.kind]:
            return False
        return section.adopt(draft, earlier.state)

    def as_earlier(self) -> EarlierState:
        """Return the state that was read, for a later one; after `finish`."""
        payloads = {kind: bytes(data) for kind, data in self._draft.payloads.items()}
        return EarlierState(self.finish(), payloads)

    def _check_encryption(self, cipher: BatchCipher) -> None:
        """Compare what was read with what was encrypted: no section is gone or new."""
        ours = [
            plain
            for kind, plain, _ in self._sizes
            if kind not in BY_KIND or BY_KIND[kind].encrypted
        ]
        cipher.check_end(len(ours), sum(ours))


def _padding(size: int) -> Generator[int, Buffer, None]:
    if size and any((yield size)):
        raise FormatError("the bytes before a region of the mapped snapshot are not zeros")


def _check_head(section: Section, flags: int, plain: int, last: int) -> None:
    if flags:
        raise FormatError(f"the head of the {section.name} section has unknown flags")
    if isinstance(section, UnknownSection) and not section.ignorable:
        raise VersionError(
            f"the snapshot has a section of {section.name}, which this wasmsr does not know",
            hint="read it with the wasmsr that wrote it, or a newer one",
        )
    if section.kind <= last:
        raise FormatError(f"the {section.name} section is out of order or there twice")
    if not plain:
        raise FormatError(f"the {section.name} section is empty and should be absent")


def _allocate(size: int) -> bytearray | memoryview:
    if size < _LAZY:
        return bytearray(size)
    # Not a bytearray, which would write its zeros: most of a large memory may never be touched.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def decode(
    data: Buffer | mmap.mmap, *, limit: int = DEFAULT_LIMIT, limits: Limits | None = None
) -> SnapshotState:
    """Read a snapshot that is in memory.

    Args:
        data: The bytes of the whole snapshot.
        limit: Bytes that its memories, tables and embedded modules may have together.
        limits: Limits of the store in which it is to be restored.

    Raises:
        FormatError, VersionError, DigestError: What is wrong with it.
    """
    decoder = Decoder(limit=limit, limits=limits)
    decoder.feed(memoryview(data))
    return decoder.finish()
