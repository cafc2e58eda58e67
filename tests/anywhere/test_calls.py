"""Programs see the same answers of WASI under engines that nobody here wrote as they see here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.anywhere.call_script import BUFFER, OUT, Script
from tests.anywhere.engines import NODE, WASMTIME, Engine, needed, one_quick, wasmsr
from wasmsr.wasi.preview1.abi import (
    ALL_RIGHTS,
    SUBSCRIPTION,
    SUBSCRIPTION_CLOCK,
    SUBSCRIPTION_FD,
    Right,
)

READ, WRITE = Right.FD_READ, Right.FD_WRITE
ROOT, OTHER = 3, 4
CREAT, DIRECTORY, EXCL, TRUNC = 1, 2, 4, 8


def a_folder(folder: Path) -> Path:
    """A folder with files, a directory, and links."""
    folder.mkdir()
    (folder / "b.txt").write_bytes(b"hello world" * 3)
    (folder / "c").write_bytes(b"c" * 10)
    (folder / "a").mkdir()
    (folder / "a" / "x").write_bytes(b"xx")
    (folder / "link").symlink_to("a")
    (folder / "file-link").symlink_to("b.txt")
    (folder / "long").symlink_to("a/" + "y" * 100)
    return folder


def answers(
    script: Script, folder: Path, engine: Engine | None, mounts: Sequence[str] = (), at: int = 2
) -> list[str]:
    """What a script shows that is stopped after some instructions and goes on in an engine."""
    program, snapshot, module = folder / "p.wat", folder / "p.bin", folder / "p.wasm"
    program.write_text(script.text())
    options = [f"--dir={one}" for one in mounts]
    saved = [f"--snapshot-at={at}", f"--snapshot-file={snapshot}", "--force"]
    first = wasmsr("run", *options, *saved, "--deterministic", str(program), source=program)
    assert first.returncode == 120, first.stderr.decode()
    if engine is None:
        words = ["run", *options, f"--from-snapshot={snapshot}", str(program)]
        done = wasmsr(*words, source=program)
    else:
        module.unlink(missing_ok=True)
        words = ["--runnable", str(snapshot), "--program", str(program), "-o", str(module)]
        made = wasmsr("snapshot", "export", *words)
        assert made.returncode == 0, made.stderr.decode()
        given = ["::".join(one.split("::")[:2]) for one in mounts]
        done = engine.run(module, given, source=program)
    assert done.returncode == 0, done.stderr.decode()[:2000]
    return (first.stdout + done.stdout).decode().splitlines()


def compared(script: Script, folder: Path, engine: Engine, mode: str, at: int = 2) -> list[str]:
    """Run a script here and there, each with two new folders; its answers there must be ours."""
    needed(engine)
    found = []
    for one in (None, engine):
        name = "here" if one is None else "there"
        first, second = a_folder(folder / name), a_folder(folder / f"{name}-2")
        mounts = [f"{first}::/m{mode}", f"{second}::/n"]
        found.append(answers(script, folder, one, mounts, at))
    here, there = found
    wrong = [
        (script.shown[n], one, other)
        for n, (one, other) in enumerate(zip(here, there, strict=True))
        if one != other
    ]
    assert not wrong, wrong[:9]
    return there


def _files(script: Script) -> None:
    call = script.call
    reading = READ | Right.FD_SEEK | Right.FD_TELL | Right.FD_FILESTAT_GET
    call("path_open", ROOT, 0, b"b.txt", 0, reading, 0, 0, OUT, show=(OUT, 4))
    call("fd_read", 5, *script.vectors(), OUT, show=(OUT, 4))
    three = script.vectors((BUFFER, 0), (BUFFER, 3), (BUFFER + 3, 4))
    call("fd_read", 5, *three, OUT, show=(OUT, 4))
    call("fd_pread", 5, *three, 1 << 63, OUT)
    for offset, whence in ((-100, 0), (-100, 1), (0, 5), (5, 2)):
        call("fd_seek", 5, offset, whence, OUT)
    call("fd_tell", 5, OUT, show=(OUT, 8))
    for fd in (5, 0, 1, 3):
        call("fd_fdstat_get", fd, BUFFER, show=(BUFFER, 24))
    call("fd_filestat_get", 0, BUFFER, show=(BUFFER, 64))
    call("path_open", ROOT, 0, b"w", CREAT | TRUNC, ALL_RIGHTS, 0, 1, OUT, show=(OUT, 4))
    two = script.vectors((BUFFER, 3), (BUFFER + 9, 4))
    call("fd_write", 6, *two, OUT, show=(OUT, 4))
    call("fd_seek", 6, 0, 0, OUT)
    call("fd_write", 6, *two, OUT, show=(OUT, 4))
    call("fd_tell", 6, OUT, show=(OUT, 8))
    call("fd_pwrite", 6, *two, 1, OUT, show=(OUT, 4))
    for flags in (0, 2, 64, 4):
        call("fd_fdstat_set_flags", 6, flags)
    for offset, size in ((0, 100), (0, 0), (1 << 62, 1 << 62), (1 << 63, 1)):
        call("fd_allocate", 6, offset, size)
    call("fd_filestat_get", 6, BUFFER, show=(BUFFER + 16, 24))
    for fd, size in ((6, 5), (6, 1 << 63), (5, 5), (3, 5), (1, 5)):
        call("fd_filestat_set_size", fd, size)
    for fd, flags in ((6, 15), (6, 16), (6, 3), (6, 5), (0, 5)):
        call("fd_filestat_set_times", fd, 5, 6, flags)
    call("fd_filestat_set_times", 6, 1 << 63, 6, 1)
    for offset, advice in ((0, 9), (0, 1), (1 << 63, 1)):
        call("fd_advise", 6, offset, 0, advice)
    for fd in (5, 6, 1):
        call("fd_sync", fd)
        call("fd_datasync", fd)
    for fd, name in ((5, "write"), (6, "read"), (ROOT, "read"), (ROOT, "write"), (1, "read")):
        call(f"fd_{name}", fd, *two, OUT)
    call("fd_seek", ROOT, 0, 0, OUT)
    for one, other in ((5, 6), (5, 6), (6, ROOT)):
        call("fd_renumber", one, other)
    call("fd_prestat_get", ROOT, OUT)
    call("fd_tell", ROOT, OUT, show=(OUT, 8))


def _paths(script: Script) -> None:
    call = script.call
    for path in (
        b"a/../c",
        b"../x",
        b"a/../../m/c",
        b"/x",
        b"",
        b"file-link",
        b"c/",
        b"c/x",
        b"no",
        b".",
    ):
        for flags in (0, 1):
            call("path_open", OTHER, flags, path, 0, READ, 0, 0, OUT)
            call("path_filestat_get", OTHER, flags, path, BUFFER, show=(BUFFER + 16, 8))
    call("path_open", OTHER, 1, b"a", 0, READ | WRITE, 0, 0, OUT)
    call("path_open", OTHER, 1, b"c", DIRECTORY, READ, 0, 0, OUT)
    call("path_open", OTHER, 1, b"c", CREAT | EXCL, READ | WRITE, 0, 0, OUT)
    call("path_open", OTHER, 0, b"link", DIRECTORY, READ, 0, 0, OUT)
    call("path_filestat_get", OTHER, 2, b"c", BUFFER)
    call("path_readlink", OTHER, b"long", BUFFER, 10, OUT, show=(BUFFER, 10))
    call("path_readlink", OTHER, b"c", BUFFER, 10, OUT)
    for content in (b"/etc", b"c", b"b\0c", b"c"):
        call("path_symlink", content, OTHER, b"made")
    for path in (b"new", b"new", b"../new", b"no/new"):
        call("path_create_directory", OTHER, path)
    for path in (b"a", b"c", b"no"):
        call("path_remove_directory", OTHER, path)
    for path in (b"new", b"no", b"new/"):
        call("path_unlink_file", OTHER, path)
    call("path_link", OTHER, 0, b"b.txt", OTHER, b"hard")
    call("path_link", OTHER, 1, b"file-link", OTHER, b"hard2")
    call("path_filestat_get", OTHER, 0, b"hard2", BUFFER, show=(BUFFER + 16, 1))
    call("path_link", OTHER, 0, b"no", OTHER, b"hard3")
    for old, new in ((b"c", b"../up"), (b"c", b"a"), (b"a", b"c"), (b"hard", b"c")):
        call("path_rename", OTHER, old, OTHER, new)
    for flags in (3, 16, 10, 5):
        call("path_filestat_set_times", OTHER, 1, b"c", 1000, 2000, flags)
    call("fd_readdir", OTHER, BUFFER, 4000, 0, OUT, show=(OUT, 4))
    call("fd_readdir", OTHER, BUFFER, 400, 3, OUT, show=(BUFFER + 16, 5))


def _process(script: Script) -> None:
    call = script.call
    call("clock_res_get", 0, OUT, show=(OUT, 8))
    call("clock_res_get", 9, OUT)
    for clock in (0, 1, 2, 9):
        call("clock_time_get", clock, 1, OUT, show=(OUT, 8))
    call("random_get", BUFFER, 100, show=(BUFFER, 100))
    call("random_get", BUFFER, 30, show=(BUFFER, 30))
    for signal in (17, 19, 99):
        call("proc_raise", signal)
    call("sched_yield")
    call("args_sizes_get", OUT, OUT + 4, show=(OUT, 8))
    call("args_get", OUT, BUFFER, show=(BUFFER, 5))
    call("args_get", -1, BUFFER)
    call("sock_accept", 0, 0, OUT)
    call("sock_shutdown", 9, 1)


def _clock(clock: int, timeout: int, flags: int = 0) -> bytes:
    return SUBSCRIPTION.pack(7, 0, SUBSCRIPTION_CLOCK.pack(clock, timeout, 0, flags))


def _descriptor(kind: int, fd: int) -> bytes:
    return SUBSCRIPTION.pack(5, kind, SUBSCRIPTION_FD.pack(fd))


def _poll(script: Script) -> None:
    """Wait for clocks, files, output, and what cannot be waited for."""
    rights = READ | Right.FD_SEEK | Right.POLL_FD_READWRITE
    script.call("path_open", OTHER, 0, b"b.txt", 0, rights, 0, 0, OUT, show=(OUT, 4))
    script.call("path_open", OTHER, 0, b"b.txt", 0, READ, 0, 0, OUT, show=(OUT, 4))
    reading, writing = 1, 2
    for wanted in (
        [_clock(1, 0)],
        [_clock(1, 1_000_000)],
        [_clock(0, 0, 1)],
        [_clock(0, 10), _clock(1, 5)],
        [_clock(0, 1_577_836_800_000_000_000 + 50_000_000_000, 1)],
        [_clock(2, 5)],
        [_clock(9, 5)],
        [_clock(1, 5, 2)],
        *([_descriptor(kind, fd)] for kind in (reading, writing, 7) for fd in (1, 3, 4, 6, 7, 99)),
        [_descriptor(writing, 1), _clock(1, 1 << 62)],
        [_descriptor(writing, 1), _descriptor(writing, 2), _descriptor(reading, 6)],
        [_clock(1, 1 << 63, 1), _descriptor(writing, 1)],
        [_clock(9, 0), _descriptor(writing, 1)],
    ):
        place, size = script.string(b"".join(wanted))
        script.steps.append(
            f"(memory.copy (i32.const 8192) (i32.const {place}) (i32.const {size}))"
        )
        script.steps.append("(memory.fill (i32.const 16384) (i32.const 0) (i32.const 256))")
        script.steps.append(f"(i32.store (i32.const {OUT}) (i32.const 0))")
        script.call("poll_oneoff", 8192, 16384, len(wanted), OUT, show=(16384, 96))
        script.call("clock_time_get", 1, 0, OUT, show=(OUT, 8))
    script.call("poll_oneoff", 8192, 16384, 0, OUT)


@one_quick(WASMTIME)
def test_answers(engine: Engine, tmp_path: Path) -> None:
    script = Script()
    _files(script)
    _paths(script)
    _process(script)
    _poll(script)
    found = compared(script, tmp_path, engine, "")
    assert len(found) > 190


@pytest.mark.full
@one_quick(NODE)
@pytest.mark.parametrize("mode", ["ro", "input"])
def test_what_is_only_read_here_is_only_read_there(
    mode: str, engine: Engine, tmp_path: Path
) -> None:
    """An engine is given a folder that it may write to; the program still may not."""
    script = Script()
    call = script.call
    for path in (b"b.txt", b"a", b"no", b"file-link"):
        for flags in (0, CREAT, CREAT | EXCL, TRUNC, CREAT | TRUNC, DIRECTORY):
            for rights in (READ, READ | WRITE, WRITE):
                call("path_open", ROOT, 1, path, flags, rights, 0, 0, OUT, show=(OUT, 4))
                call("fd_close", 5)
    two = script.vectors((BUFFER, 3), (BUFFER + 9, 4))
    for rights in (ALL_RIGHTS, ALL_RIGHTS & ~WRITE):
        call("path_open", ROOT, 1, b"b.txt", 0, rights, 0, 0, OUT, show=(OUT, 4))
        call("fd_write", 5, *two, OUT)
        call("fd_pwrite", 5, *two, 1, OUT)
        call("fd_filestat_set_size", 5, 3)
        call("fd_allocate", 5, 0, 100)
        call("fd_filestat_set_times", 5, 1, 2, 5)
        call("fd_close", 5)
    for path in (b"b.txt", b"a", b"no", b"no/x", b"file-link"):
        call("path_create_directory", ROOT, path)
        call("path_remove_directory", ROOT, path)
        call("path_unlink_file", ROOT, path)
        call("path_symlink", b"x", ROOT, path)
        call("path_filestat_set_times", ROOT, 1, path, 1, 2, 5)
        call("path_rename", ROOT, path, ROOT, b"zz")
        call("path_rename", ROOT, path, OTHER, b"zz")
        call("path_rename", OTHER, b"c", ROOT, path)
        call("path_link", ROOT, 0, path, ROOT, b"zz")
        call("path_link", ROOT, 0, b"c", ROOT, path)
        call("path_link", ROOT, 0, path, OTHER, b"zz")
    compared(script, tmp_path, engine, f"::{mode}")
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == sorted(
        p.name for p in a_folder(tmp_path / "new").iterdir()
    )
    assert (tmp_path / "there" / "b.txt").read_bytes() == b"hello world" * 3
