"""Takes the bytes of a memory out of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from wasmsr.errors import SnapshotError, printable
from wasmsr.snapshot.format import save_pieces
from wasmsr.snapshot.tools.copies import STDOUT, check_output
from wasmsr.snapshot.tools.opened import OpenedSnapshot

_PIECE = 1 << 20


def dump_memory(
    opened: OpenedSnapshot, out: str, *, memory: int = 0, offset: int = 0, length: int | None = None
) -> int:
    """Write a part of a memory to a file, which must not be there, and return its size.

    Args:
        opened: The snapshot.
        out: The file; `-` is standard output.
        memory: The memory's address in the store.
        offset: Its first byte that is written.
        length: How many bytes are written; None for all that follow.

    Raises:
        SnapshotError: There is no such memory or part of it, or the file cannot be written.
    """
    memories = opened.state.memories
    if not 0 <= memory < len(memories):
        count = f"only {len(memories)}" if memories else "none"
        raise SnapshotError(f"{printable(opened.path)} has no memory {memory}, {count}")
    view = memoryview(memories[memory].data).cast("B")
    if length is None:
        length = len(view) - offset
    if offset < 0 or length < 0 or offset + length > len(view):
        raise SnapshotError(
            f"memory {memory} has {len(view)} bytes; {length} bytes from {offset:#x} are not in it"
        )
    check_output(opened, out, replaces=False)
    end = offset + length

    def pieces() -> Iterator[bytes]:
        for start in range(offset, end, _PIECE):
            yield bytes(view[start : min(start + _PIECE, end)])

    return save_pieces(pieces(), 1 if out == STDOUT else out, what="memory")
