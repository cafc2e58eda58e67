"""The modules that this host has compiled, or can read from files of its own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from wasmsr.interp.modules.module import Module
from wasmsr.migrate.ports import Buffer

KEPT = 4
"""How many modules stay compiled for programs that may come."""


class CompiledModules:
    """Compiled modules by digest. `files` has modules of this host, by digest.

    Any thread may call it. A module is compiled once, and nobody waits for another module.
    """

    def __init__(
        self,
        files: Mapping[bytes, Path],
        features: frozenset[str],
        kept: int = KEPT,
        compiled: Iterable[Module] = (),
    ) -> None:
        self._files = files
        self._features = features
        self._kept = kept
        self._lock = threading.Lock()
        self._compiled = {module.digest: module for module in compiled}
        self._compiling: dict[bytes, threading.Lock] = {}

    def binary(self, digest: bytes) -> Buffer | None:
        """Return the binary of a module that is here, or None."""
        with self._lock:
            found = self._compiled.get(digest)
        if found is not None:
            return found.binary
        path = self._files.get(digest)
        if path is None:
            return None
        binary = path.read_bytes()
        return binary if hashlib.sha256(binary).digest() == digest else None

    def admit(self, binary: Buffer) -> None:
        """Validate and compile a module. Raises ModuleError."""
        data = bytes(binary)
        self.get(hashlib.sha256(data).digest(), data)

    def get(self, digest: bytes, binary: Buffer) -> Module:
        """Return a compiled module; compile it if necessary. Raises ModuleError."""
        with self._lock:
            found = self._compiled.get(digest)
            if found is not None:
                return found
            turn = self._compiling.setdefault(digest, threading.Lock())
        with turn:
            with self._lock:
                found = self._compiled.get(digest)
            if found is not None:
                return found
            try:
                made = Module(bytes(binary), features=self._features)
            finally:
                with self._lock:
                    self._compiling.pop(digest, None)
            with self._lock:
                self._compiled[digest] = made
                while len(self._compiled) > self._kept:
                    del self._compiled[next(iter(self._compiled))]
            return made
