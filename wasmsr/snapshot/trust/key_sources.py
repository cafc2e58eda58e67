"""Where keys come from: a file, an environment variable or a descriptor; and their text forms.

A key is never an argument of a command: every user of a host can read those. Signing keys have the
text form of OpenSSL (PEM; RFC 8410), so that other tools make and use them. An encryption key is
32 bytes in base64.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from wasmsr import small_files
from wasmsr.errors import KeySourceError, printable

SOURCE_LIMIT = 65536
"""Bytes that the source of a key may have."""
KEY_SIZE = 32
"""Bytes of each kind of key."""

_PRIVATE = bytes.fromhex("302e020100300506032b657004220420")
"""What comes before the 32 bytes in the DER form of a private Ed25519 key (RFC 8410, 7)."""
_PUBLIC = bytes.fromhex("302a300506032b6570032100")
"""What comes before the 32 bytes in the DER form of a public Ed25519 key (RFC 8410, 4)."""

_read: dict[str, bytes] = {}
"""What descriptors and variables had: they can be read once."""


def read_source(source: str, *, secret: bool) -> bytes:
    """Return the bytes that a source has.

    Args:
        source: The name of a file, `env:NAME` for an environment variable, or `fd:N` for an open
            descriptor.
        secret: Whether other users must not be able to read a file.

    Raises:
        KeySourceError: It cannot be read, is too long, or others can read it.
    """
    if source in _read:
        return _read[source]
    kind, colon, name = source.partition(":")
    if colon and kind == "env":
        # The program must not get it with --inherit-env.
        found = os.environ.pop(name, "").encode("utf-8", "surrogateescape")
        if not found:
            raise KeySourceError(
                f"the variable {printable(name)} has no key", hint=f"export {printable(name)}"
            )
    elif colon and kind == "fd":
        found = _of_descriptor(name)
    else:
        return _of_file(source, secret)
    if len(found) > SOURCE_LIMIT:
        raise KeySourceError(f"the key in {printable(source)} has more than {SOURCE_LIMIT} bytes")
    _read[source] = found
    return found


def _of_descriptor(name: str) -> bytes:
    parts = []
    size = 0
    try:
        number = int(name)
        while size <= SOURCE_LIMIT and (part := os.read(number, SOURCE_LIMIT + 1)):
            parts.append(part)
            size += len(part)
    except (ValueError, OverflowError):
        raise KeySourceError(
            f"fd:{printable(name)} names no descriptor", hint="fd:3 with 3<FILE, for example"
        ) from None
    except OSError as error:
        raise KeySourceError(
            f"descriptor {name} cannot be read: {error.strerror}",
            hint="open it for this command, for example with 3<FILE",
        ) from error
    return b"".join(parts)


def _of_file(path: str, secret: bool) -> bytes:
    try:
        found, status = small_files.read(path, SOURCE_LIMIT)
    except OSError as error:
        raise KeySourceError(
            f"the key {printable(path)} cannot be read: {error.strerror}",
            hint="wasmsr snapshot keygen FILE makes a key; env:NAME and fd:N are other sources",
        ) from error
    if secret and small_files.is_open_to_others(status):
        raise KeySourceError(
            f"other users can use the key {printable(path)} (mode "
            f"{stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 600 {printable(path)}",
        )
    if len(found) > SOURCE_LIMIT:
        raise KeySourceError(f"the key {printable(path)} has more than {SOURCE_LIMIT} bytes")
    return found


def _said(source: str) -> str:
    return printable(source)


def _blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return label and text of each block in the PEM form."""
    import re  # only where keys are read: it takes a while

    return re.findall(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", data, re.DOTALL)


def _decoded(text: bytes) -> bytes | None:
    """Return the bytes of base64; None if it is none."""
    import base64

    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except ValueError:
        return None


def private_bytes(source: str) -> bytes:
    """Return the 32 bytes of the signing key in a source. Raises KeySourceError."""
    data = read_source(source, secret=True)
    for label, text in _blocks(data):
        if label == b"PRIVATE KEY":
            return _der(text, _PRIVATE, source)
        if b"PRIVATE" in label:
            raise KeySourceError(
                f"{_said(source)} is {label.decode().lower()}, not a plain Ed25519 private key",
                hint="openssl genpkey -algorithm ed25519 -out FILE, or wasmsr snapshot keygen FILE",
            )
    raise KeySourceError(
        f"{_said(source)} has no private key in the PEM form",
        hint="wasmsr snapshot keygen FILE makes FILE to sign with and FILE.pub to check with",
    )


def public_bytes(source: str) -> tuple[bytes, ...]:
    """Return the 32 bytes of each public key in a source, one or more. Raises KeySourceError."""
    blocks = _blocks(read_source(source, secret=False))
    found = tuple(_der(text, _PUBLIC, source) for label, text in blocks if label == b"PUBLIC KEY")
    if not found:
        hint = "give the public key: FILE.pub of wasmsr snapshot keygen FILE"
        raise KeySourceError(f"{_said(source)} has no public key in the PEM form", hint=hint)
    return found


def _der(text: bytes, prefix: bytes, source: str) -> bytes:
    der = _decoded(text)
    if der is None or not der.startswith(prefix) or len(der) != len(prefix) + KEY_SIZE:
        raise KeySourceError(
            f"the key in {_said(source)} is not an Ed25519 key",
            hint="openssl genpkey -algorithm ed25519 makes one, and so does wasmsr snapshot keygen",
        )
    return der[len(prefix) :]


def encryption_bytes(source: str) -> bytes:
    """Return the 32 bytes of the encryption key in a source. Raises KeySourceError."""
    key = _decoded(read_source(source, secret=True))
    if key is None or len(key) != KEY_SIZE:
        raise KeySourceError(
            f"{_said(source)} is no encryption key: one is {KEY_SIZE} bytes in base64",
            hint="wasmsr snapshot keygen --encryption FILE makes one",
        )
    return key


def private_text(key: bytes) -> bytes:
    """Return the PEM form of a private key."""
    return _pem(b"PRIVATE KEY", _PRIVATE + key)


def public_text(key: bytes) -> bytes:
    """Return the PEM form of a public key."""
    return _pem(b"PUBLIC KEY", _PUBLIC + key)


def _pem(label: bytes, der: bytes) -> bytes:
    import base64

    body = base64.b64encode(der)
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, body, label)


def write_key(path: str, text: bytes, *, mode: int = 0o600) -> None:
    """Write the file of a key, which must not be there yet, on the disk when this returns.

    Raises:
        KeySourceError: It is there, or cannot be written; then nothing of it is left.
    """
    try:
        small_files.create(Path(path), text, mode)
    except FileExistsError:
        raise KeySourceError(
            f"{printable(path)} is there already, and a key is never overwritten",
            hint="name another file",
        ) from None
    except OSError as error:
        raise KeySourceError(
            f"the key {printable(path)} cannot be written: {error.strerror}"
        ) from error
