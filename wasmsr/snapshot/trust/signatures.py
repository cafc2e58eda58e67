"""Signatures over the root digest of a snapshot: Ed25519 (RFC 8032).

Layout: docs/snapshot-format.md, section 13.8. A root is equal in all forms of a snapshot, so a
signature stays valid when a chain is merged, or a snapshot is encrypted, stored or mapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from wasmsr.errors import FormatError, MissingPackageError, SignatureError, SnapshotError
from wasmsr.snapshot.trust.key_sources import private_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ED25519 = 1
"""The algorithm of a signature; there is no other one."""
ENTRY = Struct("<HHI32s64s")
"""Algorithm, zero, zero, public key, signature."""
MOST = 16
"""How many signatures a snapshot may have."""
CONTEXT = b"wasmsr snapshot root\n"
"""What is signed before the root: a signature is never valid for another purpose."""


class Signature(NamedTuple):
    """A signature: the public key (32 bytes) and the signature itself (64 bytes)."""

    key: bytes
    value: bytes


class SigningKey:
    """A private key.

    Args:
        key: Its 32 bytes.

    Attributes:
        public: The 32 bytes of the public key.

    Raises:
        MissingPackageError: `cryptography` is not installed.
    """

    def __init__(self, key: bytes) -> None:
        self._key = _ed25519(key)
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self.public: bytes = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def read(cls, source: str) -> SigningKey:
        """Return the key in a source; see `key_sources.read_source`. Raises KeySourceError."""
        return cls(private_bytes(source))

    def sign(self, root: bytes) -> Signature:
        """Return the signature over a root digest."""
        return Signature(self.public, self._key.sign(CONTEXT + root))


def _ed25519(key: bytes) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise MissingPackageError(
            "cryptography", "a signature on a snapshot", extra="trust"
        ) from None
    return Ed25519PrivateKey.from_private_bytes(key)


def is_valid(signature: Signature, root: bytes) -> bool:
    """Return whether a signature is that of its key over a root digest.

    Raises:
        MissingPackageError: `cryptography` is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise MissingPackageError(
            "cryptography", "the check of a signature", extra="trust"
        ) from None
    try:
        Ed25519PublicKey.from_public_bytes(signature.key).verify(signature.value, CONTEXT + root)
    except (InvalidSignature, ValueError):
        return False
    return True


def require(signatures: Sequence[Signature], root: bytes, accepted: Iterable[bytes]) -> bytes:
    """Return the accepted key that has signed a root digest.

    Raises:
        SignatureError: None of them has.
        MissingPackageError: `cryptography` is not installed.
    """
    trusted = set(accepted)
    ours = [signature for signature in signatures if signature.key in trusted]
    for signature in ours:
        if is_valid(signature, root):
            return signature.key
    wanted = ", ".join(sorted(short(key) for key in trusted))
    hint = f"a signature by {wanted} is required"
    if ours:
        raise SignatureError(
            f"the signature of the snapshot by {short(ours[0].key)} is wrong: what it was made "
            "for has another root digest",
            hint="the snapshot was changed, or the signature was copied from another one",
        )
    if signatures:
        others = ", ".join(short(signature.key) for signature in signatures)
        raise SignatureError(f"the snapshot is signed by {others} only", hint=hint)
    raise SignatureError("the snapshot is not signed", hint=hint)


def short(key: bytes) -> str:
    """Return how messages name a public key: the first 16 of its hexadecimal digits."""
    return f"key {key.hex()[:16]}"


def pack_signatures(signatures: Iterable[Signature]) -> bytes:
    """Return the payload of the section: the signatures, ascending by key."""
    ordered = sorted(signatures)
    return b"".join([ENTRY.pack(ED25519, 0, 0, key, value) for key, value in ordered])


def parse_signatures(data: bytes | bytearray | memoryview) -> tuple[Signature, ...]:
    """Read the payload of the section.

    Raises:
        FormatError: It is malformed.
    """
    if len(data) % ENTRY.size or len(data) > MOST * ENTRY.size:
        raise FormatError(
            f"the signatures section of the snapshot has {len(data)} bytes: not 1 to {MOST} "
            f"signatures of {ENTRY.size}"
        )
    found = []
    for algorithm, zero, reserved, key, value in ENTRY.iter_unpack(data):
        if algorithm != ED25519 or zero or reserved:
            raise FormatError("the snapshot has a signature of an unknown algorithm")
        found.append(Signature(bytes(key), bytes(value)))
    keys = [one.key for one in found]
    if keys != sorted(set(keys)):
        raise FormatError("the signatures of the snapshot are out of order or there twice")
    return tuple(found)


def added(signatures: Sequence[Signature], new: Signature | None) -> tuple[Signature, ...]:
    """Return signatures with a new one, which replaces one of the same key.

    Raises:
        SnapshotError: They are too many.
    """
    if new is None:
        return tuple(signatures)
    found = tuple(sorted([*(one for one in signatures if one.key != new.key), new]))
    if len(found) > MOST:
        raise SnapshotError(f"a snapshot has at most {MOST} signatures")
    return found
