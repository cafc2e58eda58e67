"""Pieces of bytes of one size, of pieces of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wasmsr.migrate.ports import Buffer
from wasmsr.migrate.protocol import PIECE


def regroup(pieces: Iterable[Buffer], limit: int = PIECE) -> Iterator[Buffer]:
    """Return the same bytes in pieces of at most `limit`; join small pieces in sequence."""
    gathered = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while view:
            if not gathered and len(view) >= limit:
                yield view[:limit]
                view = view[limit:]
                continue
            room = limit - len(gathered)
            gathered += view[:room]
            view = view[room:]
            if len(gathered) == limit:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)
