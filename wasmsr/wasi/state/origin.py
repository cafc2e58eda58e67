"""Where a state comes from: the host that saved it, and marks by which its open files are known.

`capture` leaves the marks and `restore` compares them. A path and a size do not prove that a file
is the one which a program had open. On the host that saved the state, in the same folder, device,
inode and times prove it. On other hosts these differ, and the size and the content around the
offset must do. Nothing here is part of the program's state: it is an ignorable section of the
snapshot, and hostile input like the rest.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Any, Final

from wasmsr.errors import FormatError
from wasmsr.realtime import LATEST
from wasmsr.wasi.filesystem.open_files import Directory, RegularFile
from wasmsr.wasi.filesystem.unnoticed import UnnoticedReader
from wasmsr.wasi.preview1.abi import U64
from wasmsr.wasi.process import MAX_DESCRIPTORS, Process
from wasmsr.wasi.syscalls import MAX_OFFSET

TICKS: Final = 20_000_000
"""ns: two ticks of the slowest usual clock of a kernel (100 Hz)."""
WINDOW: Final = 4096
"""Bytes before and after the offset by which a regular file is known again."""
_GENERATION: Final = 0x80087601
"""FS_IOC_GETVERSION: the number that differs between two files with the same inode number."""
_DIGEST: Final = 32
_IN_PLACE: Final = ("host", "ro", "input", "overlay")
"""Modes with files of the host that are not in the snapshot."""


@dataclass(frozen=True)
class HostIdentity:
    """Digests of the host's own id, and of the id of its run since it was started."""

    machine: bytes
    boot: bytes


@dataclass(frozen=True)
class FileMark:
    """What an open file or directory was like: device, inode, generation (0: unknown), modification
    time in ns, and up to `WINDOW` bytes before and after the offset, empty where they could not be
    read."""

    device: int
    inode: int
    generation: int
    modified: int
    before: bytes = b""
    after: bytes = b""

    def is_of(self, file: int) -> bool:
        """Return whether an open file is the marked one, on the same host."""
        now = os.fstat(file)
        mark = self.device, self.inode, self.generation
        return mark == (now.st_dev, now.st_ino, generation(file))


@dataclass(frozen=True)
class Origin:
    """`host`: None where a snapshot does not say; `files`: marks by descriptor; `roots`: device and
    inode of the folders of mounts, by guest name."""

    host: HostIdentity | None = None
    files: dict[int, FileMark] = field(default_factory=dict)
    roots: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def is_root(self, guest: bytes, root: int) -> bool:
        """Whether the open directory is the folder that the mount had when it was saved. After
        another start of the host devices have other numbers, so the inode must do."""
        if self.host is None or guest not in self.roots:
            return False
        now, found, then = here(), os.fstat(root), self.roots[guest]
        if self.host == now:
            return then == (found.st_dev, found.st_ino)
        return self.host.machine == now.machine and then[1] == found.st_ino

    def _is_here(self, guest: bytes, root: int) -> bool:
        """Whether inode numbers tell: this host was not started since, and has the same folder."""
        return self.host == here() and self.is_root(guest, root)

    def is_directory(self, fd: int, directory: int, root: int, guest: bytes) -> bool:
        """Whether an open directory is the one that descriptor `fd` had, as far as that can be
        told."""
        mark = self.files.get(fd)
        return mark is None or not self._is_here(guest, root) or mark.is_of(directory)

    def judge(self, fd: int, file: int, root: int, guest: bytes, then: SavedFile) -> FileVerdict:
        """Judge what an open file is to the one that descriptor `fd` had.

        Args:
            fd: The program's descriptor.
            file: Host descriptor of the file that is there now.
            root: Host descriptor of the mount's folder.
            guest: The mount's name.
            then: How the file was when it was saved.
        """
        mark, now = self.files.get(fd), os.fstat(file)
        same = FileVerdict.SAME if now.st_size == then.size else FileVerdict.CHANGED
        if mark is None:
            return same
        if not self._is_here(guest, root):
            return same if _around(file, then.offset, mark, both=True) else FileVerdict.OTHER
        if not mark.is_of(file):
            return FileVerdict.OTHER
        if mark.modified == now.st_mtime_ns and same is FileVerdict.SAME:
            return same
        # Bytes that the program wrote later may differ; a file that it only reads must not.
        if (then.reads_only or not mark.generation) and not _around(
            file, then.offset, mark, both=then.reads_only
        ):
            return FileVerdict.OTHER
        return FileVerdict.CHANGED


def trusted_time(state: Mapping[str, Any] | None, created: int) -> int | None:
    """When a snapshot was taken, if it says where: `restore` looks whether that was here. None
    where it does not: any time can be written into one.

    Linux marks a change with the time of its last tick. So what a program changes just after the
    snapshot can seem older than the snapshot; the time given is earlier by that much."""
    if state is None or "origin" not in state:
        return None
    return max(0, created - TICKS)


@dataclass(frozen=True)
class SavedFile:
    """The state of an open file when it was saved."""

    offset: int
    size: int
    reads_only: bool


class FileVerdict(Enum):
    """SAME: the file as it was; CHANGED: the same file with other content; OTHER: another file."""

    SAME = "same"
    CHANGED = "changed"
    OTHER = "other"


def here() -> HostIdentity:
    """Return this host. Containers have no id of a machine: their folders tell them apart."""
    boot = _line("/proc/sys/kernel/random/boot_id") or os.uname().nodename
    machine = _line("/etc/machine-id") or boot
    return HostIdentity(_named("machine", machine), _named("boot", boot))


def _line(path: str) -> str:
    with suppress(OSError, ValueError), open(path, "rb") as file:
        return file.read(256).decode().strip()
    return ""


def _named(what: str, id: str) -> bytes:
    # machine-id(5): the id itself is not for others to see.
    return sha256(f"wasmsr {what} {id}".encode()).digest()


def generation(file: int) -> int:
    """Return the generation number of an open file; 0 if the file system has none."""
    try:
        answer = fcntl.ioctl(file, _GENERATION, bytes(8))
    except OSError:
        return 0
    # The request is named after a long, but Linux writes an int.
    return int(struct.unpack_from("@I", answer)[0])


def windows(file: int, offset: int) -> tuple[bytes, bytes]:
    """Return the bytes of a regular file before and after an offset.

    Raises:
        OSError: It cannot be read.
    """
    start = max(0, offset - WINDOW)
    with UnnoticedReader(file) as reader:
        return os.pread(reader.host, offset - start, start), os.pread(reader.host, WINDOW, offset)


def _around(file: int, offset: int, mark: FileMark, *, both: bool) -> bool:
    """Return whether the bytes around an offset are as they were; True if they cannot be read."""
    start = max(0, offset - WINDOW)
    try:
        with UnnoticedReader(file) as reader:
            if os.pread(reader.host, len(mark.before), start) != mark.before:
                return False
            return not both or os.pread(reader.host, len(mark.after), offset) == mark.after
    except OSError:
        return True


def capture(process: Process, captured: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the origin of a process as plain data; empty where nothing needs it.

    Args:
        process: The process.
        captured: The states of its descriptors, captured just before.
    """
    files: list[list[Any]] = []
    roots: dict[bytes, tuple[int, int]] = {}
    for state in captured:
        if state["kind"] not in ("file", "directory") or state["unlinked"] is not None:
            continue
        descriptor = process.descriptors[state["fd"]]
        assert isinstance(descriptor, (RegularFile, Directory))
        tree, status = process.tree_of(descriptor), os.fstat(descriptor.host)
        own = tree.mode not in _IN_PLACE or (status.st_dev, status.st_ino) in tree.inodes
        if own or stat.S_ISBLK(status.st_mode) or state.get("preopen"):
            continue
        around = b"", b""
        if isinstance(descriptor, RegularFile):
            with suppress(OSError):
                around = windows(descriptor.host, state["offset"])
        number = generation(descriptor.host)
        files.append(
            [state["fd"], status.st_dev, status.st_ino, number, status.st_mtime_ns, *around]
        )
        roots[descriptor.place.mount] = _root(tree.folder)
    for name, tree in process.trees.items():
        if tree.mode == "carry" and tree.private is None:
            roots[name] = _root(tree.root)
    if not roots:
        return {}
    host = here()
    folders = [[name, *found] for name, found in sorted(roots.items())]
    return {"machine": host.machine, "boot": host.boot, "files": files, "roots": folders}


def _root(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


_MARK: Final = (
    ("fd", 0, (1 << 31) - 1),
    ("device", 0, U64),
    ("inode", 0, U64),
    ("generation", 0, U64),
    ("modified", -MAX_OFFSET, LATEST),
)


def parse(value: object) -> Origin:
    """Return the origin of a snapshot, if it has one.

    Raises:
        FormatError: `capture` does not make such an origin.
    """
    if value is None:
        return Origin()
    if not isinstance(value, dict):
        raise _wrong("is no map")
    host = HostIdentity(*(_bytes(value.get(key), _DIGEST, _DIGEST) for key in ("machine", "boot")))
    files: dict[int, FileMark] = {}
    for item in _rows(value.get("files"), len(_MARK) + 2):
        fd, *numbers = (
            _number(part, least, most) for part, (_, least, most) in zip(item, _MARK, strict=False)
        )
        before, after = (_bytes(part, 0, WINDOW) for part in item[len(_MARK) :])
        device, inode, number, modified = numbers
        files[fd] = FileMark(device, inode, number, modified, before, after)
    roots: dict[bytes, tuple[int, int]] = {}
    for name, device, inode in _rows(value.get("roots"), 3):
        roots[_bytes(name, 1, 4096)] = _number(device, 0, U64), _number(inode, 0, U64)
    return Origin(host, files, roots)


def _wrong(why: str) -> FormatError:
    return FormatError(f"WASI state: the origin {why}")


def _rows(value: object, length: int) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_DESCRIPTORS:
        raise _wrong("has no list, or one that is too long")
    if not all(isinstance(item, (list, tuple)) and len(item) == length for item in value):
        raise _wrong("has a row that is none")
    return list(value)


def _number(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _wrong("has a number that is out of range")
    return value


def _bytes(value: object, least: int, most: int) -> bytes:
    if type(value) is not bytes or not least <= len(value) <= most:
        raise _wrong("has bytes that are too many or too few")
    return value
