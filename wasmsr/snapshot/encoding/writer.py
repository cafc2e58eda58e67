"""From a `SnapshotState` to the bytes of snapshot.bin, in pieces for a file, a pipe or the wire.

The sections (`registry`) make the payloads, `pages` finds what to store of memories, `container`
makes the bytes around both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import error as StructError

from wasmsr.errors import FormatError, UnportableState, reason
from wasmsr.snapshot.check import check
from wasmsr.snapshot.encoding.container import (
    BATCH_SIZE,
    FLAG_HANDED,
    SECTION,
    Header,
    Rows,
    section_bytes,
    store_batches,
    tree_digest,
)
from wasmsr.snapshot.encoding.pages import scan
from wasmsr.snapshot.encoding.read_limits import MESSAGE_LIMIT
from wasmsr.snapshot.encoding.registry import SECTIONS
from wasmsr.snapshot.encoding.section import MSGPACK, BulkPayload, Section
from wasmsr.snapshot.state import SnapshotState


@dataclass(slots=True)
class _Plan:
    """A snapshot that is ready to be written: payloads that are not empty, and their digests."""

    payloads: list[tuple[Section, bytes | BulkPayload]]
    rows: Rows


def _plan(state: SnapshotState) -> _Plan:
    try:
        check(state)
        pages = scan([space for section in SECTIONS for space in section.page_spaces(state)])
        packed = [(section, section.pack(state, pages)) for section in SECTIONS]
    except (StructError, TypeError, AttributeError) as error:
        raise FormatError(f"the snapshot has a value of the wrong type: {reason(error)}") from error
    rows = Rows()
    payloads: list[tuple[Section, bytes | BulkPayload]] = []
    messages = 0
    for section, payload in packed:
        size = len(payload) if isinstance(payload, bytes) else payload.size
        if size:
            payloads.append((section, payload))
            messages += size if section.payload == MSGPACK else 0
    if messages > MESSAGE_LIMIT:
        raise UnportableState(
            f"the program's state besides memory is larger than {MESSAGE_LIMIT >> 20} MiB",
            hint="WASI buffers and host objects behind externrefs are what can be that large",
        )
    for section, payload in payloads:
        if isinstance(payload, bytes):
            rows.add(section.kind, len(payload), tree_digest(payload))
        else:
            rows.add(section.kind, payload.size, payload.digest())
    return _Plan(payloads, rows)


def encode(state: SnapshotState, *, compress: bool = True, handed: bool = False) -> Iterator[bytes]:
    """Return the bytes of a snapshot, in pieces.

    Everything is checked and the digests are made before this returns. The pieces are made one
    after the other, in bounded memory, from the state's own buffers, which must not change until
    the last piece. The same state gives the same bytes (with the same release of zstd).

    Args:
        state: What to write.
        compress: Store pages, embedded modules and files in zstd where that is smaller.
        handed: Mark the snapshot as handed over to another host (see `HandedOver`).

    Raises:
        UnportableState: The state has something that cannot be written; the message names it.
        FormatError: No machine can be in that state.
    """
    plan = _plan(state)
    rows = plan.rows
    header = Header(FLAG_HANDED if handed else 0, len(rows), rows.plain, rows.digests()[0])
    return _joined(_pieces(plan, header, compress))


def _pieces(plan: _Plan, header: Header, compress: bool) -> Iterator[bytes]:
    yield header.encode()
    for section, payload in plan.payloads:
        if isinstance(payload, bytes):
            yield from section_bytes(section.kind, payload)
        else:
            yield SECTION.pack(section.kind, 0, 0, payload.size)
            yield from store_batches(payload.batches(), compress)


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


def content_digest(state: SnapshotState) -> bytes:
    """Return a digest (32 bytes) of everything but the lineage: equal exactly if the states are."""
    return _plan(state).rows.digests()[1]
