"""From plain data to a `Process`: the way back from `capture`.

The state is hostile input and grants nothing. `checked_state.read` checks all of it before anything
is opened. Then the files are opened under the mounts given, through the same walk that the
program's own paths take, and are compared. Nothing is changed before all of them are there.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wasmsr.errors import SnapshotError, WasiConfigError
from wasmsr.wasi.clocks import Clocks, Random
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.filesystem.memory_tree import MemoryTree
from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, PORTABLE, Mount
from wasmsr.wasi.filesystem.open_files import Device, Directory, MountPath, RegularFile, open_flags
from wasmsr.wasi.filesystem.private_folders import PrivateFolder
from wasmsr.wasi.filesystem.trees import KnownFiles, MountTree
from wasmsr.wasi.preview1.rights import APPLICABLE
from wasmsr.wasi.process import PendingPoll, Process, Streams
from wasmsr.wasi.state.capture import MEMORY_DEVICES, UNLINKED_LIMIT
from wasmsr.wasi.state.checked_state import (
    DescriptorState,
    MountState,
    StdinFile,
    UnlinkedFile,
    WasiState,
)
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.manifest import TreeEntry
from wasmsr.wasi.state.origin import FileVerdict, Origin, SavedFile
from wasmsr.wasi.state.staged_files import StagedFiles
from wasmsr.wasi.state.tree_restore import OnChanged, TreeReconciler, write_chunks
from wasmsr.wasi.streams.descriptor import Descriptor, FileKind, kind_of
from wasmsr.wasi.streams.sockets import Listener
from wasmsr.wasi.streams.standard import InputStream

if TYPE_CHECKING:
    import socket


@dataclass
class TreeBase:
    """A tree as it was when the program left this host, and what need not be read again of it."""

    entries: list[TreeEntry]
    known: KnownFiles


@dataclass
class CarriedFiles:
    """How a restore treats the files of a snapshot.

    `contents`: their chunks; `limit`: bytes that a tree may hold; `since`: when the snapshot was
    taken, realtime ns; `folder`: gives the place of a carried tree for which none was given, by
    guest name (None: one that vanishes with the program); `bases`: trees that were here before;
    `deferred`: touch no file that stays before `Process.place_files`; `staged`: files of carried
    trees that were made ahead, by guest name.
    """

    contents: Contents = field(default_factory=Contents)
    limit: int = CARRY_LIMIT
    since: int | None = None
    folder: Callable[[str], Path] | None = None
    bases: Mapping[str, TreeBase] = field(default_factory=dict)
    deferred: bool = False
    staged: Mapping[str, StagedFiles] = field(default_factory=dict)


def restore(
    state: WasiState,
    mounts: Iterable[Mount],
    streams: Streams,
    *,
    sockets: Sequence[socket.socket] = (),
    live: bool = False,
    on_changed: OnChanged | None = None,
    carried: CarriedFiles | None = None,
    shared: Mapping[bytes, MountTree] | None = None,
) -> Process:
    """Return a process in a state.

    Args:
        state: The state, checked.
        mounts: What is granted; matched by guest name.
        streams: The standard streams.
        sockets: Listening sockets, in the order in which the program had them.
        live: Whether the monotonic clock counts the time since it was stopped.
        on_changed: What to do with changed files. The default is "error" when live, else
            "truncate": what a program wrote after a checkpoint did not happen.
        carried: What to do with carried files.
        shared: What other processes share of the mounts, by guest name; see `open_shared`.

    Raises:
        WasiConfigError: A mount or a socket is missing.
        SnapshotError: A file is missing, or another one.
    """
    given = {os.fsencode(mount.guest): mount for mount in mounts}
    _check_mounts(state, given)
    clocks = Clocks(
        deterministic=state.deterministic,
        monotonic=state.monotonic,
        cpu=state.cpu,
        stopped_at=state.stopped_at,
        live=live,
    )
    carried = carried or CarriedFiles()
    process = Process(clocks, Random(state.seed, state.position))
    process.args, process.environ = state.args, state.environ
    process.carry_limit = carried.limit
    process.streams, process.sockets = streams, tuple(sockets)
    if state.call is not None:
        process.pending = PendingPoll(state.call, state.started)
    policy = on_changed or ("error" if live else "truncate")
    opener = _Opener(process, streams, policy, tuple(sockets), carried, state.origin, shared or {})
    try:
        for mount in state.mounts:
            opener.mount(mount, given.get(mount.guest))
        opener.nameless(state)
        opener.open_all(state.descriptors)
        opener.commit()
        if opener.reconcilers:
            process.deferred = opener.place_files
    except BaseException:
        process.close()
        raise
    finally:
        if process.deferred is None:
            opener.close()
    return process


def go_back(process: Process, state: WasiState, files: Contents, since: int | None) -> None:
    """Put a process back into an earlier state of its own; see `Wasi.go_back`.

    Raises:
        SnapshotError: A file is gone, or standard input was closed since.
    """
    streams = process.streams
    assert streams is not None
    stdin = streams.stdin
    wanted = [one for one in state.descriptors if one.kind == "stdin"]
    closed = stdin not in process.descriptors.values()
    if wanted and (closed or (stdin.ended and not wanted[0].ended)):
        raise SnapshotError("the program has closed its standard input since then")
    shared: dict[bytes, MountTree] = {}
    for name, tree in process.trees.items():
        if tree.mode in ("host", "ro", "input", "archive"):
            shared[name] = tree
        elif tree.mode == "overlay":
            shared[name] = tree.base
    unread, stdin.unread = stdin.unread, b""
    try:
        made = restore(
            state,
            list(process.mounted.values()),
            Streams(stdin, streams.stdout, streams.stderr),
            sockets=process.sockets,
            carried=CarriedFiles(files, process.carry_limit, since),
            shared=shared,
        )
    except BaseException:
        stdin.unread = unread
        raise
    process.become(made)


def _check_mounts(state: WasiState, given: Mapping[bytes, Mount]) -> None:
    here = PORTABLE | {"alias"}
    missing = [m for m in state.mounts if m.guest not in given and m.mode not in here]
    if missing:
        names = ", ".join(os.fsdecode(mount.guest) for mount in missing)
        options = " ".join(_option(mount) for mount in missing)
        raise WasiConfigError(
            f"the program has mounts that were not given: {names}",
            hint=f"add {options}, where HOST is the directory for it on this host",
        )
    for mount in state.mounts:
        have = given.get(mount.guest)
        if have is not None and have.mode != mount.mode and have.effective_mode != mount.mode:
            raise WasiConfigError(
                f"the program has {have.guest} in mode {mount.mode}, not {have.effective_mode}",
                hint=f"write {_option(mount)}",
            )


def _option(mount: MountState) -> str:
    name = os.fsdecode(mount.guest)
    if mount.mode == "archive":
        return f"--dir ARCHIVE::{name}"
    host = "" if mount.mode == "mem" else "HOST"
    mode = "" if mount.mode == "host" else f"::{mount.mode}"
    return f"--dir {host}::{name}{mode}"


@dataclass
class _Opener:
    """Opens what the state names, in the order of its descriptors."""

    process: Process
    streams: Streams
    on_changed: OnChanged
    sockets: tuple[socket.socket, ...]
    carried: CarriedFiles
    origin: Origin
    shared: Mapping[bytes, MountTree] = field(default_factory=dict)
    reconcilers: dict[bytes, TreeReconciler] = field(default_factory=dict)
    """Carried trees that are still to be put in their place."""
    late: set[bytes] = field(default_factory=set)
    """Names of these trees."""
    waiting: list[DescriptorState] = field(default_factory=list)
    """Descriptors in them."""
    names: list[str] = field(default_factory=list)
    """Temporary names of files that have no name for the program, until all files are open."""
    grown: list[tuple[int, int]] = field(default_factory=list)
    """(host descriptor, size) to truncate once everything is there."""

    def mount(self, wanted: MountState, given: Mount | None) -> None:
        """Open a mount's tree; one that is in the snapshot is made, or prepared to be made."""
        guest = os.fsdecode(wanted.guest)
        tree: MountTree
        if wanted.mode == "alias":
            self.process.share(wanted.guest, self.process.trees[wanted.of])
            if given is not None:
                self.process.mounted[wanted.guest] = given
            if wanted.of in self.late:
                self.late.add(wanted.guest)
            return
        if wanted.mode == "mem":
            tree = MemoryTree(self.carried.limit)
        elif wanted.mode == "carry":
            tree = self._carry_tree(guest, given)
        else:
            assert given is not None
            self._mount_or_share(wanted, given)
            tree = self.process.trees[wanted.guest]
            if tree.digest != wanted.digest:
                raise SnapshotError(f"{given.host} is another archive than the program had")
            if wanted.mode != "overlay":
                return
        self.process.trees[wanted.guest] = tree
        if given is not None:
            self.process.mounted[wanted.guest] = given
        base = self.carried.bases.get(guest) if wanted.mode == "carry" else None
        reconciler = TreeReconciler(
            tree.root,
            guest,
            wanted.entries,
            self.carried.contents,
            on_changed=self.on_changed,
            since=self._since(wanted, tree),
            limit=self.carried.limit,
            base=None if base is None else base.entries,
            known=None if base is None else base.known,
            staged=self.carried.staged.get(guest) if wanted.mode == "carry" else None,
        )
        if self.carried.deferred and wanted.mode == "carry":
            self.reconcilers[wanted.guest] = reconciler
            self.late.add(wanted.guest)
        else:
            reconciler.apply()
            tree.put_layers(wanted.layers)

    def _mount_or_share(self, wanted: MountState, given: Mount) -> None:
        below = self.shared.get(wanted.guest)
        if below is None:
            self.process.mount([given])
        elif wanted.mode == "overlay":
            from wasmsr.wasi.filesystem.overlay import OverlayTree

            self.process.trees[wanted.guest] = OverlayTree(below.share())
        else:
            self.process.share(wanted.guest, below)
        self.process.mounted[wanted.guest] = given

    def _since(self, wanted: MountState, tree: MountTree) -> int | None:
        """Return the time after which this folder is known to be the program's.

        It is that of the snapshot, if the snapshot was taken here with this folder and says so:
        anybody can write any time into one.
        """
        origin = self.origin
        if origin.host is None or origin.is_root(wanted.guest, tree.root):
            return self.carried.since
        return None

    def _carry_tree(self, guest: str, given: Mount | None) -> MountTree:
        """Return the tree of a carried mount: the folder given, one that stays, or one
        that vanishes.
        """
        host = None if given is None else given.host
        if host is None and self.carried.folder is not None:
            host = self.carried.folder(guest)
        try:
            if host is None:
                private = PrivateFolder()
                return MountTree(private.root, "carry", private)
            os.makedirs(host, mode=0o700, exist_ok=True)
        except OSError as error:
            raise SnapshotError(
                f"there is no room for the files of {guest}: {error.strerror or error}"
            ) from error
        return MountTree(Mount(host, guest, "carry").open(), "carry")

    def place_files(self) -> None:
        """Put the carried trees into their folders, and open the files that are open."""
        try:
            for reconciler in self.reconcilers.values():
                reconciler.apply()
            self.reconcilers.clear()
            self.late.clear()
            self.open_all(self.waiting)
        finally:
            self.close()

    def open_all(self, wanted: Iterable[DescriptorState]) -> None:
        """Open descriptors, but for those in trees that are not in their place yet."""
        for one in wanted:
            if one.mount in self.late and not one.preopen:
                self.waiting.append(one)
                continue
            descriptor = self.open(one)
            if isinstance(descriptor, RegularFile):
                self.process.tree_of(descriptor).opened(descriptor)
            self.process.descriptors[one.fd] = descriptor
            descriptor.flags = one.flags
            descriptor.rights = one.rights & APPLICABLE[descriptor.kind]
            descriptor.inheriting = one.inheriting

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
        place = MountPath(wanted.mount, wanted.path)
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

    def _descriptor(self, wanted: DescriptorState, place: MountPath, host: int) -> Descriptor:
        result = os.fstat(host)
        kind = kind_of(result.st_mode)
        if wanted.kind == "directory":
            folder = self.process.trees[place.mount].folder
            same = self.origin.is_directory(wanted.fd, host, folder, place.mount)
            if not same and self.on_changed != "keep":
                raise _other("directory", place)
            directory = Directory(host, place, wanted.flags)
            directory.entries = wanted.entries
            return directory
        if wanted.kind == "device":
            if kind != FileKind.CHARACTER_DEVICE or os.major(result.st_rdev) != MEMORY_DEVICES:
                raise SnapshotError(f"the device {place} is another kind of file now")
            return Device(host, place, kind, wanted.flags, wanted.access)
        if kind not in (FileKind.REGULAR_FILE, FileKind.BLOCK_DEVICE):
            raise SnapshotError(f"the file {place} is another kind of file now")
        if wanted.unlinked is None and kind == FileKind.REGULAR_FILE:
            self._compare(wanted, place, host, result.st_size)
        os.lseek(host, wanted.offset, os.SEEK_SET)
        return RegularFile(host, place, kind, wanted.flags, wanted.access)

    def _compare(self, wanted: DescriptorState, place: MountPath, host: int, size: int) -> None:
        """Return whether a file of that size can be the saved one."""
        if size < wanted.size:
            raise SnapshotError(
                f"the file {place} is shorter than when the program was saved: {size} bytes "
                f"instead of {wanted.size}"
            )
        reads_only = wanted.access == os.O_RDONLY
        saved = SavedFile(wanted.offset, wanted.size, reads_only)
        folder = self.process.trees[place.mount].folder
        verdict = self.origin.judge(wanted.fd, host, folder, place.mount, saved)
        grown = size > wanted.size
        if self.on_changed == "keep":
            return
        if verdict is FileVerdict.OTHER:
            raise _other("file", place)
        if verdict is FileVerdict.SAME or (reads_only and grown):
            return
        if self.on_changed == "error":
            if not grown:
                raise SnapshotError(
                    f"the file {place}, which the program has open, was changed since it was saved"
                )
            raise SnapshotError(
                f"the file {place}, which the program writes, has grown since it was saved: "
                f"{size} bytes instead of {wanted.size}"
            )
        if grown:
            self.grown.append((host, wanted.size))

    def _reopen(self, place: MountPath, flags: int) -> int:
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
        except CallError:
            number, reason = errno.ELOOP, ""
        if number == errno.ENOENT:
            raise SnapshotError(f"{place}, which the program has open, does not exist any more")
        if number in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise SnapshotError(f"{place}, which the program has open, is another kind of file now")
        raise SnapshotError(f"{place}, which the program has open, cannot be opened: {reason}")

    def _stdin(self, wanted: DescriptorState) -> InputStream:
        stream = self.streams.stdin
        if wanted.ended:
            stream.end()
            stream.unread = b""
        elif wanted.relayed is not None:
            stream.go_on(wanted.relayed)
        stream.unread = wanted.unread + stream.unread
        if wanted.file is not None and stream.regular and _same(stream.host, wanted.file):
            os.lseek(stream.host, wanted.file.offset, os.SEEK_SET)
        return stream

    def nameless(self, state: WasiState) -> None:
        """Make files again whose names were removed; each has a name until everything is open.

        Raises SnapshotError where there is no room, or more than may be carried: a snapshot may
        name one piece of a file any number of times.
        """
        held = sum(one.held for one in state.unlinked)
        limit = self.carried.limit + UNLINKED_LIMIT
        if held > limit:
            raise SnapshotError(
                f"the program's open files without a name hold {held} bytes, more than the {limit} "
                "that it may carry here",
                hint="--carry-limit SIZE allows more",
            )
        try:
            for one in state.unlinked:
                self._nameless(one)
        except OSError as error:
            raise SnapshotError(
                "there is no room for the program's open files without a name: "
                f"{error.strerror or error}"
            ) from error

    def _nameless(self, one: UnlinkedFile) -> None:
        if one.content is None:
            self.names.append(tempfile.mkdtemp(prefix="wasmsr-"))
        else:
            host, name = tempfile.mkstemp(prefix="wasmsr-")
            self.names.append(name)
            with open(host, "wb") as file:
                file.write(one.content)
                if one.chunks is not None:
                    write_chunks(host, one.size, one.chunks, self.carried.contents.read)
        os.utime(self.names[-1], ns=(one.atim, one.mtim))

    def commit(self) -> None:
        """Undo what was written after the snapshot, now that every file is there."""
        for host, size in self.grown:
            try:
                os.ftruncate(host, size)
            except OSError as error:
                raise SnapshotError(
                    f"a file that the program writes cannot be cut to the {size} bytes that it "
                    f"had: {error.strerror}"
                ) from error

    def close(self) -> None:
        while self.names:
            name = self.names.pop()
            # Another process may have removed it.
            with suppress(OSError):
                if os.path.isdir(name):
                    os.rmdir(name)
                else:
                    os.unlink(name)


def _other(what: str, place: MountPath) -> SnapshotError:
    return SnapshotError(
        f"the {what} {place} is not the one that the program had open: another {what} has taken "
        "its place",
        hint=f"put the {what} back, or continue the program with this one: --on-changed keep",
    )


def _same(host: int, saved: StdinFile) -> bool:
    """Whether a regular file on standard input is the one that the program was reading: not
    shorter, and the same around the offset, which is all of a small file."""
    if os.fstat(host).st_size < saved.size:
        return False
    around = saved.before + saved.after
    return os.pread(host, len(around), saved.offset - len(saved.before)) == around
