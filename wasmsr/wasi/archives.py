"""Archives as directories: .zip and .tar files (compressed too), unpacked to be read.

Below `trees`, which mounts what was unpacked here. An archive is hostile input: names that lead out
of it, devices, and more content than the limit are refused or left out before anything is written
in their place. Links are kept as they are, since no path of a program is followed out of a mount.
"""

from __future__ import annotations

import calendar
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Final, NamedTuple

from wasmsr import realtime
from wasmsr.errors import WasiConfigError

PIECE: Final = 1 << 20
ENTRIES: Final = 1 << 20
"""Most entries of an archive."""
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
_HINT = "unpack it, and mount the folder"


class Member(NamedTuple):
    """An entry: parts of its path, mode with the kind of file, time in ns, and what it holds: a
    stream, or for a symbolic link where it leads, for a hard link the parts of the other name."""

    path: tuple[bytes, ...]
    mode: int
    mtim: int
    size: int
    stream: IO[bytes] | None = None
    target: bytes = b""
    other: tuple[bytes, ...] = ()


def digest(path: Path) -> bytes:
    """SHA-256 of the archive as a file, by which it is known again. Raises OSError."""
    found = sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.digest()


def unpack(path: Path, root: int, limit: int) -> None:
    """Unpack the archive into an empty directory, at most `limit` bytes of content.

    Raises WasiConfigError where it is no archive, a damaged one, or too large.
    """
    times: list[tuple[tuple[bytes, ...], int]] = []
    room, entries = limit, ENTRIES
    try:
        for member in _members(path):
            entries -= 1
            room -= member.size
            if room < 0 or entries < 0:
                raise WasiConfigError(
                    f"the archive {path} holds more than {limit} bytes or {ENTRIES} entries",
                    hint="--carry-limit SIZE allows more",
                )
            _make(root, member)
            times.append((member.path, member.mtim))
        for parts, mtim in reversed(times):
            os.utime(b"/".join(parts) or b".", ns=(mtim, mtim), dir_fd=root, follow_symlinks=False)
    except (*_DAMAGED, RuntimeError) as error:
        # RuntimeError: an encrypted entry, and, as NotImplementedError, a compression unknown here.
        raise WasiConfigError(f"the archive {path} cannot be read: {error}", hint=_HINT) from error
    except OSError as error:
        raise WasiConfigError(
            f"the archive {path} cannot be unpacked: {error.strerror or error}", hint=_HINT
        ) from error


def _members(path: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                yield _of_zip(path, archive, item)
        return
    try:
        archive_of_tape = tarfile.open(path)  # noqa: SIM115 (closed below)
    except tarfile.ReadError:
        raise WasiConfigError(
            f"{path} is neither a directory nor an archive", hint="archives are .zip and .tar files"
        ) from None
    with archive_of_tape as tape:
        for entry in tape:
            member = _of_tar(path, tape, entry)
            if member is not None:
                yield member


def _of_zip(path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> Member:
    raw = item.filename.encode("utf-8" if item.flag_bits & 0x800 else "cp437", "surrogateescape")
    parts = _parts(path, raw)
    mode = item.external_attr >> 16 if item.create_system == 3 else 0
    permissions = stat.S_IMODE(mode) & 0o777
    mtim = _time_of_zip(item)
    if item.is_dir():
        return Member(parts, stat.S_IFDIR | (permissions or 0o755), mtim, 0)
    if stat.S_ISLNK(mode):
        return Member(parts, stat.S_IFLNK, mtim, 0, target=archive.read(item)[:4096])
    return Member(
        parts, stat.S_IFREG | (permissions or 0o644), mtim, item.file_size, archive.open(item)
    )


def _time_of_zip(item: zipfile.ZipInfo) -> int:
    """A zip file's times are local ones of an unknown place; we take them for UTC."""
    try:
        return max(0, calendar.timegm((*item.date_time, 0, 0, 0))) * 1_000_000_000
    except (ValueError, OverflowError):
        return realtime.now()


def _of_tar(path: Path, tape: tarfile.TarFile, entry: tarfile.TarInfo) -> Member | None:
    parts = _parts(path, os.fsencode(entry.name))
    mode, mtim = entry.mode & 0o777, max(0, int(entry.mtime * 1_000_000_000))
    if entry.isdir():
        return Member(parts, stat.S_IFDIR | mode, mtim, 0)
    if entry.issym():
        return Member(parts, stat.S_IFLNK, mtim, 0, target=os.fsencode(entry.linkname))
    if entry.islnk():
        return Member(
            parts, stat.S_IFREG | mode, mtim, 0, other=_parts(path, os.fsencode(entry.linkname))
        )
    if entry.isreg():
        return Member(parts, stat.S_IFREG | mode, mtim, entry.size, tape.extractfile(entry))
    return None


def _parts(path: Path, raw: bytes) -> tuple[bytes, ...]:
    parts = tuple(part for part in raw.split(b"/") if part not in (b"", b"."))
    if raw.startswith(b"/") or b".." in parts or b"\0" in raw:
        raise WasiConfigError(
            f"the archive {path} has an entry that leads out of it: {os.fsdecode(raw)!r}",
            hint=_HINT,
        )
    return parts


def _make(root: int, member: Member) -> None:
    if not member.path:
        return
    above = _above(root, member.path)
    try:
        name = member.path[-1]
        kind = stat.S_IFMT(member.mode)
        if kind == stat.S_IFDIR:
            try:
                os.mkdir(name, 0o700 | stat.S_IMODE(member.mode), dir_fd=above)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                    raise
            return
        # A later entry takes the place of an earlier one of its name, as for those who append.
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=above)
        if kind == stat.S_IFLNK:
            os.symlink(member.target, name, dir_fd=above)
        elif member.other:
            near = _above(root, member.other)
            try:
                os.link(
                    member.other[-1], name, src_dir_fd=near, dst_dir_fd=above, follow_symlinks=False
                )
            finally:
                os.close(near)
        else:
            _write(above, name, member)
    finally:
        os.close(above)


def _above(root: int, path: tuple[bytes, ...]) -> int:
    """The directory that holds the last part, made where it is missing; no link is followed."""
    here = os.dup(root)
    try:
        for part in path[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                below = os.open(part, flags, dir_fd=here)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=here)
                below = os.open(part, flags, dir_fd=here)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def _write(above: int, name: bytes, member: Member) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(name, flags, 0o400 | stat.S_IMODE(member.mode), dir_fd=above)
    left = member.size
    with open(made, "wb") as file:
        assert member.stream is not None
        with member.stream as stream:
            # Not a byte more than was announced, which the limit has been asked for.
            while left and (piece := stream.read(min(left, PIECE))):
                file.write(piece)
                left -= len(piece)
    if left:
        raise EOFError("an entry is shorter than it says")
