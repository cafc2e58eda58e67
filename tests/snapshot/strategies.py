"""Random snapshots that are valid by construction, for hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from hypothesis import strategies as st

from wasmsr.snapshot.state import (
    FrameState,
    GlobalState,
    HostFunctionState,
    InstanceState,
    Lineage,
    MemoryState,
    ModuleRef,
    SavedLimits,
    SnapshotState,
    TableState,
    ThreadState,
)

NUMBERS = (0x7F, 0x7E, 0x7D, 0x7C, 0x7B)
WIDTHS = {0x7F: 32, 0x7E: 64, 0x7D: 32, 0x7C: 64, 0x7B: 128}
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TYPES = st.lists(st.sampled_from((*NUMBERS, 0x70, 0x6F)), max_size=12).map(bytes)
NAMES = st.text(max_size=10)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | NAMES | st.binary(max_size=9)
)
OBJECTS = st.recursive(
    LEAVES | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _pages(draw: st.DrawFn, count: int) -> bytearray:
    """A memory in which pages are zero, equal to others, nearly zero or random."""
    data = bytearray(count * 65536)
    kinds = [b"\1" * 4096, b"\0" * 4095 + b"\1", draw(st.binary(min_size=1, max_size=40))]
    for _ in range(draw(st.integers(0, 6 if count else 0))):
        first = draw(st.integers(0, count * 16 - 1))
        page = draw(st.sampled_from(kinds))
        for number in range(first, min(first + draw(st.integers(1, 70)), count * 16)):
            data[number * 4096 : number * 4096 + len(page)] = page
    return data


@st.composite
def _bounds(draw: st.DrawFn, size: int, most: int) -> tuple[int, int | None]:
    return draw(st.integers(0, size)), draw(st.none() | st.integers(size, most))


def _modules(draw: st.DrawFn) -> list[ModuleRef]:
    """Draw up to three modules, embedded or not."""
    modules = []
    for number in range(draw(st.integers(0, 3))):
        binary = draw(st.binary(min_size=1, max_size=50)) + bytes([number])
        embedded = draw(st.booleans())
        modules.append(
            ModuleRef(
                sha256(binary).digest(),
                len(binary),
                draw(st.none() | NAMES),
                binary if embedded else None,
            )
        )
    return modules


def _functions(
    draw: st.DrawFn, modules: list[ModuleRef], tables: int, memories: int, cells: int
) -> tuple[list[HostFunctionState], list[InstanceState], int]:
    """Draw host functions and instances; also return the number of functions."""
    hosts: list[HostFunctionState] = []
    instances: list[InstanceState] = []
    functions = 0

    def addresses(count: int) -> list[int]:
        return draw(st.lists(st.integers(0, count - 1), max_size=5)) if count else []

    def segments() -> list[int]:
        return sorted(draw(st.sets(U32, max_size=4)))

    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()) and modules:
            defined = draw(st.integers(0, 5))
            instances.append(
                InstanceState(
                    draw(st.integers(0, len(modules) - 1)),
                    functions if defined else 0,
                    defined,
                    addresses(functions),
                    addresses(tables),
                    addresses(memories),
                    addresses(cells),
                    segments(),
                    segments(),
                    draw(st.none() | NAMES),
                )
            )
            functions += defined
        else:
            hosts.append(
                HostFunctionState(functions, draw(NAMES), draw(NAMES), draw(TYPES), draw(TYPES))
            )
            functions += 1
    return hosts, instances, functions


Values = Callable[[int], int]
"""Draws a value of the type with that code."""


def _spaces(
    draw: st.DrawFn, value: Values, tables_count: int, memories_count: int, globals_count: int
) -> tuple[list[TableState], list[MemoryState], list[GlobalState]]:
    """Draw tables, memories and globals."""
    tables: list[TableState] = []
    memories: list[MemoryState] = []
    for _ in range(tables_count):
        code = draw(st.sampled_from((0x70, 0x6F)))
        elements = [value(code) for _ in range(draw(st.integers(0, 8)))]
        minimum, maximum = draw(_bounds(len(elements), 1000))
        data = b"".join(element.to_bytes(8, "little") for element in elements)
        tables.append(TableState(code, minimum, maximum, data))
    for _ in range(memories_count):
        pages = draw(st.integers(0, 4))
        minimum, maximum = draw(_bounds(pages, 65536))
        memories.append(MemoryState(minimum, maximum, draw(_pages(pages))))
    cells = []
    for _ in range(globals_count):
        code = draw(st.sampled_from((*NUMBERS, 0x70, 0x6F)))
        cells.append(GlobalState(code, draw(st.booleans()), value(code)))
    return tables, memories, cells


def _frames(
    draw: st.DrawFn, value: Values, modules: list[ModuleRef], instances: list[InstanceState]
) -> list[FrameState]:
    """Draw up to four frames of functions that instances define."""
    frames = []
    runnable = [number for number, instance in enumerate(instances) if instance.defined]
    for _ in range(draw(st.integers(0, 4)) if runnable else 0):
        number = draw(st.sampled_from(runnable))
        instance = instances[number]
        types = draw(TYPES)
        frames.append(
            FrameState(
                number,
                len(instance.functions) + draw(st.integers(0, instance.defined - 1)),
                draw(st.integers(0, modules[instance.module].size - 1)),
                draw(st.integers(0, len(types))),
                types,
                [value(code) for code in types],
            )
        )
    return frames


@st.composite
def snapshots(draw: st.DrawFn) -> SnapshotState:
    """Any snapshot of up to three instances and three memories."""
    modules = _modules(draw)
    externs = draw(st.lists(OBJECTS, max_size=3))
    counts = [draw(st.integers(0, 3)) for _ in range(3)]
    hosts, instances, functions = _functions(draw, modules, *counts)
    most = {0x70: functions, 0x6F: len(externs)}

    def value(code: int) -> int:
        if code in most:
            return draw(st.integers(0, most[code]))
        return draw(st.integers(0, 2 ** WIDTHS[code] - 1) | st.integers(0, 3))

    tables, memories, cells = _spaces(draw, value, *counts)
    frames = _frames(draw, value, modules, instances)
    calls = (
        st.tuples(st.integers(0, functions - 1), st.lists(U64, max_size=4)) if functions else None
    )
    return SnapshotState(
        modules=modules,
        host_functions=hosts,
        instances=instances,
        tables=tables,
        memories=memories,
        globals=cells,
        thread=ThreadState(frames, draw(st.lists(calls, max_size=3)) if calls is not None else []),
        limits=SavedLimits(
            draw(st.integers(4, 65536)),
            draw(st.integers(8, 2**64 - 1)),
            draw(U64),
            draw(U64),
            draw(st.none() | U64),
            draw(st.booleans()),
            sorted(draw(st.sets(NAMES, max_size=3))),
        ),
        lineage=Lineage(
            draw(st.binary(min_size=16, max_size=16)),
            draw(st.none() | st.binary(min_size=16, max_size=16)),
            draw(U64),
            draw(NAMES),
            draw(NAMES),
        ),
        externs=externs,
        wasi=draw(st.none() | st.dictionaries(NAMES, OBJECTS, max_size=3)),
        executed=draw(st.none() | st.integers(0, 2**64 - 2)),
    )
