"""A program played by Python: makes WASI calls on a linear memory of its own.

`Guest` calls our functions directly, with a caller whose pause is asked for by `pause()`. `Peer`
makes the same calls through wasmtime's WASI, to compare. Both give errno numbers and bytes.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import wasmtime

from wasmsr.interp.store.externs import HostFunction
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, Right
from wasmsr.wasi.preview1.functions import FUNCTIONS, MODULE
from wasmsr.wasi.preview1.rights import DIRECTORY_RIGHTS, FILE_RIGHTS
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.restore import CarriedFiles

PAGES = 4
SIZE = PAGES * 65536
PATH, PATH2, OUT, OUT2, IOVS, DATA = 1024, 9216, 64, 128, 256, 32768
"""Where the helpers below put their arguments."""
RW = Right.FD_READ | Right.FD_WRITE
ROOT = 3
"""The first preopened directory."""
FOLLOW = 1
CREAT, DIRECTORY, EXCL, TRUNC = 1, 2, 4, 8


class FakeCaller:
    """What the engine gives host functions, over a bytearray."""

    def __init__(self) -> None:
        self.buffer = bytearray(SIZE)
        self.memory = memoryview(self.buffer)
        self.pause_requested = False
        self.store = self
        self.invocations = 0
        self.wake_fd, self._wake = os.pipe()

    def pause(self) -> None:
        self.pause_requested = True
        os.write(self._wake, b"\0")

    def go_on(self) -> None:
        if self.pause_requested:
            os.read(self.wake_fd, 1)
        self.pause_requested = False

    def close(self) -> None:
        os.close(self.wake_fd)
        os.close(self._wake)


class Calls:
    """Helpers that both guests have, over `memory` and `call`."""

    memory: Any

    def call(self, name: str, *arguments: int) -> int:
        raise NotImplementedError

    def put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def get(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])

    def u32(self, address: int = OUT) -> int:
        return int.from_bytes(self.get(address, 4), "little")

    def u64(self, address: int = OUT) -> int:
        return int.from_bytes(self.get(address, 8), "little")

    def path(self, path: str | bytes, at: int = PATH) -> tuple[int, int]:
        raw = os.fsencode(path)
        self.put(at, raw)
        return at, len(raw)

    def open(
        self,
        path: str | bytes,
        oflags: int = 0,
        rights: int = RW | FILE_RIGHTS,
        *,
        fd: int = ROOT,
        follow: bool = True,
        fdflags: int = 0,
        inheriting: int = ALL_RIGHTS,
    ) -> tuple[int, int]:
        """(errno, descriptor)"""
        errno = self.call(
            "path_open", fd, int(follow), *self.path(path), oflags, rights, inheriting, fdflags, OUT
        )
        return errno, self.u32()

    def opened(
        self, path: str | bytes, oflags: int = 0, rights: int = FILE_RIGHTS, **more: Any
    ) -> int:
        """The descriptor; it must work."""
        errno, fd = self.open(path, oflags, rights, **more)
        assert errno == 0, errno
        return fd

    def open_directory(self, path: str | bytes, **more: Any) -> int:
        return self.opened(path, DIRECTORY, DIRECTORY_RIGHTS, **more)

    def iovecs(self, sizes: Sequence[int], at: int = DATA) -> tuple[int, int]:
        for index, size in enumerate(sizes):
            self.put(IOVS + 8 * index, struct.pack("<II", at, size))
            at += size
        return IOVS, len(sizes)

    def read(self, fd: int, *sizes: int) -> tuple[int, bytes]:
        """(errno, bytes read)"""
        errno = self.call("fd_read", fd, *self.iovecs(sizes or (4096,)), OUT)
        return errno, self.get(DATA, self.u32()) if not errno else b""

    def write(self, fd: int, *pieces: bytes) -> tuple[int, int]:
        """(errno, bytes written)"""
        at = DATA
        for piece in pieces:
            self.put(at, piece)
            at += len(piece)
        errno = self.call("fd_write", fd, *self.iovecs([len(p) for p in pieces]), OUT)
        return errno, self.u32()

    def seek(self, fd: int, offset: int, whence: int = 0) -> tuple[int, int]:
        return self.call("fd_seek", fd, offset, whence, OUT), self.u64()

    def filestat(self, fd: int) -> tuple[int, dict[str, int]]:
        return self.call("fd_filestat_get", fd, OUT), _filestat(self.get(OUT, 64))

    def path_filestat(
        self, path: str | bytes, *, fd: int = ROOT, follow: bool = False
    ) -> tuple[int, dict[str, int]]:
        errno = self.call("path_filestat_get", fd, int(follow), *self.path(path), OUT)
        return errno, _filestat(self.get(OUT, 64))

    def fdstat(self, fd: int) -> tuple[int, tuple[int, int, int, int]]:
        """(errno, (filetype, flags, rights, inheriting))"""
        errno = self.call("fd_fdstat_get", fd, OUT)
        kind, flags, base, inheriting = struct.unpack("<BxHxxxxQQ", self.get(OUT, 24))
        return errno, (kind, flags, base, inheriting)

    def readdir(
        self, fd: int, cookie: int = 0, room: int = 8192
    ) -> list[tuple[int, int, str, int]]:
        """Whole entries in the buffer: (next cookie, inode, name, filetype)."""
        errno = self.call("fd_readdir", fd, DATA, room, cookie, OUT)
        assert errno == 0, errno
        data, found = self.get(DATA, self.u32()), []
        while len(data) >= 24:
            follows, inode, length, kind = struct.unpack_from("<QQIB", data)
            if len(data) < 24 + length:
                break
            found.append((follows, inode, os.fsdecode(data[24 : 24 + length]), kind))
            data = data[24 + length :]
        return found

    def names(self, fd: int) -> list[str]:
        return [entry[2] for entry in self.readdir(fd)]

    def poll(self, *subscriptions: bytes) -> tuple[int, list[tuple[int, int, int, int, int]]]:
        """(errno, events (userdata, errno, type, nbytes, flags))"""
        self.put(DATA, b"".join(subscriptions))
        events = DATA + 48 * len(subscriptions)
        errno = self.call("poll_oneoff", DATA, events, len(subscriptions), OUT)
        if errno:
            return errno, []
        raw = self.get(events, 32 * self.u32())
        return 0, list(struct.iter_unpack("<QHB5xQH6x", raw))

    def time(self, clock: int) -> int:
        assert self.call("clock_time_get", clock, 0, OUT) == 0
        return self.u64()


def _filestat(raw: bytes) -> dict[str, int]:
    names = ("dev", "ino", "filetype", "nlink", "size", "atim", "mtim", "ctim")
    return dict(zip(names, struct.unpack("<QQB7xQQQQQ", raw), strict=True))


def clock(userdata: int, timeout: int, id: int = 1, flags: int = 0) -> bytes:
    """A subscription to a clock."""
    return struct.pack("<QB7xIxxxxQQH6x", userdata, 0, id, timeout, 0, flags)


def readable(userdata: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, 1, fd)


def writable(userdata: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, 2, fd)


class Guest(Calls):
    """Our WASI. With `hops`, its state is captured, packed, unpacked and restored before each
    call, so that whatever a test does it does across snapshots."""

    def __init__(self, *, module: str = MODULE, hops: bool = False, **settings: Any) -> None:
        self.settings = settings
        self.wasi = Wasi(**settings)
        self.caller = FakeCaller()
        self.module = module
        self.hops = hops
        self.contents = Contents()

    @property
    def memory(self) -> memoryview:
        return self.caller.memory

    def state(self) -> dict[str, Any]:
        """What a snapshot would hold now, as it comes out of a file."""
        self.wasi.stop_clock()
        self.contents = Contents()
        packed = msgpack.packb(self.wasi.capture(self.contents), use_bin_type=True)
        state: dict[str, Any] = msgpack.unpackb(packed, raw=False)
        return state

    def resume(self, state: dict[str, Any], **changes: Any) -> None:
        """Go on from a state, with the same mounts and streams but for `changes`."""
        kept = {
            k: v for k, v in self.settings.items() if k in ("mounts", "stdin", "stdout", "stderr")
        }
        if isinstance(kept.get("stdin"), bytes):
            # It is in the state.
            del kept["stdin"]
        carried = CarriedFiles(self.contents, since=time.time_ns())
        restored = Wasi.restore(state, **{"carried": carried, **kept, **changes})
        self.wasi.close()
        self.wasi = restored

    def hop(self) -> None:
        """Save and restore; the restored state is the same."""
        state = self.state()
        self.resume(state)
        assert self.state() == state

    def call(self, name: str, *arguments: int) -> int:
        if self.hops:
            self.hop()
        raw = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments]
        function = self.wasi.imports[self.module][name]
        with self.declared(function, raw) as result:
            result.append(function.call(self.caller, *raw))
        assert type(result[0]) is int
        return result[0]

    @contextmanager
    def declared(self, function: HostFunction, arguments: Sequence[int]) -> Iterator[list[int]]:
        """What a call changes of the memory is what its row declares: all of memory is compared."""
        result: list[int] = []
        if len(self.memory) > SIZE:
            yield result
            return
        before = bytearray(self.memory)
        assert function.writes is not None
        told = function.writes(self.caller, arguments)
        try:
            yield result
        finally:
            for start, size in told(result == [0]):
                before[start : start + size] = self.memory[start : start + size]
            assert before == self.memory, "the call writes memory that its row does not declare"

    def close(self) -> None:
        self.wasi.close()
        self.caller.close()


def on(directory: Path, mode: str = "host", **settings: Any) -> Guest:
    """A guest with one mount."""
    return Guest(mounts=[Mount(directory, "/data", mode)], **settings)


def wat() -> str:
    """A module that passes every function of the table on."""
    lines, wrappers = [], []
    for row in FUNCTIONS:
        types = " ".join(str(t) for t in row.type.params)
        result = "(result i32)" if row.result else ""
        lines.append(
            f'(import "{MODULE}" "{row.name}" (func ${row.name} (param {types}) {result}))'
        )
        gets = " ".join(f"local.get {i}" for i in range(len(row.params)))
        wrappers.append(
            f'(func (export "{row.name}") (param {types}) {result} {gets} call ${row.name})'
        )
    return f'(module {" ".join(lines)} (memory (export "memory") {PAGES}) {" ".join(wrappers)})'


@cache
def _peer_module() -> tuple[wasmtime.Engine, wasmtime.Module]:
    engine = wasmtime.Engine()
    return engine, wasmtime.Module(engine, wat())


class Peer(Calls):
    """wasmtime's WASI."""

    def __init__(self, directory: Path, stdin: Path | None = None) -> None:
        engine, module = _peer_module()
        self.store = wasmtime.Store(engine)
        config = wasmtime.WasiConfig()
        config.preopen_dir(str(directory), "/data")
        if stdin is not None:
            config.stdin_file = str(stdin)
        self.store.set_wasi(config)
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        instance = linker.instantiate(self.store, module)
        self.exports = instance.exports(self.store)

    @property
    def memory(self) -> Any:
        return self

    def __setitem__(self, where: slice, data: bytes) -> None:
        memory: Any = self.exports["memory"]
        memory.write(self.store, data, where.start)

    def __getitem__(self, where: slice) -> bytearray:
        memory: Any = self.exports["memory"]
        got: bytearray = memory.read(self.store, where.start, where.stop)
        return got

    def call(self, name: str, *arguments: int) -> int:
        function: Any = self.exports[name]
        letters = next(row.params for row in FUNCTIONS if row.name == name)
        bits = [32 if letter == "i" else 64 for letter in letters]
        signed = [
            (a & (1 << n) - 1) - ((a >> (n - 1) & 1) << n)
            for a, n in zip(arguments, bits, strict=True)
        ]
        return int(function(self.store, *signed))
