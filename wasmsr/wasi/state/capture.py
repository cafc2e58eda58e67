"""The state of WASI as plain data that msgpack can hold; `restore` is the way back.

The program must be paused. The state names files by mount and path below it, as the program does.
It has no paths of the host.
"""

from __future__ import annotations

import os
import stat

from wasmsr.errors import UnportableState
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.filesystem.mounts import CARRYING
from wasmsr.wasi.filesystem.open_files import Device, Directory, MountPath, RegularFile
from wasmsr.wasi.filesystem.trees import MountTree
from wasmsr.wasi.filesystem.unnoticed import UnnoticedReader
from wasmsr.wasi.process import Process
from wasmsr.wasi.state import origin
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.manifest import PATH_MAX, chunks_of, scan
from wasmsr.wasi.state.written import WrittenFiles
from wasmsr.wasi.streams.descriptor import Descriptor
from wasmsr.wasi.streams.sockets import Listener
from wasmsr.wasi.streams.standard import InputStream, OutputStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

UNLINKED_LIMIT: Final = 64 << 20
"""Bytes of open files without a name whose content is in the state itself, together."""
SHORT: Final = 1 << 20
"""Bytes up to which the content of a file without a name is in the state itself."""
MEMORY_DEVICES: Final = 1
"""Linux's major number of /dev/null, zero, full, random, urandom: they are the same everywhere."""


def capture(process: Process, contents: Contents) -> dict[str, Any]:
    """Everything of WASI that the program can observe; what its files consist of goes into
    `contents`. UnportableState names what cannot go."""
    process.place_files()
    monotonic, cpu, stopped_at = process.clocks.reading()
    used = {
        d.place.mount
        for d in process.descriptors.values()
        if isinstance(d, (RegularFile, Directory))
    }
    first: dict[int, bytes] = {}
    for name, tree in process.trees.items():
        first.setdefault(id(tree), name)
    used |= {first[id(process.trees[name])] for name in used}  # of which others are only aliases
    mounts = [
        _mount(process, name, first[id(tree)], contents)
        for name, tree in process.trees.items()
        if name in used
    ]
    carried = _Carried(contents, process.carry_limit - contents.size)
    descriptors = []
    for fd, descriptor in sorted(process.descriptors.items()):
        state: dict[str, Any] = {
            "fd": fd,
            "kind": descriptor.kind,
            "flags": descriptor.flags,
            "rights": descriptor.rights,
            "inheriting": descriptor.inheriting,
        }
        state.update(_particulars(process, fd, descriptor, carried))
        descriptors.append(state)
    pending = process.pending
    seed = process.random.seed
    state = {
        "args": list(process.args),
        "environ": list(process.environ),
        "deterministic": process.clocks.deterministic,
        "clocks": {"monotonic": monotonic, "cpu": cpu, "stopped_at": stopped_at},
        "random": None if seed is None else {"seed": seed, "position": process.random.position},
        "pending": None if pending is None else {"call": pending.call, "started": pending.started},
        "mounts": mounts,
        "descriptors": descriptors,
        "unlinked": carried.contents,
    }
    found = origin.capture(process, descriptors)
    if found:
        state["origin"] = found
    return state


def _mount(process: Process, name: bytes, first: bytes, contents: Contents) -> dict[str, Any]:
    """Return the state of a mount; `first` is the first name of its tree."""
    if name != first:
        return {"guest": name, "mode": "alias", "of": first}
    tree = process.trees[name]
    state: dict[str, Any] = {"guest": name, "mode": tree.mode}
    if tree.digest is not None:
        state["digest"] = tree.digest
    if tree.mode in CARRYING:
        room = process.carry_limit
        watch = tree.watch if isinstance(tree.watch, WrittenFiles) else None
        found = scan(tree.root, os.fsdecode(name), contents, room, tree.known, watch=watch)
        tree.known, tree.inodes = found.known, found.inodes
        state["tree"] = [entry.plain() for entry in found.entries]
    if tree.mode == "overlay":
        state["layers"] = [list(layer) for layer in tree.layers_at(tree.inodes)]
    return state


def _particulars(
    process: Process, fd: int, descriptor: Descriptor, carried: _Carried
) -> dict[str, Any]:
    """Return the part of a descriptor's state that depends on its kind."""
    if isinstance(descriptor, InputStream):
        return _input(descriptor)
    if isinstance(descriptor, OutputStream):
        return {"stream": descriptor.name}
    if isinstance(descriptor, Device):
        return _device(process, fd, descriptor)
    if isinstance(descriptor, RegularFile):
        return _file(process, fd, descriptor, carried)
    if isinstance(descriptor, Directory):
        return _directory(process, fd, descriptor, carried)
    if isinstance(descriptor, Listener):
        from wasmsr.wasi.streams.listen_address import address_of

        return {"socket": descriptor.index, "address": address_of(descriptor.socket)}
    raise UnportableState(
        f"descriptor {fd} is an open connection, which cannot be saved",
        hint="the program can be saved when it has closed its connections",
    )


def _input(descriptor: InputStream) -> dict[str, Any]:
    relayed = descriptor.relayed()
    state: dict[str, Any] = {"unread": descriptor.unread, "file": _stdin_file(descriptor)}
    if descriptor.ended:
        state["ended"] = True
    if relayed is not None:
        state["relayed"] = {"position": relayed.position, "terminal": relayed.terminal}
    return state


def _stdin_file(descriptor: InputStream) -> dict[str, Any] | None:
    """Return the offset of a regular file on standard input, and how to recognize the file."""
    if not descriptor.regular:
        return None
    offset = os.lseek(descriptor.host, 0, os.SEEK_CUR)
    before, after = origin.windows(descriptor.host, offset)
    size = os.fstat(descriptor.host).st_size
    return {"offset": offset, "size": size, "before": before, "after": after}


def _device(process: Process, fd: int, descriptor: Device) -> dict[str, Any]:
    result = os.fstat(descriptor.host)
    if not stat.S_ISCHR(result.st_mode) or os.major(result.st_rdev) != MEMORY_DEVICES:
        raise UnportableState(
            f"descriptor {fd} is a device or FIFO, {descriptor.place}, which cannot be saved"
        )
    return {
        **_place(descriptor.place, _where(process, fd, descriptor.host, descriptor.place)),
        "access": descriptor.access,
    }


def _file(process: Process, fd: int, descriptor: RegularFile, carried: _Carried) -> dict[str, Any]:
    result = os.fstat(descriptor.host)
    path = descriptor.place.path
    unlinked: int | None = None
    named = result.st_nlink > 0
    if named:
        try:
            path = _where(process, fd, descriptor.host, descriptor.place)
        except UnportableState:
            # In an overlay, the base may have had the file before a copy-up: it is then nameless.
            if process.tree_of(descriptor).mode != "overlay":
                raise
            named = False
    if not named:
        unlinked = carried.file(fd, descriptor, result)
    return {
        **_place(descriptor.place, path),
        "access": descriptor.access,
        "offset": os.lseek(descriptor.host, 0, os.SEEK_CUR),
        "size": result.st_size,
        "unlinked": unlinked,
    }


def _directory(
    process: Process, fd: int, descriptor: Directory, carried: _Carried
) -> dict[str, Any]:
    path = descriptor.place.path
    unlinked: int | None = None
    if descriptor.preopen is None:
        result = os.fstat(descriptor.host)
        if result.st_nlink:
            path = _where(process, fd, descriptor.host, descriptor.place)
        else:
            unlinked = carried.directory(result)
    entries = descriptor.entries
    return {
        **_place(descriptor.place, path),
        "preopen": descriptor.preopen is not None,
        "entries": None if entries is None else [list(entry) for entry in entries],
        "unlinked": unlinked,
    }


def _place(place: MountPath, path: tuple[bytes, ...]) -> dict[str, Any]:
    return {"mount": place.mount, "path": b"/".join(path)}


def _where(process: Process, fd: int, host: int, place: MountPath) -> tuple[bytes, ...]:
    """Where below its mount an open file is now: it or a directory above may have been renamed.

    UnportableState when its name is gone while another link keeps it alive, or it left the mount.
    """
    tree = process.trees[place.mount]
    if len(b"/".join(place.path)) > PATH_MAX:
        raise UnportableState(
            f"descriptor {fd} was opened by a path that is too long to be saved, of more than "
            f"{PATH_MAX} bytes"
        )
    result = os.fstat(host)
    if _identity(tree, place.path) == (result.st_dev, result.st_ino):
        return place.path
    now = _path_of(host, tree.root)
    if now == place.path:
        # Some file systems change the inode number of a file.
        return now
    if now is None or _identity(tree, now) != (result.st_dev, result.st_ino):
        # Another of its names will do, where all names are known.
        other = tree.inodes.get((result.st_dev, result.st_ino))
        now = None if other is None else tuple(other.split(b"/"))
    if now is None or _identity(tree, now) != (result.st_dev, result.st_ino):
        raise UnportableState(
            f"descriptor {fd} was opened as {place}, which now is another file or none",
            hint="a file that was removed or moved out of its mount while open can only be saved "
            "when no other link to it is left",
        )
    place.path = now
    return now


def _identity(tree: MountTree, path: tuple[bytes, ...]) -> tuple[int, int] | None:
    """Return (device, inode) of the file at a path below a mount; follow no link."""
    try:
        with tree.locate(tree.root, b"/".join(path) or b".") as location:
            if location.path != path:
                return None
            result = location.stat(follow=False)
    except (OSError, CallError):
        return None
    return result.st_dev, result.st_ino


def _path_of(host: int, root: int) -> tuple[bytes, ...] | None:
    """Return the path below `root` by which the host knows an open file now (Linux: /proc)."""
    try:
        whole = os.fsencode(os.readlink(f"/proc/self/fd/{host}"))
        above = os.fsencode(os.readlink(f"/proc/self/fd/{root}"))
    except OSError:
        return None
    if whole == above:
        return ()
    above = above.rstrip(b"/") + b"/"
    return tuple(whole[len(above) :].split(b"/")) if whole.startswith(above) else None


class _Carried:
    """Open files and directories whose names were removed: the snapshot contains them."""

    def __init__(self, chunks: Contents, limit: int) -> None:
        self.contents: list[dict[str, Any]] = []
        self._chunks = chunks
        self._known: dict[tuple[int, int], int] = {}
        self._limit = limit
        self._room = UNLINKED_LIMIT

    def file(self, fd: int, descriptor: RegularFile, result: os.stat_result) -> int:
        """Return the index under which a file's content is carried; descriptors may share it."""
        known = self._known.get((result.st_dev, result.st_ino))
        if known is not None:
            return known
        if not stat.S_ISREG(result.st_mode):
            raise UnportableState(f"descriptor {fd} ({descriptor.place}) has no name any more")
        try:
            reader = UnnoticedReader(descriptor.host)
        except OSError as error:
            raise UnportableState(
                f"descriptor {fd} ({descriptor.place}) has no name any more and cannot be read"
            ) from error
        with reader:
            return self._content(fd, descriptor, result, reader)

    def _content(
        self, fd: int, descriptor: RegularFile, result: os.stat_result, reader: UnnoticedReader
    ) -> int:
        size = result.st_size
        if size <= min(SHORT, self._room):
            self._room -= size
            return self._add(result, os.pread(reader.host, size, 0))
        before = self._chunks.size
        data_at = reader.extents(size)
        chunks = chunks_of(reader.host, size, data_at, self._chunks, None, self._limit)
        self._limit -= self._chunks.size - before
        if self._limit < 0:
            raise UnportableState(
                f"descriptor {fd} ({descriptor.place}) has no name any more and its content, "
                f"{size} bytes, is more than a snapshot carries",
                hint="--carry-limit SIZE allows more",
            )
        return self._add(result, b"", {"size": size, "chunks": chunks})

    def directory(self, result: os.stat_result) -> int:
        """Return the index of a removed directory, which is empty."""
        known = self._known.get((result.st_dev, result.st_ino))
        return self._add(result, None) if known is None else known

    def _add(
        self, result: os.stat_result, content: bytes | None, more: dict[str, Any] | None = None
    ) -> int:
        index = len(self.contents)
        self._known[result.st_dev, result.st_ino] = index
        times = {"atim": result.st_atime_ns, "mtim": result.st_mtime_ns}
        self.contents.append({"content": content, **times, **(more or {})})
        return index
