"""Reading snapshot files for `run` and `inspect`, with progress, and timed."""

from __future__ import annotations

from wasmsr.cli.progress import shown
from wasmsr.errors import HandedOver, SnapshotError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.program import Timings
    from wasmsr.snapshot.format import Decoder
    from wasmsr.snapshot.state import Snapshot

PIECE = 4 << 20
"""Bytes between two looks at the progress."""


def read_bytes(path: str) -> bytes:
    """A file's bytes, those of standard input for `-`; SnapshotError where it cannot be read."""
    try:
        with open(0 if path == "-" else path, "rb", buffering=0, closefd=path != "-") as file:
            return file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SnapshotError(f"cannot read the snapshot {printable(path)}: {reason}") from error


def decode(data: bytes, path: str, *, carry_limit: int | None = None) -> tuple[Snapshot, Decoder]:
    """A file's snapshot and what read it; `path` is for people. Raises SnapshotError."""
    from wasmsr.snapshot.format import FILES_LIMIT, Decoder

    decoder = Decoder(files=FILES_LIMIT if carry_limit is None else carry_limit)
    with shown(f"reading {path}") as advance:
        for start in range(0, len(data), PIECE):
            decoder.feed(memoryview(data)[start : start + PIECE])
            advance(start, len(data))
        return decoder.finish(), decoder


def read_snapshot(
    path: str, *, adopt: bool, timings: Timings, carry_limit: int | None = None
) -> Snapshot:
    """The snapshot in a file, with at most `carry_limit` bytes of carried files (default 1 GiB).

    Raises:
        HandedOver: another host may own the program now, and `adopt` is not set.
        SnapshotError: it cannot be read, or is none.
    """
    with timings.measure("read"):
        data = read_bytes(path)
    with timings.measure("decode"):
        snapshot, decoder = decode(data, path, carry_limit=carry_limit)
    if decoder.header is not None and decoder.header.handed and not adopt:
        raise HandedOver(
            f"the program in {path} was handed over to another host, which may own it now",
            hint="if that host is gone for good, --adopt takes the program over; "
            "if it is not, the program would then run twice",
        )
    return snapshot
