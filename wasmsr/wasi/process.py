"""Everything of WASI that one program has: what `capture` saves and `restore` brings back.

The calls get it as their first argument. One thread uses it at a time: the program's while it runs,
anybody's while it is paused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from wasmsr.errors import WasiConfigError
from wasmsr.record import record
from wasmsr.wasi.abi import ALL_RIGHTS, DIRECTORY_RIGHTS, Errno, Failure, Right
from wasmsr.wasi.clocks import Clocks, Random
from wasmsr.wasi.descriptors import Descriptor, Directory, InputStream, OutputStream, Place
from wasmsr.wasi.mounts import Mount
from wasmsr.wasi.resolve import Location
from wasmsr.wasi.trees import Tree, open_tree

MAX_DESCRIPTORS = 1 << 16


@record(frozen=True)
class Pending:
    """A `poll_oneoff` that a pause ended before it had an effect.

    `call`: digest of its arguments and subscriptions, by which the same call is known when it is
    made again; `started`: the program's monotonic clock when it was first made, ns. The deadline of
    a relative time-out is `started` plus that time-out, however often the call is interrupted.
    """

    call: bytes
    started: int


@record
class Streams:
    """The standard streams of the new process."""

    stdin: InputStream
    stdout: OutputStream
    stderr: OutputStream


class Process:
    """Arguments, environment, mounts, descriptors, clocks, chance, and an interrupted poll."""

    def __init__(self, clocks: Clocks, random: Random) -> None:
        self.args: tuple[bytes, ...] = ()
        self.environ: tuple[bytes, ...] = ()
        self.mounts: dict[bytes, Mount] = {}
        self.trees: dict[bytes, Tree] = {}
        """Guest name to the files of that mount; open as long as the process."""
        self.descriptors: dict[int, Descriptor] = {}
        self.clocks = clocks
        self.random = random
        self.pending: Pending | None = None
        self._lowest = 0

    def mount(self, mounts: Iterable[Mount]) -> None:
        """Open the mounts' directories; WasiConfigError where that fails or a name is taken."""
        for mount in mounts:
            name = os.fsencode(mount.guest)
            if name in self.trees:
                raise WasiConfigError(f"two mounts have the name {mount.guest!r}")
            self.trees[name] = open_tree(mount)
            self.mounts[name] = mount

    def preopen(self, name: bytes) -> Directory:
        """A descriptor, not yet in the table, for the mount of that name."""
        directory = Directory(self.trees[name].root, Place(name, ()), DIRECTORY_RIGHTS, ALL_RIGHTS)
        directory.preopen = name
        directory.owned = False
        return directory

    def locate(self, base: Directory, path: bytes) -> Location:
        """Where `path` leads from that directory, by the rules of its mount's tree."""
        return self.trees[base.place.mount].locate(base.host, path)

    def get(self, fd: int) -> Descriptor:
        """The descriptor of that number; EBADF."""
        found = self.descriptors.get(fd)
        if found is None:
            raise Failure(Errno.BADF)
        return found

    def directory(self, fd: int, rights: int) -> Directory:
        """The directory of that number, which must have `rights`; EBADF, ENOTDIR, ENOTCAPABLE."""
        found = self.descriptors.get(fd)
        if type(found) is not Directory:
            raise Failure(Errno.BADF if found is None else Errno.NOTDIR)
        if rights & ~found.rights:
            raise Failure(Errno.NOTCAPABLE)
        return found

    def add(self, descriptor: Descriptor) -> int:
        """Put it under the lowest free number, as POSIX does. On EMFILE it is closed."""
        number = self._lowest
        while number in self.descriptors:
            number += 1
        if len(self.descriptors) >= MAX_DESCRIPTORS:
            descriptor.close()
            raise Failure(Errno.MFILE)
        self.descriptors[number] = descriptor
        self._lowest = number + 1
        return number

    def remove(self, fd: int) -> Descriptor:
        """Take it out of the table, not yet closed; EBADF."""
        found = self.get(fd)
        del self.descriptors[fd]
        self._lowest = min(self._lowest, fd)
        return found

    def close(self) -> None:
        """Close every host descriptor that is ours."""
        while self.descriptors:
            self.descriptors.popitem()[1].close()
        while self.trees:
            self.trees.popitem()[1].close()


def require(descriptor: Descriptor, right: int) -> None:
    """ENOTCAPABLE unless the descriptor has the right. For reading and writing the answer is EBADF,
    for reading a directory EISDIR: what POSIX programs know a descriptor of the wrong mode by."""
    if descriptor.rights & right == right:
        return
    if right == Right.FD_READ and type(descriptor) is Directory:
        raise Failure(Errno.ISDIR)
    if right & (Right.FD_READ | Right.FD_WRITE):
        raise Failure(Errno.BADF)
    raise Failure(Errno.NOTCAPABLE)
