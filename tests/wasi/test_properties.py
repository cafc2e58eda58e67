"""Random sequences of calls against a model of a file system, and against snapshots in between."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.wasi.guest import CREAT, DATA, EXCL, OUT, PATH2, ROOT, TRUNC, Guest, on
from wasmsr.wasi.clocks import Random
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.filesystem.path_resolution import Location
from wasmsr.wasi.preview1.abi import Errno, FdFlag
from wasmsr.wasi.preview1.rights import FILE_RIGHTS

NAMES = st.sampled_from(["a", "b", "c"])
PIECES = st.sampled_from([".", "..", "", "a", "b", "d", "link", "up", "abs", "loop"])


class Files(RuleBasedStateMachine):
    """Open files with offsets, over named contents; a snapshot may come between any two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.guest: Guest = on(Path(self.directory.name))
        self.files: dict[str, bytearray] = {}
        self.open: dict[int, list[object]] = {}
        """Descriptor to [content (shared between descriptors), offset, append]"""

    def teardown(self) -> None:
        self.guest.close()
        self.directory.cleanup()

    @rule(name=NAMES, flags=st.sampled_from([0, CREAT, CREAT | EXCL, TRUNC]), append=st.booleans())
    def opening(self, name: str, flags: int, append: bool) -> None:
        errno, fd = self.guest.open(
            name, flags, FILE_RIGHTS, fdflags=FdFlag.APPEND if append else 0
        )
        if flags & EXCL and name in self.files:
            assert errno == Errno.EXIST
        elif name not in self.files and not flags & CREAT:
            assert errno == Errno.NOENT
        else:
            assert errno == 0
            free = next(n for n in range(4, 1000) if n not in self.open)
            assert fd == free
            content = self.files.setdefault(name, bytearray())
            if flags & TRUNC:
                content.clear()
            self.open[fd] = [content, 0, append]

    @precondition(lambda self: self.open)
    @rule(pick=st.randoms(use_true_random=False), data=st.binary(max_size=50))
    def writing(self, pick, data: bytes) -> None:  # type: ignore[no-untyped-def]
        fd = pick.choice(sorted(self.open))
        content, offset, append = self.open[fd]
        assert isinstance(content, bytearray) and isinstance(offset, int)
        assert self.guest.write(fd, data[:7], data[7:]) == (0, len(data))
        if not data:
            return
        if append:
            offset = len(content)
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        self.open[fd][1] = offset + len(data)

    @precondition(lambda self: self.open)
    @rule(pick=st.randoms(use_true_random=False), size=st.integers(0, 60))
    def reading(self, pick, size: int) -> None:  # type: ignore[no-untyped-def]
        fd = pick.choice(sorted(self.open))
        content, offset, _ = self.open[fd]
        assert isinstance(content, bytearray) and isinstance(offset, int)
        expected = bytes(content[offset : offset + size])
        assert self.guest.read(fd, size) == (0, expected)
        self.open[fd][1] = offset + len(expected)

    @precondition(lambda self: self.open)
    @rule(
        pick=st.randoms(use_true_random=False),
        whence=st.integers(0, 2),
        offset=st.integers(-80, 80),
    )
    def seeking(self, pick, whence: int, offset: int) -> None:  # type: ignore[no-untyped-def]
        fd = pick.choice(sorted(self.open))
        content, now, _ = self.open[fd]
        assert isinstance(content, bytearray) and isinstance(now, int)
        target = (0, now, len(content))[whence] + offset
        errno, found = self.guest.seek(fd, offset, whence)
        if target < 0:
            assert errno == Errno.INVAL
        else:
            assert (errno, found) == (0, target)
            self.open[fd][1] = target

    @precondition(lambda self: self.open)
    @rule(pick=st.randoms(use_true_random=False), size=st.integers(0, 100))
    def sizing(self, pick, size: int) -> None:  # type: ignore[no-untyped-def]
        fd = pick.choice(sorted(self.open))
        content = self.open[fd][0]
        assert isinstance(content, bytearray)
        assert self.guest.call("fd_filestat_set_size", fd, size) == 0
        content[size:] = b""
        content.extend(bytes(size - len(content)))

    @precondition(lambda self: self.open)
    @rule(pick=st.randoms(use_true_random=False))
    def closing(self, pick) -> None:  # type: ignore[no-untyped-def]
        fd = pick.choice(sorted(self.open))
        assert self.guest.call("fd_close", fd) == 0
        del self.open[fd]

    @precondition(lambda self: len(self.open) > 1)
    @rule(pick=st.randoms(use_true_random=False))
    def renumbering(self, pick) -> None:  # type: ignore[no-untyped-def]
        source, target = pick.sample(sorted(self.open), 2)
        assert self.guest.call("fd_renumber", source, target) == 0
        self.open[target] = self.open.pop(source)

    @rule(name=NAMES)
    def unlinking(self, name: str) -> None:
        errno = self.guest.call("path_unlink_file", ROOT, *self.guest.path(name))
        assert errno == (0 if name in self.files else Errno.NOENT)
        self.files.pop(name, None)

    @rule(old=NAMES, new=NAMES)
    def renaming(self, old: str, new: str) -> None:
        guest = self.guest
        errno = guest.call("path_rename", ROOT, *guest.path(old), ROOT, *guest.path(new, PATH2))
        assert errno == (0 if old in self.files else Errno.NOENT)
        if not errno and old != new:
            self.files[new] = self.files.pop(old)

    @rule()
    def saving(self) -> None:
        self.guest.hop()

    @invariant()
    def contents_agree(self) -> None:
        assert self.guest.names(ROOT)[2:] == sorted(self.files)
        for name, content in self.files.items():
            assert (Path(self.directory.name) / name).read_bytes() == content


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(st.lists(PIECES, min_size=1, max_size=7), st.booleans(), st.booleans())
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_path_ends_inside_or_is_refused(
    data: Path, pieces: list[str], follow: bool, slash: bool
) -> None:
    """What a walk arrives at is below the mount by the host's own reckoning."""
    if not (data / "d").exists():
        (data / "a").write_text("")
        (data / "d/b").mkdir(parents=True)
        os.symlink("d", data / "link")
        os.symlink("..", data / "up")
        os.symlink("../b", data / "d/up")
        os.symlink("/", data / "abs")
        os.symlink("loop", data / "loop")
    path = "/".join(pieces) + "/" * slash
    root = os.open(data, os.O_RDONLY)
    try:
        with Location(root, os.fsencode(path)) as location:
            found = location.stat(follow)
            there = data.joinpath(*map(os.fsdecode, location.path))
            holder = os.path.realpath(there.parent) if location.path else str(data)
            assert os.path.commonpath([holder, data]) == str(data)
            assert os.path.samestat(found, os.lstat(there))
    except (OSError, CallError):
        pass
    finally:
        os.close(root)


@given(st.lists(st.integers(0, 200), max_size=12))
def test_seeded_bytes_do_not_depend_on_how_they_are_taken(sizes: list[int]) -> None:
    seed = Random.seed_of(7)
    taken = bytearray(sum(sizes))
    random, at = Random(seed), 0
    for size in sizes:
        random.fill(memoryview(taken)[at : at + size])
        at += size
    whole = bytearray(sum(sizes))
    Random(seed).fill(memoryview(whole))
    assert taken == whole
    middle = bytearray(max(0, len(whole) - 3))
    Random(seed, min(3, len(whole))).fill(memoryview(middle))
    assert middle == whole[3:]


@given(
    call=st.sampled_from(
        ["fd_read", "fd_write", "fd_seek", "fd_readdir", "poll_oneoff", "path_open"]
    ),
    arguments=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), min_size=9, max_size=9),
)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_arguments_give_an_errno(data: Path, call: str, arguments: list[int]) -> None:
    from wasmsr.wasi.preview1.functions import FUNCTIONS

    row = next(row for row in FUNCTIONS if row.name == call)
    masks = [0xFFFFFFFF if letter == "i" else 2**64 - 1 for letter in row.params]
    guest = on(data, stdin=b"abc", deterministic=True, stdout=_Sink())
    guest.put(DATA, b"x" * 100)
    guest.put(OUT, bytes(200))
    raw = [argument & mask for argument, mask in zip(arguments, masks, strict=False)]
    assert guest.call(call, *raw) in set(Errno)
    guest.close()


class _Sink:
    def write(self, data: memoryview) -> int:
        return len(data)
