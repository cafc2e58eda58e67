"""The modules of programs that come: which are here, and those that a source uploads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from wasmsr.errors import ModuleError
from wasmsr.migrate.events import size
from wasmsr.migrate.files.modules import LARGEST, Modules
from wasmsr.migrate.ports import Buffer, ProgramHost
from wasmsr.migrate.protocol import JournalError, ModuleName, Reason, refused


class Uploads:
    """The modules that this end has, and the uploads in progress. Any thread may call it.

    Methods raise PeerRefused for what a source gets wrong.
    """

    def __init__(self, host: ProgramHost, modules: Modules) -> None:
        self.modules = modules
        self._host = host
        self._lock = threading.Lock()
        self._current: set[Upload] = set()

    def missing(self, names: Iterable[ModuleName]) -> tuple[bytes, ...]:
        """Return the digests of the modules that are not here; compile those that are."""
        return tuple(name.digest for name in names if not self._has(name))

    def _has(self, name: ModuleName) -> bool:
        if name.size > LARGEST:
            raise refused(
                Reason.LIMIT,
                f"a module of {size(name.size)} is more than it takes ({size(LARGEST)})",
            )
        binary = self.binary(name.digest)
        if binary is None:
            return False
        self.compile(binary)
        return True

    def binary(self, digest: bytes) -> Buffer | None:
        """Return the binary of a module that is here, or None."""
        return self._host.module(digest) or self.modules.get(digest)

    def compile(self, binary: Buffer) -> None:
        """Validate and compile a module, so that the program need not wait for it later."""
        try:
            self._host.admit(binary)
        except ModuleError as error:
            raise refused(Reason.MODULE, f"the module does not load there: {error}") from error

    def begin(
        self, name: ModuleName, offered: Iterable[ModuleName], before: Upload | None = None
    ) -> Upload:
        """Begin to receive one of the modules that a source has offered.

        Uploads are held in memory. So each offer has one at a time, and all of them together are at
        most as large as the largest module.

        Args:
            name: The module.
            offered: The modules of the offer.
            before: An upload of the same offer, which ends.
        """
        if (name.digest, name.size) not in [(known.digest, known.size) for known in offered]:
            raise refused(Reason.MODULE, "this module was not asked for")
        with self._lock:
            if before is not None:
                before.drop()
                self._current.discard(before)
            under_way = sum(one.size for one in self._current)
            if self._current and under_way + name.size > LARGEST:
                raise refused(Reason.BUSY, f"it is receiving {size(under_way)} of other modules")
            upload = Upload(self, name)
            self._current.add(upload)
            return upload

    def over(self, upload: Upload) -> None:
        """Note that an upload has ended."""
        with self._lock:
            self._current.discard(upload)


class Upload:
    """A module that is being received. Methods raise PeerRefused."""

    def __init__(self, uploads: Uploads, name: ModuleName) -> None:
        self._uploads = uploads
        self._name = name
        self._binary = bytearray()
        self._dropped = False

    @property
    def size(self) -> int:
        """Bytes that the source has announced."""
        return self._name.size

    def drop(self) -> None:
        """Give up, because a later upload takes its place."""
        self._dropped = True
        self._binary = bytearray()

    def close(self) -> None:
        """Release what has come, and its place."""
        self._binary = bytearray()
        self._uploads.over(self)

    def _check(self) -> None:
        if self._dropped:
            raise refused(Reason.BUSY, "a later upload took this one's place")

    def write(self, piece: Buffer) -> None:
        """Append a piece; refuse what is longer than the source has announced."""
        self._check()
        if len(self._binary) + len(piece) > self._name.size:
            raise refused(Reason.MODULE, "the module is longer than announced")
        self._binary += piece

    def finish(self) -> None:
        """Check the digest, compile the module and keep it."""
        self._check()
        binary, self._binary = self._binary, bytearray()
        self._uploads.over(self)
        if hashlib.sha256(binary).digest() != self._name.digest:
            raise refused(Reason.MODULE, "the module does not have the digest that was announced")
        self._uploads.compile(binary)
        try:
            self._uploads.modules.put(binary, self._name.digest)
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
