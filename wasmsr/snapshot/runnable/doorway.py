"""Reads a plain state wherever a snapshot is read. It is small: every reader of a file asks it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wasmsr.errors import FormatError
from wasmsr.snapshot.runnable.plain_state import MAGIC, MOST, is_plain


def as_snapshot(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Return the bytes of a file as those of a snapshot.

    A plain state becomes a snapshot of version 2; all else is passed on as it comes.

    Args:
        pieces: The file, cut in any way.

    Raises:
        FormatError, DigestError, VersionError: What is wrong with a plain state.
    """
    waiting = iter(pieces)
    first = b""
    for piece in waiting:
        first += piece
        if len(first) >= len(MAGIC):
            break
    if not is_plain(first):
        if first:
            yield first
        yield from waiting
        return
    from wasmsr.snapshot.encoding.writer import encode
    from wasmsr.snapshot.runnable.incoming import read_plain

    data = bytearray(first)
    for piece in waiting:
        data += piece
        if len(data) > MOST:
            raise FormatError(f"the state file has more than {MOST} bytes")
    yield from encode(read_plain(memoryview(data)), compress=False, version=2)
