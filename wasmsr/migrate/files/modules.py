"""The modules that came from other ends, by digest, in the state folder.

Several ends on one machine share the folder: a file's name is the digest of its content, and files
appear by rename.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from wasmsr.migrate.ports import Buffer
from wasmsr.migrate.protocol import JournalError

KEPT = 16
"""How many modules stay, if nobody says more; the one used longest ago is removed first."""

LARGEST = 1 << 29
"""Most bytes of one module that this end takes from a peer."""


class Modules:
    """A folder of modules, named by SHA-256."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self.folder = folder
        self._kept = kept

    def get(self, digest: bytes) -> bytes | None:
        """Return the module with this digest, or None; a damaged one is removed."""
        path = self._path(digest)
        try:
            binary = path.read_bytes()
            if hashlib.sha256(binary).digest() != digest:
                path.unlink()
                return None
            os.utime(path)
        except OSError:
            return None
        return binary

    def put(self, binary: Buffer, digest: bytes) -> None:
        """Keep a module. The caller has checked the digest. Raises JournalError."""
        path = self._path(digest)
        part = path.with_name(f"{secrets.token_hex(8)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                # Not synced: `get` checks the digest, and so finds a file that a crash cut short.
                part.write_bytes(binary)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            self._evict()
        except OSError as error:
            raise JournalError(f"{path} cannot be written: {error.strerror or error}") from error

    def _evict(self) -> None:
        files = sorted(self.folder.glob("*.wasm"), key=lambda path: path.stat().st_mtime)
        for path in files[: -self._kept]:
            path.unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        return self.folder / f"{digest.hex()}.wasm"
