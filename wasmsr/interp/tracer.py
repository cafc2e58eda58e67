"""The trace: one line for each instruction, in metered single steps.

Whoever runs a store calls `Tracer.step` instead of `Store.run`. A line is

    fib 0x46 if i32        locals n=i32:9  operands i32:1

indented by call depth: function name, byte offset in the module's binary, mnemonic, immediates.
With `state` the line also has the locals and operands before the instruction, and the global that
the instruction changes. Locals and globals have their names where the module gives them some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wasmsr._ffi import lib
from wasmsr.errors import printable
from wasmsr.interp.instruction_set.instructions import disassemble
from wasmsr.interp.literals import format_literal
from wasmsr.interp.outcomes import FrameView, Outcome, Paused
from wasmsr.interp.store.externs import Global
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import ValType

STATE_COLUMN = 48
"""Where locals and operands begin, if the instruction leaves room."""


class Tracer:
    """Writes a line before each instruction that is executed.

    Args:
        write: Gets whole lines, each with its line feed.
        state: Show locals, operands and changed globals too.
    """

    def __init__(self, write: Callable[[str], object], *, state: bool = False) -> None:
        self.write = write
        self.state = state
        self._names: dict[tuple[int, int], str] = {}
        self._instructions: dict[tuple[int, int], tuple[str, str]] = {}

    def step(self, store: Store) -> Outcome:
        """Show the next instruction and execute it.

        A host call that gave up for a pause is shown again when it is made again.

        Returns:
            What `Store.run` returns; Paused("fuel") is the ordinary case.
        """
        if not _depth(store):
            # No frame yet: pushing that of the next invocation is no instruction.
            outcome = store.run(fuel=0)
            if not isinstance(outcome, Paused) or outcome.reason == "requested":
                return outcome
        if _depth(store):
            self.write(self.line(store))
        return store.run(fuel=1)

    def line(self, store: Store) -> str:
        """Return the line of the instruction that comes next; there must be a frame."""
        frame = store.frame(-1)
        name = self._name(store, frame)
        mnemonic, immediates = self._instruction(store, frame)
        indent = "  " * (_depth(store) - 1)
        text = f"{indent}{name} {frame.offset:#x} {mnemonic} {immediates}".rstrip()
        if self.state:
            text = f"{text:<{STATE_COLUMN}} {self._state(store, frame, mnemonic, immediates)}"
        return printable(text.rstrip(), None) + "\n"

    def _name(self, store: Store, frame: FrameView) -> str:
        key = (frame.instance, frame.index)
        if key not in self._names:
            module = store.instances[frame.instance].module
            self._names[key] = module.function_name(frame.index)
        return self._names[key]

    def _instruction(self, store: Store, frame: FrameView) -> tuple[str, str]:
        key = (frame.instance, frame.offset)
        if key not in self._instructions:
            binary = store.instances[frame.instance].module.binary
            self._instructions[key] = disassemble(binary, frame.offset)[:2]
        return self._instructions[key]

    def _state(self, store: Store, frame: FrameView, mnemonic: str, immediates: str) -> str:
        n = len(frame.locals)
        names = store.instances[frame.instance].module.names
        parts = []
        if frame.locals:
            called = names.locals.get(frame.index, {})
            parts.append(f"locals {_values(frame.types[:n], frame.shown, called)}")
        if frame.operands:
            parts.append(f"operands {_values(frame.types[n:], frame.operands, {})}")
        if mnemonic == "global.set":
            # The one instruction that changes a global: the new value is the top operand.
            code = ValType(frame.types[-1])
            new = _value(code, frame.operands[-1])
            index = int(immediates)
            old = _value(code, _global(store, frame, index))
            parts.append(f"global {names.globals.get(index, immediates)}: {old} -> {new}")
        return "  ".join(parts)


def _depth(store: Store) -> int:
    """Return how many frames the thread has."""
    return int(lib.wsr_frame_count(store.c))


def _global(store: Store, frame: FrameView, index: int) -> int:
    """Return the bits of a global, by its index in the frame's instance."""
    address = lib.wsr_instance_address(store.c, frame.instance, lib.WSR_GLOBAL, index)
    return Global(store, address).bits


def _values(types: bytes, slots: Sequence[int | None], names: Mapping[int, str]) -> str:
    """Return values with their types, and with their names if they have some: "n=i32:9 f64:0.5".
    A dead local (None) has no value: "n=i32:dead"."""
    texts = []
    for index, (code, bits) in enumerate(zip(types, slots, strict=True)):
        name = f"{names[index]}=" if index in names else ""
        texts.append(name + _value(ValType(code), bits))
    return " ".join(texts)


def _value(code: ValType, bits: int | None) -> str:
    """Return one value with its type; a reference as the address of its function or host object."""
    if bits is None:
        return f"{code}:dead"
    if code.reference:
        return f"{code}:{'null' if bits == 0 else (bits & 0xFFFFFFFF) - 1}"
    return f"{code}:{format_literal(code, bits)}"
