"""Whether snapshots are complete and undamaged, and what their files say of themselves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from wasmsr.errors import SignatureError, SnapshotError, printable
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.encoding.container import FORM_NAMES
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.tools.opened import no_checkpoint, open_snapshot
from wasmsr.snapshot.trust.policy import READ_ANY, ReadTrust
from wasmsr.snapshot.trust.signatures import is_valid, short


@dataclass(slots=True)
class Verdict:
    """What was found out about one file.

    Attributes:
        file: The file.
        number: Its number in a folder of checkpoints, or None.
        error: What is wrong with it, or with what is below it; None if it is complete. The
            attributes below are None then.
        version: The version of its format.
        form: The name of its form.
        depth: How many snapshots are below it.
        size: Bytes of the file.
        root: Its root digest.
        content: Its content digest.
        handed: Whether the program was handed over to another host.
        encrypted: Whether its content is encrypted.
        signatures: The public key of each signature, and whether the signature is right.
    """

    file: str
    number: int | None = None
    error: SnapshotError | None = None
    version: int | None = None
    form: str | None = None
    depth: int | None = None
    size: int | None = None
    root: bytes | None = None
    content: bytes | None = None
    handed: bool | None = None
    encrypted: bool | None = None
    signatures: tuple[tuple[bytes, bool], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the file and all that is below it are there and undamaged."""
        return self.error is None

    def as_data(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return {
            "file": self.file,
            "checkpoint": self.number,
            "complete": self.complete,
            "error": None if self.error is None else self.error.message,
            "version": self.version,
            "form": self.form,
            "depth": self.depth,
            "bytes": self.size,
            "root_digest": None if self.root is None else self.root.hex(),
            "content_digest": None if self.content is None else self.content.hex(),
            "handed_over": self.handed,
            "encrypted": self.encrypted,
            "signatures": [{"key": key.hex(), "valid": valid} for key, valid in self.signatures],
        }


def verify_file(path: str | os.PathLike[str], trust: ReadTrust = READ_ANY) -> Verdict:
    """Read a file, with all that is below it, and say what it is."""
    place = os.fspath(path)
    try:
        opened = open_snapshot(place, trust=trust)
        return _verdict(place, None, opened.decoder, opened.depth)
    except SnapshotError as error:
        return Verdict(place, error=error)


def verify_folder(path: str | os.PathLike[str], trust: ReadTrust = READ_ANY) -> list[Verdict]:
    """Read all checkpoints of a folder and say what each is, by number.

    Each file of a chain is read once: who reads a checkpoint has read what is below it.

    Raises:
        SnapshotError: The folder cannot be read, or has no checkpoint.
    """
    folder = CheckpointFolder(path, trust)
    heads = folder.heads()
    numbers = folder.numbers()
    if not numbers:
        raise no_checkpoint(folder.path)
    found: dict[int, Verdict] = {}
    for number in reversed(numbers):
        if number in found:
            continue
        chain, whole = [number], 0
        try:
            if number not in heads:
                folder.head(number)  # says what is wrong
            chain = folder.chain(number, heads)
            for whole, link in enumerate(folder.links(number, heads), 1):  # noqa: B007
                found[link.number] = _verdict(
                    folder.file(link.number), link.number, link.decoder, link.read.depth
                )
        except SnapshotError as error:
            for one in chain[whole:]:  # what is above a damaged one need not be read
                file = folder.file(one)
                if os.path.lexists(file):  # else its writer has removed it meanwhile
                    found.setdefault(one, Verdict(file, one, error))
    return [found[number] for number in sorted(found)]


def _verdict(file: str, number: int | None, decoder: Decoder, depth: int) -> Verdict:
    header = decoder.header
    assert header is not None
    signatures = tuple((one.key, is_valid(one, decoder.root)) for one in decoder.signatures)
    if not all(valid for _, valid in signatures):
        wrong = ", ".join(short(key) for key, valid in signatures if not valid)
        raise SignatureError(f"{printable(file)}: the signature by {wrong} is wrong")
    return Verdict(
        file,
        number,
        version=header.version,
        form=FORM_NAMES[header.form],
        depth=depth,
        size=decoder.stored,
        root=decoder.root,
        content=decoder.content,
        handed=header.handed,
        encrypted=header.encrypted,
        signatures=signatures,
    )
