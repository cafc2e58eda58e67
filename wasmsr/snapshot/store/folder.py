"""A folder of the host as the place of a store."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from wasmsr.errors import FormatError, SnapshotError, printable
from wasmsr.snapshot.format import save_pieces, sync_folder
from wasmsr.snapshot.store.place import FORMAT, NAMES, PACKS, LockMode, check_format

MAPPED = "mapped"
"""The folder of mapped files, which only this host has."""
INCREMENTS = "increments"
"""The folder of snapshots that are files with what differs from a base."""
BASES = "bases"
"""The folder of their bases."""
NAMES_LOCK = ".lock"  # beside the names
_OWN = {"format", "lock", PACKS, NAMES, MAPPED, INCREMENTS, BASES}
_TEMPORARY = ".part"


class StoreFolder:
    """The files of a store.

    Args:
        path: The folder.
        create: Make the folder a store if it is absent or empty.

    Raises:
        SnapshotError: The folder is no store, or the host refuses.
        VersionError: It is a store of a later version.
    """

    grows = True

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        self.path = os.fspath(path)
        with self._told("open"):
            self._open(create)

    def _open(self, create: bool) -> None:
        place = self.path
        said = printable(place)
        try:
            with open(os.path.join(place, "format"), "rb") as file:
                found = file.read(len(FORMAT) + 1)
        except (FileNotFoundError, NotADirectoryError):
            others = set() if not os.path.lexists(place) else set(os.listdir(place))
            others = {name for name in others - _OWN if not name.startswith(".")}
            if others and create:
                raise SnapshotError(
                    f"{said} is no store and has files in it",
                    hint="name an empty or a new folder: --store DIR",
                ) from None
            if not create:
                raise SnapshotError(
                    f"{said} is no store of snapshots",
                    hint="wasmsr store put FILE NAME --store DIR makes one",
                ) from None
            for folder in (PACKS, NAMES):
                _make_lasting(os.path.join(place, folder))
            save_pieces([FORMAT], os.path.join(place, "format"), what="store")
            return
        check_format(found, said)

    @contextmanager
    def _told(self, verb: str, name: str = "") -> Iterator[None]:
        """Turn an error of the host into one that names the file."""
        try:
            yield
        except OSError as error:
            where = printable(os.path.join(self.path, name))
            raise SnapshotError(f"cannot {verb} {where}: {error.strerror or error}") from error

    def place(self, name: str) -> str:
        """Return the path of a file."""
        return os.path.join(self.path, name)

    def inside(self, path: str) -> bool:
        """Return whether a file is in the folder."""
        return os.path.realpath(path).startswith(os.path.realpath(self.path) + os.sep)

    def mapped_place(self, name: str, root: bytes) -> str:
        """Return the path of the mapped file of a name that has this root digest now."""
        return self.place(f"{MAPPED}/{name}-{root[:8].hex()}.bin")

    def make(self, folder: str) -> None:
        """Make a folder that a store need not have, and which only this user may use."""
        with self._told("write", folder):
            _make_lasting(self.place(folder), 0o700)

    def prune_mapped(self, kept: Container[str]) -> None:
        """Remove mapped files but those with these paths."""
        with self._told("remove", MAPPED), suppress(FileNotFoundError):
            for name in os.listdir(self.place(MAPPED)):
                path = self.place(f"{MAPPED}/{name}")
                if path not in kept:
                    os.unlink(path)

    @contextmanager
    def locked(self, mode: LockMode) -> Iterator[None]:
        """Hold the store's lock: shared with others, or alone. Wait for it."""
        with self._told("lock", "lock"):
            try:
                number = os.open(self.place("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError:  # a store that may only be read
                number = os.open(self.place("lock"), os.O_RDONLY | os.O_CLOEXEC)
        names = None
        try:
            with self._told("lock", "lock"):
                fcntl.flock(number, fcntl.LOCK_EX if mode == "alone" else fcntl.LOCK_SH)
            if mode == "names":
                with self._told("lock", NAMES):
                    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                    names = os.open(self.place(f"{NAMES}/{NAMES_LOCK}"), flags, 0o666)
                    fcntl.flock(names, fcntl.LOCK_EX)
            yield
        finally:
            if names is not None:
                os.close(names)
            os.close(number)

    def listed(self, folder: str, suffix: str) -> list[str]:
        """Return the names, without suffix, of the files in a folder that have it; sorted."""
        with self._told("read", folder):
            found = os.listdir(self.place(folder))
        kept = [name for name in found if name.endswith(suffix) and not name.startswith(".")]
        return sorted(name.removesuffix(suffix) for name in kept)

    def size(self, name: str) -> int | None:
        """Return the length of a regular file in bytes; None if there is none."""
        path = self.place(name)
        try:
            return os.path.getsize(path) if os.path.isfile(path) else None
        except OSError:
            return None

    @contextmanager
    def _reading(self, name: str) -> Iterator[int]:
        """Open a regular file to read it; another kind of file could make the reader wait."""
        with self._told("read", name):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            number = os.open(self.place(name), flags)
            try:
                if not stat.S_ISREG(os.fstat(number).st_mode):
                    raise FormatError(f"{printable(self.place(name))} is no regular file")
                yield number
            finally:
                os.close(number)

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """Open a regular file to read parts of it."""
        with self._reading(name) as number, open(number, "rb", closefd=False) as file:
            yield file

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole file. Raises FormatError if it has more than `limit` bytes."""
        with self._reading(name) as number:
            size = os.fstat(number).st_size
            if size > limit:
                raise FormatError(f"{printable(self.place(name))} is larger than {limit} bytes")
            return os.pread(number, size, 0)

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a file; fewer where it ends."""
        with self._reading(name) as number:
            return os.pread(number, length, offset)

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a file, which appears whole or not at all, and lasts.

        Args:
            name: The file.
            data: Its bytes.
            replace: Whether it may be there; if not, such a file stays, and False is returned.
        """
        place = self.place(name)
        try:
            save_pieces([data], place, names=None if replace else iter([place]), what="store")
        except StopIteration:  # there is no further name
            return False
        return True

    def write_new(self, name: str, pieces: Iterable[bytes], may: Callable[[], bool]) -> bool:
        """Write a file that appears whole or not at all, and lasts, unless there is one.

        Args:
            name: The file.
            pieces: Its bytes, which may be many.
            may: Asked at the end, while nobody else gives or removes a name; False gives it up.

        Returns:
            Whether the file was written.
        """
        place = self.place(name)
        folder, own = os.path.split(place)
        with self._told("write", name):
            number, part = tempfile.mkstemp(prefix=f".{own[:200]}.", suffix=_TEMPORARY, dir=folder)
            try:
                try:
                    save_pieces(pieces, number, what="snapshot")
                    os.fsync(number)
                finally:
                    os.close(number)
                with self.locked("names"):
                    if os.path.lexists(place) or not may():
                        return False
                    os.rename(part, place)
                sync_folder(folder)
                return True
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part)

    def remove(self, name: str, *, lasting: bool = False) -> None:
        """Remove a file if it is there.

        Args:
            name: The file.
            lasting: Whether it stays removed when the host loses its power.
        """
        place = self.place(name)
        with self._told("remove", name), suppress(FileNotFoundError):
            os.unlink(place)
            if lasting:
                sync_folder(os.path.dirname(place))

    def append_to(self, name: str, *, new: bool) -> int | None:
        """Open a file to append to it; nobody else appends until the descriptor is closed.

        Args:
            name: The file.
            new: Whether the file is made; otherwise it is there.

        Returns:
            The descriptor, or None if another writer has the file or it is gone.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0)
        with self._told("write", name):
            try:
                number = os.open(self.place(name), flags, 0o600)
            except FileNotFoundError:
                if new:
                    raise
                return None
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(number)
                return None
            return number

    def append(self, number: int, data: bytes) -> None:
        """Append bytes to a file that `append_to` has opened."""
        with self._told("write", PACKS):
            view = memoryview(data)
            while len(view):
                view = view[os.write(number, view) :]

    def sync(self, number: int) -> None:
        """Make what was appended last."""
        with self._told("write", PACKS):
            os.fsync(number)

    def close(self, number: int) -> None:
        """Close a file that `append_to` has opened."""
        os.close(number)

    def tidy(self) -> int:
        """Remove files that writers left when they were killed; return their number.

        The caller holds the lock alone.
        """
        count = 0
        for folder in ("", PACKS, NAMES, INCREMENTS, BASES):
            with self._told("read", folder):
                try:
                    found = os.listdir(self.place(folder))
                except FileNotFoundError:
                    if folder in (INCREMENTS, BASES):
                        continue
                    raise
            for name in found:
                if name.startswith(".") and name.endswith(_TEMPORARY):
                    self.remove(os.path.join(folder, name))
                    count += 1
        return count


def _make_lasting(path: str, mode: int = 0o777) -> None:
    """Make a folder, and those above it, so that they are there after a power cut.

    Raises:
        OSError: The host refuses.
    """
    above = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(path):
        _make_lasting(above)
        os.makedirs(path, mode, exist_ok=True)
        sync_folder(above)
