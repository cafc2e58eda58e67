"""A memory on disk: its pages by digest, each cut only with what is new.

A folder has `image.json`, which is replaced whole, an index of all pages, and packs. A pack has the
pages that one cut added. An index has 44 bytes for each page: SHA-256, number of the pack, offset;
a page of zeros has zeros.

A cut that counts only together with something else, such as the cuts of other memories, is first
prepared: beside `image.json` there is `next.json`. Whoever opens the folder later says whether it
counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from wasmsr import small_files
from wasmsr.errors import printable, reason
from wasmsr.mem.failures import RemoteMemoryError
from wasmsr.mem.serving.memory_region import MemoryCut, MemoryRegion
from wasmsr.mem.serving.page_cut import PAGE_BITS, PAGE_BYTES, PageCut

VERSION = 1
ENTRY = struct.Struct("<32sIQ")
ZERO = ENTRY.pack(b"", 0, 0)
LARGEST_IMAGE = 1 << 26
"""Bytes that `image.json` may have."""
DAMAGES = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
           RecursionError)  # fmt: skip
"""What reading an image that is damaged may raise."""
SLACK = 1 << 24
"""Bytes of pages that nobody needs any more, which do not yet count."""


class MemoryImageError(RemoteMemoryError):
    """A memory cannot be saved, or what was saved of it cannot be read."""


class MemoryImages:
    """The folder of one memory.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path, counts: int | None = None) -> None:
        """Open a folder, or make it.

        Args:
            folder: Where it is.
            counts: The number of the prepared cut that counts, if it was not published. Another
                prepared cut does not count, and is removed.

        Raises:
            MemoryImageError: It cannot be made, or what is in it is damaged.
        """
        self.folder = folder
        self._next: _NextCut | None = None
        self._number = 0
        self._index = bytearray()
        self._packs: dict[int, int] = {}
        self._said: dict[str, Any] | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._settle(counts)
            if (folder / "image.json").exists():
                self._read()
        except DAMAGES as error:
            raise MemoryImageError(
                f"the image of a memory in {printable(folder)} is damaged: {reason(error)}",
                hint="begin with an empty folder",
            ) from error

    @property
    def is_empty(self) -> bool:
        """Whether nothing was saved yet."""
        return self._said is None

    @property
    def size(self) -> int:
        """The length of the saved memory in bytes."""
        return 0 if self._said is None else int(self._said["size"])

    @property
    def moved(self) -> str:
        """The address to which the memory has moved; "" if it has not.

        Raises:
            MemoryImageError: What says so is damaged.
        """
        path = self.folder / "moved.json"
        try:
            return str(json.loads(small_files.read(path, LARGEST_IMAGE)[0])["address"])
        except FileNotFoundError:
            return ""
        except DAMAGES as error:
            raise MemoryImageError(f"{printable(path)} is damaged: {reason(error)}") from error

    @property
    def arrives(self) -> tuple[str, str] | None:
        """From where to where the memory was moving when this was written, if it is not known to
        be here.

        Raises:
            MemoryImageError: What says so is damaged.
        """
        path = self.folder / "arrives.json"
        try:
            said = json.loads(small_files.read(path, LARGEST_IMAGE)[0])
            return str(said["from"]), str(said["to"])
        except FileNotFoundError:
            return None
        except DAMAGES as error:
            raise MemoryImageError(f"{printable(path)} is damaged: {reason(error)}") from error

    def note_arrival(self, source: str, address: str) -> None:
        """Keep that a memory is moving here: what is here does not count yet. Raises OSError."""
        said = json.dumps({"from": source, "to": address}).encode()
        small_files.replace(self.folder / "arrives.json", said)

    def arrived(self) -> None:
        """Keep that the memory is here. Raises OSError."""
        (self.folder / "arrives.json").unlink()
        small_files.sync_folder(self.folder)

    def note_move(self, address: str) -> None:
        """Keep that the memory has moved: what is here is old from now on. Raises OSError."""
        path = self.folder / "moved.json"
        try:
            small_files.replace(path, json.dumps({"address": address}).encode())
        except OSError:
            path.unlink(missing_ok=True)  # it stays, so a later start must not say otherwise
            raise

    # ---- reading ---------------------------------------------------------------------------------

    def _read(self) -> None:
        data, _ = small_files.read(self.folder / "image.json", LARGEST_IMAGE)
        said = json.loads(data)
        if said["version"] != VERSION:
            raise ValueError(f"version {said['version']} is unknown")
        number, size = said["number"], said["size"]
        if not (isinstance(number, int) and isinstance(size, int) and 0 <= size < 1 << 46):
            raise ValueError("its number or size is none")
        pages = size + PAGE_BYTES - 1 >> PAGE_BITS
        index = bytearray((self.folder / f"index-{number}").read_bytes())
        if len(index) != pages * ENTRY.size:
            raise ValueError("its index has another length")
        if hashlib.sha256(index).hexdigest() != said["index"]:
            raise ValueError("the checksum of its index differs")
        self._number, self._index, self._said = number, index, said
        self._packs = {int(key): int(value) for key, value in said["packs"].items()}

    def _settle(self, counts: int | None) -> None:
        """Publish what was prepared if it counts, or forget it."""
        path = self.folder / "next.json"
        if not path.exists():
            return
        data, _ = small_files.read(path, LARGEST_IMAGE)
        if counts is not None and json.loads(data)["number"] == counts:
            os.replace(path, self.folder / "image.json")
        else:
            path.unlink()
        small_files.sync_folder(self.folder)

    def load(self, region: MemoryRegion) -> None:
        """Fill a memory, whose bytes are zero, with what was saved.

        Raises:
            MemoryImageError: The sizes differ, or a page is damaged.
        """
        if self._said is None:
            return
        if region.size != self.size:
            raise MemoryImageError(
                f"{printable(self.folder)} has a memory of {self.size} bytes, not {region.size}"
            )
        try:
            # One pack after the other: there may be more of them than a process has descriptors.
            pages: dict[int, list[tuple[int, int, bytes]]] = {}
            for page, (digest, pack, offset) in enumerate(ENTRY.iter_unpack(self._index)):
                if pack:
                    pages.setdefault(pack, []).append((offset, page, digest))
            for pack in sorted(pages):
                if pack not in self._packs:
                    raise ValueError(f"pack {pack} is unknown")
                with (self.folder / f"pack-{pack}").open("rb") as file:
                    for offset, page, digest in sorted(pages[pack]):
                        self._load_page(region, page, file, offset, digest)
            region.take_over(MemoryCut.read(self._said))
        except DAMAGES as error:
            raise MemoryImageError(
                f"the image of a memory in {printable(self.folder)} is damaged: {reason(error)}"
            ) from error

    @staticmethod
    def _load_page(
        region: MemoryRegion, page: int, file: BinaryIO, offset: int, digest: bytes
    ) -> None:
        view = region.buffer[page << PAGE_BITS : page + 1 << PAGE_BITS]
        file.seek(offset)
        data = file.read(len(view))
        if len(data) != len(view) or hashlib.sha256(data).digest() != digest:
            raise ValueError(f"page {page} is damaged")
        view[:] = data

    # ---- writing ---------------------------------------------------------------------------------

    def save(self, region: MemoryRegion, *, every_page: bool = False) -> int:
        """Save a memory as it is now; return how many bytes of pages were written.

        Args:
            region: The memory.
            every_page: Compare all pages: others write to it without commands.

        Raises:
            MemoryImageError: It cannot be written; the cut before is still there.
        """
        written = self.finish(self.begin(region, every_page=every_page))
        self.publish()
        return written

    def prepare(self, region: MemoryRegion) -> int:
        """Save a memory as it is now, so that `publish` cannot fail for want of room.

        Returns:
            The number of the cut, with which a later `MemoryImages` is told that it counts.

        Raises:
            MemoryImageError: It cannot be written; the cut before is still there.
        """
        self.finish(self.begin(region))
        return self.prepared

    @staticmethod
    def begin(region: MemoryRegion, *, every_page: bool = False) -> BegunCut:
        """Take the cut of this instant, which `finish` prepares; the memory goes on meanwhile.

        `finish` or `drop` must follow: nobody else can begin a cut of the memory before.

        Args:
            region: The memory.
            every_page: As for `save`.
        """
        return BegunCut(region, *region.begin_cut(every_page=every_page))

    def finish(self, begun: BegunCut) -> int:
        """Prepare a cut that was begun, for `publish` or `forget`.

        Returns:
            How many bytes of pages were written.

        Raises:
            MemoryImageError: It cannot be written; the cut before is still there.
        """
        try:
            written = self._save(begun.cut, begun.pages)
            assert self._next is not None
            self._next.begun = begun
            return written
        except BaseException as error:
            begun.region.still_dirty(begun.pages.numbers)  # or the next cut would not have them
            if not isinstance(error, OSError):
                raise
            raise MemoryImageError(
                f"a memory cannot be saved in {printable(self.folder)}: {reason(error)}"
            ) from error
        finally:
            begun.region.end_cut(begun.pages)

    @property
    def prepared(self) -> int:
        """The number of the prepared cut, 0 if there is none."""
        return 0 if self._next is None else self._next.number

    def forget(self) -> None:
        """Have the prepared cut not count; the next one has its pages. Does nothing without one."""
        cut, self._next = self._next, None
        if cut is None:
            return
        if cut.begun is not None:
            cut.begun.region.still_dirty(cut.begun.pages.numbers)
        with suppress(OSError):
            (self.folder / "next.json").unlink()

    def publish(self) -> None:
        """Have the prepared cut be the memory; does nothing if there is none.

        Raises:
            MemoryImageError: It cannot be written; the cut counts if a later `MemoryImages` is told
                its number.
        """
        cut = self._next
        if cut is None:
            return
        try:
            os.replace(self.folder / "next.json", self.folder / "image.json")
            small_files.sync_folder(self.folder)
        except OSError as error:
            raise MemoryImageError(
                f"a memory cannot be saved in {printable(self.folder)}: {reason(error)}"
            ) from error
        self._next = None
        self._number, self._index, self._packs, self._said = (
            cut.number, cut.index, cut.packs, cut.said,
        )  # fmt: skip
        keep = {"image.json", f"index-{cut.number}", *(f"pack-{one}" for one in cut.packs)}
        for name in os.listdir(self.folder):
            if name not in keep and name.partition("-")[0] in ("index", "pack"):
                with suppress(OSError):
                    (self.folder / name).unlink()

    def _save(self, cut: MemoryCut, pages: Iterable[tuple[int, bytes]]) -> int:
        count = cut.size + PAGE_BYTES - 1 >> PAGE_BITS
        index = bytearray(self._index) or bytearray(ZERO * count)
        if len(index) != count * ENTRY.size:
            raise MemoryImageError(f"{printable(self.folder)} has a memory of another size")
        number = self._number + 1
        new: dict[bytes, int] = {}
        written = 0
        with (self.folder / f"pack-{number}").open("wb") as pack:

            def add(page: int, data: bytes, digest: bytes) -> None:
                nonlocal written
                if digest not in new:
                    new[digest] = written
                    pack.write(data)
                    written += len(data)
                ENTRY.pack_into(index, page * ENTRY.size, digest, number, new[digest])

            for page, data in pages:
                digest = hashlib.sha256(data).digest()
                if not data.strip(b"\0"):
                    ENTRY.pack_into(index, page * ENTRY.size, b"", 0, 0)
                elif index[page * ENTRY.size : page * ENTRY.size + 32] != digest:
                    add(page, data, digest)
            for page, data, digest in self._scattered(index, number, cut.size):
                add(page, data, digest)
            pack.flush()
            os.fsync(pack.fileno())
        used = {entry[1] for entry in ENTRY.iter_unpack(index)} - {0}
        packs = {one: length for one, length in self._packs.items() if one in used}
        if written:
            packs[number] = written
        self._prepare(cut, index, number, packs)
        return written

    def _scattered(
        self, index: bytearray, number: int, size: int
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield the pages of old packs, if these have more bytes that nobody needs than others."""
        old = [
            (page, digest, pack, offset)
            for page, (digest, pack, offset) in enumerate(ENTRY.iter_unpack(index))
            if pack not in (0, number)
        ]
        held = sum(self._packs.values())
        if held <= 2 * len({entry[1] for entry in old}) * PAGE_BYTES + SLACK:
            return
        for page, digest, pack, offset in old:
            with (self.folder / f"pack-{pack}").open("rb") as file:
                file.seek(offset)
                data = file.read(min(PAGE_BYTES, size - (page << PAGE_BITS)))
            if hashlib.sha256(data).digest() != digest:
                raise MemoryImageError(f"{printable(file.name)} is damaged")
            yield page, data, digest

    def _prepare(
        self, cut: MemoryCut, index: bytearray, number: int, packs: dict[int, int]
    ) -> None:
        small_files.replace(self.folder / f"index-{number}", bytes(index))
        said = {
            "version": VERSION,
            "number": number,
            **cut.said(),
            "index": hashlib.sha256(index).hexdigest(),
            "packs": packs,
        }
        small_files.replace(self.folder / "next.json", json.dumps(said).encode())
        self._next = _NextCut(number, index, packs, said)


@dataclass(frozen=True)
class BegunCut:
    """A cut of one instant, whose pages are not written yet."""

    region: MemoryRegion
    cut: MemoryCut
    pages: PageCut

    def drop(self) -> None:
        """Give it up: the next cut has its pages."""
        self.region.still_dirty(self.pages.numbers)
        self.region.end_cut(self.pages)


@dataclass
class _NextCut:
    """A cut that is written and does not count yet."""

    number: int
    index: bytearray
    packs: dict[int, int]
    said: dict[str, Any]
    begun: BegunCut | None = None


def emptied(folder: Path) -> MemoryImages:
    """Return a folder for a memory that moves here; what is left of a move that failed goes.

    Raises:
        MemoryImageError: It has a memory.
    """
    found = MemoryImages(folder)
    if found.arrives is None and (found.moved or not found.is_empty):
        raise MemoryImageError(
            f"{printable(folder)} has a memory already",
            hint="give the one that moves here an empty --folder",
        )
    for name in ("image.json", "next.json"):  # the rest goes with the next cut
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    return MemoryImages(folder)


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Have the folder of a memory alone, meanwhile; a process that ends gives it back.

    Raises:
        MemoryImageError: Another process has it, or it cannot be made.
    """
    lock = -1
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "taken", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            raise MemoryImageError(
                f"another process saves its memory in {printable(folder)}",
                hint="give this one another --folder",
            ) from None
        raise MemoryImageError(f"{printable(folder)}: {reason(error)}") from error
    try:
        yield
    finally:
        os.close(lock)
