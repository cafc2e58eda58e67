"""Keys and certificates as PEM files: read with limits, written whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr import small_files
from wasmsr.errors import printable
from wasmsr.node.security.failures import CredentialsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

FILE_LIMIT = 16 * 2**20
"""Bytes that a file of this room may have; a list of revoked certificates can be long."""


def read_file(path: Path, what: str, *, secret: bool = False) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        what: What it is, for errors.
        secret: Whether other users must not be able to use it.

    Raises:
        CredentialsError: It cannot be read, is too long, or others can use it.
    """
    try:
        content, status = small_files.read(path, FILE_LIMIT)
    except OSError as error:
        raise CredentialsError(
            f"{what}: {printable(path)} cannot be read: {error.strerror or error}",
            hint="`wasmsr keys init` and `wasmsr keys issue` make such files",
        ) from error
    if len(content) > FILE_LIMIT:
        raise CredentialsError(f"{what}: {printable(path)} has more than 16 MiB")
    if secret and small_files.is_open_to_others(status):
        raise CredentialsError(
            f"other users can use {what} {printable(path)} (mode "
            f"{stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 600 {printable(path)}",
        )
    return content


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there yet. Raises CredentialsError."""
    try:
        small_files.create(path, content, mode)
    except FileExistsError:
        raise CredentialsError(
            f"{printable(path)} is there already, and a key is never overwritten",
            hint="name another folder",
        ) from None
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> CredentialsError:
    """Return the error of a file or folder that cannot be written."""
    return CredentialsError(f"{printable(path)} cannot be written: {error.strerror or error}")


def new_key() -> EllipticCurvePrivateKey:
    """Return a new private key (ECDSA, P-256)."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM (PKCS #8, not encrypted)."""
    from cryptography.hazmat.primitives import serialization

    found: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return found


def pem_of(value: Any) -> bytes:
    """Return a certificate, or a list of revoked ones, as PEM."""
    from cryptography.hazmat.primitives import serialization

    found: bytes = value.public_bytes(serialization.Encoding.PEM)
    return found


def public_bytes(key: Any) -> bytes:
    """Return a public key as DER, to compare it."""
    from cryptography.hazmat.primitives import serialization

    found: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def load_key(path: Path) -> Any:
    """Return the private key in a file. Raises CredentialsError."""
    return parse_key(read_file(path, "the key", secret=True), path)


def parse_key(pem: bytes, path: Path) -> Any:
    """Return the private key of a PEM text; `path` is for errors. Raises CredentialsError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise CredentialsError(
            f"the key {printable(path)} is encrypted with a password",
            hint="decrypt it for the node: openssl pkey -in FILE -out NEW",
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialsError(
            f"the key {printable(path)} cannot be read: {printable(str(error), 200)}"
        ) from error
