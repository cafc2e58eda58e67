"""Everything of WASI that one program has: what `capture` saves and `restore` brings back.

The calls get it as their first argument. One thread uses it at a time: the program's while the
program runs, any thread while the program is paused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from wasmsr.errors import WasiConfigError
from wasmsr.record import record
from wasmsr.wasi.clocks import Clocks, Random
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.filesystem.mount_trees import open_tree
from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, Mount
from wasmsr.wasi.filesystem.open_files import Directory, MountPath, RegularFile
from wasmsr.wasi.filesystem.path_resolution import Location
from wasmsr.wasi.filesystem.trees import MountTree
from wasmsr.wasi.streams.descriptor import Descriptor
from wasmsr.wasi.streams.standard import InputStream, OutputStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

MAX_DESCRIPTORS = 1 << 16


@record(frozen=True)
class PendingPoll:
    """A `poll_oneoff` that a pause ended before it had an effect.

    `call`: digest of its arguments and subscriptions, by which the same call is known when it is
    made again; `started`: the program's monotonic clock when it was first made, ns. The deadline of
    a relative time-out is `started` plus that time-out, however often the call is interrupted.
    `over`: all its time-outs have come, because somebody ends the wait (no snapshot has this).
    """

    call: bytes
    started: int
    over: bool = False


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
        self.trees: dict[bytes, MountTree] = {}
        """Guest name to the files of that mount; open as long as the process."""
        self.descriptors: dict[int, Descriptor] = {}
        self.clocks = clocks
        self.random = random
        self.carry_limit = CARRY_LIMIT
        """Most bytes of each private tree, and of the files in a snapshot."""
        self.deferred: Callable[[], None] | None = None
        """The rest of a restore that must not change files of the host yet."""
        self.pending: PendingPoll | None = None
        self.streams: Streams | None = None
        """The standard streams, whether the program has closed them or not."""
        self.mounted: dict[bytes, Mount] = {}
        """The mounts that were given, by guest name."""
        self.sockets: tuple[socket.socket, ...] = ()
        """The listening sockets that were given."""
        self._lowest = 0

    def become(self, other: Process) -> None:
        """Take over everything of another process; the calls go on with this one.

        What only this one has open is closed. The other one must not be used any more.
        """
        streams = other.streams
        kept = {streams.stdin, streams.stdout, streams.stderr} if streams is not None else set()
        kept |= set(other.descriptors.values())
        gone = [one for one in self.descriptors.values() if one not in kept]
        trees = list(self.trees.values())
        self.__dict__.update(other.__dict__)
        for descriptor in gone:
            descriptor.close()
        for tree in trees:
            tree.close()

    def mount(self, mounts: Iterable[Mount]) -> None:
        """Open the trees of the mounts.

        Raises:
            WasiConfigError: A tree cannot be opened, or a name is taken.
        """
        for mount in mounts:
            name = os.fsencode(mount.guest)
            if name in self.trees:
                raise WasiConfigError(f"two mounts have the name {mount.guest!r}")
            if mount.mode == "alias":
                self._alias(name, os.fsencode(mount.host or ""))
            else:
                self.trees[name] = open_tree(mount, self.carry_limit)
            self.mounted[name] = mount

    def _alias(self, name: bytes, other: bytes) -> None:
        """Give a mount another name."""
        if other not in self.trees:
            raise WasiConfigError(
                f"{os.fsdecode(name)!r} is to be another name of the mount {os.fsdecode(other)!r}, "
                "and there is no such mount before it",
                hint="name the mount as the program sees it",
            )
        self.share(name, self.trees[other])

    def share(self, name: bytes, tree: MountTree) -> None:
        """Have a tree that other processes have too: to be read only, or a folder of the host."""
        self.trees[name] = tree.share()

    def preopen(self, name: bytes) -> Directory:
        """Return a descriptor for the mount of that name, not yet in the table."""
        directory = Directory(self.trees[name].root, MountPath(name, ()))
        directory.preopen = name
        directory.owned = False
        return directory

    def locate(self, base: Directory, path: bytes) -> Location:
        """Return where a path leads from a directory, by the rules of its mount's tree."""
        return self.trees[base.place.mount].locate(base.host, path)

    def locate_two(
        self, source: Directory, old: bytes, target: Directory, new: bytes
    ) -> tuple[Location, Location]:
        """Return two places; the caller links or renames the first to the second.

        Raises:
            CallError: EXDEV, where they are in trees that cannot share a file.
        """
        one, other = self.trees[source.place.mount], self.trees[target.place.mount]
        if one is not other and not (
            type(one) is type(other) is MountTree and one.mode == other.mode
        ):
            raise CallError(errno.EXDEV)
        origin = one.locate(source.host, old)
        try:
            return origin, other.locate(target.host, new)
        except BaseException:
            origin.close()
            raise

    def tree_of(self, descriptor: RegularFile | Directory) -> MountTree:
        """Return the tree that an open file or directory is in."""
        return self.trees[descriptor.place.mount]

    def get(self, fd: int) -> Descriptor:
        """Return the descriptor of a number.

        Raises:
            CallError: EBADF.
        """
        found = self.descriptors.get(fd)
        if found is None:
            raise CallError(errno.EBADF)
        return found

    def add(self, descriptor: Descriptor) -> int:
        """Put a descriptor under the lowest free number, as POSIX does; return the number.

        Raises:
            CallError: EMFILE; the descriptor is closed.
        """
        number = self._lowest
        while number in self.descriptors:
            number += 1
        if len(self.descriptors) >= MAX_DESCRIPTORS:
            descriptor.close()
            raise CallError(errno.EMFILE)
        self.descriptors[number] = descriptor
        self._lowest = number + 1
        return number

    def remove(self, fd: int) -> Descriptor:
        """Take a descriptor out of the table, not yet closed.

        Raises:
            CallError: EBADF.
        """
        found = self.get(fd)
        del self.descriptors[fd]
        self._lowest = min(self._lowest, fd)
        return found

    def place_files(self) -> None:
        """Put carried files into their folders and open them, if a restore left that for later.
        Raises SnapshotError."""
        if self.deferred is not None:
            deferred, self.deferred = self.deferred, None
            deferred()

    def close(self) -> None:
        """Close every host descriptor that is ours."""
        self.deferred = None
        while self.descriptors:
            self.descriptors.popitem()[1].close()
        while self.trees:
            self.trees.popitem()[1].close()
