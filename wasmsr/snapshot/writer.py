"""From a `Snapshot` to the bytes of snapshot.bin, in pieces for a file, a pipe or the wire.

This file knows the order of the sections; `sections` makes their payloads, `pages` finds what to
store of memories, `container` makes the bytes around both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import error as StructError
from typing import TYPE_CHECKING

from wasmsr.errors import FormatError, UnportableState, reason
from wasmsr.snapshot import sections
from wasmsr.snapshot.check import check
from wasmsr.snapshot.container import (
    BATCH_SIZE,
    FLAG_HANDED,
    MESSAGE_LIMIT,
    MESSAGES,
    MODULE_LIMIT,
    SECTION,
    Buffer,
    Header,
    Kind,
    Rows,
    Tree,
    section_bytes,
    store_batches,
    tree_digest,
)
from wasmsr.snapshot.pages import PAGE_SIZE, PageMap, scan
from wasmsr.snapshot.state import Snapshot

if TYPE_CHECKING:
    from wasmsr.wasi.state.contents import Contents


@dataclass(slots=True)
class _Plan:
    """A snapshot ready to be written: payloads (those before and after the binaries), binaries,
    pages, and the digests of all of them."""

    before: list[tuple[int, bytes]]
    binaries: list[bytes]
    after: list[tuple[int, bytes]]
    pages: PageMap
    last: list[tuple[int, bytes]]
    file_index: bytes
    files: Contents | None
    origin: bytes
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
        last = [
            (Kind.TAGS, sections.pack_tags(snapshot)),
            (Kind.EXCEPTIONS, sections.pack_exceptions(snapshot)),
            (Kind.IDENTITIES, sections.pack_identities(snapshot.host_functions)),
        ]
    except (StructError, TypeError, AttributeError) as error:
        raise FormatError(f"the snapshot has a value of the wrong type: {reason(error)}") from error
    rows = Rows()
    messages = 0
    for kind, payload in before:
        if payload:
            rows.add(kind, len(payload), tree_digest(payload))
            if kind in MESSAGES:
                messages += len(payload)
    origin = sections.pack_origin(snapshot.wasi)
    messages += sum(len(payload) for kind, payload in last if kind in MESSAGES) + len(origin)
    if messages > MESSAGE_LIMIT:
        raise UnportableState(
            f"the program's state besides memory is larger than {MESSAGE_LIMIT >> 20} MiB",
            hint="WASI buffers and host objects behind externrefs are what can be that large",
        )
    binaries = [module.binary for module in snapshot.modules if module.binary]
    if binaries:
        if sum(map(len, binaries)) > MODULE_LIMIT:
            raise UnportableState("the modules are too large to be embedded")
        tree = Tree()
        for binary in binaries:
            tree.update(binary)
        rows.add(Kind.BINARIES, sum(map(len, binaries)), tree.digest())
    for kind, payload in after:
        if payload:
            rows.add(kind, len(payload), tree_digest(payload))
    if pages.stored:
        rows.add(Kind.PAGE_DATA, pages.stored * PAGE_SIZE, pages.digest())
    for kind, payload in last:
        if payload:
            rows.add(kind, len(payload), tree_digest(payload))
    files = snapshot.files if snapshot.files else None
    index = sections.pack_file_index(files)
    if files:
        rows.add(Kind.FILE_INDEX, len(index), tree_digest(index))
        tree = Tree()
        for digest, _ in files:
            tree.update(files.read(digest))
        rows.add(Kind.FILE_DATA, files.size, tree.digest())
    if origin:
        rows.add(Kind.ORIGIN, len(origin), tree_digest(origin))
    return _Plan(before, binaries, after, pages, last, index, files, origin, rows)


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
        if payload:
            yield from section_bytes(kind, payload)
    if plan.binaries:
        yield SECTION.pack(Kind.BINARIES, 0, 0, sum(map(len, plan.binaries)))
        yield from store_batches(_cut(plan.binaries), compress)
    for kind, payload in plan.after:
        yield from section_bytes(kind, payload)
    if plan.pages.stored:
        yield SECTION.pack(Kind.PAGE_DATA, 0, 0, plan.pages.stored * PAGE_SIZE)
        yield from store_batches(plan.pages.batches(), compress)
    for kind, payload in plan.last:
        yield from section_bytes(kind, payload)
    files = plan.files
    if files:
        yield from section_bytes(Kind.FILE_INDEX, plan.file_index)
        yield SECTION.pack(Kind.FILE_DATA, 0, 0, files.size)
        yield from store_batches(_cut(files.read(digest) for digest, _ in files), compress)
    yield from section_bytes(Kind.ORIGIN, plan.origin)


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


def _cut(binaries: Iterable[bytes]) -> Iterator[Buffer]:
    """Modules, or pieces of files, one after the other, in batches."""
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
