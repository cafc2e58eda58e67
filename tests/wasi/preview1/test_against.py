"""Random sequences of calls, made by us and by wasmtime on two equal directories: the same errno,
the same results, the same files in the end. Ours goes through a snapshot now and then.

`WASMSR_FUZZ` is the number of sequences (`make fuzz`). Where the two differ on purpose, the
difference is named here, and `tests/wasi/preview1/test_peer.py` lists more of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.wasi.guest import (
    CREAT,
    DATA,
    DIRECTORY,
    EXCL,
    OUT,
    PATH2,
    ROOT,
    TRUNC,
    Calls,
    Peer,
    on,
)
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, Errno, FdFlag, Right

SEQUENCES = int(os.environ.get("WASMSR_FUZZ", "25"))

NAMES = st.sampled_from(["a", "b", "d", "e", "l"])
PATHS = st.lists(NAMES | st.sampled_from(["..", "."]), min_size=1, max_size=4).map("/".join)
TARGETS = st.sampled_from(
    ["a", "d", "../a", "../d", "e/..", "d/e", ".", "..", "l", "../..", "none"]
)
OFLAGS = st.sampled_from([0, CREAT, CREAT | EXCL, TRUNC, CREAT | TRUNC, DIRECTORY])
RIGHTS = st.sampled_from([Right.FD_READ, Right.FD_WRITE, Right.FD_READ | Right.FD_WRITE, 0])
OTHERS = ALL_RIGHTS & ~(Right.FD_READ | Right.FD_WRITE)
PICK = st.integers(0, 1000)


def tree(root: Path) -> dict[str, Any]:
    """Every path below with its kind and content."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = "directory"
        else:
            found[name] = ("file", path.read_bytes(), path.stat().st_nlink)
    return found


class Against(RuleBasedStateMachine):
    """Both programs, and the pairs of descriptors that they have open."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.folders = [Path(self.scratch.name) / name for name in ("ours", "theirs")]
        for folder in self.folders:
            (folder / "d/e").mkdir(parents=True)
            (folder / "a").write_text("content of a")
            (folder / "d/b").write_text("b")
            os.symlink("d", folder / "l")
        self.ours = on(self.folders[0])
        self.theirs = Peer(self.folders[1])
        self.open: list[tuple[int, int]] = []
        """Files: our descriptor and theirs."""
        self.directories: list[tuple[int, int]] = [(ROOT, ROOT)]

    def teardown(self) -> None:
        trees = [tree(folder) for folder in self.folders]
        self.ours.close()
        self.scratch.cleanup()
        assert trees[0] == trees[1]

    def both(self, name: str, *arguments: Any, fds: tuple[int, int] | None = None) -> list[int]:
        """The errno of each. Text among the arguments is a path; `fds` come first."""
        answers = []
        for index, guest in enumerate(self.guests):
            words: list[int] = [] if fds is None else [fds[index]]
            at = iter((1024, PATH2))
            for argument in arguments:
                if isinstance(argument, str):
                    words += guest.path(argument, next(at))
                elif isinstance(argument, tuple):
                    words.append(argument[index])
                else:
                    words.append(argument)
            answers.append(guest.call(name, *words))
        return answers

    @property
    def guests(self) -> tuple[Calls, Calls]:
        return self.ours, self.theirs

    def same(self, name: str, *arguments: Any, fds: tuple[int, int] | None = None) -> int:
        """`both`, which must agree."""
        ours, theirs = self.both(name, *arguments, fds=fds)
        assert ours == theirs, (name, arguments, Errno(ours), Errno(theirs))
        return ours

    def results(self, size: int, at: int = OUT) -> bytes:
        """What both wrote there."""
        ours, theirs = (guest.get(at, size) for guest in self.guests)
        assert ours == theirs, (ours, theirs)
        return ours

    def directory(self, pick: int) -> tuple[int, int]:
        return self.directories[pick % len(self.directories)]

    def file(self, pick: int) -> tuple[int, int]:
        return self.open[pick % len(self.open)]

    # Paths

    @rule(
        at=PICK,
        path=PATHS,
        oflags=OFLAGS,
        rights=RIGHTS,
        append=st.booleans(),
        follow=st.integers(0, 1),
    )
    def opening(
        self, at: int, path: str, oflags: int, rights: int, append: bool, follow: int
    ) -> None:
        flags = FdFlag.APPEND if append else 0
        if oflags & (CREAT | TRUNC):
            # wasmtime opens such a file for writing even where that right is not asked for.
            rights |= Right.FD_WRITE
        base = self.directory(at)
        errno = self.same(
            "path_open", follow, path, oflags, rights | OTHERS, ALL_RIGHTS, flags, OUT, fds=base
        )
        if errno:
            return
        pair = (self.ours.u32(), self.theirs.u32())
        kinds = {guest.fdstat(fd)[1][0] for guest, fd in zip(self.guests, pair, strict=True)}
        (kind,) = kinds
        (self.directories if kind == 3 else self.open).append(pair)

    @rule(at=PICK, path=PATHS)
    def making_a_directory(self, at: int, path: str) -> None:
        self.same("path_create_directory", path, fds=self.directory(at))

    @rule(at=PICK, path=PATHS)
    def removing_a_directory(self, at: int, path: str) -> None:
        self.same("path_remove_directory", path, fds=self.directory(at))

    @rule(at=PICK, path=PATHS)
    def unlinking(self, at: int, path: str) -> None:
        self.same("path_unlink_file", path, fds=self.directory(at))

    @rule(at=PICK, to=PICK, old=PATHS, new=PATHS)
    def renaming(self, at: int, to: int, old: str, new: str) -> None:
        self.same("path_rename", old, self.directory(to), new, fds=self.directory(at))

    @rule(at=PICK, to=PICK, old=PATHS, new=PATHS)
    def linking(self, at: int, to: int, old: str, new: str) -> None:
        self.same("path_link", 0, old, self.directory(to), new, fds=self.directory(at))

    @rule(at=PICK, content=TARGETS, path=PATHS)
    def making_a_link(self, at: int, content: str, path: str) -> None:
        self.same("path_symlink", content, self.directory(at), path)

    @rule(at=PICK, path=PATHS, room=st.sampled_from([0, 1, 100]))
    def reading_a_link(self, at: int, path: str, room: int) -> None:
        if not self.same("path_readlink", path, DATA, room, OUT, fds=self.directory(at)):
            self.results(int.from_bytes(self.results(4), "little"), DATA)

    @rule(at=PICK, path=PATHS, follow=st.integers(0, 1))
    def looking(self, at: int, path: str, follow: int) -> None:
        if not self.same("path_filestat_get", follow, path, OUT, fds=self.directory(at)):
            self.results(1, OUT + 16)
            if self.ours.get(OUT + 16, 1) != b"\3":
                self.results(16, OUT + 24)

    @rule(at=PICK, path=PATHS, follow=st.integers(0, 1), flags=st.sampled_from([1, 4, 5, 3, 12]))
    def setting_times(self, at: int, path: str, follow: int, flags: int) -> None:
        arguments = (follow, path, 10**18, 2 * 10**18, flags)
        if not self.same("path_filestat_set_times", *arguments, fds=self.directory(at)):
            self.both("path_filestat_get", follow, path, OUT, fds=self.directory(at))
            if flags & 4:
                self.results(8, OUT + 48)

    @rule(at=PICK)
    def listing(self, at: int) -> None:
        ours, theirs = self.directory(at)
        found = [
            sorted((name, kind) for _, _, name, kind in guest.readdir(fd))
            for guest, fd in ((self.ours, ours), (self.theirs, theirs))
        ]
        assert found[0] == found[1]

    # Open files

    @precondition(lambda self: self.open)
    @rule(pick=PICK, size=st.integers(0, 30))
    def reading(self, pick: int, size: int) -> None:
        for guest in self.guests:
            guest.put(DATA, bytes(30))
            guest.iovecs([size])
        if not self.same("fd_read", 256, 1, OUT, fds=self.file(pick)):
            self.results(4)
            self.results(30, DATA)

    @precondition(lambda self: self.open)
    @rule(pick=PICK, data=st.binary(max_size=20))
    def writing(self, pick: int, data: bytes) -> None:
        for guest in self.guests:
            guest.put(DATA, data)
            guest.iovecs([len(data)])
        if not self.same("fd_write", 256, 1, OUT, fds=self.file(pick)):
            self.results(4)

    @precondition(lambda self: self.open)
    @rule(pick=PICK, size=st.integers(0, 30), offset=st.integers(0, 40), write=st.booleans())
    def by_position(self, pick: int, size: int, offset: int, write: bool) -> None:
        for guest in self.guests:
            guest.put(DATA, bytes(range(30)))
            guest.iovecs([size])
        call = "fd_pwrite" if write else "fd_pread"
        if not self.same(call, 256, 1, offset, OUT, fds=self.file(pick)):
            self.results(4)
            self.results(30, DATA)

    @precondition(lambda self: self.open)
    @rule(pick=PICK, offset=st.integers(-40, 40), whence=st.integers(0, 2))
    def seeking(self, pick: int, offset: int, whence: int) -> None:
        if not self.same("fd_seek", offset, whence, OUT, fds=self.file(pick)):
            self.results(8)
        if not self.same("fd_tell", OUT, fds=self.file(pick)):
            self.results(8)

    @precondition(lambda self: self.open)
    @rule(pick=PICK, size=st.integers(0, 60))
    def sizing(self, pick: int, size: int) -> None:
        pair = self.file(pick)
        if self.ours.fdstat(pair[0])[1][2] & Right.FD_WRITE:
            # A reader lacks the right here, and is EINVAL there.
            self.same("fd_filestat_set_size", size, fds=pair)

    @precondition(lambda self: self.open)
    @rule(pick=PICK)
    def asking(self, pick: int) -> None:
        if not self.same("fd_filestat_get", OUT, fds=self.file(pick)):
            self.results(1, OUT + 16)
            self.results(16, OUT + 24)
        if not self.same("fd_fdstat_get", OUT, fds=self.file(pick)):
            self.results(4)

    @precondition(lambda self: self.open)
    @rule(pick=PICK, append=st.booleans())
    def changing_flags(self, pick: int, append: bool) -> None:
        self.same("fd_fdstat_set_flags", int(append), fds=self.file(pick))

    @precondition(lambda self: self.open)
    @rule(pick=PICK, call=st.sampled_from(["fd_sync", "fd_datasync"]))
    def syncing(self, pick: int, call: str) -> None:
        self.same(call, fds=self.file(pick))

    @precondition(lambda self: self.open)
    @rule(pick=PICK)
    def closing(self, pick: int) -> None:
        pair = self.file(pick)
        self.same("fd_close", fds=pair)
        self.open.remove(pair)
        self.same("fd_tell", OUT, fds=pair)

    @precondition(lambda self: len(self.open) > 1)
    @rule(pick=PICK, other=PICK)
    def renumbering(self, pick: int, other: int) -> None:
        source, target = self.file(pick), self.file(other)
        if source == target:
            return
        self.same("fd_renumber", target, fds=source)
        self.open.remove(source)

    @rule()
    def saving(self) -> None:
        self.ours.hop()


TestAgainst = Against.TestCase
TestAgainst.settings = settings(
    max_examples=SEQUENCES, stateful_step_count=30, deadline=None, print_blob=True
)
TestAgainst = pytest.mark.timeout(3600)(TestAgainst)
