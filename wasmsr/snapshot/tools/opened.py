"""Reads what the tools work on: a file of version 1 or 2, or the last checkpoint of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from wasmsr.errors import SnapshotError, TrustError, printable
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.encoding.container import Header
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.encoding.section import ReadBase, no_base
from wasmsr.snapshot.format import read_file
from wasmsr.snapshot.sections.host.files import without_unused
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.policy import READ_ANY, ReadTrust


@dataclass(slots=True)
class OpenedSnapshot:
    """A snapshot that was read, with all that is below it, and verified.

    Attributes:
        path: Its file.
        state: The program.
        decoder: What has read the file.
        depth: How many snapshots are below it; 0 if it is full.
        number: Its number if it was found in a folder of checkpoints.
    """

    path: str
    state: SnapshotState
    decoder: Decoder
    depth: int = 0
    number: int | None = None

    @property
    def header(self) -> Header:
        """The header of the file."""
        assert self.decoder.header is not None
        return self.decoder.header

    @property
    def form(self) -> str:
        """The name of its form."""
        return self.header.form_name


def open_snapshot(
    path: str | os.PathLike[str],
    *,
    warn: Callable[[str], None] = lambda text: None,
    trust: ReadTrust = READ_ANY,
) -> OpenedSnapshot:
    """Read a snapshot. A mark of hand-over does not matter here: nothing runs a program.

    The base of an incremental file is looked for among the checkpoints in the file's folder.

    Args:
        path: A file, or a folder of checkpoints, of which the last complete one is taken.
        warn: Gets a sentence for each damaged checkpoint that is passed over.
        trust: Keys that decrypt, and whose signature is asked for of every file that is read.

    Raises:
        SnapshotError: What is wrong; the message names the file.
    """
    place = os.fspath(path)
    if not os.path.isdir(place):
        return _open_file(place, trust)
    folder = CheckpointFolder(place, trust)
    heads = folder.heads()
    for number in reversed(folder.numbers()):
        try:
            if number not in heads:
                folder.head(number)  # says what is wrong
            *_, last = folder.links(number, heads)
        except TrustError:
            raise  # to go on with an older one would hide it
        except SnapshotError as error:
            warn(f"checkpoint {number} is passed over: {error.message}")
            continue
        state = without_unused(last.read.state)
        return OpenedSnapshot(folder.file(number), state, last.decoder, last.read.depth, number)
    raise no_checkpoint(place)


def no_checkpoint(place: str) -> SnapshotError:
    """Return the error for a folder without a complete checkpoint."""
    return SnapshotError(
        f"there is no complete checkpoint in {printable(place)}",
        hint="wasmsr run PROGRAM --snapshot-every 5 --checkpoint-dir FOLDER writes some",
    )


def _open_file(path: str, trust: ReadTrust) -> OpenedSnapshot:
    depth = 0

    def beside(root: bytes) -> ReadBase:
        nonlocal depth
        base = _base_beside(path, root, trust)
        depth = base.depth + 1
        return base

    decoder = Decoder(find_base=beside, trust=trust)
    try:
        state = read_file(path, decoder).finish()
    except SnapshotError as error:
        if printable(path) in error.message:
            raise
        raise type(error)(f"{printable(path)}: {error.message}", hint=error.hint) from error
    return OpenedSnapshot(path, without_unused(state), decoder, depth)


def _base_beside(path: str, root: bytes, trust: ReadTrust) -> ReadBase:
    """Return the base with this root, from the checkpoints in the folder of a file."""
    folder = CheckpointFolder(os.path.dirname(os.path.realpath(path)), trust)
    heads = folder.heads()
    for number, head in heads.items():
        if head.root == root:
            *_, last = folder.links(number, heads)
            return last.read
    return no_base(root)
