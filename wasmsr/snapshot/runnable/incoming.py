"""From a plain state, as a runnable module has written it, to a snapshot.

The file is hostile. The template is read as any snapshot is. Then each part is parsed by the
section that it is, or here, with every length compared first. Then the whole state is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from wasmsr.errors import DigestError, FormatError
from wasmsr.snapshot.check import check
from wasmsr.snapshot.encoding.read_limits import DEFAULT_LIMIT, FILES_LIMIT, ReadLimits
from wasmsr.snapshot.encoding.reader import decode
from wasmsr.snapshot.encoding.registry import BY_KIND
from wasmsr.snapshot.encoding.section import Draft
from wasmsr.snapshot.memory.adoption import allocate
from wasmsr.snapshot.runnable import plain_state as plain
from wasmsr.snapshot.runnable.outgoing import NO_FUEL
from wasmsr.snapshot.runnable.plain_state import RUN, PartReader, split_parts
from wasmsr.snapshot.runnable.wasi_part import decode_wasi
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.state import PAGE, SnapshotState

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits

_ALWAYS = (plain.THREADS, plain.LIMITS, plain.MODULES, plain.BUILD, plain.TEMPLATE, plain.WASI)


def read_plain(
    data: memoryview, *, embed: bool | None = None, limits: Limits | None = None
) -> SnapshotState:
    """Return the snapshot that a plain state is.

    Args:
        data: The file.
        embed: Put the modules into the snapshot; None does so if they were in the one that the
            program was exported from.
        limits: What memories, tables and stack may have at most.

    Raises:
        FormatError, DigestError, VersionError: What is wrong with it.
    """
    parts = split_parts(data)
    for kind in _ALWAYS:
        if kind not in parts:
            raise FormatError(f"the state file has no part of kind {kind}")
    room = ReadLimits(DEFAULT_LIMIT, FILES_LIMIT, limits)
    state = _template(parts[plain.TEMPLATE], parts[plain.MODULES], embed, limits)
    _read_sections(parts, state, room)
    _read_limits(parts[plain.LIMITS], state)
    _read_segments(parts.get(plain.SEGMENTS, memoryview(b"")), state)
    _read_memories(parts, state, room)
    if state.wasi is not None:
        state.wasi = decode_wasi(parts[plain.WASI], state.wasi)
    check(state)
    return state


def _template(
    template: memoryview, modules: memoryview, embed: bool | None, limits: Limits | None
) -> SnapshotState:
    part = PartReader(template, "template")
    flags = part.string()
    state = decode(bytes(part.rest()), limits=limits)
    binaries = PartReader(modules, "modules")
    sizes = [binaries.u32() for _ in binaries.count(4)]
    if len(sizes) != len(state.modules) or len(flags) != len(sizes):
        raise FormatError("the state file has another number of modules than its program")
    found = []
    for number, (one, size) in enumerate(zip(state.modules, sizes, strict=True)):
        binary = binaries.take(size)
        if sha256(binary).digest() != one.digest:
            raise DigestError(f"module {number} of the state file is not the program's")
        wanted = bool(flags[number]) if embed is None else embed
        found.append(replace(one, binary=binary if wanted else None))
    binaries.end()
    state.modules = found
    return state


def _read_sections(parts: Mapping[int, memoryview], state: SnapshotState, room: ReadLimits) -> None:
    """Parse the parts that are sections of a snapshot."""
    draft = Draft(room, allocate, state=state, version=2)
    tables, memories = state.tables, state.memories
    state.globals, state.tables, state.exceptions = [], [], []
    pushed = PartReader(parts.get(plain.PUSHED, memoryview(b"")), "pushed calls")
    state.thread.pushed = [pushed.u32() for _ in range(len(parts.get(plain.PUSHED, b"")) // 4)]
    pushed.end()
    for kind in (plain.GLOBALS, plain.TABLES, plain.THREADS, plain.EXCEPTIONS):
        if kind not in parts:
            BY_KIND[kind].absent(draft)
            continue
        BY_KIND[kind].enter(room, len(parts[kind]))
        BY_KIND[kind].parse(bytes(parts[kind]), draft)
    state.memories = memories
    declared = [(one.type, one.minimum, one.maximum, one.address64) for one in tables]
    if declared != [(one.type, one.minimum, one.maximum, one.address64) for one in state.tables]:
        raise FormatError("the state file has other tables than its program")


def _read_limits(data: memoryview, state: SnapshotState) -> None:
    part = PartReader(data, "limits")
    *_, fuel, zero = (part.u64() for _ in range(8))
    part.end()
    if zero:
        raise FormatError("a reserved field of the state file's limits is not zero")
    state.limits.fuel = None if fuel == NO_FUEL else fuel


def _read_segments(data: memoryview, state: SnapshotState) -> None:
    part = PartReader(data, "segments")
    for instance in state.instances:
        elements, segments = part.string(), part.string()
        if any(flag > 1 for flag in elements + segments):
            raise FormatError("the state file has a dropped segment that is neither 0 nor 1")
        instance.dropped_elements = [index for index, flag in enumerate(elements) if flag]
        instance.dropped_data = [index for index, flag in enumerate(segments) if flag]
    part.end()


def _read_memories(parts: Mapping[int, memoryview], state: SnapshotState, room: ReadLimits) -> None:
    sizes = PartReader(parts.get(plain.SIZES, memoryview(b"")), "sizes")
    pages = [sizes.u64() for _ in state.memories]
    sizes.end()
    for memory, size in zip(state.memories, pages, strict=True):
        if not len(memory.data) // PAGE <= size <= state.limits.memory_pages:
            raise FormatError(f"the state file has a memory of {size} pages")
    room.take_memories(pages)
    for memory, size in zip(state.memories, pages, strict=True):
        memory.data = allocate(size * PAGE)
    content = parts.get(plain.PAGES, memoryview(b""))
    runs = parts.get(plain.RUNS, memoryview(b""))
    if len(runs) % RUN.size:
        raise FormatError("the page runs of the state file end in the middle of one")
    place, last = 0, (-1, 0)
    for number, first, count, zero in RUN.iter_unpack(runs):
        if zero or not count or number >= len(pages) or (number, first) < last:
            raise FormatError("a run of pages of the state file is out of order")
        end = place + count * PAGE_SIZE
        data = memoryview(state.memories[number].data)
        if (first + count) * PAGE_SIZE > len(data) or end > len(content):
            raise FormatError("a run of pages of the state file is out of bounds")
        data[first * PAGE_SIZE : (first + count) * PAGE_SIZE] = content[place:end]
        place, last = end, (number, first + count)
    if place != len(content):
        raise FormatError("the state file has more pages than its runs")


__all__ = ["read_plain"]
