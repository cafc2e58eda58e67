"""Reads one short section of a file and skips the others, without a check of the whole."""

from __future__ import annotations

import os
from struct import error as StructError
from typing import BinaryIO

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    HEADER,
    RAW,
    Header,
    check_batch,
    check_crc,
)
from wasmsr.snapshot.encoding.registry import BY_KIND, section_name
from wasmsr.snapshot.trust.encryption import ENCRYPTION_HEAD, TAG, BatchCipher
from wasmsr.snapshot.trust.policy import ReadTrust


def exactly(file: BinaryIO, size: int) -> bytes:
    """Return that many bytes of a file. Raises FormatError if it ends before."""
    data = file.read(size)
    if len(data) != size:
        raise FormatError("the file is cut off")
    return data


def read_section(
    file: BinaryIO, kind: int, *, limit: int, trust: ReadTrust
) -> tuple[Header, bytes | None]:
    """Return the header of a file, and the payload of a section that is never compressed.

    Args:
        file: The file, at its beginning. It must be one in which a reader can seek.
        kind: The kind of the section.
        limit: Bytes of it that are read; the rest is left out.
        trust: Keys that decrypt.

    Returns:
        The header and the payload; None if there is no such section.

    Raises:
        FormatError, VersionError, DigestError: What is wrong with the file.
        EncryptionError: No key decrypts it.
        OSError: The file cannot be read.
    """
    header = Header.decode(exactly(file, HEADER.size))
    cipher = None
    if header.encrypted:
        head = exactly(file, ENCRYPTION_HEAD.size)
        cipher = BatchCipher.of(head, header.form, trust.keys)
    try:
        for _ in range(header.sections):
            found, _, _, plain, codec, size, crc = FIRST.unpack(exactly(file, FIRST.size))
            if found == kind:
                own = cipher if BY_KIND[kind].encrypted else None
                return header, _payload(file, kind, plain, (codec, size, crc), own)[:limit]
            file.seek(size, os.SEEK_CUR)
            for _ in range(BATCH_SIZE, plain, BATCH_SIZE):
                _, size, _ = BATCH.unpack(exactly(file, BATCH.size))
                file.seek(size, os.SEEK_CUR)
    except (StructError, OverflowError) as error:
        raise FormatError("the file is cut off") from error
    return header, None


def _payload(
    file: BinaryIO, kind: int, plain: int, first: tuple[int, int, int], cipher: BatchCipher | None
) -> bytes:
    """Return the first batch of a section."""
    codec, size, crc = first
    name, length = section_name(kind), min(plain, BATCH_SIZE)
    check_batch(name, codec, size - (TAG if cipher is not None else 0), length, False)
    assert codec == RAW
    data = exactly(file, size)
    check_crc(name, crc, data)
    return data if cipher is None else cipher.open(name, kind, plain, 0, codec, data)
