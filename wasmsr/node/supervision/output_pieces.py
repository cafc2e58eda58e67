"""Output of a program, as a reader gets it: in pieces, and told where it was cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from wasmsr.executor.output.rings import read_ring, ring_bounds
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.program_record import STREAMS

PIECE = 1 << 16
"""Bytes of output that are given at a time."""

FOLLOW_SECONDS = 0.05
"""Seconds between two looks for more output."""


class OutputPiece(NamedTuple):
    """Output of a program.

    Attributes:
        stream: "stdout" or "stderr".
        offset: Offset in the stream of the first byte.
        data: The bytes.
        life: The life of the program that a reader names when it asks again.
        rewound: The stream was cut to `offset`: what the reader had beyond is written again.
        dropped: Bytes before `offset` that the reader has not had and that are kept no more.
    """

    stream: str
    offset: int
    data: bytes
    life: int
    rewound: bool = False
    dropped: int = 0


def program_output(
    program: NodeProgram,
    streams: Iterable[str] = STREAMS,
    *,
    follow: bool = False,
    had: Mapping[str, tuple[int, int]] | None = None,
    gone: Callable[[], bool] = lambda: False,
) -> Iterator[OutputPiece]:
    """Yield output of a program in pieces.

    Args:
        program: The program.
        streams: The streams.
        follow: Wait for more until the program has ended.
        had: What the reader has: of each stream, the offset after its last piece, and the life
            of that (0 for none).
        gone: Returns whether the reader is gone.

    Raises:
        OSError: The output cannot be read.
    """
    places = {stream: (had or {}).get(stream, (0, 0))[0] for stream in streams}
    lives = {stream: (had or {}).get(stream, (0, 0))[1] for stream in places}
    lives = {stream: life or program.record.life for stream, life in lives.items()}
    while not gone():
        last = not follow or not _may_write(program)
        some = False
        for stream in places:
            while not gone():
                piece = _next_piece(program, stream, places[stream], lives[stream])
                if piece is None:
                    break
                some = True
                places[stream], lives[stream] = piece.offset + len(piece.data), piece.life
                yield piece
        if last and not some:
            return
        if not some:
            time.sleep(FOLLOW_SECONDS)


def _may_write(program: NodeProgram) -> bool:
    return not program.standing.is_final


def _next_piece(program: NodeProgram, stream: str, offset: int, life: int) -> OutputPiece | None:
    """Return what a reader gets next, or None if there is nothing now."""
    record, folder = program.record, program.folder.output
    now = record.life
    cut = record.rewound(life, stream, offset) if life < now else None
    if cut is not None:
        return OutputPiece(stream, cut, b"", now, rewound=True)
    if offset > ring_bounds(folder, stream)[1]:
        return None  # it asks for what is not written yet
    start, data = read_ring(folder, stream, offset, PIECE)
    end = program.shown_end(stream)
    if end is not None:
        data = data[: max(0, end - start)]
    if record.life != now or not data:
        return None  # the stream may have been cut while it was read
    return OutputPiece(stream, start, data, now, dropped=start - offset)


__all__ = ["OutputPiece", "program_output"]
