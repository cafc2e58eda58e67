"""The ways to a memory that an element can have: in its process, shared on its machine, by TCP."""

from __future__ import annotations

import mmap
import sys
from abc import ABC, abstractmethod
from multiprocessing import resource_tracker, shared_memory
from typing import TYPE_CHECKING

from wasmsr.errors import printable, reason
from wasmsr.mem.durl import Durl
from wasmsr.mem.failures import RemoteMemoryError, TransportError
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.sizes import parse_size
from wasmsr.mem.wire.commands import OUT_OF_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Callable

IMPLS = ("local", "shm", "tcp")
"""The kinds of transports that are here."""
REFUSED = {
    "uverbs": "RDMA needs a network card for it (InfiniBand verbs), and is not built here",
    "uverbs_proxy": "RDMA needs a network card for it (InfiniBand verbs), and is not built here",
}
"""Kinds of the peer that are refused by name."""


class MemoryTransport(ABC):
    """A way to one memory, with a buffer of the caller between.

    Attributes:
        name: The name by which an element asked for it.
        buf: The buffer: bytes that `read` fills and `write` sends. Made by `reg`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._buf: memoryview | None = None

    @property
    def buf(self) -> memoryview:
        """The buffer; it may be read and written like bytes.

        Raises:
            TransportError: `reg` was not called.
        """
        if self._buf is None:
            raise TransportError(
                f"transport {printable(self.name)} has no buffer", hint="call reg(size) first"
            )
        return self._buf

    def reg(self, size: int, other: MemoryTransport | None = None) -> None:
        """Make the buffer.

        Args:
            size: Its length in bytes.
            other: Another transport whose buffer is used here too.

        Raises:
            TransportError: The size is wrong, or larger than the other's buffer.
        """
        if not 0 <= size <= sys.maxsize:
            raise TransportError(f"{size} is no size of a buffer")
        if other is None:
            kept = self._buf
            if kept is None or len(kept) < size:
                kept = memoryview(bytearray(size))
            self._buf = kept[:size]
        elif len(other.buf) < size:
            raise TransportError(f"a buffer of {size} bytes in one of {len(other.buf)}")
        else:
            self._buf = other.buf[:size]

    def read(self, size: int, addr: int, offset: int = 0) -> int:
        """Copy bytes of the memory into the buffer, and return 0.

        Args:
            size: How many bytes.
            addr: Where they begin in the memory.
            offset: Where they go in the buffer.

        Raises:
            RemoteMemoryError: The memory refused, with its status, or is away.
        """
        self.read_into(addr, self._part(size, offset))
        return 0

    def write(self, size: int, addr: int, offset: int = 0) -> int:
        """Copy bytes of the buffer into the memory, and return 0.

        Args:
            size: How many bytes.
            addr: Where they go in the memory.
            offset: Where they begin in the buffer.

        Raises:
            RemoteMemoryError: The memory refused, with its status, or is away.
        """
        self.write_from(addr, self._part(size, offset))
        return 0

    def _part(self, size: int, offset: int) -> memoryview:
        buffer = self.buf
        if size < 0 or offset < 0 or offset + size > len(buffer):
            raise TransportError(
                f"bytes {offset} to {offset + size} are not in a buffer of {len(buffer)} bytes"
            )
        return buffer[offset : offset + size]

    @abstractmethod
    def read_into(self, addr: int, buffer: memoryview) -> None:
        """Copy bytes of the memory to a buffer of the caller; errors as of `read`."""

    @abstractmethod
    def write_from(self, addr: int, buffer: memoryview) -> None:
        """Copy bytes to the memory; errors as of `write`."""

    @abstractmethod
    def size(self) -> int:
        """Return the length of the memory in bytes, 0 if it does not say it."""

    @abstractmethod
    def close(self) -> None:
        """Give it back."""


class MappedTransport(MemoryTransport):
    """A memory in this process's address space: its own, or one that is shared on this machine."""

    def __init__(self, name: str, memory: memoryview, given_back: Callable[[], None]) -> None:
        super().__init__(name)
        self._memory = memory.cast("B")
        self._given_back = given_back

    def read_into(self, addr: int, buffer: memoryview) -> None:
        """Copy bytes of the memory to a buffer of the caller."""
        self._check(addr, len(buffer), "read")
        buffer[:] = self._memory[addr : addr + len(buffer)]

    def write_from(self, addr: int, buffer: memoryview) -> None:
        """Copy bytes to the memory."""
        self._check(addr, len(buffer), "write")
        self._memory[addr : addr + len(buffer)] = buffer

    def _check(self, addr: int, size: int, verb: str) -> None:
        if not 0 <= addr <= len(self._memory) - size:
            raise RemoteMemoryError(
                f"memory {printable(self.name)}: to {verb} {size} bytes at {addr} is out "
                f"of bounds; it has {len(self._memory)} bytes",
                status=OUT_OF_BOUNDS,
            )

    def size(self) -> int:
        """Return the length of the memory in bytes."""
        return len(self._memory)

    def close(self) -> None:
        """Give the mapping back."""
        self._memory.release()
        self._given_back()


class TcpTransport(MemoryTransport):
    """A memory behind a connection.

    Attributes:
        link: The connection.
    """

    def __init__(self, name: str, link: MemoryLink) -> None:
        super().__init__(name)
        self.link = link

    def read_into(self, addr: int, buffer: memoryview) -> None:
        """Copy bytes of the memory to a buffer of the caller."""
        self.link.read(addr, buffer)

    def write_from(self, addr: int, buffer: memoryview) -> None:
        """Copy bytes to the memory."""
        self.link.write(addr, buffer)

    def size(self) -> int:
        """Return the length of the memory in bytes, 0 if it does not say it."""
        return self.link.size()

    def close(self) -> None:
        """Close the connection."""
        self.link.close()


def local(size: int, name: str = "local") -> MappedTransport:
    """Return a transport to a new memory of this process.

    Args:
        size: Its length in bytes.
        name: Its name.
    """
    if size <= 0:
        raise TransportError(f"a memory of {size} bytes")
    try:
        mapping = mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise TransportError(f"a memory of {size} bytes: {reason(error)}") from error
    return MappedTransport(name, memoryview(mapping), mapping.close)


def shm(size: int, name: str) -> MappedTransport:
    """Return a transport to a memory that processes of this machine share.

    The one that is there is taken, otherwise a new one is made. It outlives this process;
    `remove_shared` removes it.

    Args:
        size: Its length in bytes; 0 takes the length of the one that is there.
        name: Its name, under which others find it.

    Raises:
        TransportError: It is shorter, or cannot be made.
    """
    found = shared(size, name)
    if found.size < size:
        found.close()
        raise TransportError(f"shared memory {printable(name)} has {found.size} bytes, not {size}")
    length = size or found.size
    assert found.buf is not None
    return MappedTransport(name, found.buf[:length], lambda: _close(found))


def shared(size: int, name: str, *, new: bool = False) -> shared_memory.SharedMemory:
    """Return shared memory by its name; it is made if it is not there and `size` is not 0.

    Args:
        size: Its length in bytes.
        name: Its name.
        new: Take none that is there: another user may have made it.

    Raises:
        TransportError: It cannot be had.
    """
    try:
        try:
            if new:
                raise FileNotFoundError
            found = shared_memory.SharedMemory(name)
        except FileNotFoundError:
            if not size:
                raise
            found = shared_memory.SharedMemory(name, create=True, size=size)
    except (OSError, ValueError) as error:
        raise TransportError(f"shared memory {printable(name)}: {reason(error)}") from error
    # Python would remove it with the first process that ends; the one who removes it is named.
    resource_tracker.unregister(f"/{name}", "shared_memory")
    return found


def remove_shared(name: str) -> None:
    """Remove shared memory by its name, if it is there; who has it mapped keeps it.

    Raises:
        TransportError: It belongs to another user.
    """
    try:
        found = shared_memory.SharedMemory(name)
    except (FileNotFoundError, ValueError):
        return
    except OSError as error:
        raise TransportError(f"shared memory {printable(name)}: {reason(error)}") from error
    found.close()
    try:
        found.unlink()
    except FileNotFoundError:
        resource_tracker.unregister(f"/{name}", "shared_memory")
    except OSError as error:
        resource_tracker.unregister(f"/{name}", "shared_memory")
        raise TransportError(f"shared memory {printable(name)}: {reason(error)}") from error


def _close(found: shared_memory.SharedMemory) -> None:
    try:
        found.close()
    except BufferError:  # a caller still has a view of it; the end of the process gives it back
        return


def transport_of(durl: Durl, *, client: bytes = b"", epoch: int = 0, seq: int = 0,
                 where: Callable[[], str] | None = None) -> MemoryTransport:  # fmt: skip
    """Make the transport that a text describes.

    Args:
        durl: The text, read.
        client: For `tcp`, as for `MemoryLink`.
        epoch: The same, if the text has no `epoch,NUMBER;`.
        seq: The same.
        where: The same.

    Raises:
        TransportError: The kind is unknown or cannot be had, or a value is wrong.
    """
    if durl.impl in REFUSED:
        raise TransportError(
            f"transport {printable(durl.name)}: rdma_{durl.impl} is not supported: "
            f"{REFUSED[durl.impl]}",
            hint="use rdma_tcp, or rdma_shm on one machine",
        )
    if durl.impl not in IMPLS:
        raise TransportError(
            f"transport {printable(durl.name)}: {printable(durl.impl)} is unknown",
            hint=f"known are {', '.join(IMPLS)}",
        )
    if durl.impl == "tcp":
        link = MemoryLink(durl.name, durl.value("url"), client=client, epoch=epoch_of(durl, epoch),
                          seq=seq, where=where)  # fmt: skip
        return TcpTransport(durl.name, link)
    try:
        size = parse_size(durl.values.get("size", "0" if durl.impl == "shm" else ""))
    except ValueError as error:
        raise TransportError(f"transport {printable(durl.name)}: size: {error}") from None
    if durl.impl == "local":
        return local(size, durl.name)
    return shm(size, durl.values.get("shm_id", durl.name))


def epoch_of(durl: Durl, otherwise: int = 0) -> int:
    """Return the epoch that a text has for its memory.

    Args:
        durl: The text, read.
        otherwise: The epoch if it has none.

    Raises:
        TransportError: It is no number of 64 bits.
    """
    text = durl.values.get("epoch")
    if text is None:
        return otherwise
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) >= 1 << 64:
        raise TransportError(f"transport {printable(durl.name)}: {printable(text)} is no epoch")
    return int(text)
