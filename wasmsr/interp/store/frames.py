"""The frames of a store's thread as Python sees them: for captures, traces and backtraces."""

from __future__ import annotations

from collections.abc import Sequence

from wasmsr._ffi import ffi, lib
from wasmsr.errors import Frame
from wasmsr.interp.outcomes import FrameView
from wasmsr.interp.types import ValType, val_types
from wasmsr.interp.values import slots_to_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.store.interface import StoreInterface

_BACKTRACE = 50
"""Most frames that a backtrace shows: a runaway recursion has tens of thousands."""


def view_frame(
    store: StoreInterface, number: int, *, dead_locals: bool, view: Any = None
) -> FrameView:
    """Return one frame by number: 0 is the outermost, -1 the innermost.

    Raises IndexError if there is none.

    Args:
        dead_locals: False shows locals that no execution can read any more as zero.
        view: Room for the core's answer, a `wsr_frame_view *`, or None.
    """
    if view is None:
        view = ffi.new("wsr_frame_view *")
    if number < 0:
        number += lib.wsr_frame_count(store.c)
    if not 0 <= number < lib.wsr_frame_count(store.c):
        raise IndexError(f"the thread has no frame {number}")
    if not lib.wsr_view_frame(store.c, number, dead_locals, view):
        raise MemoryError("no memory left to view a frame")
    n, m = view.n_locals, view.n_operands
    types = bytes(ffi.buffer(view.types, n + m)) if n + m else b""
    values: Sequence[int] = ffi.unpack(view.values, view.n_slots) if n + m else []
    if ValType.V128 in types:
        values = slots_to_values(val_types(types), values)
    return FrameView(
        view.function,
        view.instance,
        view.index,
        view.offset,
        types,
        tuple(values[:n]),
        tuple(values[n:]),
        bytes(ffi.buffer(view.live, n)) if n else b"",
    )


def backtrace(store: StoreInterface) -> tuple[Frame, ...]:
    """Return the innermost frames of the thread for a message, innermost first."""
    lines = []
    count = lib.wsr_frame_count(store.c)
    for number in range(count - 1, max(-1, count - 1 - _BACKTRACE), -1):
        frame = view_frame(store, number, dead_locals=True)
        instance = store.instances[frame.instance]
        function = instance.module.function_name(frame.index)
        lines.append(Frame(instance.name, function, frame.index, frame.offset))
    return tuple(lines)
