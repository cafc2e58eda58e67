"""A store and the things in it in one line each: their `repr`.

The lines are for people at a prompt, in logs and in tests. Nothing here fails: the line says so if
the store is closed or another thread runs it. The file imports no class that it shows; these
classes import it.
"""

from __future__ import annotations

from wasmsr._ffi import ffi, lib
from wasmsr.errors import listed, printable
from wasmsr.interp.literals import format_literal
from wasmsr.interp.types import FuncType, ValType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NAMES = 5
"""Names of exports that are shown."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size(count: int) -> str:
    """Return a number of bytes for people: "266 bytes", "12.5 MiB"."""
    value, unit = float(count), 0
    while value >= 1024 and unit + 1 < len(_UNITS):
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {_UNITS[unit]}"


def number(count: int, what: str, many: str = "") -> str:
    """Return a number with a noun: "1 export", "2 exports"."""
    return f"{count} {what if count == 1 else many or what + 's'}"


def function_type(type_: FuncType) -> str:
    """Return a signature: "(i32, i32) -> i32"."""
    results = ", ".join(map(str, type_.results))
    if len(type_.results) != 1:
        results = f"({results})"
    return f"({', '.join(map(str, type_.params))}) -> {results}"


def module(one: Any) -> str:
    """Return a module: its name, its size, what it asks for and offers."""
    name = printable(one.name, 80) if one.name else "without a name"
    parts = [
        size(len(one.binary)),
        number(len(one.imports), "import"),
        number(len(one.exports), "export"),
    ]
    return f"<Module {name}: {', '.join(parts)}, {one.digest.hex()[:12]}>"


def instance(one: Any) -> str:
    """Return an instance: of which module, and what it exports."""
    name = one.name or one.module.name
    exports = listed([item.name for item in one.module.exports], NAMES)
    of = printable(name, 80) if name else "a module"
    return f"<Instance {one.index} of {of}: exports {exports or 'nothing'}>"


def store(one: Any) -> str:
    """Return a line on a store: what is in it, and where its program is paused."""
    if one.closed:
        return "<Store, closed>"
    counts = ffi.new("wsr_store_counts *")
    lib.wsr_store_count(one.c, counts)
    parts = [number(len(one.instances), "instance"), _standing(one)]
    if not one.running:
        sizes = [len(one.memory_view(address)) for address in range(counts.memories)]
        if sizes:
            parts.append(f"{number(len(sizes), 'memory', 'memories')} of {size(sum(sizes))}")
    if one.executed is not None:
        parts.append(number(one.executed, "instruction"))
    return f"<Store: {', '.join(parts)}>"


def _standing(one: Any) -> str:
    if one.running:
        return "running"
    waiting = f"{number(len(one.queue), 'invocation')} to come" if one.queue else ""
    frames = int(lib.wsr_frame_count(one.c))
    if not frames:
        return waiting or "idle"
    frame = one.frame(-1)
    name = one.instances[frame.instance].module.function_name(frame.index)
    text = f"paused in {printable(name, 80)} at {frame.offset:#x} ({number(frames, 'frame')})"
    return f"{text}, {waiting}" if waiting else text


def handle(one: Any) -> str:
    """Return an extern: its address, and what its kind has to say."""
    kind = next(c.__name__ for c in type(one).__mro__ if c.__name__ in _OF)
    what = f"{kind} {one.address}"
    if one.store.closed:
        return f"<{what} of a closed store>"
    counts = ffi.new("wsr_store_counts *")
    lib.wsr_store_count(one.store.c, counts)
    if not 0 <= one.address < getattr(counts, _COUNTS[kind]):
        return f"<{what}, which the store does not have>"
    return f"<{what}{_OF[kind](one)}>"


def _function(one: Any) -> str:
    view = ffi.new("wsr_function_view *")
    lib.wsr_function(one.store.c, one.address, view)
    if view.host:
        _, module_name, name = one.store.hosts[one.address]
        text = f"{printable(module_name, 80)}.{printable(name, 80)} of the host"
    else:
        text = printable(one.store.instances[view.instance].module.function_name(view.index), 80)
    return f": {text} {function_type(one.type)}"


def _most(maximum: int | None) -> str:
    return "" if maximum is None else f" of at most {maximum}"


def _memory(one: Any) -> str:
    type_ = one.type
    pages = number(type_.bounds.minimum, "page") + _most(type_.bounds.maximum)
    wide = ", 64-bit addresses" if type_.address is ValType.I64 else ""
    return f": {pages} ({size(type_.bounds.minimum << 16)}){wide}"


def _table(one: Any) -> str:
    type_ = one.type
    elements = number(type_.bounds.minimum, "element") + _most(type_.bounds.maximum)
    return f": {elements}, {type_.element}"


def _global(one: Any) -> str:
    type_, bits = one._read()
    return f": {'mut ' if type_.mutable else ''}{type_.value} = {format_literal(type_.value, bits)}"


def _tag(one: Any) -> str:
    return f": ({', '.join(map(str, one.type.params))})"


_COUNTS = {
    "Function": "functions",
    "Memory": "memories",
    "Table": "tables",
    "Global": "globals",
    "Tag": "tags",
}
_OF: dict[str, Callable[[Any], str]] = {
    "Function": _function,
    "Memory": _memory,
    "Table": _table,
    "Global": _global,
    "Tag": _tag,
}


def host_function(one: Any) -> str:
    """Return a function of the host: what it calls, and what it is known by."""
    call = getattr(one.call, "__qualname__", type(one.call).__name__)
    known = "" if one.identity is None else f", known as {printable(one.identity, 80)}"
    raw = ", raw" if one.raw else ""
    return f"<HostFunction {printable(call, 80)} {function_type(one.type)}{raw}{known}>"


__all__ = ["handle", "host_function", "instance", "module", "number", "size", "store"]
