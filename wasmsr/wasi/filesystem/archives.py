"""Archives as directories: .zip and .tar files, compressed or not, unpacked for reading.

`mount_trees` mounts what is unpacked here. An archive is hostile input. Names that lead out of it,
devices and more content than the limit are refused or left out before anything is written. Links
are kept as they are: no path of a program is followed out of a mount.
"""

from __future__ import annotations

import calendar
import errno
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeVar, cast

from wasmsr import realtime
from wasmsr.errors import WasiConfigError
from wasmsr.wasi.filesystem import tree_walk
from wasmsr.wasi.filesystem.tree_walk import Cursor

PIECE: Final = 1 << 20
ENTRIES: Final = 1 << 16
"""Most entries of an archive: to make each takes tens of microseconds, and a small archive may
have a great many."""
PATH_MAX: Final = 4096
"""Bytes of the longest path in an archive, as on Linux."""
OVERHEAD: Final = 4096
"""Bytes around the content of an entry that a tar file may have on average: headers and padding."""
ENTRY_COST: Final = 1024
"""Bytes that an entry takes beside its content, in a file system in memory."""
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    OverflowError,
)
_HINT = "unpack it, and mount the folder"


Item = TypeVar("Item")


class ArchiveMember(NamedTuple):
    """An entry: parts of its path, mode with the kind of file, time in ns, and what it holds: what
    opens a stream, or for a symbolic link where it leads, for a hard link the parts of the other
    name."""

    path: tuple[bytes, ...]
    mode: int
    mtim: int
    size: int
    stream: Callable[[], IO[bytes] | None] | None = None
    target: bytes = b""
    other: tuple[bytes, ...] = ()


def digest(path: Path) -> bytes:
    """SHA-256 of the archive as a file, by which it is known again. Raises OSError."""
    found = sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.digest()


def is_tar(path: Path) -> bool:
    """Return whether a file is a plain tar file: no other archive, and not compressed.

    Of a zip file all names are read at once, so whoever expects none from a stranger asks first.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        try:
            bounded_tar(file, PIECE).close()
        except (*_DAMAGED, RecursionError):  # headers of headers of headers
            return False
    return True


def measure(path: Path, limit: int, entries: int | None = None) -> int:
    """Return about how many bytes the archive takes when it is unpacked. Unpacks nothing.

    Raises WasiConfigError if the file is no archive or a damaged one, or has more than `limit`
    bytes of content or `entries` entries (None: `ENTRIES`).
    """
    with _explained(path):
        return sum(member.size + ENTRY_COST for member in _within(path, limit, entries))


def _within(path: Path, limit: int, entries: int | None) -> Iterator[ArchiveMember]:
    """Yield the entries, as long as they are within the limits."""
    content = 0
    for member in _members(path, limit, ENTRIES if entries is None else entries):
        content += member.size
        if content > limit:
            raise WasiConfigError(
                f"the archive {path} holds more than {limit} bytes",
                hint="--carry-limit SIZE allows more",
            )
        yield member


def unpack(path: Path, root: int, limit: int, entries: int | None = None) -> None:
    """Unpack the archive into an empty directory, at most `limit` bytes of content and `entries`
    entries (None: `ENTRIES`).

    Raises WasiConfigError if the file is no archive, or a damaged or too large one.
    """
    times: list[tuple[tuple[bytes, ...], int]] = []
    with _explained(path), Cursor(root, make=0o755) as cursor, Cursor(root) as other:
        for member in _within(path, limit, entries):
            if member.path:
                _make(cursor, other, member)
            times.append((member.path, member.mtim))
        for parts, mtim in reversed(times):
            above = cursor.at(parts[:-1])
            name = parts[-1] if parts else b"."
            os.utime(name, ns=(mtim, mtim), dir_fd=above, follow_symlinks=False)


def pack(root: int, tape: tarfile.TarFile, most: int | None = None) -> None:
    """Put all that is below an open directory into a tar file. Owners are left out.

    Links are kept as they are, and what is no file, directory or link is left out.

    Args:
        root: A descriptor of the directory.
        tape: The tar file, which is open to be written.
        most: Entries that it may get; None for any number.

    Raises:
        OSError: Something cannot be read or written, or there is more.
    """
    count = 0

    def take(parts: tuple[bytes, ...], directory: int, status: os.stat_result) -> None:
        nonlocal count
        count += 1
        if most is not None and count > most:
            raise OSError(errno.EFBIG, f"it has more than {most} files and folders")
        item = tarfile.TarInfo(os.fsdecode(b"/".join(parts)))
        item.mode, item.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            item.type = tarfile.DIRTYPE
            tape.addfile(item)
        elif stat.S_ISLNK(status.st_mode):
            item.type = tarfile.SYMTYPE
            item.linkname = os.fsdecode(os.readlink(parts[-1], dir_fd=directory))
            tape.addfile(item)
        elif stat.S_ISREG(status.st_mode):
            with tree_walk.opened(directory, parts[-1]) as file:
                item.size = os.fstat(file.fileno()).st_size
                tape.addfile(item, file)

    tree_walk.each(root, take)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of an archive into one sentence."""
    try:
        yield
    except (*_DAMAGED, RuntimeError) as error:
        # RuntimeError: an encrypted entry, and, as NotImplementedError, a compression unknown here.
        raise WasiConfigError(f"the archive {path} cannot be read: {error}", hint=_HINT) from error
    except OSError as error:
        raise WasiConfigError(
            f"the archive {path} cannot be unpacked: {error.strerror or error}", hint=_HINT
        ) from error


def _members(path: Path, limit: int, entries: int) -> Iterator[ArchiveMember]:
    with open(path, "rb") as file:
        stream = _plain(file)
        try:
            tape = bounded_tar(stream, limit + entries * OVERHEAD)
        except (*_DAMAGED, OSError):
            # Not before: a tar file at whose end there is a zip file looks like one too.
            if zipfile.is_zipfile(path):
                yield from _zip_members(path, entries)
                return
            raise WasiConfigError(
                f"{path} is neither a directory nor an archive",
                hint="archives are .zip and .tar files",
            ) from None
        with tape:
            for entry in _counted(path, tape, entries):
                member = _of_tar(path, tape, entry)
                if member is not None:
                    yield member


def _zip_members(path: Path, entries: int) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(path) as archive:
        for item in _counted(path, archive.infolist(), entries):
            yield _of_zip(path, archive, item)


def _counted(path: Path, items: Iterable[Item], most: int) -> Iterator[Item]:
    for number, item in enumerate(items):
        if number == most:
            raise WasiConfigError(f"the archive {path} has more than {most} entries", hint=_HINT)
        yield item


def _plain(file: IO[bytes]) -> IO[bytes]:
    """Return the compression of a file, from its first bytes."""
    first = file.read(6)
    file.seek(0)
    if first.startswith(b"\x1f\x8b"):
        import gzip

        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if first.startswith(b"BZh"):
        import bz2

        return cast("IO[bytes]", bz2.BZ2File(file))
    if first.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return cast("IO[bytes]", lzma.LZMAFile(file))
    return file


class _Bounded:
    """A tar file as a stream, of which not more is decompressed than `most` bytes, nor more at once
    than `PIECE`, whatever its headers announce."""

    mode = "rb"

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._most = most

    def read(self, size: int) -> bytes:
        if not 0 <= size <= PIECE:
            raise tarfile.ReadError(f"a header announces {size} bytes of names")
        self._check(self.tell() + size)
        return self._stream.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, offset: int) -> None:
        if offset > self._most:
            raise tarfile.ReadError(f"it has more than {self._most} bytes")


def bounded_tar(stream: IO[bytes], most: int) -> tarfile.TarFile:
    """Return a tar file of which no more than `most` bytes are read, and no header takes more
    memory than `PIECE` bytes, whatever it announces. Raises tarfile.TarError."""
    bounded: Any = _Bounded(stream, most)
    return tarfile.TarFile(fileobj=bounded)


def _of_zip(path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> ArchiveMember:
    raw = item.filename.encode("utf-8" if item.flag_bits & 0x800 else "cp437", "surrogateescape")
    parts = _parts(path, raw)
    mode = item.external_attr >> 16 if item.create_system == 3 else 0
    permissions = stat.S_IMODE(mode) & 0o777
    mtim = _time_of_zip(item)
    if item.is_dir():
        return ArchiveMember(parts, stat.S_IFDIR | (permissions or 0o755), mtim, 0)
    if stat.S_ISLNK(mode):
        with archive.open(item) as stream:
            return ArchiveMember(parts, stat.S_IFLNK, mtim, 0, target=stream.read(PATH_MAX))
    mode = stat.S_IFREG | (permissions or 0o644)
    return ArchiveMember(parts, mode, mtim, item.file_size, lambda: archive.open(item))


def _time_of_zip(item: zipfile.ZipInfo) -> int:
    """Return the time of an entry: times of a zip file are local, and we take them for UTC."""
    try:
        return max(0, calendar.timegm((*item.date_time, 0, 0, 0))) * 1_000_000_000
    except (ValueError, OverflowError):
        return realtime.now()


def _of_tar(path: Path, tape: tarfile.TarFile, entry: tarfile.TarInfo) -> ArchiveMember | None:
    parts = _parts(path, os.fsencode(entry.name))
    mode, mtim = entry.mode & 0o777, _time_of_tar(entry)
    if entry.size < 0:
        raise tarfile.ReadError("an entry has a negative size")
    if entry.isdir():
        return ArchiveMember(parts, stat.S_IFDIR | mode, mtim, 0)
    if entry.issym():
        return ArchiveMember(parts, stat.S_IFLNK, mtim, 0, target=os.fsencode(entry.linkname))
    if entry.islnk():
        return ArchiveMember(
            parts, stat.S_IFREG | mode, mtim, 0, other=_parts(path, os.fsencode(entry.linkname))
        )
    if entry.isreg():
        opened = lambda: tape.extractfile(entry)  # noqa: E731
        return ArchiveMember(parts, stat.S_IFREG | mode, mtim, entry.size, opened)
    return None


def _time_of_tar(entry: tarfile.TarInfo) -> int:
    """ns, of what may be any number, also none."""
    seconds = float(entry.mtime)
    if not 0 <= seconds < realtime.LATEST / 1_000_000_000:
        return 0
    return int(seconds * 1_000_000_000)


def _parts(path: Path, raw: bytes) -> tuple[bytes, ...]:
    parts = tuple(part for part in raw.split(b"/") if part not in (b"", b"."))
    if raw.startswith(b"/") or b".." in parts or b"\0" in raw:
        raise WasiConfigError(
            f"the archive {path} has an entry that leads out of it: {os.fsdecode(raw)!r}",
            hint=_HINT,
        )
    if len(raw) > PATH_MAX:
        raise WasiConfigError(
            f"the archive {path} has an entry whose path is longer than {PATH_MAX} bytes: "
            f"{os.fsdecode(raw[:100])!r} …",
            hint=_HINT,
        )
    return parts


def _make(cursor: Cursor, other: Cursor, member: ArchiveMember) -> None:
    above, name = cursor.at(member.path[:-1]), member.path[-1]
    kind = stat.S_IFMT(member.mode)
    if kind == stat.S_IFDIR:
        try:
            os.mkdir(name, 0o700 | stat.S_IMODE(member.mode), dir_fd=above)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                raise
    elif kind == stat.S_IFLNK:
        _take_place(above, name)
        os.symlink(member.target, name, dir_fd=above)
    elif member.other:
        _take_place(above, name)
        near = other.at(member.other[:-1])
        os.link(member.other[-1], name, src_dir_fd=near, dst_dir_fd=above, follow_symlinks=False)
    else:
        _write(above, name, member)


def _take_place(above: int, name: bytes) -> None:
    """Remove an earlier entry of that name, which a later one replaces."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=above)


def _write(above: int, name: bytes, member: ArchiveMember) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = 0o400 | stat.S_IMODE(member.mode)
    try:
        made = os.open(name, flags, mode, dir_fd=above)
    except FileExistsError:
        _take_place(above, name)
        made = os.open(name, flags, mode, dir_fd=above)
    left = member.size
    with open(made, "wb") as file:
        assert member.stream is not None
        opened = member.stream()
        assert opened is not None
        with opened as stream:
            # At most the announced bytes, because the limit was checked for those.
            while left and (piece := stream.read(min(left, PIECE))):
                file.write(piece)
                left -= len(piece)
    if left:
        raise EOFError("an entry is shorter than it says")
