"""Tables of Arrow that are in remote memory, and the joins of pyarrow over them.

    sales = write_table(memory, table)           # a `RemoteTable`, after other tables of the memory
    return {"sales": sales.metadata()}           # to the next element, as JSON

    sales = read_table(memory, params["first"][0]["sales"])
    joined = sales.join(days, "day")             # both are tables of pyarrow

A table is in the memory in Arrow's own format for streams between processes (IPC).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wasmsr.errors import MissingPackageError, printable, reason
from wasmsr.mem.failures import TransportError
from wasmsr.mem.transports import MemoryTransport

try:
    import pyarrow
    import pyarrow.compute
    import pyarrow.ipc
except ImportError:
    raise MissingPackageError("pyarrow", "tables in remote memory") from None

ALIGNED = 64
"""Tables begin at multiples of so many bytes, as Arrow's buffers do."""


class RemoteTable:
    """A table that is in remote memory.

    Attributes:
        transport: The way to the memory.
        addr: Where it begins, in bytes.
        size: Its length in bytes.
        rows: How many rows it has.
    """

    def __init__(self, transport: MemoryTransport, addr: int, size: int, rows: int) -> None:
        self.transport = transport
        self.addr = addr
        self.size = size
        self.rows = rows

    @property
    def end(self) -> int:
        """The address where the next table can begin."""
        return -(-(self.addr + self.size) // ALIGNED) * ALIGNED

    def metadata(self) -> dict[str, int]:
        """Return what describes the table, as plain data that can be JSON."""
        return {"addr": self.addr, "size": self.size, "rows": self.rows}

    def read(self) -> Any:
        """Return the table as one of pyarrow.

        Raises:
            TransportError: What is there is no table.
            RemoteMemoryError: The memory refused, or is away.
        """
        data = pyarrow.allocate_buffer(self.size)
        if self.size:
            self.transport.read_into(self.addr, memoryview(data).cast("B"))
        try:
            with pyarrow.ipc.open_stream(data) as reader:
                table = reader.read_all()
            table.validate(full=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise TransportError(
                f"there is no table at {self.addr} of memory {printable(self.transport.name)}: "
                f"{printable(reason(error))}"
            ) from None
        if table.num_rows != self.rows:
            raise TransportError(f"a table of {table.num_rows} rows, not {self.rows}")
        return table


def write_table(transport: MemoryTransport, table: Any, addr: int = 0) -> RemoteTable:
    """Write a table of pyarrow into a memory.

    Args:
        transport: The way to the memory.
        table: The table.
        addr: Where it goes, in bytes; `end` of the table before.

    Raises:
        RemoteMemoryError: It does not fit, or the memory is away.
    """
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    transport.write_from(addr, memoryview(data).cast("B"))
    return RemoteTable(transport, addr, data.size, table.num_rows)


def open_table(transport: MemoryTransport, metadata: Mapping[str, Any]) -> RemoteTable:
    """Return the table that metadata describe; nothing is read yet.

    Raises:
        TransportError: They describe none.
    """
    try:
        numbers = [metadata[key] for key in ("addr", "size", "rows")]
    except (KeyError, TypeError):
        raise TransportError("no metadata of a table") from None
    size = transport.size()
    if not all(type(one) is int and 0 <= one < 1 << 48 for one in numbers) or (
        size and numbers[0] + numbers[1] > size
    ):
        raise TransportError("no metadata of a table in this memory")
    return RemoteTable(transport, *numbers)


def read_table(transport: MemoryTransport, metadata: Mapping[str, Any]) -> Any:
    """Return the table of pyarrow that metadata describe; errors as of `RemoteTable.read`."""
    return open_table(transport, metadata).read()


def partition(table: Any, key: str, parts: int) -> list[Any]:
    """Return a table in parts: rows of one key are all in one part.

    The part of a row follows from its key alone, so parts of two tables fit together.

    Args:
        table: A table of pyarrow.
        key: The column; its type can be cast to a text.
        parts: How many parts.
    """
    if parts < 1:
        raise TransportError(f"{parts} parts of a table")
    column = table.column(key).combine_chunks().dictionary_encode()
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    numbers = pyarrow.array(
        [_part(text, parts) for text in column.dictionary.cast(pyarrow.string()).to_pylist()],
        pyarrow.int64(),
    )
    of_row = pyarrow.compute.fill_null(numbers.take(column.indices), 0)
    return [table.filter(pyarrow.compute.equal(of_row, part)) for part in range(parts)]


def _part(text: str, parts: int) -> int:
    import zlib

    return zlib.crc32(text.encode()) % parts


def merge_tables(tables: Sequence[Any]) -> Any:
    """Return tables of one schema as one.

    Raises:
        TransportError: They have not one schema.
    """
    try:
        return pyarrow.concat_tables(tables)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise TransportError(f"tables cannot be merged: {printable(reason(error))}") from None


def join(left: RemoteTable, right: RemoteTable, keys: Any, kind: str = "inner") -> Any:
    """Read two tables and join them with pyarrow; see `pyarrow.Table.join`.

    Args:
        left: A table.
        right: Another one.
        keys: The name of the columns, or a list of names.
        kind: The kind of the join, such as "inner" or "left outer".
    """
    return left.read().join(right.read(), keys, join_type=kind)
