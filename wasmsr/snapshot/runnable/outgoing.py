"""From a snapshot to a plain state and its pages, for `compose` to put into a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from mmap import mmap

from wasmsr.errors import UnportableState
from wasmsr.interp.instruction_set.features import bits
from wasmsr.snapshot.encoding.pages import scan
from wasmsr.snapshot.encoding.registry import BY_KIND
from wasmsr.snapshot.encoding.writer import encode
from wasmsr.snapshot.runnable import plain_state as plain
from wasmsr.snapshot.runnable.plain_state import RUN, string, u32, u64
from wasmsr.snapshot.runnable.wasi_part import encode_wasi, refuse
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE, page_runs
from wasmsr.snapshot.state import PAGE, InstanceState, MemoryState, SnapshotState
from wasmsr.wasi.preview1.functions import FUNCTIONS, MODULE
from wasmsr.wasi.state import checked_state

NO_FUEL = 2**64 - 1
"""Fuel of a program that runs on no budget."""
PIECE = 1 << 20
"""Bytes of pages that `PlainProgram.pages` yields at once, at most."""
_ROWS = {row.name: number for number, row in enumerate(FUNCTIONS)}
"""The rows of the calls of WASI, by name; `guest/wasi_calls.h` is made of the same table."""


def _cannot(what: str, hint: str | None = None) -> UnportableState:
    return UnportableState(f"the snapshot cannot be made runnable: {what}", hint=hint)


@dataclass(slots=True)
class PlainProgram:
    """A program that can be put into a module.

    Attributes:
        head: Its plain state without pages.
        runs: The pages that follow: memory, first page, count.
        memories: The bytes of the memories.
    """

    head: bytes
    runs: list[tuple[int, int, int]]
    memories: list[memoryview]

    def pages(self) -> Iterator[bytes]:
        """Yield the pages, in pieces of at most `PIECE` bytes."""
        pieces: list[memoryview] = []
        size = 0
        for memory, first, count in self.runs:
            start, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
            while start < end:
                taken = min(end - start, PIECE - size)
                pieces.append(self.memories[memory][start : start + taken])
                start, size = start + taken, size + taken
                if size == PIECE:
                    yield b"".join(pieces)
                    pieces, size = [], 0
        if pieces:
            yield b"".join(pieces)


NO_ROW = 2**32 - 1
"""The row of a host function that WASI does not have, where somebody else answers its calls."""


def plain_program(
    state: SnapshotState, binaries: Sequence[bytes], *, any_host: bool = False
) -> PlainProgram:
    """Return a program as a plain state.

    Args:
        state: A checked state. The files of its mounts are folders of the host, or are ignored.
        binaries: The binary of each of its modules.
        any_host: Whether host functions that are not WASI's can go along.

    Raises:
        UnportableState: It has something that cannot go along; the message names it.
    """
    wasi = None if state.wasi is None else checked_state.read(state.wasi)
    if wasi is not None:
        refuse(wasi)
    if state.externs:
        raise _cannot("something refers to an object of the host")
    unknown = sorted(set(state.extra))
    if unknown and unknown != ["identities"]:
        raise _cannot(f"it has the section {unknown[0]}")
    memories = [memoryview(one.data) for one in state.memories]
    runs = [(n, *run) for n, view in enumerate(memories) for run in page_runs(view)]
    parts = {
        kind: bytes(BY_KIND[kind].pack(state, scan([])))  # type: ignore[arg-type]
        for kind in (plain.GLOBALS, plain.TABLES, plain.THREADS, plain.EXCEPTIONS)
    }
    limits = state.limits
    parts[plain.LIMITS] = u64(
        limits.memory_pages,
        limits.table_elements,
        limits.stack_slots,
        limits.stack_frames,
        limits.deterministic,
        bits(limits.features),
        NO_FUEL if limits.fuel is None else limits.fuel,
        0,
    )
    sizes = u32(len(binaries), *map(len, binaries))
    parts[plain.MODULES] = sizes + b"".join(binaries)
    parts[plain.BUILD] = _build(state, any_host)
    parts[plain.SEGMENTS] = _segments(state, binaries)
    parts[plain.PUSHED] = u32(*state.thread.pushed)
    parts[plain.TEMPLATE] = _template(state)
    parts[plain.WASI] = encode_wasi(wasi)
    parts[plain.SIZES] = u64(*(len(view) // PAGE for view in memories))
    parts[plain.RUNS] = b"".join(RUN.pack(*run, 0) for run in runs)
    return PlainProgram(plain.join_parts(parts), runs, memories)


def _build(state: SnapshotState, any_host: bool) -> bytes:
    """Return the steps in which the store is built, as `restore` does it."""
    hosts = {one.address: one for one in state.host_functions}
    steps: list[bytes] = []
    following = 0

    def add_host() -> None:
        nonlocal following
        one = hosts[following]
        row = _ROWS.get(one.name) if one.module == MODULE else None
        if row is None and not any_host:
            raise _cannot(
                f"it uses the host function {one.module}.{one.name}",
                f"outside wasmsr there are only the functions of {MODULE}",
            )
        importer = next((i for i in state.instances if following in i.functions), None)
        if importer is None:
            raise _cannot(f"no module imports the host function {one.module}.{one.name}")
        function = importer.functions.index(following)
        steps.append(u32(0, importer.module, function, NO_ROW if row is None else row))
        following += 1

    made = [0, 0, 0, 0]
    for instance in state.instances:
        first = instance.function_base if instance.defined else max([-1, *instance.functions]) + 1
        while following < first and following in hosts:
            add_host()
        steps.append(u32(1, instance.module) + _imports(instance, following, made))
        following += instance.defined
    while following in hosts:
        add_host()
    return u32(len(steps)) + b"".join(steps)


def _imports(instance: InstanceState, functions: int, made: list[int]) -> bytes:
    """Return the addresses of an instance's imports; `made` counts what instances have defined."""
    pieces = [u32(len(instance.functions), *instance.functions)]
    if any(address >= functions for address in instance.functions):
        raise _cannot("a module imports a function of a later one")
    names = ("table", "memory", "global", "tag")
    spaces = (instance.tables, instance.memories, instance.globals, instance.tags)
    for number, (name, addresses) in enumerate(zip(names, spaces, strict=True)):
        imported = [address for address in addresses if address < made[number]]
        own = addresses[len(imported) :]
        if own != list(range(made[number], made[number] + len(own))):
            raise _cannot(f"a module imports a {name} that the host has made")
        made[number] += len(own)
        pieces.append(u32(len(imported), *imported))
    return b"".join(pieces)


def _segments(state: SnapshotState, binaries: Sequence[bytes]) -> bytes:
    from wasmsr.interp.modules.module import Module

    counts = [Module(binary, features=state.limits.features).counts for binary in binaries]
    pieces = []
    for instance in state.instances:
        own = counts[instance.module]
        for size, dropped in (
            (own.elements, instance.dropped_elements),
            (own.data, instance.dropped_data),
        ):
            flags = bytearray(size)
            for index in dropped:
                flags[index] = 1
            pieces.append(string(bytes(flags)))
    return b"".join(pieces)


def _template(state: SnapshotState) -> bytes:
    """Return what the program cannot change: a snapshot whose memories are zeros."""
    flags = bytes(one.binary is not None for one in state.modules)
    bare = replace(
        state,
        modules=[replace(one, binary=None) for one in state.modules],
        memories=[_zeros(one) for one in state.memories],
        files=None,
    )
    return string(flags) + b"".join(encode(bare, version=2))


def _zeros(memory: MemoryState) -> MemoryState:
    size = len(memory.data)
    return replace(memory, data=memoryview(mmap(-1, size)) if size else b"")


__all__ = ["PlainProgram", "plain_program"]
