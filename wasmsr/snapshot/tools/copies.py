"""Writes a snapshot anew: a chain merged into one full file, or another version of the format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from wasmsr.errors import DigestError, EncryptionError, SnapshotError, UnportableState, printable
from wasmsr.snapshot.checkpoints.folder import is_checkpoint_name
from wasmsr.snapshot.encoding.container import HEADER, MAGIC, Header
from wasmsr.snapshot.encoding.registry import BY_KIND
from wasmsr.snapshot.encoding.section import UnknownSection
from wasmsr.snapshot.format import content_digest, encode, is_of_module, save_pieces
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.spaces.space_pages import Written
from wasmsr.snapshot.tools.opened import OpenedSnapshot
from wasmsr.snapshot.trust.policy import READ_ANY, WRITE_PLAIN, ReadTrust, WriteTrust

STDOUT = "-"
"""The name of standard output as a file to write."""


class Copied(NamedTuple):
    """What was written: bytes, root digest, content digest and the number of signatures."""

    size: int
    root: bytes
    content: bytes
    signatures: int = 0


class CopiedMapped(NamedTuple):
    """A mapped file that was written: bytes, root digest, whether it was admitted, and the number
    of signatures."""

    size: int
    root: bytes
    admitted: bool
    signatures: int


def write_full(
    opened: OpenedSnapshot,
    out: str,
    *,
    version: int,
    trust: WriteTrust = WRITE_PLAIN,
    read: ReadTrust = READ_ANY,
) -> Copied:
    """Write a full snapshot of the same state. A mark of hand-over stays.

    In version 2 a snapshot of version 2 keeps its root digest and its signatures, whatever its
    form.

    Args:
        opened: The snapshot.
        out: The file to write, which appears complete or not at all; `-` is standard output.
        version: The version of the format to write.
        trust: Keys that sign and encrypt the copy, only in version 2.
        read: Keys that decrypt a file that is replaced.

    Raises:
        SnapshotError: The file must not or cannot be written.
        UnportableState: The snapshot has a section that this wasmsr does not know.
    """
    refuse_unknown(opened)
    check_output(opened, out, trust=read)
    same = opened.header.version == version
    if same and version > 1:
        trust = trust.keeping(opened.decoder.signatures, opened.decoder.root)
    written: list[Written] = []
    first = b""

    def pieces() -> Iterator[bytes]:
        nonlocal first
        for piece in encode(
            opened.state,
            version=version,
            handed=opened.header.handed,
            written=written.append,
            trust=trust,
        ):
            first = first or piece[: HEADER.size]
            yield piece
        if written and same and written[0].root != opened.decoder.root:
            raise DigestError("the copy would have another root digest, so it is not kept")

    size = save_pieces(pieces(), 1 if out == STDOUT else out)
    if written:
        return Copied(size, written[0].root, written[0].content, trust.signed_by)
    content = opened.decoder.content if same else content_digest(opened.state, version=version)
    return Copied(size, Header.decode(first).root, content)


def write_mapped_copy(
    opened: OpenedSnapshot,
    out: str,
    *,
    trust: WriteTrust = WRITE_PLAIN,
    read: ReadTrust = READ_ANY,
) -> CopiedMapped:
    """Write a mapped snapshot of the same state, and admit it. A mark of hand-over stays.

    Those who may read the source may read the copy; nobody may write it.

    Args:
        opened: The snapshot. One of version 2 keeps its root digest and its signatures.
        out: The file to write, which appears complete or not at all.
        trust: Keys that sign the copy.
        read: Keys that decrypt a file that is replaced.

    Raises:
        SnapshotError: The file must not or cannot be written.
        EncryptionError: It should be encrypted.
        UnportableState: The snapshot has a section that this wasmsr does not know.
    """
    refuse_unknown(opened)
    if out == STDOUT:
        raise SnapshotError(
            "a mapped snapshot is a file with holes, which cannot go to standard output",
            hint="name a file: --output FILE",
        )
    check_output(opened, out, trust=read)
    header = opened.header
    root = None
    if header.version > 1:
        root = opened.decoder.root
        trust = trust.keeping(opened.decoder.signatures, root)
    try:
        readers = os.stat(opened.path).st_mode
    except OSError:
        readers = 0
    saved = save_mapped(
        opened.state, out, handed=header.handed, root=root, readers=readers, trust=trust
    )
    return CopiedMapped(saved.size, saved.written.root, saved.admitted, trust.signed_by)


def check_output(
    opened: OpenedSnapshot, out: str, *, replaces: bool = True, trust: ReadTrust = READ_ANY
) -> None:
    """Refuse an output whose writing would destroy something.

    Args:
        opened: What is read.
        out: The file to write.
        replaces: Whether it may be a snapshot of the same program, which is replaced; otherwise
            no file is.
        trust: Keys that decrypt the file that is there.

    Raises:
        SnapshotError: It is what is read, a checkpoint beside it, or another file.
    """
    if out == STDOUT:
        return
    target = os.path.realpath(out)
    source = os.path.realpath(opened.path)
    beside = os.path.dirname(target) == os.path.dirname(source)
    if target == source or _is_same(target, source):
        raise SnapshotError(
            f"{printable(out)} is what is read", hint="name another file: --output FILE"
        )
    if beside and is_checkpoint_name(os.path.basename(target)):
        raise SnapshotError(
            f"{printable(out)} has the name of a checkpoint, in the folder of checkpoints",
            hint="other checkpoints may be made against it: name another file",
        )
    if not os.path.isfile(target) or not os.path.getsize(target):
        return
    if not replaces:
        raise SnapshotError(
            f"{printable(out)} is there already", hint="remove it, or name another file"
        )
    try:
        with open(target, "rb") as file:
            begin = file.read(len(MAGIC))
        modules = opened.state.modules
        ours = not modules or any(is_of_module(target, one.digest, trust=trust) for one in modules)
    except EncryptionError as error:
        raise SnapshotError(
            f"{printable(out)} is an encrypted snapshot, and the key for it is not given",
            hint="name another file, or give --decrypt-with KEY",
        ) from error
    except OSError as error:
        raise SnapshotError(f"cannot read {printable(out)}: {error.strerror}") from error
    if begin != MAGIC:
        raise SnapshotError(
            f"{printable(out)} is there already and is no snapshot",
            hint="remove it, or name another file",
        )
    if not ours:
        raise SnapshotError(
            f"{printable(out)} is a snapshot of another program",
            hint="remove it, or name another file",
        )


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def refuse_unknown(opened: OpenedSnapshot) -> None:
    """Refuse a snapshot with a section that was skipped: a copy would lack it.

    Raises:
        UnportableState: It has such a section.
    """
    for kind, _, _ in opened.decoder.sections:
        section = BY_KIND.get(kind)
        if section is None or opened.header.version not in section.versions:
            raise UnportableState(
                f"{printable(opened.path)} has a section of {UnknownSection(kind).name}, which "
                "this wasmsr does not know and a copy would lack",
                hint="use the wasmsr that wrote it, or a newer one",
            )
