"""Arrays of numpy that are in remote memory.

numbers = RemoteArray.create(memory, numpy.arange(1000.0))
numbers[10:20] = 0
return {"numbers": numbers.metadata()}      # to the next element, as JSON

numbers = RemoteArray.open(memory, params["first"][0]["numbers"])
total = numbers.materialize().sum()
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wasmsr.errors import MissingPackageError, printable
from wasmsr.mem.buffered import BufferedMemory
from wasmsr.mem.failures import TransportError
from wasmsr.mem.transports import MemoryTransport

try:
    import numpy
except ImportError:
    raise MissingPackageError("numpy", "arrays in remote memory") from None

KINDS = "biufcSUMmV"
"""Kinds of element types that an array can have: those without references to objects."""
MOST_DIMENSIONS = 32


class RemoteArray:
    """An array whose elements are in remote memory, in the order of C.

    The first axis can be indexed and sliced with step 1: what is read is an array of numpy, and
    what is assigned is written through the buffer.

    Attributes:
        memory: The buffer.
        addr: Where the array begins in the memory, in bytes.
        shape: Its shape.
        dtype: The type of its elements.
    """

    def __init__(self, memory: BufferedMemory, addr: int, shape: Sequence[int], dtype: Any) -> None:
        """Describe an array that is in a memory.

        Raises:
            TransportError: The description is none, or the array is not all in the memory.
        """
        self.memory = memory
        self.addr = addr
        self.shape = tuple(shape)
        self.dtype = numpy.dtype(dtype)
        if self.dtype.kind not in KINDS or self.dtype.hasobject or not self.dtype.itemsize:
            raise TransportError(f"an array of {printable(self.dtype)} cannot be in remote memory")
        size = memory.transport.size()
        if addr < 0 or (size and addr + self.nbytes > size):
            raise TransportError(
                f"an array of {self.nbytes} bytes at {addr} is not in a memory of {size} bytes"
            )

    @classmethod
    def create(
        cls,
        transport: MemoryTransport | BufferedMemory,
        array: Any,
        *,
        addr: int = 0,
        page: int = 4096,
        buffer: int = 1 << 20,
    ) -> RemoteArray:
        """Write an array of numpy into a memory and return it as a remote one.

        Args:
            transport: The way to the memory, or a buffer that others use too.
            array: The array.
            addr: Where it goes in the memory, in bytes.
            page: For a new buffer: bytes of a page, see `BufferedMemory`.
            buffer: For a new buffer: bytes that it holds.
        """
        array = numpy.asarray(array, order="C")
        memory = _buffered(transport, page, buffer)
        made = cls(memory, addr, array.shape, array.dtype)
        if made.nbytes:
            memory.write(addr, memoryview(array.reshape(-1).view(numpy.uint8)))
        memory.flush()
        return made

    @classmethod
    def open(
        cls,
        transport: MemoryTransport | BufferedMemory,
        metadata: Mapping[str, Any],
        *,
        page: int = 4096,
        buffer: int = 1 << 20,
    ) -> RemoteArray:
        """Return the array that metadata describe; nothing is read yet.

        Args:
            transport: The way to the memory, or a buffer that others use too.
            metadata: What `metadata` of the array has returned, maybe in another process.
            page: For a new buffer: bytes of a page, see `BufferedMemory`.
            buffer: For a new buffer: bytes that it holds.

        Raises:
            TransportError: They describe none.
        """
        try:
            addr, shape, dtype = metadata["addr"], metadata["shape"], metadata["dtype"]
            whole = all(type(one) is int and 0 <= one < 1 << 48 for one in (addr, *shape))
            if not whole or len(shape) > MOST_DIMENSIONS or math.prod(shape) >= 1 << 48:
                raise ValueError("a length is none")
            described = numpy.dtype(
                dtype if isinstance(dtype, str) else [tuple(field) for field in dtype]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TransportError(f"no metadata of an array: {printable(error)}") from None
        return cls(_buffered(transport, page, buffer), addr, shape, described)

    def metadata(self) -> dict[str, Any]:
        """Return what describes the array, as plain data that can be JSON; writes it back first."""
        self.memory.flush()
        fields = self.dtype.names
        dtype = self.dtype.descr if fields else self.dtype.str
        return {"addr": self.addr, "shape": list(self.shape),
                "dtype": [list(field) for field in dtype] if fields else dtype}  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    @property
    def end(self) -> int:
        """The address after it, where the next one can begin."""
        return self.addr + self.nbytes

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without dimensions has no length")
        return self.shape[0]

    @property
    def _row(self) -> int:
        """Bytes of one element of the first axis."""
        return math.prod(self.shape[1:]) * int(self.dtype.itemsize)

    def slice(self, start: int, stop: int) -> RemoteArray:
        """Return a part along the first axis, which shares memory and buffer; nothing is read.

        Args:
            start: The first index; as in a slice of a list.
            stop: The index after the last.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        shape = (max(0, stop - start), *self.shape[1:])
        return RemoteArray(self.memory, self.addr + start * self._row, shape, self.dtype)

    def materialize(self) -> Any:
        """Return all of it as an array of numpy."""
        found = numpy.empty(self.shape, self.dtype)
        if self.nbytes:
            self.memory.read(self.addr, memoryview(found.reshape(-1).view(numpy.uint8)))
        return found

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self.slice(*self._bounds(key)).materialize()
        at = self._index(key)
        found = self.slice(at, at + 1).materialize()[0]
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, slice):
            part = self.slice(*self._bounds(key))
        else:
            at = self._index(key)
            part = self.slice(at, at + 1)
        given = numpy.ascontiguousarray(numpy.broadcast_to(value, part.shape), self.dtype)
        if part.nbytes:
            self.memory.write(part.addr, memoryview(given.reshape(-1).view(numpy.uint8)))

    def __iter__(self) -> Iterator[Any]:
        for at in range(len(self)):
            yield self[at]

    def pieces(self, rows: int) -> Iterator[Any]:
        """Yield the array in pieces of so many rows, each an array of numpy."""
        for at in range(0, len(self), rows):
            yield self[at : at + rows]

    def flush(self) -> None:
        """Write what was assigned to the memory."""
        self.memory.flush()

    def _bounds(self, key: builtins.slice) -> tuple[int, int]:
        start, stop, step = key.indices(len(self))
        if step != 1:
            raise TransportError("remote arrays have slices of step 1 only")
        return start, stop

    def _index(self, key: Any) -> int:
        at = int(key)
        if not -len(self) <= at < len(self):
            raise IndexError(f"index {at} of an array of {len(self)}")
        return at % len(self) if len(self) else at


def merge(arrays: Sequence[RemoteArray], into: RemoteArray) -> RemoteArray:
    """Copy arrays one after the other into another one, and return it.

    Args:
        arrays: The arrays; they have one type, and one shape but for the first axis.
        into: Where they go; its first axis is as long as theirs together.

    Raises:
        TransportError: Types or shapes do not fit.
    """
    rows = 0
    for one in arrays:
        if one.dtype != into.dtype or one.shape[1:] != into.shape[1:]:
            raise TransportError("arrays that are merged have one type and one shape")
        one.flush()
        rows += len(one)
    if rows != len(into):
        raise TransportError(f"{rows} rows do not fit into an array of {len(into)}")
    at = 0
    for one in arrays:
        step = max(1, (1 << 20) // max(1, one._row))
        for piece in one.pieces(step):
            into[at : at + len(piece)] = piece
            at += len(piece)
    into.flush()
    return into


def _buffered(
    transport: MemoryTransport | BufferedMemory, page: int, buffer: int
) -> BufferedMemory:
    if isinstance(transport, BufferedMemory):
        return transport
    return BufferedMemory(transport, page=page, buffer=buffer)
