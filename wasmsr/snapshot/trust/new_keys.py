"""Makes keys, in files that are new."""

from __future__ import annotations

import os
from base64 import b64encode
from contextlib import suppress

from wasmsr.snapshot.trust.key_sources import KEY_SIZE, private_text, public_text, write_key
from wasmsr.snapshot.trust.signatures import SigningKey


def new_signing_key(path: str) -> bytes:
    """Make a private key in a file, and the public one in the same name with `.pub`.

    Returns:
        The 32 bytes of the public key.

    Raises:
        KeySourceError: A file is there already, or cannot be written; nothing is left of either.
    """
    secret = os.urandom(KEY_SIZE)
    public = SigningKey(secret).public
    write_key(path, private_text(secret))
    try:
        write_key(f"{path}.pub", public_text(public), mode=0o644)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return public


def new_encryption_key(path: str) -> None:
    """Make a key that encrypts and decrypts, in a file. Raises KeySourceError."""
    write_key(path, b64encode(os.urandom(KEY_SIZE)) + b"\n")
