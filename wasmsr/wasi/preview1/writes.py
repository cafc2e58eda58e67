"""Which memory of the program each call may write, declared for the gate.

A row of the table (`functions`) has a tuple of the classes below. Each names parameters of the
call. `spans` finds the parts of memory that they mean in one call. A test compares the declarations
with all of memory for every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wasmsr.record import record
from wasmsr.wasi.preview1.abi import SIZE, U32, Failure, vectors_at
from wasmsr.wasi.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    Spans = list[tuple[int, int]]

    class Written(Protocol):
        """A part of memory that a call may write."""

        @property
        def described(self) -> str:
            """The part in a few words, for the document."""

        def found(self, of: Arguments) -> Callable[[bool], Spans]:
            """Return a function that tells the spans after the call.

            The function gets whether the call succeeded. Of a call that failed, it tells all
            that the call might have written.
            """


@record(frozen=True)
class Arguments:
    """The arguments of one call by name, before it is made."""

    process: Process
    memory: memoryview
    values: Mapping[str, int]

    def number(self, name: str) -> int:
        """Return an argument as an unsigned number of 32 bits."""
        return self.values[name] & U32

    def stored(self, name: str) -> int:
        """Return the number of 32 bits in memory to which an argument points; 0 outside."""
        pointer = self.number(name)
        if pointer + SIZE.size > len(self.memory):
            return 0
        return int(SIZE.unpack_from(self.memory, pointer)[0])


@record(frozen=True)
class At:
    """A value of `size` bytes to which a parameter points."""

    pointer: str
    size: int

    @property
    def described(self) -> str:
        """The part in a few words."""
        return f"`{self.pointer}`"

    def found(self, of: Arguments) -> Callable[[bool], Spans]:
        """Return what tells the spans; see `Written`."""
        spans = [(of.number(self.pointer), self.size)]
        return lambda succeeded: spans


@record(frozen=True)
class Buffer:
    """`length` bytes to which a parameter points, or as many as `used` points to afterwards."""

    pointer: str
    length: str
    used: str | None = None
    unit: int = 1

    @property
    def described(self) -> str:
        """The part in a few words."""
        return f"`{self.pointer}`"

    def found(self, of: Arguments) -> Callable[[bool], Spans]:
        """Return what tells the spans; see `Written`."""
        start, most = of.number(self.pointer), of.number(self.length)

        def spans(succeeded: bool) -> Spans:
            count = most
            if succeeded and self.used is not None:
                count = min(most, of.stored(self.used))
            return [(start, count * self.unit)]

        return spans


@record(frozen=True)
class Buffers:
    """The buffers of an `iovec_array`, or as many bytes of them as `used` points to afterwards."""

    array: str
    count: str
    used: str | None

    @property
    def described(self) -> str:
        """The part in a few words."""
        return f"buffers of `{self.array}`"

    def found(self, of: Arguments) -> Callable[[bool], Spans]:
        """Return what tells the spans; see `Written`."""
        try:
            buffers = vectors_at(of.memory, of.number(self.array), of.number(self.count))
        except Failure:
            buffers = []

        def spans(succeeded: bool) -> Spans:
            left = sum(size for _, size in buffers)
            if succeeded and self.used is not None:
                left = min(left, of.stored(self.used))
            found = []
            for start, size in buffers:
                found.append((start, min(size, left)))
                left -= min(size, left)
            return found

        return spans


@record(frozen=True)
class Strings:
    """Pointers to strings of the process, and the strings, each with a zero byte."""

    pointers: str
    buffer: str
    strings: str

    @property
    def described(self) -> str:
        """The part in a few words."""
        return f"`{self.pointers}`, `{self.buffer}`"

    def found(self, of: Arguments) -> Callable[[bool], Spans]:
        """Return what tells the spans; see `Written`."""
        strings: Sequence[bytes] = getattr(of.process, self.strings)
        spans = [
            (of.number(self.pointers), 4 * len(strings)),
            (of.number(self.buffer), sum(map(len, strings)) + len(strings)),
        ]
        return lambda succeeded: spans


def spans(parts: Sequence[Written], of: Arguments) -> Callable[[bool], Spans]:
    """Return a function that tells, after a call, which memory the call may have written.

    Args:
        parts: The declaration.
        of: The arguments, before the call.

    Returns:
        A function of whether the call succeeded. Its result has spans within the memory, none of
        them empty.
    """
    found = [part.found(of) for part in parts]
    size = len(of.memory)

    def told(succeeded: bool) -> Spans:
        return [
            (start, min(length, size - start))
            for tell in found
            for start, length in tell(succeeded)
            if length and start < size
        ]

    return told
