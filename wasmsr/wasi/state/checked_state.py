"""The captured state of WASI, read as hostile input.

`read` takes the plain data of `capture`, which came out of a file or over a wire. It returns
dataclasses in which every value has its type and range, and values that must agree do. It opens
nothing. FormatError says which entry is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wasmsr.errors import FormatError
from wasmsr.realtime import LATEST
from wasmsr.wasi.clocks import LAST_INSTANT
from wasmsr.wasi.filesystem.mounts import CARRYING, MODES
from wasmsr.wasi.filesystem.trees import OverlayLayers
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, U64, FdFlag, FileType, Right
from wasmsr.wasi.process import MAX_DESCRIPTORS
from wasmsr.wasi.state import origin
from wasmsr.wasi.state.capture import UNLINKED_LIMIT
from wasmsr.wasi.state.contents import CHUNK, DIGEST, PLACE
from wasmsr.wasi.state.manifest import DIRECTORY, TreeEntry, check_chunks, is_path, parse
from wasmsr.wasi.state.origin import WINDOW, Origin
from wasmsr.wasi.streams.standard import RelayPosition
from wasmsr.wasi.syscalls import MAX_OFFSET

MAX_STRINGS: Final = 1 << 20
MAX_ENTRIES: Final = 1 << 24
PATH_MAX: Final = 4096
NAME_MAX: Final = 255
"""Bytes in a file name (Linux, NAME_MAX)."""
MAX_FD: Final = (1 << 31) - 1
SEED_BYTES: Final = 32
CALL_BYTES: Final = 16
MAX_ADDRESS: Final = 300
"""Characters of the address that a socket listened on: a host name and a port."""
KINDS: Final = ("stdin", "stdout", "file", "device", "directory", "listener")
_ACCESS: Final = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)


@dataclass(frozen=True)
class StdinFile:
    """A regular file on standard input: offset, size, and the bytes around the offset."""

    offset: int
    size: int
    before: bytes
    after: bytes


@dataclass(frozen=True)
class UnlinkedFile:
    """Content of an open file without a name (None: a directory) and its times in ns."""

    content: bytes | None
    atim: int
    mtim: int
    size: int = 0
    chunks: bytes | None = None
    """For content that is too long for an entry: its size and `TreeEntry.chunks`."""

    @property
    def held(self) -> int:
        """Bytes of content, holes left out."""
        pieces = len(self.chunks or b"") // PLACE.size
        return len(self.content or b"") + min(pieces * CHUNK, self.size)


@dataclass(frozen=True)
class MountState:
    """A mount: guest name, mode, for an archive the digest of its file, for a mode with a tree in
    the snapshot that tree, for an alias the mount of which it is another name."""

    guest: bytes
    mode: str
    digest: bytes | None = None
    entries: list[TreeEntry] = field(default_factory=list)
    layers: OverlayLayers = field(default_factory=list)
    of: bytes = b""


@dataclass(frozen=True)
class DescriptorState:
    """One descriptor. A field that its kind does not have keeps the default."""

    fd: int
    kind: str
    flags: int
    rights: int
    inheriting: int
    mount: bytes = b""
    path: tuple[bytes, ...] = ()
    access: int = os.O_RDONLY
    offset: int = 0
    size: int = 0
    preopen: bool = False
    entries: list[tuple[bytes, int, int]] | None = None
    unlinked: int | None = None
    unread: bytes = b""
    ended: bool = False
    file: StdinFile | None = None
    relayed: RelayPosition | None = None
    stream: str = ""
    socket: int = 0
    address: str = ""


@dataclass(frozen=True)
class WasiState:
    """All of it."""

    args: tuple[bytes, ...]
    environ: tuple[bytes, ...]
    deterministic: bool
    monotonic: int
    cpu: int
    stopped_at: int
    seed: bytes | None
    position: int
    call: bytes | None
    started: int
    mounts: tuple[MountState, ...]
    descriptors: tuple[DescriptorState, ...]
    unlinked: tuple[UnlinkedFile, ...]
    origin: Origin


class _Fields:
    """A mapping of the state whose values are taken by name and type."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise FormatError(f"WASI state: {where} is not a map")
        self.values = value
        self.where = where

    def wrong(self, key: str, why: str) -> FormatError:
        return FormatError(f"WASI state: {self.where}.{key} {why}")

    def take(self, key: str) -> Any:
        if key not in self.values:
            raise self.wrong(key, "is missing")
        return self.values[key]

    def number(self, key: str, most: int, least: int = 0) -> int:
        value = self.take(key)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(key, f"is not a number from {least} to {most}")
        return value

    def flag(self, key: str) -> bool:
        value = self.take(key)
        if type(value) is not bool:
            raise self.wrong(key, "is not true or false")
        return value

    def raw(self, key: str, most: int | None = None) -> bytes:
        value = self.take(key)
        if type(value) is not bytes or (most is not None and len(value) > most):
            raise self.wrong(key, "is not bytes, or too long")
        return value

    def word(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.take(key)
        if type(value) is not str or value not in choices:
            raise self.wrong(key, f"is none of {', '.join(choices)}")
        return value

    def items(self, key: str, most: int) -> list[Any]:
        value = self.take(key)
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise self.wrong(key, "is not a list, or too long")
        return list(value)

    def maps(self, key: str, most: int) -> list[_Fields]:
        return [
            _Fields(value, f"{self.where}.{key}[{index}]")
            for index, value in enumerate(self.items(key, most))
        ]

    def map(self, key: str) -> _Fields:
        return _Fields(self.take(key), f"{self.where}.{key}")

    def maybe(self, key: str) -> _Fields | None:
        return None if self.take(key) is None else self.map(key)

    def strings(self, key: str, need: bytes = b"") -> tuple[bytes, ...]:
        values = self.items(key, MAX_STRINGS)
        for value in values:
            if type(value) is not bytes or b"\0" in value or need not in value:
                raise self.wrong(key, "has an entry that is no such string")
        return tuple(values)


def read(value: object) -> WasiState:
    """Return the state as dataclasses.

    Raises:
        FormatError: `capture` does not make such a state.
    """
    state = _Fields(value, "wasi")
    clocks = state.map("clocks")
    monotonic = clocks.number("monotonic", LAST_INSTANT)
    random, pending = state.maybe("random"), state.maybe("pending")
    mounts = _mounts(state)
    unlinked = _unlinked(state)
    descriptors = _descriptors(state, [mount.guest for mount in mounts], unlinked)
    return WasiState(
        args=state.strings("args"),
        environ=state.strings("environ", need=b"="),
        deterministic=state.flag("deterministic"),
        monotonic=monotonic,
        cpu=clocks.number("cpu", LAST_INSTANT),
        stopped_at=clocks.number("stopped_at", LATEST),
        seed=None if random is None else _exactly(random, "seed", SEED_BYTES),
        position=0 if random is None else random.number("position", LAST_INSTANT),
        call=None if pending is None else _exactly(pending, "call", CALL_BYTES),
        started=0 if pending is None else pending.number("started", monotonic),
        mounts=tuple(mounts),
        descriptors=descriptors,
        unlinked=unlinked,
        origin=origin.parse(state.values.get("origin")),
    )


def _mounts(state: _Fields) -> list[MountState]:
    found: dict[bytes, MountState] = {}
    for mount in state.maps("mounts", MAX_DESCRIPTORS):
        mode = mount.word("mode", tuple(MODES))
        name = mount.raw("guest", PATH_MAX)
        if not name or b"\0" in name or name in found:
            raise mount.wrong("guest", "is no name for a mount, or there twice")
        # An overlay may have an archive for its base, or a directory.
        from_archive = mode == "archive" or (mode == "overlay" and "digest" in mount.values)
        digest = _exactly(mount, "digest", DIGEST) if from_archive else None
        entries = parse(mount.take("tree")) if mode in CARRYING else []
        layers = _layers(mount, entries) if mode == "overlay" else []
        of = mount.raw("of", PATH_MAX) if mode == "alias" else b""
        if mode == "alias" and (of not in found or found[of].mode == "alias"):
            raise mount.wrong("of", "is none of the mounts before it")
        found[name] = MountState(name, mode, digest, entries, layers, of)
    return list(found.values())


def _layers(mount: _Fields, entries: list[TreeEntry]) -> OverlayLayers:
    directories = {entry.path for entry in entries if entry.kind == DIRECTORY}
    found: OverlayLayers = []
    for item in mount.items("layers", MAX_ENTRIES):
        if isinstance(item, (list, tuple)) and len(item) == 3:
            path, origin, hidden = item
            if (
                type(path) is bytes
                and path in directories
                and type(origin) is bytes
                and (not origin or is_path(origin))
                and isinstance(hidden, (list, tuple))
                and all(type(n) is bytes and is_path(n) and b"/" not in n for n in hidden)
            ):
                found.append((path, origin, list(hidden)))
                continue
        raise mount.wrong("layers", "has one that is none")
    return found


def _exactly(fields: _Fields, key: str, size: int) -> bytes:
    value = fields.raw(key, size)
    if len(value) != size:
        raise fields.wrong(key, f"is not {size} bytes")
    return value


def _unlinked(state: _Fields) -> tuple[UnlinkedFile, ...]:
    found: list[UnlinkedFile] = []
    room = UNLINKED_LIMIT
    for carried in state.maps("unlinked", MAX_DESCRIPTORS):
        content = None
        if carried.take("content") is not None:
            content = carried.raw("content", room)
            room -= len(content)
        atim, mtim = (carried.number(key, LATEST, -MAX_OFFSET) for key in ("atim", "mtim"))
        size = 0
        chunks: bytes | None = None
        if "chunks" in carried.values:
            size, chunks = carried.number("size", MAX_OFFSET), carried.raw("chunks")
            if content != b"":
                raise carried.wrong("content", "is there twice")
            check_chunks(size, chunks)
        found.append(UnlinkedFile(content, atim, mtim, size, chunks))
    return tuple(found)


def _descriptors(
    state: _Fields, mounts: list[bytes], unlinked: tuple[UnlinkedFile, ...]
) -> tuple[DescriptorState, ...]:
    found: list[DescriptorState] = []
    taken: set[object] = set()
    for fields in state.maps("descriptors", MAX_DESCRIPTORS):
        descriptor = _descriptor(fields, mounts, unlinked)
        marks: list[object] = [descriptor.fd]
        if descriptor.kind in ("stdin", "stdout"):
            marks.append(descriptor.stream or descriptor.kind)
        if descriptor.kind == "listener":
            marks.append((descriptor.kind, descriptor.socket))
        for mark in marks:
            if mark in taken:
                raise fields.wrong("fd", "is a descriptor or stream that is there twice")
            taken.add(mark)
        found.append(descriptor)
    return tuple(found)


def _descriptor(
    fields: _Fields, mounts: list[bytes], unlinked: tuple[UnlinkedFile, ...]
) -> DescriptorState:
    kind = fields.word("kind", KINDS)
    common: dict[str, Any] = {
        "fd": fields.number("fd", MAX_FD),
        "kind": kind,
        "flags": fields.number("flags", FdFlag.ALL),
        "rights": fields.number("rights", ALL_RIGHTS),
        "inheriting": fields.number("inheriting", ALL_RIGHTS),
    }
    if kind == "stdin":
        ended = "ended" in fields.values and fields.flag("ended")
        return DescriptorState(
            **common,
            unread=fields.raw("unread"),
            file=_stdin_file(fields),
            ended=ended,
            relayed=_relayed(fields),
        )
    if kind == "stdout":
        return DescriptorState(**common, stream=fields.word("stream", ("stdout", "stderr")))
    if kind == "listener":
        return _listener(fields, common)
    common["mount"] = fields.raw("mount", PATH_MAX)
    if common["mount"] not in mounts:
        raise fields.wrong("mount", "is none of the mounts")
    common["path"] = _path(fields, empty=kind == "directory")
    if kind == "directory":
        return _directory(fields, common, unlinked)
    common["access"] = fields.number("access", max(_ACCESS))
    if common["access"] not in _ACCESS:
        raise fields.wrong("access", "is no access mode")
    # The rights of a descriptor must fit the way its file was opened.
    denied = {os.O_RDONLY: Right.FD_WRITE, os.O_WRONLY: Right.FD_READ}.get(common["access"], 0)
    if common["rights"] & denied:
        raise fields.wrong("rights", "do not agree with the access mode")
    if kind == "device":
        return DescriptorState(**common)
    return DescriptorState(
        **common,
        offset=fields.number("offset", MAX_OFFSET),
        size=fields.number("size", MAX_OFFSET),
        unlinked=_index(fields, unlinked, directory=False),
    )


def _listener(fields: _Fields, common: dict[str, Any]) -> DescriptorState:
    address = fields.take("address")
    if type(address) is not str or len(address) > MAX_ADDRESS or not address.isprintable():
        raise fields.wrong("address", "is no address")
    return DescriptorState(
        **common, socket=fields.number("socket", MAX_DESCRIPTORS), address=address
    )


def _directory(
    fields: _Fields, common: dict[str, Any], unlinked: tuple[UnlinkedFile, ...]
) -> DescriptorState:
    preopen = fields.flag("preopen")
    if preopen and common["path"]:
        raise fields.wrong("path", "of a preopened directory is not empty")
    entries = None
    if fields.take("entries") is not None:
        entries = [_entry(fields, entry) for entry in fields.items("entries", MAX_ENTRIES)]
    index = _index(fields, unlinked, directory=True)
    if preopen and index is not None:
        raise fields.wrong("unlinked", "makes no sense for a preopened directory")
    return DescriptorState(**common, preopen=preopen, entries=entries, unlinked=index)


def _entry(fields: _Fields, entry: object) -> tuple[bytes, int, int]:
    if isinstance(entry, (list, tuple)) and len(entry) == 3:
        name, inode, kind = entry
        if (
            type(name) is bytes
            and 0 < len(name) <= NAME_MAX
            and type(inode) is int
            and 0 <= inode <= U64
            and type(kind) is int
            and 0 <= kind <= max(FileType)
        ):
            return name, inode, kind
    raise fields.wrong("entries", "has an entry that is none")


def _path(fields: _Fields, *, empty: bool) -> tuple[bytes, ...]:
    """Return a path below a mount: no way up, nothing empty, no slash at an end."""
    raw = fields.raw("path", PATH_MAX)
    if not raw and empty:
        return ()
    parts = raw.split(b"/")
    if b"\0" in raw or any(part in (b"", b".", b"..") for part in parts):
        raise fields.wrong("path", "is no path below a mount")
    return tuple(parts)


def _index(fields: _Fields, unlinked: tuple[UnlinkedFile, ...], *, directory: bool) -> int | None:
    if fields.take("unlinked") is None:
        return None
    index = fields.number("unlinked", len(unlinked) - 1)
    if (unlinked[index].content is None) != directory:
        raise fields.wrong("unlinked", "is another kind of file")
    return index


def _relayed(fields: _Fields) -> RelayPosition | None:
    relayed = fields.map("relayed") if "relayed" in fields.values else None
    if relayed is None:
        return None
    return RelayPosition(relayed.number("position", LAST_INSTANT), relayed.flag("terminal"))


def _stdin_file(fields: _Fields) -> StdinFile | None:
    file = fields.maybe("file")
    if file is None:
        return None
    found = StdinFile(
        offset=file.number("offset", MAX_OFFSET),
        size=file.number("size", MAX_OFFSET),
        before=file.raw("before", WINDOW),
        after=file.raw("after", WINDOW),
    )
    if len(found.before) > found.offset:
        raise file.wrong("before", "is longer than the offset")
    return found
