"""Makes a Wasm coredump of a state, for debuggers.

Format: WebAssembly/tool-conventions, Coredump.md, with the sections of instances and modules that
today's tools read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wasmsr.snapshot.inspect.names import SnapshotNames
from wasmsr.snapshot.state import GlobalState, SnapshotState
from wasmsr.snapshot.tools import module_binary as wasm

if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module

_MISSING = b"\x01"
"""A value that the format cannot have, such as a reference or a vector, or that is dead."""


def coredump(state: SnapshotState, program: str, modules: Sequence[Module | None]) -> bytes:
    """Return a coredump.

    Args:
        state: The state, paused or idle.
        program: The name of the program.
        modules: Its modules, in the order of the state's; None where one is not there. Without it
            offsets are 0, which means unknown, and so are values of locals that are zero.
    """
    count = len(state.thread.frames)
    frames = [_frame(state, number, modules) for number in reversed(range(count))]
    names = [b"\0" + wasm.name(module.name or f"module {n}")
             for n, module in enumerate(state.modules)]  # fmt: skip
    instances = [
        b"\0"
        + wasm.unsigned(one.module)
        + wasm.vector([wasm.unsigned(address) for address in one.memories])
        + wasm.vector([wasm.unsigned(address) for address in one.globals])
        for one in state.instances
    ]
    parts = [
        (wasm.CUSTOM, wasm.name("core") + b"\0" + wasm.name(program)),
        (wasm.CUSTOM, wasm.name("coremodules") + wasm.vector(names)),
        (wasm.CUSTOM, wasm.name("coreinstances") + wasm.vector(instances)),
        (wasm.CUSTOM, wasm.name("corestack") + b"\0" + wasm.name("main") + wasm.vector(frames)),
        (wasm.MEMORY, wasm.vector([_memory(one.data, one.address64) for one in state.memories])),
        (wasm.GLOBAL, wasm.vector([_global(one) for one in state.globals])),
    ]
    segments: list[bytes] = []
    for number, memory in enumerate(state.memories):
        view = memoryview(memory.data).cast("B")
        segments += wasm.data_segments(number, view, memory.address64)
    parts.append((wasm.DATA, wasm.vector(segments)))
    return wasm.joined(parts)


def _memory(data: bytes | bytearray | memoryview, address64: bool) -> bytes:
    return wasm.limits(4 if address64 else 0, memoryview(data).nbytes // 65536, None)


def _global(one: GlobalState) -> bytes:
    """Return a global. One with a reference is a null of its type: the format has no other."""
    head = bytes([one.type, 1 if one.mutable else 0])
    if one.type in (0x7F, 0x7E, 0x7D, 0x7C, 0x7B):
        return head + wasm.constant(one.type, one.value)
    return head + b"\xd0" + bytes([one.type]) + b"\x0b"


def _frame(state: SnapshotState, number: int, modules: Sequence[Module | None]) -> bytes:
    """Return a frame; its offset is counted from the beginning of the function's body."""
    one = state.thread.frames[number]
    module = modules[state.instances[one.instance].module]
    start = one.offset if module is None else module.body_range(one.function)[0]
    live = SnapshotNames(state, [m for m in modules if m is not None]).live_locals(number)
    values = [_value(code, bits) for code, bits in zip(one.types, one.values, strict=True)]
    for index in range(one.locals):
        # A dead local is saved as zero: the zero is a value only where the local is live.
        if not live[index] if live is not None else not one.values[index]:
            values[index] = _MISSING
    return (
        b"\0"
        + wasm.unsigned(one.instance)
        + wasm.unsigned(one.function)
        + wasm.unsigned(max(0, one.offset - start))
        + wasm.vector(values[: one.locals])
        + wasm.vector(values[one.locals :])
    )


def _value(code: int, bits: int) -> bytes:
    if code == 0x7F:
        return b"\x7f" + wasm.signed(wasm.as_signed(bits, 32))
    if code == 0x7E:
        return b"\x7e" + wasm.signed(wasm.as_signed(bits, 64))
    if code == 0x7D:
        return b"\x7d" + bits.to_bytes(4, "little")
    if code == 0x7C:
        return b"\x7c" + bits.to_bytes(8, "little")
    return _MISSING
