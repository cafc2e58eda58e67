"""States of a program that runs in a browser: what it gets, and what comes home.

A process of its own makes both (`apart`).
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wasmsr import realtime
from wasmsr.errors import FormatError, UnportableState, WasmsrError, printable
from wasmsr.interp.modules.module import Module
from wasmsr.node.visits.apart import HEAD, PARTS, head_of
from wasmsr.program.restoring import PreparedStore
from wasmsr.snapshot.check import check
from wasmsr.snapshot.encoding.writer import encode
from wasmsr.snapshot.runnable.incoming import read_plain
from wasmsr.snapshot.runnable.outgoing import plain_program
from wasmsr.snapshot.runnable.plain_state import MOST
from wasmsr.snapshot.state import InstanceState, SnapshotState
from wasmsr.snapshot.tools.export import known_modules
from wasmsr.snapshot.tools.opened import OpenedSnapshot, open_snapshot
from wasmsr.wasi.clocks import FIRST_INSTANT
from wasmsr.wasi.preview1.functions import FUNCTIONS
from wasmsr.wasi.state import checked_state

MOST_MEMORY = 1 << 30
"""Bytes of memories of a program that a browser can take: its core has 32-bit addresses."""


def write_parts(snapshot: Path, folder: Path) -> None:
    """Write what a browser gets of a saved program.

    Args:
        snapshot: The file of the snapshot, with its modules.
        folder: Where the files of `PARTS` are made.

    Raises:
        WasmsrError: It has something that no browser can run; the message names it.
        OSError: A file cannot be read or written.
    """
    opened = open_snapshot(snapshot)
    state = opened.state
    modules = _modules_of(opened)
    size = sum(len(one.data) for one in state.memories)
    if size > MOST_MEMORY:
        raise UnportableState(
            f"the program has {size >> 20} MiB of memory, and a browser takes {MOST_MEMORY >> 20}"
        )
    _try(state, modules)  # so it can come home too
    # What belongs to the host stays here: calls that need it bring the program home.
    alone = replace(state, wasi=None, files=None)
    program = plain_program(alone, [bytes(one.binary) for one in modules], any_host=True)
    about = json.dumps(_about(state)).encode()
    (folder / PARTS[0]).write_bytes(about)
    with gzip.open(folder / PARTS[1], "wb", 1) as file:
        file.write(program.head)
    with gzip.open(folder / PARTS[2], "wb", 1) as file:
        for piece in program.pages():
            file.write(piece)


def _about(state: SnapshotState) -> dict[str, Any]:
    wasi = None if state.wasi is None else checked_state.read(state.wasi)
    outputs = {}
    for one in () if wasi is None else wasi.descriptors:
        if one.kind == "stdout":
            outputs[one.fd] = 1 if one.stream == "stdout" else 2
    return {
        "wasi": [(row.name, row.parameters()) for row in FUNCTIONS],
        "hosts": {
            one.address: {"module": printable(one.module), "name": printable(one.name)}
            for one in state.host_functions
        },
        "outputs": outputs,
        # Clocks and random numbers of a deterministic program are the node's.
        "deterministic": wasi is not None and (wasi.deterministic or wasi.seed is not None),
        "monotonic": str(FIRST_INSTANT if wasi is None else wasi.monotonic),
    }


def write_home(snapshot: Path, came: Path, target: Path) -> None:
    """Write the snapshot of a program that comes home.

    Only what the program itself can change is taken of what came: stack, globals, tables, memories,
    exceptions, dropped segments and fuel. All else is as it was.

    Args:
        snapshot: The state in which it left.
        came: The file that the browser has sent.
        target: The file that is made.

    Raises:
        WasmsrError: What came is damaged, or of another program.
        OSError: A file cannot be read or written.
    """
    opened = open_snapshot(snapshot)
    state = _merged(opened.state, *_arrived(came))
    check(state)
    _try(state, _modules_of(opened))
    with target.open("xb") as file:
        for piece in encode(state, compress=False, version=2):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _arrived(came: Path) -> tuple[SnapshotState, int]:
    """Return the state that a browser has sent, and its monotonic clock. Raises WasmsrError."""
    try:
        data = came.read_bytes()
    except OSError as error:
        raise FormatError(f"what came from the browser cannot be read: {error}") from None
    monotonic, output, errors = head_of(data)
    packed = memoryview(data)[HEAD.size + output + errors :]
    return read_plain(memoryview(_unpacked(packed))), monotonic


def _modules_of(opened: OpenedSnapshot) -> list[Module]:
    modules = [one for one in known_modules(opened, []) if one is not None]
    if len(modules) < len(opened.state.modules):
        raise UnportableState("the snapshot has not all modules of the program")
    return modules


def _try(state: SnapshotState, modules: Sequence[Module]) -> None:
    """Restore a state on trial, because `check` does not know the code. Raises WasmsrError."""
    main = state.instances[-1].module
    others = [one for number, one in enumerate(modules) if number != main]
    PreparedStore(state, modules[main], None, others)


def _unpacked(packed: memoryview) -> bytes:
    try:
        unpacker = zlib.decompressobj(wbits=31)
        data = unpacker.decompress(packed, MOST + 1)
    except (zlib.error, MemoryError) as error:
        raise FormatError(f"the state of the program cannot be unpacked: {error}") from None
    if len(data) > MOST or not unpacker.eof or unpacker.unused_data:
        raise FormatError("the state of the program is too long or cut off")
    return data


def _merged(before: SnapshotState, after: SnapshotState, monotonic: int) -> SnapshotState:
    """Return the state of a program after a visit."""
    ours = [one.digest for one in before.modules]
    if ours != [one.digest for one in after.modules] or _shape(before) != _shape(after):
        raise FormatError("what came from the browser is another program")
    pages = before.limits.memory_pages
    if any(len(one.data) > pages << 16 for one in after.memories):
        raise FormatError("what came from the browser has a larger memory than the program may")
    fuel, left = before.limits.fuel, after.limits.fuel
    if (fuel is None) != (left is None) or (fuel is not None and not 0 <= (left or 0) <= fuel):
        raise FormatError("what came from the browser has more fuel than the program had")
    return replace(
        before,
        thread=after.thread,
        globals=after.globals,
        tables=after.tables,
        memories=after.memories,
        exceptions=after.exceptions,
        instances=[
            replace(one, dropped_elements=other.dropped_elements, dropped_data=other.dropped_data)
            for one, other in zip(before.instances, after.instances, strict=True)
        ],
        limits=replace(before.limits, fuel=left),
        wasi=_after(before.wasi, monotonic),
        executed=None if before.executed is None else after.executed,
    )


def _shape(state: SnapshotState) -> Any:
    """Return what a program cannot change of itself."""

    def without(one: InstanceState) -> InstanceState:
        return replace(one, dropped_elements=[], dropped_data=[])

    return (
        [without(one) for one in state.instances],
        [(one.type, one.minimum, one.maximum) for one in state.tables],
        [(one.minimum, one.maximum) for one in state.memories],
        [(one.type, one.mutable, None if one.mutable else one.value) for one in state.globals],
        [(one.address, one.module, one.name) for one in state.host_functions],
        list(state.tags),
    )


def _after(wasi: dict[str, Any] | None, monotonic: int) -> dict[str, Any] | None:
    """Return the state of WASI with the clock of the visit, which never goes back."""
    if wasi is None:
        return None
    clocks = dict(wasi["clocks"])
    clocks["monotonic"] = max(clocks["monotonic"], monotonic)
    clocks["stopped_at"] = max(clocks["stopped_at"], realtime.now())
    return {**wasi, "clocks": clocks}


def main(words: Sequence[str]) -> int:
    """Do what `apart` asks for; an error goes to standard error as JSON."""
    verb, *names = words
    paths = [Path(name) for name in names]
    try:
        if verb == "parts":
            write_parts(*paths)
        else:
            write_home(*paths)
    except WasmsrError as error:
        said: dict[str, Any] = {"message": error.message, "hint": error.hint or ""}
    except MemoryError:
        said = {"message": "the state needs too much memory", "hint": ""}
    except OSError as error:
        number = error.errno or errno.EIO
        said = {"message": error.strerror or str(error), "errno": number}
    else:
        return 0
    sys.stderr.write(json.dumps(said))
    return 1


__all__ = ["main", "write_home", "write_parts"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
