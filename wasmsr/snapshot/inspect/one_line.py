"""A state and its parts in one line each: their `repr`.

Nothing here fails, whatever Python code has put into a state. The file imports no class of a state:
these classes import it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from wasmsr.errors import listed, printable
from wasmsr.interp.one_line import number, size

NAMES = 3
"""Names of modules that are shown."""


def shown(part: Any) -> str:
    """Return a snapshot, or a part of one, in one line."""
    name = type(part).__name__
    try:
        return f"<{name}{_OF[name](part)}>"
    except Exception:  # noqa: BLE001 (a value of anything at all, and a repr must not fail)
        return f"<{name}, not valid>"


def _snapshot(one: Any) -> str:
    names = listed([module.name or "a module" for module in one.modules], NAMES)
    frames = len(one.thread.frames)
    parts = [f"{number(frames, 'frame')} deep" if frames else "idle"]
    if one.thread.queue:
        parts.append(f"{number(len(one.thread.queue), 'invocation')} to come")
    if one.memories:
        held = sum(len(memory.data) for memory in one.memories)
        parts.append(f"{number(len(one.memories), 'memory', 'memories')} of {size(held)}")
    if one.wasi is not None:
        parts.append("with WASI")
    if one.files:
        parts.append(f"{size(one.files.size)} of files")
    if one.executed is not None:
        parts.append(number(one.executed, "instruction"))
    return f" of {names or 'no module'}: {', '.join(parts)}, {_taken(one.lineage)}"


def _taken(lineage: Any) -> str:
    seconds = lineage.created // 1_000_000_000
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        moment = f"{seconds} s after 1970"
    return f"taken {moment} on {printable(lineage.host, 80)}"


def _module(one: Any) -> str:
    embedded = "" if one.binary is None else ", embedded"
    name = printable(one.name, 80) if one.name else "without a name"
    return f" {name}: {size(one.size)}{embedded}, {one.digest.hex()[:12]}"


def _instance(one: Any) -> str:
    name = "" if one.name is None else f" {printable(one.name, 80)}"
    parts = [
        number(len(one.functions) + one.defined, "function"),
        number(len(one.tables), "table"),
        number(len(one.memories), "memory", "memories"),
        number(len(one.globals), "global"),
    ]
    return f"{name} of module {one.module}: {', '.join(parts)}"


def _most(maximum: int | None) -> str:
    return "" if maximum is None else f" of at most {maximum}"


def _table(one: Any) -> str:
    return f": {number(len(one.elements) // 8, 'element')}{_most(one.maximum)}, {one.type:#x}"


def _memory(one: Any) -> str:
    pages = len(one.data) // 65536
    return f": {number(pages, 'page')}{_most(one.maximum)} ({size(len(one.data))})"


def _frame(one: Any) -> str:
    operands = len(one.values) - one.locals
    return (
        f": function {one.function} of instance {one.instance} at {one.offset:#x}, "
        f"{number(one.locals, 'local')}, {number(operands, 'operand')}"
    )


def _thread(one: Any) -> str:
    return f": {number(len(one.frames), 'frame')}, {number(len(one.queue), 'invocation')} to come"


def _exception(one: Any) -> str:
    return f": of tag {one.tag}, {number(len(one.fields), 'field')}"


_OF: dict[str, Callable[[Any], str]] = {
    "SnapshotState": _snapshot,
    "ModuleRef": _module,
    "InstanceState": _instance,
    "TableState": _table,
    "MemoryState": _memory,
    "FrameState": _frame,
    "ThreadState": _thread,
    "ExceptionState": _exception,
}
"""What shows the classes of `wasmsr.snapshot.state`, by their names."""

__all__ = ["shown"]
