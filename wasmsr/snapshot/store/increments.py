"""Increments: snapshots of a store that are files with what differs from another one, the base.

In packs a snapshot costs the digests of all its pages, when it is put and when it is read. The
increment of a sandbox that has written one megabyte costs that megabyte. Its base is a mapped file
in the store itself, so an increment is whole as long as its store is. Layout: docs/store-format.md.
"""

from __future__ import annotations

import io
import os
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import IO, TYPE_CHECKING, Any

from wasmsr.errors import (
    DigestError,
    FormatError,
    HandedOver,
    SnapshotError,
    VersionError,
    printable,
)
from wasmsr.snapshot.encoding.container import IGNORABLE, MAPPED
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.encoding.registry import BY_KIND
from wasmsr.snapshot.encoding.section import ReadBase
from wasmsr.snapshot.encoding.writer import encode
from wasmsr.snapshot.format import read_file
from wasmsr.snapshot.mapped.admission import ALL_LEVELS, admit, check_unwritable, find
from wasmsr.snapshot.mapped.opening import open_mapped
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.memory.adoption import allocate, share
from wasmsr.snapshot.memory.page_engine import pairs_of
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.sections.host.files import without_unused
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE, page_digests, page_runs
from wasmsr.snapshot.spaces.space_pages import Base, Written
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.store.folder import BASES, INCREMENTS, StoreFolder

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits
    from wasmsr.snapshot.state import SnapshotState

SUFFIX = ".bin"
HEAD = Struct("<8sHH32s")
"""Magic, version, zero, root digest of the base."""
TAIL = Struct("<Q32sI")
"""Plain bytes, root digest, CRC-32 of the head and of these two."""
MAGIC = b"WSRincr\n"
VERSION = 2
"""Version of increments, which is that of the store."""
PREFIX = 2 << 20
"""Bytes of the base's sections that are the prefix of the compressed bytes."""
WINDOW_LOG = 22
"""The window has 4 MiB: the prefix, and the sections that are compressed after it."""
HASH_LOG = 17
"""The compressor finds the sections of the base again by a table of 2^17 places."""
_PIECE = 1 << 18


class IncrementBase:
    """A snapshot under increments, which was read or mapped once for all of them.

    Args:
        decoder: What has read it.

    Attributes:
        root: Its root digest.
        content: Its content digest.
        state: Its state, whose memories nobody changes.
        templates: What its users keep to restore states over it fast, by what they like.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._earlier = decoder.as_earlier()
        self._digests = decoder.space_digests
        self.state = self._earlier.state
        self.root, self.content = decoder.root, decoder.content
        self.templates: dict[Any, Any] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, limits: Limits | None = None) -> IncrementBase:
        """Map a file whose pages this user has checked before; otherwise check them now.

        Args:
            path: A mapped snapshot that nobody writes.
            limits: Limits of the stores in which states over it are restored.

        Raises:
            SnapshotError: The file cannot be read, is damaged, or could be changed by others.
        """
        decoder = open_mapped(path, limits=limits)
        if decoder is None:
            decoder = read_file(path, Decoder(limits=limits, allocate=allocate))
            decoder.finish()
            mapped = decoder.header is not None and decoder.header.form == MAPPED
            check_unwritable(os.fspath(path), os.stat(path))
            if mapped and admit(os.fspath(path), decoder.root):  # else what was read serves
                decoder = open_mapped(path, limits=limits) or decoder
        memories = decoder.finish().memories
        share(memories)
        for memory in memories:  # a reader takes over what it may write; small ones are no files
            memory.data = memoryview(memory.data).toreadonly()
        return cls(decoder)

    @cached_property
    def trees(self) -> list[SpaceTree]:
        """The digests of its pages, for each memory.

        Raises:
            DigestError: The file that is mapped is not what it was.
        """
        found = []
        for memory, digest in zip(self.state.memories, self._digests, strict=True):
            view = memoryview(memory.data)
            tree = SpaceTree(len(view) // PAGE_SIZE)
            for first, count in page_runs(view):
                part = view[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
                tree.set_leaves(first, page_digests(part))
            if tree.root() != digest:
                raise DigestError("a prepared state was changed after it was checked")
            found.append(tree)
        return found

    @cached_property
    def prefix(self) -> Any:
        """The payloads of its sections, as a dictionary of zstd: those that its root is made of,
        in the order of their kinds, but for *memories* and what a reader may skip. At most `PREFIX`
        bytes."""
        import zstandard

        payloads = self._earlier.payloads
        kinds = [kind for kind in sorted(payloads) if kind < IGNORABLE]
        joined = b"".join(payloads[kind] for kind in kinds if not BY_KIND[kind].carrier)[:PREFIX]
        return zstandard.ZstdCompressionDict(joined, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    def write(self, state: SnapshotState, dirty: Sequence[array[int]]) -> Iterator[bytes]:
        """Yield the bytes of an increment.

        Args:
            state: The state, whose memories do not change meanwhile.
            dirty: For each memory, the runs of pages that may differ from the base.

        Raises:
            UnportableState, FormatError: As `encode`.
        """
        import zstandard

        trees = {SpaceName(MEMORY_SPACE, number): tree for number, tree in enumerate(self.trees)}
        modules = {one.digest for one in self.state.modules if one.binary}
        chunks = {digest for digest, _ in self.state.files or ()}
        base = Base(self.root, self.content, 0, trees, modules, chunks)
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, window_log=WINDOW_LOG, hash_log=HASH_LOG, write_checksum=1
        )
        packer = zstandard.ZstdCompressor(
            compression_params=parameters, dict_data=self.prefix
        ).compressobj()
        found: list[Written] = []
        head = HEAD.pack(MAGIC, VERSION, 0, self.root)
        yield head
        plain = 0
        runs = [pairs_of(one) for one in dirty]
        for piece in encode(
            state, version=2, compress=False, base=base, dirty=runs, written=found.append
        ):
            plain += len(piece)
            small = packer.compress(piece)
            if small:
                yield small
        yield packer.flush()
        yield _tail(head, plain, found[0].root)

    def reader(self, *, sparse: bool, limits: Limits | None = None) -> Decoder:
        """Return what reads the plain bytes of an increment.

        Args:
            sparse: Whether its memories get only the pages that the increment has.
            limits: Limits of the store in which the state is to be restored.
        """

        def found(root: bytes) -> ReadBase:
            return ReadBase(self.root, self.state, [one.copy() for one in self.trees], 0, sparse)

        earlier = self._earlier if sparse else None
        room = None if sparse else allocate
        return Decoder(limits=limits, allocate=room, find_base=found, earlier=earlier)


class _Part(io.RawIOBase):
    """A part of a file, from one place up to another."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        super().__init__()
        self._file = file
        self._left = max(0, end - start)
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _tail(head: bytes, plain: int, root: bytes) -> bytes:
    data = TAIL.pack(plain, root, 0)[:-4]
    return data + zlib.crc32(head + data).to_bytes(4, "little")


@dataclass(frozen=True)
class StoredIncrement:
    """An increment of a store, whose file is open.

    Attributes:
        name: Its name in the store.
        base: The root digest of its base.
        root: Its root digest.
        plain: Its bytes before they were compressed.
        stored: Bytes of the file.
    """

    name: str
    base: bytes
    root: bytes
    plain: int
    stored: int
    _file: IO[bytes]

    def read(
        self, base: IncrementBase, *, sparse: bool = False, limits: Limits | None = None
    ) -> Decoder:
        """Read it, with all digests compared.

        Args:
            base: Its base.
            sparse: Whether memories get only the pages that the increment has; the decoder says
                which.
            limits: Limits of the store in which the state is to be restored.

        Returns:
            A decoder that has finished.

        Raises:
            FormatError, DigestError, VersionError: What is wrong with it.
        """
        import zstandard

        decoder = base.reader(sparse=sparse, limits=limits)
        frame: Any = _Part(self._file, HEAD.size, self.stored - TAIL.size)
        unpacker = zstandard.ZstdDecompressor(
            dict_data=base.prefix, max_window_size=1 << WINDOW_LOG
        ).stream_reader(frame, closefd=False)
        plain = 0
        try:
            while piece := unpacker.read(_PIECE):
                plain += len(piece)
                if plain > self.plain:
                    raise FormatError(f"the increment {self.name} has more bytes than it says")
                decoder.feed(piece)
        except zstandard.ZstdError as error:
            raise DigestError(f"the increment {self.name} is damaged: {error}") from error
        state = decoder.finish()
        if (plain, decoder.root) != (self.plain, self.root):
            raise FormatError(f"the increment {self.name} is not what its end says")
        if decoder.header is None or decoder.header.form_name != "incremental":
            raise FormatError(f"the snapshot in the increment {self.name} is no incremental one")
        state.files = without_unused(state).files
        return decoder


class StoredIncrements:
    """The increments of a store in a folder, and their bases.

    Args:
        folder: The store.
    """

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names of all increments, sorted; none if the folder is another user's."""
        place = self._folder.place(INCREMENTS)
        if os.path.isdir(place) and not os.access(place, os.R_OK | os.X_OK):
            return []
        return self._all_names()

    def _all_names(self) -> list[str]:
        """As `names`; raises SnapshotError where they cannot be read."""
        if not os.path.lexists(self._folder.place(INCREMENTS)):
            return []  # a store without any has no folder
        return self._folder.listed(INCREMENTS, SUFFIX)

    def has(self, name: str) -> bool:
        """Return whether there is an increment of this name."""
        return self._folder.size(_file(name)) is not None

    def put(
        self,
        name: str,
        base: IncrementBase,
        state: SnapshotState,
        dirty: Sequence[array[int]],
        may: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Write an increment, and its base if the store does not have it.

        Args:
            name: Its name.
            base: The base.
            state: The state.
            dirty: For each memory, the runs of pages that may differ from the base.
            may: Asked at the end, while nobody else gives a name: whether the name is free.

        Returns:
            Whether it was written; False if the name is taken.

        Raises:
            SnapshotError: It cannot be written.
            UnportableState, FormatError: As `encode`.
        """
        folder = self._folder
        folder.make(INCREMENTS)
        with folder.locked("write"):
            self._keep(base)
            return folder.write_new(_file(name), base.write(state, dirty), may)

    def _keep(self, base: IncrementBase) -> None:
        """Have the base in the store, undamaged. Raises SnapshotError."""
        path = self._folder.place(_base_file(base.root))
        if not _is_base(path, base.root):
            self._folder.make(BASES)
            save_mapped(base.state, path, root=base.root)

    @contextmanager
    def opened(self, name: str) -> Iterator[StoredIncrement]:
        """Open an increment, and read its ends.

        Raises:
            SnapshotError: There is none, or it is damaged.
        """
        with self._folder.opened(_file(name)) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            head = file.read(HEAD.size)
            file.seek(max(0, size - TAIL.size))
            tail = file.read(TAIL.size)
            said = f"the increment {name}"
            if size < HEAD.size + TAIL.size or not head.startswith(MAGIC):
                raise FormatError(f"{said} is no increment")
            _, version, zero, base = HEAD.unpack(head)
            plain, root, _ = TAIL.unpack(tail)
            if version != VERSION or zero:
                raise VersionError(f"{said} has version {version}")
            if tail != _tail(head, plain, root):
                raise DigestError(f"{said} is damaged or cut off: its checksum differs")
            yield StoredIncrement(name, base, root, plain, size, file)

    def base(self, root: bytes, *, limits: Limits | None = None) -> IncrementBase:
        """Return the base with a root digest.

        Raises:
            SnapshotError: The store does not have it, or it is another one.
        """
        path = self._folder.place(_base_file(root))
        if not os.path.isfile(path):
            raise SnapshotError(
                f"the store lacks {printable(path)}, the prepared state that increments need",
                hint="copy the file from a store that has it, or from a backup of this one",
            )
        found = IncrementBase.open(path, limits=limits)
        if found.root != root:
            raise DigestError(f"{printable(path)} is another prepared state than its name says")
        return found

    def verify(self) -> Iterator[tuple[str, SnapshotError | None]]:
        """Read every increment, and yield its name with what is wrong with it, or None."""
        bases: dict[bytes, IncrementBase] = {}
        for name in self.names():
            try:
                with self.opened(name) as found:
                    if found.base not in bases:
                        bases[found.base] = self.base(found.base)
                    found.read(bases[found.base], sparse=True)
            except SnapshotError as error:
                yield name, error
            else:
                yield name, None

    def remove(self, name: str, root: bytes | None) -> bool:
        """Remove an increment, for good when this returns. The caller holds the lock of names.

        Args:
            name: Its name.
            root: Remove it only if it has this root digest.

        Returns:
            Whether there was one.

        Raises:
            SnapshotError: It has another root, or cannot be removed.
        """
        if not self.has(name):
            return False
        if root is not None:
            with self.opened(name) as found:
                if found.root != root:
                    raise SnapshotError(f"the name {name} has another snapshot by now")
        self._folder.remove(_file(name), lasting=True)
        return True

    def prune(self) -> int:
        """Remove bases that no increment needs; return their number. Nobody writes meanwhile.

        Raises:
            SnapshotError: An increment is damaged, or they cannot be read, so that nobody can say
                what they need.
        """
        needed = set()
        for name in self._all_names():
            try:
                with self.opened(name) as found:
                    needed.add(found.base.hex())
            except SnapshotError as error:
                raise type(error)(
                    f"nothing is removed: {error.message}",
                    hint=f"wasmsr store rm {name} gives the name up",
                ) from error
        gone = 0
        if os.path.isdir(self._folder.place(BASES)):
            for root in self._folder.listed(BASES, SUFFIX):
                if root not in needed:
                    self._folder.remove(f"{BASES}/{root}{SUFFIX}")
                    gone += 1
        return gone


def check_owned(decoder: Decoder, name: str) -> None:
    """Refuse to run a program of a store that another host owns. Raises HandedOver."""
    if decoder.header is not None and decoder.header.handed:
        raise HandedOver(
            f"the program {name} was handed over to another host, which owns it now",
            hint=f"go on with it there; wasmsr store get {name} -o FILE writes the state",
        )


def _is_base(path: str, root: bytes) -> bool:
    """Return whether a file is the base with a root digest; one that was not checked is read."""
    try:
        known = find(os.stat(path))
        if known is not None and known.root == root and {*ALL_LEVELS} <= {*known.levels}:
            return True
        return IncrementBase.open(path).root == root
    except (OSError, SnapshotError):
        return False


def _file(name: str) -> str:
    return f"{INCREMENTS}/{name}{SUFFIX}"


def _base_file(root: bytes) -> str:
    return f"{BASES}/{root.hex()}{SUFFIX}"


__all__ = ["IncrementBase", "StoredIncrement", "StoredIncrements", "check_owned"]
