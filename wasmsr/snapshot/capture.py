"""From a store to the snapshot as a value; `restore` is the way back.

Source: WebAssembly specification, section 4.2 (Runtime Structure).
"""

from __future__ import annotations

import os
import socket
import sys
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wasmsr import realtime
from wasmsr.errors import UnportableState
from wasmsr.interp.store.externs import Global
from wasmsr.interp.store.instance import Instance
from wasmsr.interp.store.state import (
    DATA,
    ELEMENTS,
    FUNCTION,
    GLOBAL,
    MEMORY,
    TABLE,
    TAG,
    StoreState,
)
from wasmsr.interp.types import codes_of
from wasmsr.snapshot import state
from wasmsr.snapshot.encoding.registry import SECTIONS
from wasmsr.snapshot.references import ReferenceNumbering
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.interp.store.interface import StoreInterface
    from wasmsr.wasi.state.contents import Contents

ENGINE = "wasmsr"
_MOST = 2**64 - 1
"""The largest number that a snapshot has room for."""


def _engine() -> str:
    from wasmsr import __version__

    return f"{ENGINE} {__version__}"


def _little(words: array[int]) -> bytes:
    if sys.byteorder == "big":
        words = array("Q", words)
        words.byteswap()
    return words.tobytes()


def _table(store: StoreInterface, address: int) -> state.TableState:
    source: StoreState = store.state
    found, code = source.table_size(address), int(source.table_type(address).code)
    elements = _little(source.table_elements(address))
    return state.TableState(code, found.minimum, found.maximum, elements, found.address64)


def _memory(store: StoreInterface, address: int) -> state.MemoryState:
    source: StoreState = store.state
    found = source.memory_size(address)
    data = store.memory_view(address)
    return state.MemoryState(found.minimum, found.maximum, data, found.address64)


def _global(store: StoreInterface, address: int) -> state.GlobalState:
    found = Global(store, address)
    type_, bits = found.type, found.bits
    code = type_.value.code
    return state.GlobalState(int(code), type_.mutable, bits)


def _instance(store: StoreInterface, instance: Instance, module: int) -> state.InstanceState:
    counts, index, source = instance.module.counts, instance.index, store.state
    imported, functions = counts.imported_functions, counts.functions
    first_own = source.addresses(index, FUNCTION, int(functions > imported), first=imported)
    return state.InstanceState(
        module=module,
        function_base=first_own[0] if first_own else 0,
        defined=functions - imported,
        functions=source.addresses(index, FUNCTION, imported),
        tables=source.addresses(index, TABLE, counts.tables),
        memories=source.addresses(index, MEMORY, counts.memories),
        globals=source.addresses(index, GLOBAL, counts.globals),
        dropped_elements=source.dropped(index, ELEMENTS),
        dropped_data=source.dropped(index, DATA),
        name=instance.name,
        tags=source.addresses(index, TAG, counts.tags),
    )


def _frames(store: StoreInterface) -> list[state.FrameState]:
    return [
        state.FrameState(
            view.instance,
            view.index,
            view.offset,
            len(view.locals),
            view.types,
            [*view.locals, *view.operands],
        )
        for view in store.frames(dead_locals=False)
    ]


def _check_paused(store: StoreInterface) -> None:
    if store.nested:
        raise UnportableState(
            "a host function that called back into the program is being performed",
            hint="pause again when it has returned",
        )
    if store.running:
        raise UnportableState(
            "the program is running", hint="pause it and wait until it stands, or capture it later"
        )


def _modules(store: StoreInterface, embed: bool) -> list[state.ModuleRef]:
    """Return the modules of the instances, each once."""
    found: dict[bytes, state.ModuleRef] = {}
    for instance in store.instances:
        module = instance.module
        if module.digest not in found:
            binary = module.binary if embed else None
            size = len(module.binary)
            found[module.digest] = state.ModuleRef(module.digest, size, module.name, binary)
    return list(found.values())


def _host_functions(store: StoreInterface) -> list[state.HostFunctionState]:
    return [
        state.HostFunctionState(
            address,
            module,
            name,
            codes_of(function.type.params),
            codes_of(function.type.results),
            function.identity,
        )
        for address, (function, module, name) in sorted(store.hosts.items())
    ]


def _limits(store: StoreInterface, fuel: int | None) -> state.SavedLimits:
    limits = store.limits
    return state.SavedLimits(
        limits.memory_pages,
        limits.table_elements,
        limits.stack_slots,
        limits.stack_frames,
        fuel,
        store.deterministic,
        sorted(store.features),
    )


def capture(
    store: StoreInterface,
    *,
    wasi: Mapping[str, Any] | None = None,
    files: Contents | None = None,
    fuel: int | None = None,
    embed: bool = False,
    parent: bytes | None = None,
) -> SnapshotState:
    """Return the state of a paused or idle store as a value.

    The value's memories are views of the store's own bytes: encode or copy it before the program
    continues.

    Args:
        store: The store.
        wasi: What `Wasi.capture` returned.
        files: The content of files that `Wasi.capture` collected.
        fuel: Instructions that remain, for a program that runs on a budget.
        embed: Put the modules' binaries into the snapshot.
        parent: Id of the snapshot from which this program was restored.

    Raises:
        UnportableState: The store is running, or is performing a host function that called back
            into the program.
    """
    _check_paused(store)
    modules = _modules(store, embed)
    module_index = {module.digest: index for index, module in enumerate(modules)}
    source: StoreState = store.state
    counts = source.counts
    numbers = ReferenceNumbering(store)
    found = SnapshotState(
        modules=modules,
        host_functions=_host_functions(store),
        instances=[
            _instance(store, instance, module_index[instance.module.digest])
            for instance in store.instances
        ],
        tables=[_table(store, a) for a in range(counts.tables)],
        memories=[_memory(store, a) for a in range(counts.memories)],
        globals=[_global(store, a) for a in range(counts.globals)],
        thread=state.ThreadState(
            _frames(store),
            [(address, list(slots)) for address, slots in store.queue],
            source.pushed_calls,
        ),
        limits=_limits(store, fuel),
        lineage=state.Lineage(
            os.urandom(16), parent, realtime.now(), socket.gethostname(), _engine()
        ),
        externs=numbers.externs,
        wasi=dict(wasi) if wasi is not None else None,
        files=files if files else None,
        executed=None if store.executed is None else min(store.executed, _MOST),
        tags=numbers.tags,
        exceptions=numbers.exceptions,
    )
    for section in SECTIONS:
        kept = section.capture(store)
        if kept is not None:
            found.extra[section.name] = kept
    for section in sorted(SECTIONS, key=lambda one: one.numbering or 0):
        if section.numbering is not None:
            section.renumber(found, numbers)
    return found
