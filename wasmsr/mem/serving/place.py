"""Where the bytes of a memory are: in this process, or shared with others of this machine."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wasmsr.errors import reason
from wasmsr.mem.failures import TransportError
from wasmsr.mem.transports import remove_shared, shared


@contextmanager
def own_place(size: int) -> Iterator[memoryview]:
    """Give bytes, all 0, that are of this process only.

    Raises:
        TransportError: There is no room for so many.
    """
    if size <= 0:
        raise TransportError(f"a memory of {size} bytes")
    try:
        mapping = mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise TransportError(f"a memory of {size} bytes: {reason(error)}") from error
    try:
        with memoryview(mapping) as view:
            yield view
    finally:
        with suppress(BufferError):  # a view that is left goes with the process
            mapping.close()


@contextmanager
def shared_place(size: int, name: str) -> Iterator[memoryview]:
    """Give bytes, all 0, that others map by a name; they are removed at the end.

    What an earlier process has left under the name is removed first.

    Raises:
        TransportError: There is no room for so many, or another user has the name.
    """
    if size <= 0:
        raise TransportError(f"a memory of {size} bytes")
    remove_shared(name)
    found = shared(size, name, new=True)
    try:
        assert found.buf is not None
        with found.buf[:size] as view:
            yield view
    finally:
        remove_shared(name)
        with suppress(BufferError):
            found.close()
