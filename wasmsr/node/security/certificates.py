"""What a certificate says: which node or which client its holder is.

A node's certificate names the node as the DNS name `ID.node.wasmsr.internal`, where ID is the node
id in 32 hexadecimal digits. So TLS itself can check that a server is the node that a caller means.
A client's certificate has the name `NAME.client.wasmsr.internal`. Any authority can issue both; the
domain `internal` is reserved for private use (ICANN board resolution 2024.07.29.06).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from wasmsr.errors import MissingPackageError, printable
from wasmsr.node.security.failures import CredentialsError

if TYPE_CHECKING:
    from cryptography import x509
else:
    try:
        from cryptography import x509
    except ImportError:
        x509 = None

NODE_SUFFIX = ".node.wasmsr.internal"
CLIENT_SUFFIX = ".client.wasmsr.internal"
PEM_LIMIT = 65536
"""Bytes that a PEM text of certificates may have."""

_NODE = re.compile(r"[0-9a-f]{32}")
_CLIENT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Identity:
    """Whom a certificate names.

    Attributes:
        node: The node id; b"" if it names no node.
        client: The name of a client; "" if it names none.
        serial: Its serial number, by which an authority revokes it.
        not_before: When it begins to be valid.
        not_after: When it expires.
    """

    node: bytes
    client: str
    serial: int
    not_before: datetime
    not_after: datetime

    def __str__(self) -> str:
        return f"node {self.node.hex()}" if self.node else f"client {self.client}"

    def days_left(self, now: datetime | None = None) -> float:
        """Return the days until it expires; negative after that."""
        return (self.not_after - (now or utc_now())).total_seconds() / 86400


def utc_now() -> datetime:
    """Return the time now, with its zone."""
    return datetime.now(timezone.utc)


def need_cryptography() -> None:
    """Raise MissingPackageError if the package `cryptography` is not there."""
    if x509 is None:
        raise MissingPackageError("cryptography", "certificates", extra="node")


def node_name(node: bytes) -> str:
    """Return the DNS name of a node in its certificate."""
    return node.hex() + NODE_SUFFIX


def client_name(name: str) -> str:
    """Return the DNS name of a client in its certificate. Raises CredentialsError."""
    if not _CLIENT.fullmatch(name):
        raise CredentialsError(
            f"{name!r} cannot be the name of a client",
            hint="use up to 63 of a-z, 0-9 and '-', and no '-' at the ends",
        )
    return name + CLIENT_SUFFIX


def parse_chain(pem: bytes, name: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM text, in its order.

    Args:
        pem: The text.
        name: What it is, for errors.

    Raises:
        CredentialsError: It has none, or is damaged or too long.
    """
    need_cryptography()
    if len(pem) > PEM_LIMIT:
        raise CredentialsError(f"{name} has more than {PEM_LIMIT} bytes")
    try:
        return list(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise CredentialsError(
            f"{name} has no certificate that can be read: {printable(str(error))}",
            hint="it must be a PEM file that begins with -----BEGIN CERTIFICATE-----",
        ) from error


def identity_of(certificate: x509.Certificate) -> Identity:
    """Return whom a certificate names.

    Raises:
        CredentialsError: It names neither a node nor a client, or more than one.
    """
    names = _dns_names(certificate)
    nodes = {
        one[: -len(NODE_SUFFIX)]
        for one in names
        if one.endswith(NODE_SUFFIX) and _NODE.fullmatch(one[: -len(NODE_SUFFIX)])
    }
    clients = {
        one[: -len(CLIENT_SUFFIX)]
        for one in names
        if one.endswith(CLIENT_SUFFIX) and _CLIENT.fullmatch(one[: -len(CLIENT_SUFFIX)])
    }
    if len(nodes) + len(clients) != 1:
        found = "more than one" if nodes or clients else "neither a node nor a client"
        raise CredentialsError(
            f"the certificate of {printable(certificate.subject.rfc4514_string(), 200)} names "
            f"{found}",
            hint=f"it needs one DNS name ID{NODE_SUFFIX} or NAME{CLIENT_SUFFIX}; "
            "`wasmsr keys issue` makes such certificates",
        )
    return Identity(
        bytes.fromhex(nodes.pop()) if nodes else b"",
        clients.pop() if clients else "",
        certificate.serial_number,
        aware(certificate, "not_valid_before"),
        expiry(certificate),
    )


def _dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        return []
    except ValueError as error:
        raise CredentialsError(
            f"a certificate has an extension that cannot be read: {printable(str(error))}"
        ) from error


def expiry(certificate: Any) -> datetime:
    """Return when a certificate expires."""
    return aware(certificate, "not_valid_after")


def aware(certificate: Any, name: str) -> datetime:
    """Return a date of a certificate with its zone; older releases of the package have none."""
    found: datetime = getattr(certificate, f"{name}_utc", None) or getattr(certificate, name)
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
