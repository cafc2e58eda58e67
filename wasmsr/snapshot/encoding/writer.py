"""From a `SnapshotState` to the bytes of snapshot.bin, in pieces for a file, a pipe or the wire.

The sections (`registry`) make the payloads, `pages` finds what to store of memories, `container`
makes the bytes around both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import error as StructError

from wasmsr.errors import FormatError, UnportableState, reason
from wasmsr.snapshot.check import check
from wasmsr.snapshot.earlier import EarlierState
from wasmsr.snapshot.encoding.container import (
    BATCH_SIZE,
    FLAG_ENCRYPTED,
    FLAG_HANDED,
    FLAG_TRAILER,
    FULL,
    SECTION,
    VERSION,
    Buffer,
    Frame,
    Header,
    Rows,
    framed,
    section_bytes,
    store_batches,
    trailer_bytes,
    tree_digest,
)
from wasmsr.snapshot.encoding.pages import scan
from wasmsr.snapshot.encoding.read_limits import MESSAGE_LIMIT
from wasmsr.snapshot.encoding.registry import SECTIONS
from wasmsr.snapshot.encoding.section import MSGPACK, BulkPayload, Section, WrittenPages
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.sections.about.signatures import SIGNATURES
from wasmsr.snapshot.spaces.space_pages import (
    Base,
    Runs,
    SpacePages,
    Written,
)
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.encryption import BatchCipher
from wasmsr.snapshot.trust.policy import WRITE_PLAIN, WriteTrust
from wasmsr.snapshot.trust.signatures import ENTRY, pack_signatures


@dataclass(slots=True)
class WritePlan:
    """A snapshot that is ready to be written: payloads that are not empty, and their sizes."""

    version: int
    form: int
    payloads: list[tuple[Section, bytes | BulkPayload]]
    plain: int
    pages: WrittenPages
    trust: WriteTrust = WRITE_PLAIN

    def sign(self) -> None:
        """Add the section of signatures with zeros, which the writer replaces."""
        size = self.trust.signed_by * ENTRY.size
        if size:
            self.payloads.append((SIGNATURES, bytes(size)))
            self.payloads.sort(key=lambda one: one[0].kind)
            self.plain += size

    def cipher(self, state: SnapshotState) -> BatchCipher | None:
        """Return what encrypts the batches, or None."""
        if self.trust.encrypt is None:
            return None
        signed = self.trust.signed_by * ENTRY.size
        return BatchCipher.new(
            self.trust.encrypt,
            self.form,
            sections=len(self.payloads) - bool(signed),
            plain=self.plain - signed,
            modules=[module.digest for module in state.modules],
        )

    def written(self, rows: Rows) -> Written:
        """Return the digests of the snapshot when all of it has been written.

        Args:
            rows: The rows of all sections.
        """
        root, content = rows.digests()
        spaces = self.pages.spaces if isinstance(self.pages, SpacePages) else []
        return Written(root, content, {space.name: space.tree for space in spaces})


def plan_of(
    state: SnapshotState,
    version: int,
    base: Base | None = None,
    dirty: Sequence[Runs] | None = None,
    *,
    mapped: bool = False,
    trees: Mapping[SpaceName, SpaceTree] | None = None,
    earlier: EarlierState | None = None,
) -> WritePlan:
    """Check a state and make the payloads of its sections.

    Args:
        state: The state.
        version: The version of the format.
        base: As for `encode`.
        dirty: As for `encode`.
        mapped: Whether the form is mapped.
        trees: The digests of the memories where they are known: no page is read then.
        earlier: An earlier state of the program, whose payloads serve where they are the same. Then
            nothing is checked: the reader does that.

    Raises:
        UnportableState, FormatError: As `encode`.
    """
    sections = [section for section in SECTIONS if version in section.versions]
    try:
        if earlier is None:
            check(state)
        spaces = _spaces(state, sections)
        if version == 1:
            pages: WrittenPages = scan([space for _, space in spaces])
        else:
            pages = SpacePages(spaces, base, dirty, mapped=mapped, trees=trees)
        packed = [
            (section, _known_payload(section, state, earlier) or section.pack(state, pages))
            for section in sections
        ]
    except (StructError, TypeError, AttributeError) as error:
        raise FormatError(f"the snapshot has a value of the wrong type: {reason(error)}") from error
    payloads: list[tuple[Section, bytes | BulkPayload]] = []
    messages = plain = 0
    for section, payload in packed:
        size = len(payload) if isinstance(payload, bytes) else payload.size
        if size:
            payloads.append((section, payload))
            plain += size
            messages += size if section.payload == MSGPACK else 0
    if messages > MESSAGE_LIMIT:
        raise UnportableState(
            f"the program's state besides memory is larger than {MESSAGE_LIMIT >> 20} MiB",
            hint="WASI buffers and host objects behind externrefs are what can be that large",
        )
    form = pages.form if isinstance(pages, SpacePages) else FULL
    return WritePlan(version, form, payloads, plain, pages)


def _known_payload(
    section: Section, state: SnapshotState, earlier: EarlierState | None
) -> bytes | None:
    """Return the payload of a section that is as in an earlier state; None if it must be made."""
    payload = None if earlier is None else earlier.payloads.get(section.kind)
    if earlier is None or payload is None or not section.same(state, earlier.state):
        return None
    return payload


def _spaces(state: SnapshotState, sections: list[Section]) -> list[tuple[SpaceName, Buffer]]:
    return [
        (SpaceName(section.space_kind, number), space)
        for section in sections
        for number, space in enumerate(section.page_spaces(state))
    ]


def _rows(plan: WritePlan) -> Rows:
    """Return the rows of all sections, without a byte of the file."""
    rows = Rows(plan.version)
    for section, payload in plan.payloads:
        if isinstance(payload, bytes):
            size, digest = len(payload), tree_digest(payload)
        else:
            if plan.version > 1:
                for _ in payload.batches():  # digests of pages are taken on the way
                    pass
            size, digest = payload.size, payload.digest()
        rows.add(section.kind, size, digest, carrier=section.carrier and plan.version > 1)
    return rows


def encode(
    state: SnapshotState,
    *,
    compress: bool = True,
    handed: bool = False,
    version: int = VERSION,
    base: Base | None = None,
    dirty: Sequence[Runs] | None = None,
    written: Callable[[Written], None] | None = None,
    trust: WriteTrust = WRITE_PLAIN,
) -> Iterator[bytes]:
    """Return the bytes of a snapshot, in pieces.

    Everything is checked before this returns; in version 1 the digests are made too. The pieces are
    made one after the other, in bounded memory, from the state's own buffers, which must not change
    until the last piece. The same state gives the same bytes (with the same release of zstd).

    Args:
        state: What to write.
        compress: Store pages, embedded modules and files in zstd where that is smaller.
        handed: Mark the snapshot as handed over to another host (see `HandedOver`).
        version: The version of the format, 1 or 2.
        base: What an incremental snapshot is made against, only in version 2.
        dirty: With a base, for each memory the runs of pages that may differ from it; None for all
            pages.
        written: Called after the last piece, only in version 2; it gets what the next incremental
            snapshot needs of this one.
        trust: Signatures and encryption, only in version 2. Encrypted bytes differ each time.

    Raises:
        UnportableState: The state has something that cannot be written; the message names it.
        FormatError: No machine can be in that state.
    """
    if version == 1 and trust.adds:
        raise ValueError("a snapshot of version 1 can be neither signed nor encrypted")
    plan = plan_of(state, version, base, dirty)
    flags = FLAG_HANDED if handed else 0
    count = len(plan.payloads)
    if version == 1:
        rows = _rows(plan)
        header = Header(flags, count, plan.plain, rows.digests()[0])
        return _joined(_pieces(plan, header, compress, None))
    plan.trust = trust
    plan.sign()
    cipher = plan.cipher(state)
    flags |= FLAG_TRAILER | (0 if cipher is None else FLAG_ENCRYPTED)
    header = Header(flags, len(plan.payloads), plan.plain, bytes(32), version, plan.form)
    return _joined(_pieces(plan, header, compress, written, cipher))


def _frame(cipher: BatchCipher | None, kind: int, plain: int) -> Frame:
    """Return what gives the batches of a section their heads, one after the other."""
    if cipher is None:
        return framed
    number = -1

    def sealed(codec: int, data: Buffer) -> bytes:
        nonlocal number
        number += 1
        return framed(codec, cipher.seal(kind, plain, number, codec, data))

    return sealed


def payload_of(plan: WritePlan, number: int, rows: Rows) -> bytes | BulkPayload:
    """Return the payload of a section.

    That of the signatures is made here: the sections after theirs have their payloads.

    Args:
        plan: The snapshot.
        number: The place of the section in the plan.
        rows: The rows of the sections before it.
    """
    section, payload = plan.payloads[number]
    if section is not SIGNATURES:
        return payload
    rows = rows.copy()
    for section, payload in plan.payloads[number + 1 :]:
        assert isinstance(payload, bytes), "only short sections come after the signatures"
        rows.add(section.kind, len(payload), tree_digest(payload), carrier=section.carrier)
    return pack_signatures(plan.trust.signatures(rows.digests()[0]))


def _pieces(
    plan: WritePlan,
    header: Header,
    compress: bool,
    written: Callable[[Written], None] | None,
    cipher: BatchCipher | None = None,
) -> Iterator[bytes]:
    yield header.encode()
    if cipher is not None:
        yield cipher.head
    rows = Rows(plan.version)
    for number, (section, _) in enumerate(plan.payloads):
        payload = payload_of(plan, number, rows)
        own = cipher if section.encrypted else None
        yield from section_pieces(section, payload, compress, rows, own)
    if plan.version == 1:
        return
    found = plan.written(rows)
    yield trailer_bytes(found.root)
    if written is not None:
        written(found)


def section_pieces(
    section: Section,
    payload: bytes | BulkPayload,
    compress: bool,
    rows: Rows,
    cipher: BatchCipher | None = None,
) -> Iterator[bytes]:
    """Yield the bytes of a section, and add its row.

    Args:
        section: The section.
        payload: Its payload, not empty.
        compress: Whether its batches may be compressed, where the section allows it.
        rows: The rows of the sections before it.
        cipher: What encrypts its batches, or None.
    """
    if isinstance(payload, bytes):
        size, digest = len(payload), tree_digest(payload) if rows.version > 1 else b""
        if cipher is None:
            yield from section_bytes(section.kind, payload)
        else:
            yield SECTION.pack(section.kind, 0, 0, size)
            parts = [payload[at : at + BATCH_SIZE] for at in range(0, size, BATCH_SIZE)]
            yield from store_batches(parts, False, None, _frame(cipher, section.kind, size))
    else:
        size = payload.size
        yield SECTION.pack(section.kind, 0, 0, size)
        frame = _frame(cipher, section.kind, size)
        small = compress and section.compressible
        yield from store_batches(payload.batches(), small, payload, frame)
        digest = payload.digest() if rows.version > 1 else b""
    rows.add(section.kind, size, digest, carrier=section.carrier)


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of a batch and more: small writes and messages are slow."""
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


def content_digest(state: SnapshotState, *, version: int = VERSION) -> bytes:
    """Return a digest (32 bytes) of everything but the lineage: equal exactly if the states are.

    The digests of one state in versions 1 and 2 differ, but each can be computed of a state that
    was read from the other: this function is the relation between them.

    Args:
        state: The state.
        version: The version of the format whose digest is wanted.
    """
    return _rows(plan_of(state, version)).digests()[1]
