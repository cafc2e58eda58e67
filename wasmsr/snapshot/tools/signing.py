"""Signs a snapshot file: its bytes stay, and the section of signatures is new."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from wasmsr.errors import FormatError, SnapshotError, printable
from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    FORM_NAMES,
    FULL,
    HEADER,
    INCREMENTAL,
    Header,
    section_bytes,
)
from wasmsr.snapshot.encoding.peek import exactly
from wasmsr.snapshot.format import save_pieces
from wasmsr.snapshot.sections.about.signatures import SIGNATURES
from wasmsr.snapshot.tools.copies import STDOUT, check_output
from wasmsr.snapshot.tools.opened import OpenedSnapshot, open_snapshot
from wasmsr.snapshot.trust.encryption import ENCRYPTION_HEAD
from wasmsr.snapshot.trust.policy import ReadTrust
from wasmsr.snapshot.trust.signatures import Signature, SigningKey, added, pack_signatures

_PIECE = 1 << 20


class Signed(NamedTuple):
    """What was signed, and by whom: the root digest and the public key."""

    root: bytes
    key: bytes


def sign_file(path: str, key: SigningKey, out: str | None, trust: ReadTrust) -> Signed:
    """Sign a snapshot after all of it was verified.

    Args:
        path: A full or incremental snapshot of version 2.
        key: The key.
        out: The file to write; None replaces `path`, which changes at once or not at all.
        trust: Keys that decrypt.

    Raises:
        SnapshotError: It is damaged, of version 1, mapped, or no file; or `out` cannot be written.
    """
    if os.path.isdir(path):
        raise SnapshotError(
            f"{printable(path)} is a folder",
            hint="wasmsr run --sign-with KEY signs checkpoints; sign a file of it by its name",
        )
    opened = open_snapshot(path, trust=trust)
    header = opened.header
    if header.version < 2 or header.form not in (FULL, INCREMENTAL):
        what = "version 1" if header.version < 2 else f"the form {FORM_NAMES[header.form]}"
        raise SnapshotError(
            f"{printable(path)} has {what}, which has no place for a signature",
            hint=f"wasmsr snapshot convert {printable(path)} -o FILE --format 2 --sign-with KEY",
        )
    if out is not None:
        check_output(opened, out, trust=trust)
    root = opened.decoder.root
    signatures = added(opened.decoder.signatures, key.sign(root))
    with open(path, "rb") as file:
        pieces = _copied(file, opened, signatures)
        save_pieces(pieces, 1 if out == STDOUT else path if out is None else out)
    return Signed(root, key.public)


def _copied(
    file: BinaryIO, opened: OpenedSnapshot, signatures: tuple[Signature, ...]
) -> Iterator[bytes]:
    """Yield the bytes of a file with other signatures."""
    old = Header.decode(exactly(file, HEADER.size))
    if old._replace(flags=0) != opened.header._replace(flags=0):
        raise FormatError(f"{printable(opened.path)} was replaced while it was read")
    had = [plain for kind, plain, _ in opened.decoder.sections if kind == SIGNATURES.kind]
    payload = pack_signatures(signatures)
    plain = old.plain - sum(had) + len(payload)
    yield old._replace(sections=old.sections - len(had) + 1, plain=plain).encode()
    if old.encrypted:
        yield exactly(file, ENCRYPTION_HEAD.size)
    added_yet = False
    for _ in range(old.sections):
        first = exactly(file, FIRST.size)
        kind, _, _, length, _, size, _ = FIRST.unpack(first)
        if kind > SIGNATURES.kind and not added_yet:
            yield from section_bytes(SIGNATURES.kind, payload)
            added_yet = True
        ours = kind != SIGNATURES.kind
        if ours:
            yield first
        yield from _kept(file, size, ours)
        for _ in range(BATCH_SIZE, length, BATCH_SIZE):
            head = exactly(file, BATCH.size)
            if ours:
                yield head
            yield from _kept(file, BATCH.unpack(head)[1], ours)
    if not added_yet:
        yield from section_bytes(SIGNATURES.kind, payload)
    while piece := file.read(_PIECE):
        yield piece


def _kept(file: BinaryIO, size: int, ours: bool) -> Iterator[bytes]:
    """Yield bytes of a file in pieces, or skip them."""
    while size:
        piece = exactly(file, min(size, _PIECE))
        size -= len(piece)
        if ours:
            yield piece
