"""A directory tree as a manifest: its entries, with digests of their content.

`scan` makes a manifest of a tree of the host. `parse` makes one of the plain data of a snapshot,
which is hostile. `tree_restore` makes a tree of a manifest. docs/snapshot-format.md, section
12, has the form.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from wasmsr import realtime
from wasmsr.errors import FormatError, UnportableState
from wasmsr.realtime import LATEST
from wasmsr.wasi.filesystem.trees import FileSignature, KnownFiles
from wasmsr.wasi.filesystem.unnoticed import ChunkFolder, extents, open_to_read
from wasmsr.wasi.state.contents import CHUNK, DIGEST, PLACE, ZEROS, Contents, digest_of
from wasmsr.wasi.state.written import WrittenFiles, signature_of
from wasmsr.wasi.syscalls import MAX_OFFSET

DIRECTORY, FILE, LINK, SAME = range(4)
"""Kinds of entries. LINK: a symbolic link; SAME: another name of a file named before."""
PERMISSIONS: Final = 0o777
PATH_MAX: Final = 4096
MAX_ENTRIES: Final = 1 << 20
COARSE: Final = 100_000_000
"""ns: no file system's change times are coarser, but for those that count whole seconds."""
STAGING: Final = b".wasmsr-staging-"
"""The working folder of `tree_restore` has this name and 16 digits; it is no part of any tree."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """Something in a tree: path below its root (empty: the root), permissions, times in ns.

    A FILE has `size` and `chunks` (`PLACE` each, ascending; what they leave out is zero); a LINK
    leads to `target`; a SAME is another name of the file at `target`.
    """

    path: bytes
    kind: int
    mode: int
    atim: int
    mtim: int
    size: int = 0
    chunks: bytes = b""
    target: bytes = b""

    @property
    def content(self) -> tuple[int, int, bytes, bytes]:
        """What two entries are compared by."""
        return self.kind, self.size, self.chunks, self.target

    @property
    def places(self) -> Iterator[tuple[int, bytes, int]]:
        """(offset, digest, length) of each chunk."""
        for number, digest in PLACE.iter_unpack(self.chunks):
            offset = number * CHUNK
            yield offset, digest, min(CHUNK, self.size - offset)

    def plain(self) -> list[Any]:
        """As the snapshot has it."""
        return [
            self.path,
            self.kind,
            self.mode,
            self.atim,
            self.mtim,
            self.size,
            self.chunks,
            self.target,
        ]


@dataclass
class TreeScan:
    """What was found in a tree: entries in the order of their paths, where each inode is, change
    time and signature of each path."""

    entries: list[TreeEntry] = field(default_factory=list)
    inodes: dict[tuple[int, int], bytes] = field(default_factory=dict)
    changed: dict[bytes, int] = field(default_factory=dict)
    signatures: dict[bytes, FileSignature] = field(default_factory=dict)
    began: int = field(default_factory=realtime.now)

    @property
    def known(self) -> KnownFiles:
        """What the next scan need not read again, if it still looks the same. Without what was
        changed just before: the host's clock may be too coarse to show the next change."""
        return {
            entry.path: (self.signatures[entry.path], entry.chunks)
            for entry in self.entries
            if entry.kind == FILE and self.signatures[entry.path][3] < self.began - COARSE
        }


def scan(
    root: int,
    guest: str,
    contents: Contents,
    limit: int,
    known: KnownFiles | None = None,
    *,
    watch: WrittenFiles | None = None,
    exact: bool = True,
) -> TreeScan:
    """All of a directory tree; its chunks go into `contents`.

    Args:
        root: Descriptor of the directory.
        guest: Its path for people.
        contents: Gets the chunks.
        limit: Bytes that the files may have.
        known: Files that need not be read again if they look the same.
        watch: What the program writes; it has its own `known`.
        exact: Whether the program is paused. Otherwise only the chunks count, not the entries.

    Raises UnportableState for what is neither file, directory nor link, what cannot be read, and
    where the content of files is more than `limit` bytes.
    """
    found = TreeScan()
    folder = ChunkFolder(root)
    if watch is not None:
        watch.take()
    room = limit
    for path, result in sorted(_walk(root, guest)):
        mode, times = result.st_mode & PERMISSIONS, (result.st_atime_ns, result.st_mtime_ns)
        identity = result.st_dev, result.st_ino
        found.changed[path] = result.st_ctime_ns
        if stat.S_ISDIR(result.st_mode):
            entry = TreeEntry(path, DIRECTORY, mode, *times)
        elif stat.S_ISLNK(result.st_mode):
            target = os.readlink(path, dir_fd=root)
            entry = TreeEntry(path, LINK, PERMISSIONS, *times, target=target)
        elif not stat.S_ISREG(result.st_mode):
            raise UnportableState(
                f"{_name(guest, path)} is a device, FIFO or socket, which cannot be carried"
            )
        elif identity in found.inodes:
            entry = TreeEntry(path, SAME, mode, *times, target=found.inodes[identity])
        else:
            signature, size = signature_of(result), result.st_size
            found.signatures[path] = signature
            before = known.get(path) if known else None
            if watch is not None:
                place = _Place(root, guest, path, folder, room)
                try:
                    size, chunks = _watched(
                        place, result, contents, watch, found.began, exact=exact
                    )
                except UnportableState as error:
                    if exact or not isinstance(error.__cause__, FileNotFoundError):
                        raise
                    continue  # the program has removed it since
            elif before is not None and before[0] == signature:
                chunks = before[1]
                _add_known(contents, folder, path, size, chunks)
            else:
                chunks = _read(root, guest, path, size, contents, folder, room)
            entry = TreeEntry(path, FILE, mode, *times, size, chunks)
            room -= sum(length for _, _, length in entry.places)
            if room < 0:
                raise _too_much(guest, path, limit)
        found.inodes.setdefault(identity, path)
        found.entries.append(entry)
    return found


@dataclass(frozen=True)
class _Place:
    """A file that is read: root and guest path of its tree, its path, and the room that is left."""

    root: int
    guest: str
    path: bytes
    folder: ChunkFolder
    room: int


def _watched(
    place: _Place,
    result: os.stat_result,
    contents: Contents,
    watch: WrittenFiles,
    began: int,
    *,
    exact: bool,
) -> tuple[int, bytes]:
    """Return size and chunks of a file whose writes are noted; read what has changed.

    While the program runs, the file may have another size by now than the one of these chunks.
    """
    path, size = place.path, result.st_size
    signature, identity = signature_of(result), (result.st_dev, result.st_ino)
    before = watch.known.get(path)
    written, later = watch.taken.get(identity), None if exact else watch.since(identity)
    known = signature
    same = before is not None and (
        before[0] == signature if later is None else before[0] == later.before
    )
    if before is not None and written is None and same:
        known, chunks = before
        size = known[1]
        _add_known(contents, place.folder, path, size, chunks)
    elif (
        before is not None
        and written is not None
        and written.after is not None
        and before[0] == written.before
        and (written.after == signature or not exact)
    ):
        known = written.after
        size = known[1]
        chunks = _read_again(place, size, before[1], written.numbers, contents)
    else:
        chunks = _read(place.root, place.guest, path, size, contents, place.folder, place.room)
        later = None if exact else watch.since(identity)
        if later is not None:
            # What was written since `take` is read again by the next scan, which begins there.
            known = later.before
    if identity in watch.ours or known[3] < began - COARSE:
        watch.known[path] = known, chunks
    else:
        watch.known.pop(path, None)
    return size, chunks


def _read_again(
    place: _Place, size: int, chunks: bytes, numbers: set[int], contents: Contents
) -> bytes:
    """Return the chunks of a file of which those with some numbers have changed."""
    old = {
        number: digest
        for number, digest in PLACE.iter_unpack(chunks)
        if number not in numbers and number * CHUNK < size
    }
    kept = b"".join(PLACE.pack(*one) for one in old.items())
    _add_known(contents, place.folder, place.path, size, kept)
    data_at = [(number * CHUNK, (number + 1) * CHUNK) for number in sorted(numbers)]
    data_at = [(start, min(end, size)) for start, end in data_at if start < size]
    try:
        file = open_to_read(place.root, place.path)
        try:
            source = place.folder, place.path
            new = chunks_of(file, size, data_at, contents, source, place.room)
        finally:
            os.close(file)
    except OSError as error:
        raise _unreadable(place.guest, place.path, error) from error
    places = sorted([*old.items(), *PLACE.iter_unpack(new)])
    return b"".join(PLACE.pack(*one) for one in places)


_HEXADECIMAL: Final = b"0123456789abcdef"


def is_staging(name: bytes) -> bool:
    """Whether something in the root of a tree is what `unpack` works in."""
    digits = name[len(STAGING) :]
    return name.startswith(STAGING) and len(digits) == 16 and not digits.strip(_HEXADECIMAL)


def _name(guest: str, path: bytes) -> str:
    return f"{guest.rstrip('/')}/{os.fsdecode(path)}"


def _too_much(guest: str, path: bytes, limit: int) -> UnportableState:
    return UnportableState(
        f"the files of {guest} hold more than the {limit} bytes that a program may carry: "
        f"with {_name(guest, path)} it is too much",
        hint="--carry-limit SIZE allows more",
    )


def _walk(root: int, guest: str) -> Iterator[tuple[bytes, os.stat_result]]:
    """Path and attributes of everything, no link followed."""
    yield b"", os.fstat(root)
    todo = [b""]
    count = 0
    while todo:
        above = todo.pop()
        try:
            directory = open_to_read(root, above or b".", os.O_DIRECTORY)
        except OSError as error:
            raise _unreadable(guest, above, error) from error
        try:
            with os.scandir(directory) as entries:
                for item in entries:
                    name = os.fsencode(item.name)
                    if not above and is_staging(name):
                        continue
                    if not above and name.startswith(STAGING):
                        raise UnportableState(
                            f"{_name(guest, name)} cannot be carried: names that begin so are ours"
                        )
                    path = above + b"/" + name if above else name
                    count += 1
                    if len(path) > PATH_MAX or count > MAX_ENTRIES:
                        raise UnportableState(f"the tree of {guest} is too deep or too large")
                    try:
                        result = item.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(result.st_mode):
                        todo.append(path)
                    yield path, result
        finally:
            os.close(directory)


def names(root: int) -> list[bytes]:
    """Return the names in a directory.

    Raises:
        OSError: It cannot be read.
    """
    directory = open_to_read(root, b".", os.O_DIRECTORY)
    try:
        return [os.fsencode(name) for name in os.listdir(directory)]
    finally:
        os.close(directory)


def _unreadable(guest: str, path: bytes, error: OSError) -> UnportableState:
    return UnportableState(f"{_name(guest, path)} cannot be read: {error.strerror or error}")


def _read(
    root: int,
    guest: str,
    path: bytes,
    size: int,
    contents: Contents,
    folder: ChunkFolder,
    room: int,
) -> bytes:
    try:
        file = open_to_read(root, path)
    except OSError as error:
        raise _unreadable(guest, path, error) from error
    try:
        return chunks_of(file, size, extents(file, size), contents, (folder, path), room)
    except OSError as error:
        raise _unreadable(guest, path, error) from error
    finally:
        os.close(file)


def chunks_of(
    file: int,
    size: int,
    data_at: Iterable[tuple[int, int]],
    contents: Contents,
    source: tuple[ChunkFolder, bytes] | None,
    room: int = MAX_OFFSET,
) -> bytes:
    """Return the chunks of an open file, as `TreeEntry.chunks`.

    What is outside of `data_at` (start, end) and zeros are left out, and so is the rest where more
    than `room` bytes are found.

    Raises:
        OSError: The file cannot be read.
    """
    found: list[tuple[int, bytes]] = []
    for start, end in data_at:
        for offset in range(start - start % CHUNK, end, CHUNK):
            number = offset // CHUNK
            if found and found[-1][0] == number:
                continue
            data = os.pread(file, min(CHUNK, size - offset), offset)
            if data == ZEROS[: len(data)]:
                continue
            digest = digest_of(data)
            contents.add(digest, data, source and (*source, offset))
            found.append((number, digest))
            room -= len(data)
            if room < 0:
                return b"".join(PLACE.pack(*place) for place in found)
    return b"".join(PLACE.pack(*place) for place in found)


def _add_known(
    contents: Contents, folder: ChunkFolder, path: bytes, size: int, chunks: bytes
) -> None:
    for number, digest in PLACE.iter_unpack(chunks):
        offset = number * CHUNK
        contents.add_file(digest, min(CHUNK, size - offset), (folder, path, offset))


# The way back ------------------------------------------------------------------------------------


def parse(value: object) -> list[TreeEntry]:
    """Return the entries of a tree out of a snapshot.

    Raises:
        FormatError: `scan` does not make such entries.
    """
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MAX_ENTRIES:
        raise _wrong("is no list of entries")
    found: list[TreeEntry] = []
    kinds: dict[bytes, int] = {}
    for item in value:
        entry = _entry(item)
        if found and entry.path <= found[-1].path:
            raise _wrong("is not in the order of its paths")
        if not found and entry.path:
            raise _wrong("has no root")
        above = entry.path.rpartition(b"/")[0]
        if found and kinds.get(above) != DIRECTORY:
            raise _wrong("has an entry below what is no directory")
        if entry.kind == SAME and kinds.get(entry.target) != FILE:
            raise _wrong("has another name for what is no file")
        kinds[entry.path] = entry.kind
        found.append(entry)
    if found[0].kind != DIRECTORY:
        raise _wrong("has a root that is no directory")
    return found


def _wrong(why: str) -> FormatError:
    return FormatError(f"WASI state: the tree of a mount {why}")


_TYPES = [bytes, int, int, int, int, int, bytes, bytes]


def _entry(item: object) -> TreeEntry:
    if not isinstance(item, (list, tuple)) or [type(part) for part in item] != _TYPES:
        raise _wrong("has an entry that is none")
    entry = TreeEntry(*item)
    path = entry.path
    if path and (not is_path(path) or path.startswith(STAGING)):
        raise _wrong("has a path that is none")
    if (
        not DIRECTORY <= entry.kind <= SAME
        or not 0 <= entry.mode <= PERMISSIONS
        or not 0 <= entry.size <= MAX_OFFSET
        or not -MAX_OFFSET <= entry.atim <= LATEST
        or not -MAX_OFFSET <= entry.mtim <= LATEST
    ):
        raise _wrong("has a number that is out of range")
    if entry.kind != FILE and (entry.size or entry.chunks):
        raise _wrong("has content for what is no file")
    linked = entry.kind in (LINK, SAME)
    if linked != bool(entry.target) or b"\0" in entry.target or len(entry.target) > PATH_MAX:
        raise _wrong("has a link that leads nowhere")
    check_chunks(entry.size, entry.chunks)
    return entry


def is_path(path: bytes) -> bool:
    """Whether this is a path below a mount: no way up, nothing empty, no slash at an end."""
    if len(path) > PATH_MAX or b"\0" in path:
        return False
    return not any(part in (b"", b".", b"..") or len(part) > 255 for part in path.split(b"/"))


def check_chunks(size: int, chunks: bytes) -> None:
    """FormatError unless these can be the chunks of a file of that size."""
    if len(chunks) % PLACE.size:
        raise _wrong("has half a chunk")
    last = -1
    for number, digest in PLACE.iter_unpack(chunks):
        if number <= last or number * CHUNK >= size or len(digest) != DIGEST:
            raise _wrong("has chunks that are out of order or outside of their file")
        last = number
