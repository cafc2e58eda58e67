"""Reading snapshot files for `run` and `inspect`, with progress, and timed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

from wasmsr.cli.words.progress import shown
from wasmsr.errors import HandedOver, SnapshotError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module
    from wasmsr.interp.outcomes import Limits
    from wasmsr.program.timings import Timings
    from wasmsr.snapshot.format import Decoder
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.snapshot.trust.policy import ReadTrust

PIECE = 4 << 20
"""Bytes between two updates of the progress line."""


def pieces(path: str) -> Iterator[bytes]:
    """Return the bytes of a file, or of standard input for `-`. Raises SnapshotError."""
    try:
        with open(0 if path == "-" else path, "rb", buffering=0, closefd=path != "-") as file:
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        reason = error.strerror or str(error)
        raise SnapshotError(f"cannot read {printable(path)}: {reason}") from error


def decode(
    data: Iterable[bytes],
    path: str,
    *,
    timings: Timings | None = None,
    limits: Limits | None = None,
    carry_limit: int | None = None,
    trust: ReadTrust | None = None,
) -> tuple[SnapshotState, Decoder]:
    """Return a file's snapshot and its decoder; `path` is for people.

    The file is decoded while it is read, because a file that is no snapshot may have no end. Raises
    SnapshotError.
    """
    from wasmsr.snapshot.format import FILES_LIMIT, Decoder
    from wasmsr.snapshot.memory.adoption import allocate
    from wasmsr.snapshot.runnable.doorway import as_snapshot
    from wasmsr.snapshot.trust.policy import READ_ANY

    most = FILES_LIMIT if carry_limit is None else carry_limit
    decoder = Decoder(limits=limits, files=most, allocate=allocate, trust=trust or READ_ANY)
    reading = decoding = 0.0
    done, size = 0, os.path.getsize(path) if os.path.isfile(path) else 0
    begun = time.perf_counter()
    with shown(f"reading {printable(path)}") as advance:
        for piece in as_snapshot(data):
            read = time.perf_counter()
            decoder.feed(piece)
            done += len(piece)
            advance(done, max(done, size))
            reading, decoding = reading + read - begun, decoding + time.perf_counter() - read
            begun = time.perf_counter()
        snapshot = decoder.finish()
    if timings is not None:
        timings.add("read", reading)
        timings.add("decode", decoding + time.perf_counter() - begun)
        if decoder.header is not None and decoder.header.form_name == "mapped" and path != "-":
            _advise(path)
    return snapshot, decoder


def _advise(path: str) -> None:
    """Say how a mapped file that was read could have been mapped."""
    from wasmsr.cli.words.messages import say

    name = printable(path)
    say(
        f"{name} was read and not mapped, because it is not known to be unchanged; "
        f"wasmsr snapshot convert --mapped {name} -o FILE makes one that is",
        "info",
    )


def named_modules(state: SnapshotState, program: str | None, name: str) -> list[Module]:
    """Return modules that give names to what is in a snapshot, for people.

    Args:
        state: The snapshot.
        program: The program that was saved; by default it is looked for among the packaged ones.
        name: The snapshot's name.

    Raises:
        ModuleMismatch: The snapshot is of another program.
    """
    from wasmsr.cli import programs
    from wasmsr.errors import ModuleMismatch
    from wasmsr.interp.modules.module import Module

    wanted = {reference.digest for reference in state.modules}
    if program is None:
        names = filter(None, map(programs.known_digest, wanted))
        return [Module.from_file(programs.PROGRAMS[one].path) for one in names]
    module = programs.load(program)
    if module.digest not in wanted:
        raise ModuleMismatch(f"{name} is a snapshot of another module than {program}")
    return [module]


def _mapped(
    path: str,
    *,
    timings: Timings,
    limits: Limits | None,
    carry_limit: int | None,
    trust: ReadTrust | None,
) -> Decoder | None:
    """Return what has opened a mapped file without reading its pages; None for other files."""
    from wasmsr.snapshot.format import FILES_LIMIT
    from wasmsr.snapshot.mapped.opening import open_mapped
    from wasmsr.snapshot.trust.policy import READ_ANY

    if path == "-":
        return None
    most = FILES_LIMIT if carry_limit is None else carry_limit
    began = time.perf_counter()
    decoder = open_mapped(path, limits=limits, files=most, trust=trust or READ_ANY)
    if decoder is not None:
        timings.add("decode", time.perf_counter() - began)
    return decoder


def read_snapshot(
    path: str,
    *,
    adopt: bool,
    timings: Timings,
    limits: Limits | None = None,
    carry_limit: int | None = None,
    trust: ReadTrust | None = None,
) -> SnapshotState:
    """Return the snapshot in a file, or the last complete checkpoint in a folder.

    Args:
        limits: Limits of its memories, tables and stack.
        carry_limit: Most bytes of carried files; 1 GiB by default.
        trust: Keys that decrypt, and whose signature is asked for; None asks for nothing.

    Raises:
        HandedOver: Another host may own the program now, and `adopt` is not set.
        SnapshotError: The file cannot be read, is no snapshot, or exceeds a limit.
    """
    if os.path.isdir(path):
        from wasmsr.cli.words.messages import say
        from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
        from wasmsr.snapshot.format import FILES_LIMIT
        from wasmsr.snapshot.trust.policy import READ_ANY

        with timings.measure("decode"):
            number, state = CheckpointFolder(path, trust or READ_ANY).load(
                warn=lambda text: say(text, "warning"),
                adopt=adopt,
                limits=limits,
                files=FILES_LIMIT if carry_limit is None else carry_limit,
            )
        say(f"the program continues from checkpoint {number} in {printable(path)}", "info")
        return state
    decoder = _mapped(path, timings=timings, limits=limits, carry_limit=carry_limit, trust=trust)
    if decoder is not None:
        snapshot = decoder.finish()
    else:
        snapshot, decoder = decode(
            pieces(path), path, timings=timings, limits=limits, carry_limit=carry_limit, trust=trust
        )
    if decoder.header is not None and decoder.header.handed and not adopt:
        raise HandedOver(
            f"the program in {printable(path)} was handed over to another host, "
            "which may own it now",
            hint="if that host is gone for good, --adopt takes the program over; "
            "if it is not, the program would then run twice",
        )
    return snapshot
