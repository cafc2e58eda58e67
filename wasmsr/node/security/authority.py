"""A small certificate authority in a folder: makes, lists and revokes certificates of nodes.

The folder has `authority.crt`, `authority.key` (only its user can read it), `revoked.crl`
(RFC 5280, section 5) and `issued.jsonl`, a line for each certificate. Keys are ECDSA over P-256,
which every TLS library has. Nodes get the certificates, never the authority's key.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr import small_files
from wasmsr.errors import printable
from wasmsr.node.security import certificates
from wasmsr.node.security.certificates import Identity, identity_of, need_cryptography, parse_chain
from wasmsr.node.security.failures import CredentialsError
from wasmsr.node.security.pem_files import (
    key_pem,
    load_key,
    new_key,
    pem_of,
    public_bytes,
    read_file,
    unwritable,
    write_new,
)

if TYPE_CHECKING:
    from cryptography import x509

AUTHORITY_DAYS = 3650
"""Days that the authority's own certificate is valid."""
DAYS = 90
"""Days that a certificate is valid if nobody says otherwise."""
EARLIER = timedelta(minutes=5)
"""How much before now a certificate begins, so that clocks may differ."""
ID_BYTES = 16
"""Bytes of a node id."""

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")


@dataclass(frozen=True)
class Issued:
    """A certificate that the authority made.

    Attributes:
        serial: Its serial number.
        name: "node ID" or "client NAME".
        expires: When it expires, in the form of ISO 8601.
        revoked: When it was revoked; "" if it was not.
    """

    serial: int
    name: str
    expires: str
    revoked: str = ""


class Authority:
    """The authority in a folder. Several processes may use one; each change takes a lock."""

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            CredentialsError: It is not there, or damaged, or others can read its key.
            MissingPackageError: The package `cryptography` is not there.
        """
        need_cryptography()
        self.folder = folder
        pem = read_file(folder / "authority.crt", "the authority")
        self.certificate = parse_chain(pem, f"the authority {printable(folder)}")[0]
        self._key = load_key(folder / "authority.key")
        if public_bytes(self._key.public_key()) != public_bytes(self.certificate.public_key()):
            raise CredentialsError(
                f"the key and the certificate of the authority in {printable(folder)} differ"
            )

    @classmethod
    def create(cls, folder: Path, name: str = "wasmsr") -> Authority:
        """Make a new authority in a folder, which may be there but has no authority yet.

        Args:
            folder: The folder.
            name: Its name, for people.

        Raises:
            CredentialsError: It is there already, or cannot be written.
        """
        need_cryptography()
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        key = new_key()
        now = certificates.utc_now()
        subject = _subject(name)
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLIER)
            .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise unwritable(folder, error) from error
        write_new(folder / "authority.key", key_pem(key), 0o600)
        write_new(folder / "authority.crt", pem_of(built), 0o644)
        made = cls(folder)
        with made._locked():
            made._write_revoked([])
        return made

    def issue(
        self,
        identity: str,
        hosts: Sequence[str],
        into: Path,
        *,
        days: float = DAYS,
    ) -> tuple[Identity, Path, Path]:
        """Make a key and a certificate of it.

        Args:
            identity: "node" for a new node id, "node:ID" or "client:NAME".
            hosts: Host names and IP addresses under which the node can be reached.
            into: The folder of the two files. Files of the same name are replaced, which is how a
                certificate is renewed.
            days: How long it is valid.

        Returns:
            Whom it names, the certificate's file and the key's file.

        Raises:
            CredentialsError: The identity, a host or a folder cannot be used.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        name, stem = _name_of(identity)
        if not 0 < days <= AUTHORITY_DAYS:
            raise CredentialsError(f"{days:g} days: a certificate is valid for 1 to 3650 days")
        key = new_key()
        now = certificates.utc_now()
        until = min(now + timedelta(days=days), certificates.expiry(self.certificate))
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if identity.startswith("node"):
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names = [x509.DNSName(name), *map(_general_name, hosts)]
        built = (
            x509.CertificateBuilder()
            .subject_name(_subject(stem))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLIER)
            .not_valid_after(until)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        made = identity_of(built)
        try:
            into.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked():
                # The record comes first: a certificate without one could not be revoked by name.
                self._note(Issued(made.serial, str(made), made.not_after.isoformat()))
                small_files.replace(into / f"{stem}.key", key_pem(key), 0o600)
                small_files.replace(into / f"{stem}.crt", pem_of(built), 0o644)
        except OSError as error:
            raise unwritable(into, error) from error
        return made, into / f"{stem}.crt", into / f"{stem}.key"

    def issued(self) -> list[Issued]:
        """Return what the authority issued, oldest first. Raises CredentialsError."""
        when = {one.serial_number: _revoked_at(one) for one in self._revoked()}
        found = []
        path = self.folder / "issued.jsonl"
        if not path.exists():
            return []
        for number, line in enumerate(read_file(path, "the list of certificates").splitlines(), 1):
            try:
                fields = json.loads(line)
                serial = int(fields["serial"], 16)
                found.append(
                    Issued(serial, fields["name"], fields["expires"], when.get(serial, ""))
                )
            except (ValueError, KeyError, TypeError) as error:
                raise CredentialsError(
                    f"line {number} of {printable(path)} is damaged: {error}"
                ) from error
        return found

    def revoke(self, which: str) -> list[Issued]:
        """Revoke certificates. Nodes refuse them as soon as they have the new `revoked.crl`.

        Args:
            which: A serial number in hexadecimal digits, a node id, "node ID", "client NAME" or
                NAME. A name stands for all its certificates.

        Returns:
            What was revoked.

        Raises:
            CredentialsError: There is no such certificate, or all of it are revoked.
        """
        word = which.strip().lower()
        with self._locked():
            every = self.issued()
            chosen = [one for one in every if word in _words(one)]
            fresh = [one for one in chosen if not one.revoked]
            if not fresh:
                why = "is revoked already" if chosen else "names no certificate of this authority"
                raise CredentialsError(
                    f"{printable(which)} {why}", hint="`wasmsr keys list` shows what was issued"
                )
            entries = list(self._revoked())
            self._write_revoked(
                [(one.serial_number, _revocation_date(one)) for one in entries]
                + [(one.serial, certificates.utc_now()) for one in fresh]
            )
        return fresh

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            file = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _note(self, issued: Issued) -> None:
        line = {"serial": f"{issued.serial:x}", "name": issued.name, "expires": issued.expires}
        path = self.folder / "issued.jsonl"
        before = path.read_bytes() if path.exists() else b""
        small_files.replace(path, before + json.dumps(line).encode() + b"\n", 0o644)

    def _revoked(self) -> Any:
        from cryptography import x509

        path = self.folder / "revoked.crl"
        if not path.exists():
            return []
        try:
            return x509.load_pem_x509_crl(read_file(path, "the list of revoked certificates"))
        except ValueError as error:
            raise CredentialsError(f"{printable(path)} is damaged: {error}") from error

    def _write_revoked(self, entries: Sequence[tuple[int, datetime]]) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        now = certificates.utc_now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - EARLIER)
            # It is replaced when something is revoked, not by the clock.
            .next_update(certificates.expiry(self.certificate))
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        )
        for serial, when in entries:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
            )
        content = pem_of(builder.sign(self._key, hashes.SHA256()))
        try:
            small_files.replace(self.folder / "revoked.crl", content, 0o644)
        except OSError as error:
            raise unwritable(self.folder, error) from error


# Names.


def _name_of(identity: str) -> tuple[str, str]:
    """Return the DNS name of an identity, and the stem of its files. Raises CredentialsError."""
    kind, colon, name = identity.partition(":")
    if kind == "client" and colon:
        return certificates.client_name(name.lower()), name.lower()
    if kind == "node":
        digits = name.lower() or secrets.token_hex(ID_BYTES)
        if re.fullmatch(r"[0-9a-f]{32}", digits):
            return certificates.node_name(bytes.fromhex(digits)), digits
        raise CredentialsError(f"{printable(name)} is no node id of 32 hexadecimal digits")
    raise CredentialsError(f"{printable(identity)} is neither node, node:ID nor client:NAME")


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise CredentialsError(f"{printable(host)} is neither a host name nor an IP address")
    if host.lower().endswith((certificates.NODE_SUFFIX, certificates.CLIENT_SUFFIX)):
        raise CredentialsError(f"{printable(host)} is the name of another node or client")
    return x509.DNSName(host)


def _words(issued: Issued) -> set[str]:
    kind, _, name = issued.name.partition(" ")
    return {f"{issued.serial:x}", issued.name.lower(), name.lower(), f"{kind}:{name}".lower()}


def _subject(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise CredentialsError(f"{printable(name)} cannot be a name: {error}") from error


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _revocation_date(entry: Any) -> datetime:
    return certificates.aware(entry, "revocation_date")


def _revoked_at(entry: Any) -> str:
    return _revocation_date(entry).isoformat()
