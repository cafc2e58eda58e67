"""The certificate of a node, and its judgement on the certificates of others.

gRPC checks the chain, the dates and the proof of the key. What it does not have is done here for
each call: whom the certificate names, whether it was revoked, whether it has expired since the
connection began (a connection can outlive a certificate), and whether the policy has that peer.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wasmsr.errors import WasmsrError, printable
from wasmsr.node.security.certificates import (
    Identity,
    identity_of,
    parse_chain,
    utc_now,
)
from wasmsr.node.security.failures import AccessRefused, CredentialsError
from wasmsr.node.security.pem_files import parse_key, public_bytes, read_file
from wasmsr.node.security.revocation import RevocationList

if TYPE_CHECKING:
    from cryptography import x509

LOOK_SECONDS = 1.0
"""Seconds between two looks at the files; so long a revoked certificate is still good."""
KNOWN = 256
"""Certificates of callers whose names are kept."""


@dataclass(frozen=True)
class TlsFiles:
    """The PEM files of one end.

    Attributes:
        certificate: The certificate, and after it those between it and the authority.
        key: Its private key.
        authority: The authorities whose certificates are accepted.
        revoked: The list of revoked certificates (RFC 5280), or None.
    """

    certificate: Path
    key: Path
    authority: Path
    revoked: Path | None = None


@dataclass(frozen=True)
class TlsContent:
    """What the files have, checked: the key belongs to the certificate, which names its holder.

    Attributes:
        certificate: PEM.
        key: PEM.
        authority: PEM.
        identity: Whom the certificate names.
        authorities: The certificates in `authority`.
    """

    certificate: bytes
    key: bytes
    authority: bytes
    identity: Identity
    authorities: tuple[x509.Certificate, ...]


def load(files: TlsFiles) -> TlsContent:
    """Read and check the files.

    Raises:
        CredentialsError: A file cannot be read, the key belongs to another certificate, the
            certificate has expired, is not valid yet, or was issued by none of the authorities.
    """
    certificate = read_file(files.certificate, "the certificate")
    chain = parse_chain(certificate, f"the certificate {printable(files.certificate)}")
    key = read_file(files.key, "the key", secret=True)
    authority = read_file(files.authority, "the authority")
    authorities = tuple(parse_chain(authority, f"the authority {printable(files.authority)}"))
    own = parse_key(key, files.key)
    if public_bytes(own.public_key()) != public_bytes(chain[0].public_key()):
        raise CredentialsError(
            f"the key {printable(files.key)} does not belong to the certificate "
            f"{printable(files.certificate)}",
            hint="`wasmsr keys issue` makes both",
        )
    try:
        identity = identity_of(chain[0])
    except CredentialsError as error:
        raise CredentialsError(
            f"{printable(files.certificate)}: {error.message}", hint=error.hint
        ) from error
    if trouble := _untimely(identity):
        raise CredentialsError(
            f"the certificate {printable(files.certificate)} {trouble}",
            hint="`wasmsr keys issue` makes a new one",
        )
    if not any(_issued(chain[-1], one) for one in authorities):
        raise CredentialsError(
            f"the certificate {printable(files.certificate)} was not issued by "
            f"{printable(files.authority)}"
        )
    return TlsContent(certificate, key, authority, identity, authorities)


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether an authority has signed a certificate, or is that certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError):
        return bool(certificate == authority)
    return True


def _untimely(identity: Identity) -> str:
    now = utc_now()
    if now < identity.not_before:
        return f"is not valid before {identity.not_before:%Y-%m-%d %H:%M} UTC"
    if now > identity.not_after:
        return f"expired on {identity.not_after:%Y-%m-%d %H:%M} UTC"
    return ""


class TlsIdentity:
    """The files of one end, read again when they change. Any thread may call it.

    A file that changes into one that cannot be used has no effect but `trouble`: what was read
    last stays in force, so that a mistake in a renewal does not cut a node off.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises CredentialsError."""
        self.files = files
        self.trouble = ""
        self._lock = threading.Lock()
        self._content = load(files)
        self._revoked = RevocationList.load(files.revoked, self._content.authorities)
        self._seen = self._stamps()
        self._looked = time.monotonic()
        self._known: OrderedDict[bytes, Identity] = OrderedDict()

    @property
    def content(self) -> TlsContent:
        """What is in force now."""
        self.refresh()
        return self._content

    @property
    def identity(self) -> Identity:
        """Whom the certificate names."""
        return self._content.identity

    def refresh(self, *, now: bool = False) -> bool:
        """Read the files again if they have changed; return whether they had.

        Args:
            now: Look even if the last look was less than `LOOK_SECONDS` ago.
        """
        with self._lock:
            if not now and time.monotonic() - self._looked < LOOK_SECONDS:
                return False
            self._looked = time.monotonic()
            stamps = self._stamps()
            if stamps == self._seen:
                return False
            self._seen = stamps
            try:
                content = load(self.files)
                if content.identity.node != self._content.identity.node:
                    raise CredentialsError(
                        f"the new certificate {printable(self.files.certificate)} names "
                        f"{content.identity}, and this is {self._content.identity}"
                    )
                revoked = RevocationList.load(self.files.revoked, content.authorities)
            except WasmsrError as error:
                self.trouble = f"{error.message}; what was read before stays in force"
                return False
            self.trouble = ""
            self._content, self._revoked = content, revoked
            return True

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        files = self.files
        for path in (files.certificate, files.key, files.authority, files.revoked):
            try:
                status = path.stat() if path else None
            except OSError:
                status = None
            found.append(status and (status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def judge(self, pem: bytes) -> Identity:
        """Return whom a caller's certificate names.

        Args:
            pem: The certificate that the caller proved to have, from the connection.

        Raises:
            AccessRefused: It names nobody, was revoked, or has expired since.
        """
        self.refresh()
        digest = hashlib.sha256(pem).digest()
        with self._lock:
            identity = self._known.get(digest)
            revoked = self._revoked
        if identity is None:
            try:
                identity = identity_of(parse_chain(pem, "the caller's certificate")[0])
            except CredentialsError as error:
                raise AccessRefused("certificate", error.message, hint=error.hint) from error
            with self._lock:
                self._known[digest] = identity
                while len(self._known) > KNOWN:
                    self._known.popitem(last=False)
        if revoked.has(identity.serial):
            raise AccessRefused(
                "revoked", f"the certificate of {identity} was revoked", hint="ask for a new one"
            )
        if trouble := _untimely(identity):
            raise AccessRefused("certificate", f"the certificate of {identity} {trouble}")
        return identity
