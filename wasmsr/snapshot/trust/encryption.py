"""Encryption of compact snapshots: each batch by itself, bound to its place.

HKDF-SHA256 (RFC 5869) makes a key of its own for each file of the user's key and a random salt.
ChaCha20-Poly1305 (RFC 8439) encrypts the stored bytes of each batch. Layout and associated data:
docs/snapshot-format.md, section 13.9.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, NamedTuple

from wasmsr.errors import (
    DigestError,
    EncryptionError,
    FormatError,
    MissingPackageError,
    VersionError,
)
from wasmsr.snapshot.trust.key_sources import KEY_SIZE, encryption_bytes

ENCRYPTION_HEAD = Struct("<8sHHIQ32s32s32sII")
"""Magic, algorithm, sections, zero, plain bytes, salt, key check, program, zero, CRC-32."""
MAGIC = b"WSR key\n"
CHACHA20_POLY1305 = 1
"""The algorithm; there is no other one."""
TAG = 16
"""Bytes that a batch grows by."""
INFO = b"wasmsr snapshot 2 encryption"
"""The purpose for which keys are derived."""
_NONCE = Struct("<IQ")
"""Kind of the section, number of the batch."""
_PLACE = Struct("<HHIQQ")
"""Form, kind of the section, codec, plain bytes of the section, number of the batch."""


class EncryptionKey:
    """A secret key of 32 bytes, which encrypts and decrypts."""

    __slots__ = ("secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_SIZE:
            raise ValueError(f"an encryption key has {KEY_SIZE} bytes")
        self.secret = secret

    def __repr__(self) -> str:
        return "EncryptionKey(...)"

    @classmethod
    def read(cls, source: str) -> EncryptionKey:
        """Return the key in a source; see `key_sources.read_source`. Raises KeySourceError."""
        return cls(encryption_bytes(source))


class _Keys(NamedTuple):
    """What is derived for one file: of the batches, to check the key, of the program's name."""

    batches: bytes
    check: bytes
    program: bytes


def _derive(secret: bytes, salt: bytes) -> _Keys:
    """HKDF-SHA256 (RFC 5869) to 96 bytes."""
    import hmac  # only where something is encrypted: it takes a while

    extracted = hmac.digest(salt, secret, "sha256")
    parts = [b""]
    for number in (1, 2, 3):
        parts.append(hmac.digest(extracted, parts[-1] + INFO + bytes([number]), "sha256"))
    return _Keys(*parts[1:])


def _named(keys: _Keys, modules: Iterable[bytes]) -> bytes:
    """Return what the head says of the program, from the digests of its modules."""
    import hmac

    return hmac.digest(keys.program, b"".join(modules), "sha256")


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    except ImportError:
        raise MissingPackageError("cryptography", "an encrypted snapshot", extra="trust") from None
    return ChaCha20Poly1305(key)


class BatchCipher:
    """Encrypts or decrypts the batches of one file.

    Args:
        keys: The keys of the file.
        head: The encryption head.
        form: The form of the snapshot.

    Attributes:
        head: The encryption head.
        sections: How many sections are encrypted.
        plain: The sum of their plain lengths.
    """

    def __init__(self, keys: _Keys, head: bytes, form: int) -> None:
        self._keys = keys
        self._cipher = _cipher(keys.batches)
        self._form = form
        self.head = head
        _, _, self.sections, _, self.plain, _, _, self._program, _, _ = ENCRYPTION_HEAD.unpack(head)

    @classmethod
    def new(
        cls,
        key: EncryptionKey,
        form: int,
        *,
        sections: int,
        plain: int,
        modules: Iterable[bytes],
    ) -> BatchCipher:
        """Return the cipher of a file that is written, with a new salt.

        Args:
            key: The user's key.
            form: The form of the snapshot.
            sections: How many sections are encrypted.
            plain: The sum of their plain lengths.
            modules: The digests of the program's modules.
        """
        salt = os.urandom(32)
        keys = _derive(key.secret, salt)
        program = _named(keys, modules)
        head = ENCRYPTION_HEAD.pack(
            MAGIC, CHACHA20_POLY1305, sections, 0, plain, salt, keys.check, program, 0, 0
        )
        head = head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "little")
        return cls(keys, head, form)

    @classmethod
    def of(cls, data: bytes, form: int, keys: Sequence[EncryptionKey]) -> BatchCipher:
        """Return the cipher of a file that is read.

        Args:
            data: The encryption head.
            form: The form of the snapshot.
            keys: The keys that the reader has.

        Raises:
            EncryptionError: None of the keys is the one.
            FormatError, VersionError, DigestError: What is wrong with the head.
        """
        magic, algorithm, _, zero, _, salt, check, _, reserved, crc = ENCRYPTION_HEAD.unpack(data)
        if magic != MAGIC:
            raise FormatError("the encrypted snapshot has no encryption head")
        if zlib.crc32(data[:-4]) != crc:
            raise DigestError("the snapshot's encryption head is damaged: its checksum differs")
        if algorithm != CHACHA20_POLY1305:
            raise VersionError(
                f"the snapshot is encrypted by algorithm {algorithm}, which this wasmsr does not "
                "have",
                hint="read it with the wasmsr that wrote it, or a newer one",
            )
        if zero or reserved:
            raise FormatError("a reserved field of the snapshot's encryption head is not zero")
        for key in keys:
            derived = _derive(key.secret, salt)
            if derived.check == check:  # no secret: who reads it has the file
                return cls(derived, bytes(data), form)
        if not keys:
            raise EncryptionError(
                "the snapshot is encrypted, and no key is given", hint="--decrypt-with KEY"
            )
        raise EncryptionError(
            "the snapshot is encrypted with another key than the one that is given",
            hint="--decrypt-with KEY",
        )

    def _place(self, kind: int, codec: int, plain: int, number: int) -> tuple[bytes, bytes]:
        """Return nonce and associated data of a batch."""
        place = _PLACE.pack(self._form, kind, codec, plain, number)
        return _NONCE.pack(kind, number), self.head + place

    def seal(self, kind: int, plain: int, number: int, codec: int, stored: Any) -> bytes:
        """Encrypt the stored bytes of a batch.

        Args:
            kind: The kind of its section.
            plain: The plain length of the section.
            number: The number of the batch in the section.
            codec: The codec of the batch.
            stored: The bytes.
        """
        nonce, data = self._place(kind, codec, plain, number)
        return bytes(self._cipher.encrypt(nonce, bytes(stored), data))

    def open(self, name: str, kind: int, plain: int, number: int, codec: int, data: Any) -> bytes:
        """Decrypt the stored bytes of a batch; `name` is that of the section, for messages.

        Raises:
            EncryptionError: They were changed, or belong to another place.
        """
        from cryptography.exceptions import InvalidTag

        nonce, bound = self._place(kind, codec, plain, number)
        try:
            return bytes(self._cipher.decrypt(nonce, bytes(data), bound))
        except InvalidTag:
            raise EncryptionError(
                f"batch {number} of the {name} section is not what was encrypted there: it was "
                "changed, or moved from another place or file"
            ) from None

    def check_end(self, sections: int, plain: int) -> None:
        """Compare what was read with what the head says.

        Args:
            sections: How many encrypted sections there were.
            plain: The sum of their plain lengths.

        Raises:
            EncryptionError: It differs.
        """
        if (sections, plain) != (self.sections, self.plain):
            raise EncryptionError(
                f"the snapshot has {sections} encrypted sections in place of {self.sections}: one "
                "was removed or added"
            )

    def check_program(self, modules: Iterable[bytes]) -> None:
        """Compare the digests of the modules with what the head says. Raises EncryptionError."""
        if _named(self._keys, modules) != self._program:
            raise EncryptionError("the snapshot was encrypted as one of another program")
