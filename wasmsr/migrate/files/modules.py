"""The cache of modules that came from elsewhere, by digest, under the state directory.

Between `destination`, which fills it, and the host, which compiles from it. Several ends on one
machine share it: a file's name is what it contains, and files appear by rename.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from wasmsr.migrate.ports import Buffer
from wasmsr.migrate.protocol import JournalError

KEPT = 16
"""How many modules stay; the one used longest ago goes first."""

LARGEST = 1 << 29
"""Most bytes of one module that is taken from a peer."""


class Modules:
    """A folder of modules, named by SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, digest: bytes) -> bytes | None:
        """Return the module with this digest, or None; one that was damaged is as good as
        missing."""
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
        """Keep a module, whose digest the caller has checked. Raises JournalError."""
        path = self._path(digest)
        part = path.with_name(f"{secrets.token_hex(8)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                # Not synced: a file that a crash cut short is found out by its digest.
                part.write_bytes(binary)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            self._evict()
        except OSError as error:
            raise JournalError(f"{path} cannot be written: {error.strerror or error}") from error

    def _evict(self) -> None:
        files = sorted(self.folder.glob("*.wasm"), key=lambda path: path.stat().st_mtime)
        for path in files[:-KEPT]:
            path.unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        return self.folder / f"{digest.hex()}.wasm"
