"""What a reader asks of snapshots and what a writer adds to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wasmsr.errors import DigestError
from wasmsr.snapshot.trust.encryption import EncryptionKey
from wasmsr.snapshot.trust.key_sources import public_bytes
from wasmsr.snapshot.trust.signatures import Signature, SigningKey, added, require


@dataclass(frozen=True, slots=True)
class ReadTrust:
    """What a reader has and asks for.

    Attributes:
        keys: Keys that decrypt; each file is tried with all of them.
        accepted: Public keys, one of which must have signed each file; None asks for nothing.
    """

    keys: tuple[EncryptionKey, ...] = ()
    accepted: tuple[bytes, ...] | None = None

    @classmethod
    def read(cls, keys: Sequence[str | None], accepted: Sequence[str]) -> ReadTrust:
        """Return it from the sources of keys; see `key_sources.read_source`.

        Raises:
            KeySourceError: A source cannot be read, or has no such key.
        """
        found = tuple(EncryptionKey.read(source) for source in keys if source is not None)
        public = tuple(key for source in accepted for key in public_bytes(source))
        return cls(found, public or None)

    def check(self, signatures: Sequence[Signature], root: bytes) -> None:
        """Refuse a snapshot that no accepted key has signed. Raises SignatureError."""
        if self.accepted is not None:
            require(signatures, root, self.accepted)


@dataclass(frozen=True, slots=True)
class WriteTrust:
    """What a writer adds.

    Attributes:
        sign: The key that signs; None adds no signature.
        encrypt: The key that encrypts; None writes in the clear.
        kept: Signatures of what was read, which stay.
        root: The root digest that these were made for.
    """

    sign: SigningKey | None = None
    encrypt: EncryptionKey | None = None
    kept: tuple[Signature, ...] = ()
    root: bytes = b""

    @classmethod
    def read(cls, sign: str | None, encrypt: str | None) -> WriteTrust:
        """Return it from the sources of keys. Raises KeySourceError."""
        return cls(
            None if sign is None else SigningKey.read(sign),
            None if encrypt is None else EncryptionKey.read(encrypt),
        )

    @property
    def adds(self) -> bool:
        """Whether it adds anything: version 1 of the format has no place for it."""
        return self.sign is not None or self.encrypt is not None

    def keeping(self, signatures: tuple[Signature, ...], root: bytes) -> WriteTrust:
        """Return it with the signatures of a snapshot that is written anew."""
        return replace(self, kept=signatures, root=root)

    @property
    def signed_by(self) -> int:
        """How many signatures the snapshot will have."""
        ours = self.sign is not None and all(one.key != self.sign.public for one in self.kept)
        return len(self.kept) + ours

    def signatures(self, root: bytes) -> tuple[Signature, ...]:
        """Return the signatures for a root digest.

        Raises:
            DigestError: Signatures are kept, and they were made for another root.
        """
        if self.kept and root != self.root:
            raise DigestError("the copy would have another root digest, so it is not kept")
        return added(self.kept, None if self.sign is None else self.sign.sign(root))


READ_ANY = ReadTrust()
"""No key, and no signature is asked for."""
WRITE_PLAIN = WriteTrust()
"""Neither signed nor encrypted."""
