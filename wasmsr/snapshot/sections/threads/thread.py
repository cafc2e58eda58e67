"""Section *thread*: frames, and the invocations that follow. Format document, section 5.5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.encoding.section import Draft, ReferenceNumbers, Section, WrittenPages
from wasmsr.snapshot.encoding.slots import from_slots, to_slots
from wasmsr.snapshot.rules import (
    EXNREF,
    EXTERNREF,
    REFERENCES,
    U32,
    U64,
    V128,
    VALUE_TYPES,
    CheckScope,
    invalid,
)
from wasmsr.snapshot.state import FrameState, SnapshotState, ThreadState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

HEAD = Struct("<QQ")
"""Number of frames, number of invocations."""
FRAME = Struct("<IIIIII")
"""Instance, function index, position, number of locals, number of values, zero."""
INVOCATION = Struct("<II")
"""Function address, number of slots."""
QUEUE_LIMIT = 16 << 20
"""Bytes that invocations may have beside the frames."""


class ThreadSection(Section):
    """The frames with their values, outermost first, and the queue of invocations."""

    kind = 5
    name = "thread"
    versions = (1,)
    payload = "arrays"
    required = True
    place = 50
    numbering = 3

    def renumber(self, state: SnapshotState, numbers: ReferenceNumbers) -> None:
        """Replace references in frames, then in arguments of invocations."""
        saved = numbers.saved
        for frame in state.thread.frames:
            if EXTERNREF in frame.types or EXNREF in frame.types:
                frame.values = [
                    saved(code, bits) for code, bits in zip(frame.types, frame.values, strict=True)
                ]
        for number, (address, slots) in enumerate(state.thread.queue):
            codes = numbers.parameters(address)
            if EXTERNREF in codes or EXNREF in codes:
                bits = [saved(c, v) for c, v in zip(codes, from_slots(codes, slots), strict=True)]
                state.thread.queue[number] = (address, to_slots(codes, bits))

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return heads, then types, then slots."""
        thread = state.thread
        return HEAD.pack(len(thread.frames), len(thread.queue)) + pack_body(thread)

    def limit(self, limits: ReadLimits) -> int:
        """Return the length for a full stack of the reader's limits."""
        store = limits.store
        return store.stack_frames * FRAME.size + store.stack_slots * 9 + QUEUE_LIMIT

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's thread."""
        if len(data) < HEAD.size:
            raise self.malformed("it is too short")
        frames, calls = HEAD.unpack_from(data)
        thread, end = parse_body(self, data, HEAD.size, frames, calls)
        if end != len(data):
            raise self.malformed(_wrong_length(len(data) - end))
        draft.state.thread = thread

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check functions, positions, types and values."""
        for number, frame in enumerate(state.thread.frames):
            _check_frame(number, frame, state, scope.bounds)
        for address, slots in state.thread.queue:
            if not 0 <= address < scope.functions:
                raise invalid(
                    f"an invocation names function address {address} of {scope.functions}"
                )
            if slots and (min(slots) < 0 or max(slots) >= U64):
                raise invalid(
                    f"an argument of an invocation of function address {address} is no slot"
                )

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the call stack, innermost frame first, and the queue."""
        frames = reversed(range(len(state.thread.frames)))
        queue = [
            {"function": names.of_address(address), "arguments": [f"{slot:#x}" for slot in slots]}
            for address, slots in state.thread.queue
        ]
        return {"call_stack": [_describe_frame(state, names, i) for i in frames], "queue": queue}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the call stack and the queue."""
        rows: list[tuple[str, ...]] = []
        for frame in description["call_stack"]:
            rows.append(
                (
                    str(frame["frame"]),
                    frame["name"],
                    str(frame["function"]),
                    f"{frame['offset']:#x}",
                    str(frame["instance"]),
                    str(len(frame["locals"])),
                    str(len(frame["operands"])),
                )
            )
            if values:
                for what in ("locals", "operands"):
                    found = " ".join(map(_typed, frame[what]))
                    if found:
                        rows.append(("", f"  {what} {found}", "", "", "", "", ""))
        headings = ("", "function", "index", "byte", "instance", "locals", "operands")
        yield "Call stack, innermost first", headings, rows
        yield (
            "Invocations to come",
            ("function", "arguments"),
            [(call["function"], ", ".join(call["arguments"])) for call in description["queue"]],
        )


def pack_body(thread: ThreadState) -> bytes:
    """Return a thread without its head: heads of frames and invocations, then types, then slots."""
    pieces: list[bytes] = []
    types: list[bytes] = []
    slots: list[int] = []
    for frame in thread.frames:
        height = len(frame.types)
        head = (frame.instance, frame.function, frame.offset, frame.locals, height, 0)
        pieces.append(FRAME.pack(*head))
        types.append(frame.types)
        slots += to_slots(frame.types, frame.values)
    for address, arguments in thread.queue:
        pieces.append(INVOCATION.pack(address, len(arguments)))
        slots += arguments
    pieces += types
    pieces.append(Struct(f"<{len(slots)}Q").pack(*slots))
    return b"".join(pieces)


def parse_body(
    section: Section, data: Buffer, start: int, frames: int, calls: int
) -> tuple[ThreadState, int]:
    """Read what `pack_body` returns.

    Args:
        section: The section, for messages.
        data: The section's payload.
        start: Where the thread begins in it.
        frames: Number of frames.
        calls: Number of invocations.

    Returns:
        The thread, and where it ends.

    Raises:
        FormatError: The payload is too short, or a reserved field is not zero.
    """
    calls_at = start + frames * FRAME.size
    types_at = calls_at + calls * INVOCATION.size
    if types_at > len(data):
        raise section.malformed(f"it is too short for {frames} frames and {calls} invocations")
    heads = list(FRAME.iter_unpack(data[start:calls_at]))
    queue = list(INVOCATION.iter_unpack(data[calls_at:types_at]))
    slots_at = types_at + sum([head[4] for head in heads])
    if slots_at > len(data):
        raise section.malformed("its length is not that of its frames")
    types = bytes(data[types_at:slots_at])
    count = len(types) + types.count(V128) + sum([call[1] for call in queue])
    end = slots_at + count * 8
    if end > len(data):
        raise section.malformed(_wrong_length(end - len(data)))
    slots = Struct(f"<{count}Q").unpack(data[slots_at:end])
    thread = ThreadState()
    first = position = 0
    for instance, function, offset, local_count, height, reserved in heads:
        if reserved:
            raise section.malformed("a reserved field is not zero")
        codes = types[first : first + height]
        first += height
        taken = height + codes.count(V128)
        values = from_slots(codes, slots[position : position + taken])
        position += taken
        thread.frames.append(FrameState(instance, function, offset, local_count, codes, values))
    for address, height in queue:
        thread.queue.append((address, list(slots[position : position + height])))
        position += height
    return thread, end


def _wrong_length(difference: int) -> str:
    if difference % 8:
        return "its length is not that of its frames"
    return "it has not one value for each type"


def _check_frame(
    number: int, frame: FrameState, state: SnapshotState, bounds: Mapping[int, int]
) -> None:
    if not 0 <= frame.instance < len(state.instances):
        raise invalid(f"frame {number} names instance {frame.instance}")
    instance = state.instances[frame.instance]
    imported = len(instance.functions)
    if not imported <= frame.function < imported + instance.defined:
        raise invalid(f"frame {number} names function {frame.function}, which has no code")
    if not 0 <= frame.offset < state.modules[instance.module].size:
        raise invalid(f"the position of frame {number} is outside its module")
    types, values = frame.types, frame.values
    if len(types) != len(values):
        raise invalid(f"frame {number} has {len(types)} types for {len(values)} values")
    if not 0 <= frame.locals <= len(types):
        raise invalid(f"frame {number} has {frame.locals} locals among {len(types)} values")
    if types.translate(None, VALUE_TYPES):
        raise invalid(f"frame {number} has an unknown value type")
    # Most values are small numbers. Each one is compared only where one of them is not.
    if values and (
        min(values) < 0 or max(values) >= U32 or types.translate(None, REFERENCES) != types
    ):
        for code, value in zip(types, values, strict=True):
            if not 0 <= value < bounds[code]:
                raise invalid(f"a value of frame {number} does not fit its type")


def _describe_frame(state: SnapshotState, names: SnapshotNames, number: int) -> dict[str, Any]:
    frame = state.thread.frames[number]
    values = [names.value(t, v) for t, v in zip(frame.types, frame.values, strict=True)]
    live = names.live_locals(number)
    for index in range(frame.locals):
        # A dead local is saved as zero: a zero is a value only where the local is live.
        if live is None and not frame.values[index]:
            values[index]["dead"] = None
        elif live is not None and not live[index]:
            values[index] |= {"value": None, "dead": True}
    for index, name in names.of_locals(frame.instance, frame.function).items():
        if index < frame.locals:
            values[index]["name"] = name
    return {
        "frame": number,
        "instance": frame.instance,
        "function": frame.function,
        "name": names.of_index(frame.instance, frame.function),
        "offset": frame.offset,
        "locals": values[: frame.locals],
        "operands": values[frame.locals :],
    }


def _typed(value: Mapping[str, Any]) -> str:
    from wasmsr.snapshot.inspect.text_tables import typed

    return (f"{value['name']}=" if "name" in value else "") + typed(value)


SECTIONS = (ThreadSection(),)
