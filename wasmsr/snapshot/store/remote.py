"""A store in an object store such as S3, by fsspec; the only file that imports fsspec.

Objects appear whole or not at all, and cannot be appended to. So a writer collects a pack here and
writes it at once, then its index, and the manifest last. There are no locks: a writer, and a
collector, writes a marker and then looks for those of others (docs/store-format.md).
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from wasmsr.errors import FormatError, MissingPackageError, SnapshotError, printable
from wasmsr.snapshot.store.pack import PACK_LIMIT
from wasmsr.snapshot.store.place import FORMAT, LockMode, check_format

WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"}
"""Kinds of addresses whose objects appear whole or not at all."""
LOCKS = "locks"
"""The folder of markers."""
LEASE = 900.0
"""Seconds after which a marker counts no more: its writer was killed."""
PATIENCE = 30.0
"""Seconds that a command waits for the markers of others."""
PACKS_HELD = 4
"""How many packs are held in memory while a snapshot is read."""
LISTED = 1_000_000
"""How many files a folder may have."""


class RemoteStore:
    """The files of a store in an object store.

    Args:
        address: Its address, `s3://BUCKET/PREFIX` for example. Credentials and end point come from
            the variables and files of the service's own tools (`AWS_ENDPOINT_URL`).
        create: Make it a store if there is none.

    Raises:
        SnapshotError: It is no store, or the service refuses.
        MissingPackageError: A package for this kind of address is not installed.
    """

    grows = False

    def __init__(self, address: str, *, create: bool = False) -> None:
        self.path = address.rstrip("/")
        kind = address.partition("://")[0]
        if kind not in WHOLE:
            raise SnapshotError(
                f"a store cannot be at {printable(address)}: files there do not appear at once",
                hint="an object store (s3://BUCKET/PREFIX), or a folder by its path",
            )
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise MissingPackageError("fsspec", "a store at an address", extra="store") from None
        with self._told("open"):
            try:
                self._files, self._root = url_to_fs(self.path, use_listings_cache=False)
            except ImportError:
                package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
                name = package.get(kind, "adlfs" if kind.startswith("a") else "ossfs")
                extra = "store" if name == "s3fs" else None
                raise MissingPackageError(name, f"a store at {kind}://", extra=extra) from None
        self._buffers: dict[int, tuple[str, bytearray]] = {}
        self._packs: OrderedDict[str, bytes] = OrderedDict()
        self._marker = ""
        self._marked = 0.0
        found = self._peek("format", len(FORMAT) + 1)
        if found is not None:
            check_format(found, printable(address))
        elif create:
            self.write("format", FORMAT)
        else:
            raise SnapshotError(
                f"{printable(address)} is no store of snapshots",
                hint=f"wasmsr store put FILE NAME --store {printable(address)} makes one",
            )

    @contextmanager
    def _told(self, verb: str, name: str = "") -> Iterator[None]:
        """Turn an error of the service into one that names the file."""
        try:
            yield
        except (SnapshotError, MissingPackageError):
            raise
        except Exception as error:  # each service has errors of its own
            where = printable(f"{self.path}/{name}".rstrip("/"))
            raise SnapshotError(
                f"cannot {verb} {where}: {printable(str(error) or type(error).__name__)}",
                hint="are the address, the credentials and the end point right?",
            ) from error

    def place(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.path}/{name}"

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def inside(self, path: str) -> bool:
        """Return False: a file of this host is not there."""
        return False

    def listed(self, folder: str, suffix: str) -> list[str]:
        """Return the names, without suffix, of the files in a folder that have it; sorted."""
        with self._told("read", folder):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                found = []
        if len(found) > LISTED:
            raise FormatError(f"{printable(self.place(folder))} has more than {LISTED} files")
        names = [str(path).rsplit("/", 1)[-1] for path in found]
        return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))

    def size(self, name: str) -> int | None:
        """Return the length of a file in bytes; None if there is none."""
        with self._told("read", name):
            self._files.invalidate_cache()
            try:
                found = self._files.info(self._at(name))
            except FileNotFoundError:
                return None
        return int(found["size"]) if found.get("type") == "file" else None

    def _peek(self, name: str, size: int) -> bytes | None:
        """Return the first bytes of a file; None if there is none."""
        with self._told("read", name):
            try:
                return bytes(self._files.cat_file(self._at(name), start=0, end=size))
            except FileNotFoundError:
                return None

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole file. Raises FormatError if it has more than `limit` bytes."""
        size = self.size(name)
        if size is None:
            raise SnapshotError(f"cannot read {printable(self.place(name))}: it is not there")
        if size > limit:
            raise FormatError(f"{printable(self.place(name))} is larger than {limit} bytes")
        return (self._peek(name, size) or b"") if size else b""

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a pack; fewer where it ends. The packs that were last read are held."""
        data = self._packs.get(name)
        if data is None:
            data = self._packs[name] = self.read(name, PACK_LIMIT)
            if len(self._packs) > PACKS_HELD:
                self._packs.popitem(last=False)
        else:
            self._packs.move_to_end(name)
        return data[offset : offset + length]

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a file, which appears whole or not at all; False if it must not be replaced."""
        self._renew()
        if not replace and self.size(name) is not None:
            return False
        with self._told("write", name):
            self._put(name, data)
        return True

    def _put(self, name: str, data: bytes) -> None:
        self._files.pipe_file(self._at(name), data)

    def remove(self, name: str, *, lasting: bool = False) -> None:
        """Remove a file if it is there. It stays removed in any case."""
        self._renew()
        with self._told("remove", name), suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    # -- packs -------------------------------------------------------------------------------------

    def append_to(self, name: str, *, new: bool) -> int | None:
        """Begin a new pack, which is collected here; None for one that is there."""
        if not new:
            return None
        number = max(self._buffers, default=0) + 1
        self._buffers[number] = name, bytearray()
        return number

    def append(self, number: int, data: bytes) -> None:
        """Append bytes to a new pack."""
        buffer = self._buffers[number][1]
        buffer += data

    def sync(self, number: int) -> None:
        """Write a pack."""
        name, data = self._buffers[number]
        self.write(name, bytes(data))

    def close(self, number: int) -> None:
        """Forget a pack."""
        self._buffers.pop(number, None)

    def tidy(self) -> int:
        """Remove the markers of writers that were killed; return their number."""
        gone = 0
        ages = self._ages()
        for name, age in ages.items():
            if age > LEASE and name != self._marker:
                self.remove(f"{LOCKS}/{name}")
                gone += 1
        return gone

    # -- locks -------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, mode: LockMode) -> Iterator[None]:
        """Hold a marker, unless only to read; wait for markers that exclude it.

        Raises:
            SnapshotError: Another command does not end.
        """
        if mode == "read":
            yield
            return
        end = time.monotonic() + PATIENCE
        while True:
            self._marker = f"{mode}-{secrets.token_hex(16)}"
            self._mark()
            others = self._others(mode)
            if not others:
                break
            self._unmark()
            if time.monotonic() > end:
                what = "removes pieces" if others[0].startswith("alone") else "writes"
                raise SnapshotError(
                    f"another command {what} in {printable(self.path)} now",
                    hint=f"if it was killed, its marker lapses {LEASE / 60:.0f} minutes after its "
                    "last step: try again then",
                )
            time.sleep(0.2 + random.random())
        try:
            yield
        finally:
            self._unmark()

    def _mark(self) -> None:
        self._marked = time.monotonic()
        with self._told("write", LOCKS):
            self._put(f"{LOCKS}/{self._marker}", str(os.getpid()).encode())

    def _unmark(self) -> None:
        marker, self._marker = self._marker, ""
        with suppress(SnapshotError), self._told("remove", LOCKS):
            self._files.rm_file(self._at(f"{LOCKS}/{marker}"))

    def _renew(self) -> None:
        """Renew the marker in time.

        Raises:
            SnapshotError: It may have lapsed, for example in a suspended process.
        """
        if not self._marker:
            return
        age = time.monotonic() - self._marked
        if age > LEASE / 2:
            raise SnapshotError(
                f"the work in {printable(self.path)} took too long between two steps",
                hint="others may have removed pieces meanwhile: give the command again",
            )
        if age > LEASE / 10:
            self._mark()

    def _ages(self) -> dict[str, float]:
        """Return the age of each marker in seconds, all by the clock of the service."""
        found: dict[str, Any] = {}
        for name in self.listed(LOCKS, ""):
            with self._told("read", LOCKS), suppress(FileNotFoundError):
                found[name] = self._files.modified(self._at(f"{LOCKS}/{name}"))
        now = found.get(self._marker) or max(found.values(), default=None)
        return {name: (now - then).total_seconds() for name, then in found.items()}

    def _others(self, mode: LockMode) -> list[str]:
        """Return the markers that exclude a mode."""
        return sorted(
            name
            for name, age in self._ages().items()
            if name != self._marker
            and age <= LEASE
            and (
                mode == "alone"
                or name.startswith("alone-")
                or (mode == "names" and name.startswith("names-"))
            )
        )
