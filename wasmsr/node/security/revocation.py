"""The list of revoked certificates (RFC 5280, section 5), which grpcio cannot check itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.errors import printable
from wasmsr.node.security.certificates import aware, utc_now
from wasmsr.node.security.failures import CredentialsError
from wasmsr.node.security.pem_files import read_file

if TYPE_CHECKING:
    from cryptography import x509


class RevocationList:
    """The serial numbers that are revoked."""

    def __init__(self, serials: Iterable[int] = ()) -> None:
        self._serials = frozenset(serials)

    @classmethod
    def load(cls, path: Path | None, authorities: Iterable[x509.Certificate]) -> RevocationList:
        """Read a list.

        Args:
            path: Its PEM file; None for no list.
            authorities: One of these must have signed it.

        Raises:
            CredentialsError: It cannot be read, is signed by nobody of these, or is too old.
        """
        if path is None:
            return cls()
        from cryptography import x509

        name = printable(path)
        try:
            found = x509.load_pem_x509_crl(read_file(path, "the list of revoked certificates"))
        except ValueError as error:
            raise CredentialsError(
                f"{name} is no list of revoked certificates: {printable(str(error), 200)}",
                hint="it must be a PEM file that begins with -----BEGIN X509 CRL-----",
            ) from error
        if not any(_signed(found, one) for one in authorities):
            raise CredentialsError(
                f"{name} was not signed by an authority that this node accepts",
                hint="give it the list of the same authority",
            )
        until = getattr(found, "next_update_utc", None) or found.next_update
        if until is not None and utc_now() > aware(found, "next_update"):
            raise CredentialsError(
                f"{name} is too old: the authority promised a new list by {until:%Y-%m-%d %H:%M}",
                hint="get the authority's new list",
            )
        return cls(one.serial_number for one in found)

    def has(self, serial: int) -> bool:
        """Return whether a serial number is revoked."""
        return serial in self._serials

    def __len__(self) -> int:
        return len(self._serials)


def _signed(found: Any, authority: Any) -> bool:
    try:
        return bool(
            found.issuer == authority.subject and found.is_signature_valid(authority.public_key())
        )
    except (TypeError, ValueError):  # a key of a kind that signs no lists
        return False
