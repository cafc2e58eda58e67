"""Whether each field of a state has a value of the right type.

A state that was read from bytes always has. A state that Python code built can hold anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wasmsr.errors import FormatError
from wasmsr.snapshot.state import (
    ExceptionState,
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

_Test = Callable[[Any], bool]


def _one(*types: type) -> _Test:
    return lambda value: type(value) in types


def _all(kind: type) -> _Test:
    return lambda value: type(value) is list and {*map(type, value)} <= {kind}


def _buffer(value: Any) -> bool:
    if type(value) is memoryview:
        return value.format == "B" and value.ndim == 1 and value.c_contiguous
    return type(value) in (bytes, bytearray)


def _queue(value: Any) -> bool:
    return type(value) is list and all(
        type(item) in (tuple, list) and len(item) == 2 and _INT(item[0]) and _INTS(item[1])
        for item in value
    )


_NONE = type(None)
_INT, _BOOL, _STR, _BYTES = _one(int), _one(bool), _one(str), _one(bytes)
_INTS, _LIST = _all(int), _one(list)
_MAYBE_INT, _MAYBE_STR, _MAYBE_BYTES = _one(int, _NONE), _one(str, _NONE), _one(bytes, _NONE)
_ADDRESSES = dict.fromkeys(
    ("functions", "tables", "memories", "globals", "dropped_elements", "dropped_data", "tags"),
    _INTS,
)
_BOUNDS = {"minimum": _INT, "maximum": _MAYBE_INT, "address64": _BOOL}

_FIELDS: dict[type, dict[str, _Test]] = {
    ModuleRef: {"digest": _BYTES, "size": _INT, "name": _MAYBE_STR, "binary": _MAYBE_BYTES},
    HostFunctionState: {
        "address": _INT,
        "module": _STR,
        "name": _STR,
        "params": _BYTES,
        "results": _BYTES,
        "identity": _MAYBE_STR,
    },
    InstanceState: {
        **dict.fromkeys(("module", "function_base", "defined"), _INT),
        **_ADDRESSES,
        "name": _MAYBE_STR,
    },
    TableState: {"type": _INT, "elements": _buffer, **_BOUNDS},
    MemoryState: {"data": _buffer, **_BOUNDS},
    GlobalState: {"type": _INT, "mutable": _BOOL, "value": _INT},
    FrameState: {
        **dict.fromkeys(("instance", "function", "offset", "locals"), _INT),
        "types": _BYTES,
        "values": _INTS,
    },
    ExceptionState: {"tag": _INT, "fields": _INTS},
    ThreadState: {"frames": _all(FrameState), "queue": _queue, "pushed": _INTS},
    SavedLimits: {
        **dict.fromkeys(("memory_pages", "table_elements", "stack_slots", "stack_frames"), _INT),
        "fuel": _MAYBE_INT,
        "deterministic": _BOOL,
        "features": _all(str),
    },
    Lineage: {
        "id": _BYTES,
        "parent": _MAYBE_BYTES,
        "created": _INT,
        "host": _STR,
        "engine": _STR,
    },
    SnapshotState: {
        "modules": _all(ModuleRef),
        "host_functions": _all(HostFunctionState),
        "instances": _all(InstanceState),
        "tables": _all(TableState),
        "memories": _all(MemoryState),
        "globals": _all(GlobalState),
        "thread": _one(ThreadState),
        "limits": _one(SavedLimits),
        "lineage": _one(Lineage),
        "externs": _LIST,
        "wasi": _one(dict, _NONE),
        "executed": _MAYBE_INT,
        "tags": _all(bytes),
        "exceptions": _all(ExceptionState),
        "files": lambda value: value is None or _contents(value),
        "extra": lambda value: type(value) is dict and {*map(type, value)} <= {str},
    },
}


def _contents(value: Any) -> bool:
    from wasmsr.wasi.state.contents import Contents

    return isinstance(value, Contents)


def check_field_types(snapshot: SnapshotState, checked: frozenset[int] = frozenset()) -> None:
    """Check the types of all fields.

    Args:
        snapshot: The state.
        checked: The ids of lists of integers that were checked before.

    Raises:
        FormatError: It names the field.
    """
    _check("the snapshot", snapshot)
    _check("its limits", snapshot.limits)
    _check("its lineage", snapshot.lineage)
    _check("its thread", snapshot.thread)
    for what, items in (
        ("module", snapshot.modules),
        ("host function", snapshot.host_functions),
        ("instance", snapshot.instances),
        ("table", snapshot.tables),
        ("memory", snapshot.memories),
        ("global", snapshot.globals),
        ("exception", snapshot.exceptions),
        ("frame", snapshot.thread.frames),
    ):
        for number, item in enumerate(items):
            _check(f"{what} {number}", item, checked)


def _check(what: str, item: Any, checked: frozenset[int] = frozenset()) -> None:
    for name, test in _FIELDS[type(item)].items():
        value = getattr(item, name)
        if not (test is _INTS and id(value) in checked) and not test(value):
            kind = type(value).__name__
            raise FormatError(
                f"the snapshot is not valid: {name} of {what} is of the wrong type ({kind})"
            )


__all__ = ["check_field_types"]
