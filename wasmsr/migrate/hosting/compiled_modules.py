"""The modules that this host has compiled, or can read from files of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from wasmsr.interp.modules.module import Module
from wasmsr.migrate.ports import Buffer

KEPT = 4
"""How many modules stay compiled for programs that may come."""


class CompiledModules:
    """Compiled modules by digest. `files` has modules of this host, by digest."""

    def __init__(self, files: Mapping[bytes, Path], features: frozenset[str]) -> None:
        self._files = files
        self._features = features
        self._compiled: dict[bytes, Module] = {}

    def binary(self, digest: bytes) -> Buffer | None:
        """Return the binary of a module that is here, or None."""
        if digest in self._compiled:
            return self._compiled[digest].binary
        path = self._files.get(digest)
        if path is None:
            return None
        binary = path.read_bytes()
        return binary if hashlib.sha256(binary).digest() == digest else None

    def admit(self, binary: Buffer) -> None:
        """Validate and compile a module. Raises ModuleError."""
        data = bytes(binary)
        digest = hashlib.sha256(data).digest()
        if digest not in self._compiled:
            self._compiled[digest] = Module(data, features=self._features)
            while len(self._compiled) > KEPT:
                del self._compiled[next(iter(self._compiled))]

    def get(self, digest: bytes, binary: Buffer) -> Module:
        """Return a compiled module; compile it if necessary. Raises ModuleError."""
        if digest not in self._compiled:
            self.admit(binary)
        return self._compiled[digest]
