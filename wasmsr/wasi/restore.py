"""From plain data to a `Process`: the way back from `capture`.

The state is hostile input and grants nothing. `parse` checks all of it (types, ranges, sizes, what
must agree) before anything is opened; then the files are opened under the mounts given, through the
same walk that the program's own paths take, and compared; only when all are there is anything
changed.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from wasmsr.errors import SnapshotError, WasiConfigError
from wasmsr.wasi.abi import Failure, FileType, file_type
from wasmsr.wasi.capture import MEMORY_DEVICES
from wasmsr.wasi.clocks import Clocks, Random
from wasmsr.wasi.descriptors import (
    Descriptor,
    Device,
    Directory,
    File,
    InputStream,
    Listener,
    Place,
)
from wasmsr.wasi.mounts import Mount
from wasmsr.wasi.path_calls import open_flags
from wasmsr.wasi.process import Pending, Process, Streams
from wasmsr.wasi.state import DescriptorState, StdinFile, WasiState

if TYPE_CHECKING:
    import socket

OnChanged = Literal["error", "keep", "truncate"]
"""What to do with a file open for writing that has grown since it was saved."""


def restore(
    state: WasiState,
    mounts: Iterable[Mount],
    streams: Streams,
    *,
    sockets: Sequence[socket.socket] = (),
    live: bool = False,
    on_changed: OnChanged | None = None,
) -> Process:
    """A process in that state.

    `live`: the monotonic clock counts the time since it was stopped. `on_changed` defaults to
    "error" when live, else to "truncate": what a program wrote after a checkpoint did not happen.
    Raises WasiConfigError for a mount or socket that is missing, SnapshotError for a file that is.
    """
    given = {os.fsencode(mount.guest): mount for mount in mounts}
    missing = [name for name in state.mounts if name not in given]
    if missing:
        names = ", ".join(map(os.fsdecode, missing))
        options = " ".join(f"--dir HOST::{os.fsdecode(name)}" for name in missing)
        raise WasiConfigError(
            f"the program has mounts that were not given: {names}",
            hint=f"add {options}, where HOST is the directory that stands for it here",
        )
    clocks = Clocks(
        deterministic=state.deterministic,
        monotonic=state.monotonic,
        cpu=state.cpu,
        stopped_at=state.stopped_at,
        live=live,
    )
    process = Process(clocks, Random(state.seed, state.position))
    process.args, process.environ = state.args, state.environ
    if state.call is not None:
        process.pending = Pending(state.call, state.started)
    opener = _Opener(
        process, streams, on_changed or ("error" if live else "truncate"), tuple(sockets)
    )
    try:
        process.mount(given[name] for name in state.mounts)
        opener.nameless(state)
        for wanted in state.descriptors:
            descriptor = opener.open(wanted)
            process.descriptors[wanted.fd] = descriptor
            descriptor.flags = wanted.flags
            descriptor.rights = wanted.rights & descriptor.applicable
            descriptor.inheriting = wanted.inheriting
        opener.commit()
    except BaseException:
        process.close()
        raise
    finally:
        opener.close()
    return process


@dataclass
class _Opener:
    """Opens what the state names, in the order of its descriptors."""

    process: Process
    streams: Streams
    on_changed: OnChanged
    sockets: tuple[socket.socket, ...]
    names: list[str] = field(default_factory=list)
    """Temporary names of what has none in the program's eyes, until all is open."""
    grown: list[tuple[int, int]] = field(default_factory=list)
    """(host descriptor, size) to truncate once everything is there."""

    def open(self, wanted: DescriptorState) -> Descriptor:
        if wanted.kind == "stdin":
            return self._stdin(wanted)
        if wanted.kind == "stdout":
            stream = self.streams.stdout if wanted.stream == "stdout" else self.streams.stderr
            return stream
        if wanted.kind == "listener":
            return self._listener(wanted)
        if wanted.preopen:
            directory = self.process.preopen(wanted.mount)
            directory.entries = wanted.entries
            return directory
        place = Place(wanted.mount, wanted.path)
        if wanted.unlinked is not None:
            name = self.names[wanted.unlinked]
            host = os.open(name, self._flags(wanted) | os.O_CLOEXEC)
        else:
            host = self._reopen(place, self._flags(wanted))
        try:
            return self._descriptor(wanted, place, host)
        except BaseException:
            os.close(host)
            raise

    def _listener(self, wanted: DescriptorState) -> Listener:
        if wanted.socket >= len(self.sockets):
            raise WasiConfigError(
                f"the program listens by descriptor {wanted.fd} (it was {wanted.address}), and no "
                "socket was given for it",
                hint="add --tcp-listen ADDR:PORT for each that it was started with",
            )
        return Listener(self.sockets[wanted.socket], wanted.socket)

    @staticmethod
    def _flags(wanted: DescriptorState) -> int:
        if wanted.kind == "directory":
            return os.O_RDONLY | os.O_DIRECTORY
        return open_flags(wanted.access, wanted.flags)

    def _descriptor(self, wanted: DescriptorState, place: Place, host: int) -> Descriptor:
        result = os.fstat(host)
        kind = file_type(result.st_mode)
        if wanted.kind == "directory":
            directory = Directory(host, place, wanted.rights, wanted.inheriting, wanted.flags)
            directory.entries = wanted.entries
            return directory
        if wanted.kind == "device":
            if kind != FileType.CHARACTER_DEVICE or os.major(result.st_rdev) != MEMORY_DEVICES:
                raise SnapshotError(f"the device {place} is another kind of file now")
            return Device(host, place, kind, wanted.rights, wanted.flags, wanted.access)
        if kind not in (FileType.REGULAR_FILE, FileType.BLOCK_DEVICE):
            raise SnapshotError(f"the file {place} is another kind of file now")
        if wanted.unlinked is None and kind == FileType.REGULAR_FILE:
            self._compare(wanted, place, host, result.st_size)
        os.lseek(host, wanted.offset, os.SEEK_SET)
        return File(host, place, kind, wanted.rights, wanted.flags, wanted.access)

    def _compare(self, wanted: DescriptorState, place: Place, host: int, size: int) -> None:
        """Is a file of that size the one that was saved?"""
        if size < wanted.size:
            raise SnapshotError(
                f"the file {place} is shorter than when the program was saved: {size} bytes "
                f"instead of {wanted.size}"
            )
        if size > wanted.size and wanted.access != os.O_RDONLY:
            if self.on_changed == "error":
                raise SnapshotError(
                    f"the file {place}, which the program writes, has grown since it was saved: "
                    f"{size} bytes instead of {wanted.size}"
                )
            if self.on_changed == "truncate":
                self.grown.append((host, wanted.size))

    def _reopen(self, place: Place, flags: int) -> int:
        tree, path = self.process.trees[place.mount], b"/".join(place.path)
        try:
            with tree.locate(tree.root, path or b".") as location:
                host = location.open(flags, follow=False)
                if location.path != place.path:
                    os.close(host)
                    raise SnapshotError(f"a directory on the way to {place} is a link now")
                return host
        except OSError as error:
            number = error.errno
            reason = error.strerror
        except Failure:
            number, reason = errno.ELOOP, ""
        if number == errno.ENOENT:
            raise SnapshotError(f"{place}, which the program has open, does not exist any more")
        if number in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise SnapshotError(f"{place}, which the program has open, is another kind of file now")
        raise SnapshotError(f"{place}, which the program has open, cannot be opened: {reason}")

    def _stdin(self, wanted: DescriptorState) -> InputStream:
        stream = self.streams.stdin
        stream.unread = wanted.unread + stream.unread
        if wanted.file is not None and stream.regular and _same(stream.host, wanted.file):
            os.lseek(stream.host, wanted.file.offset, os.SEEK_SET)
        return stream

    def nameless(self, state: WasiState) -> None:
        """Make again what has no name any more; it gets one until everything is open."""
        for carried in state.unlinked:
            if carried.content is None:
                self.names.append(tempfile.mkdtemp(prefix="wasmsr-"))
            else:
                host, name = tempfile.mkstemp(prefix="wasmsr-")
                self.names.append(name)
                with open(host, "wb") as file:
                    file.write(carried.content)
            os.utime(self.names[-1], ns=(carried.atim, carried.mtim))

    def commit(self) -> None:
        """Everything is there: undo what was written after the snapshot."""
        for host, size in self.grown:
            os.ftruncate(host, size)

    def close(self) -> None:
        for name in self.names:
            if os.path.isdir(name):
                os.rmdir(name)
            else:
                os.unlink(name)


def _same(host: int, saved: StdinFile) -> bool:
    """Whether a regular file on standard input is the one that the program was reading: not
    shorter, and the same around the offset, which is all of a small file."""
    if os.fstat(host).st_size < saved.size:
        return False
    around = saved.before + saved.after
    return os.pread(host, len(around), saved.offset - len(saved.before)) == around
