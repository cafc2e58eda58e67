"""Outputs that come from a server, files of saved executions, and outputs that are begun again."""

from __future__ import annotations

import errno
import io
import os
import signal
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests.jobs.programs import counting, stop, until_stopped
from wasmsr import Node
from wasmsr.errors import SnapshotError
from wasmsr.jobs import Executor, JobError
from wasmsr.jobs.execution.archive import ExecutionArchive, write_archive
from wasmsr.jobs.execution.requests import ExecutionFolder
from wasmsr.jobs.publishers import trees
from wasmsr.jobs.servers import server_files
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.jobs.servers.server_files import fetch_outputs
from wasmsr.node.carried_files import packed
from wasmsr.wasi.filesystem import archives, tree_walk

Fill = Callable[[tarfile.TarFile], None]


def saved(folder: Path) -> Path:
    """Return the file of a saved execution without a log, whose program is none."""
    log, file = folder / "frames", folder / "saved"
    log.write_bytes(b"")
    write_archive(file, "a", log, 0, lambda descriptor: os.write(descriptor, b"program"))
    return file


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> Fill:
    def fill(tape: tarfile.TarFile) -> None:
        item = tarfile.TarInfo(name)
        item.type, item.linkname, item.size, item.mode = kind, link, len(data), 0o755
        tape.addfile(item, io.BytesIO(data))

    return fill


def given(*fills: Fill) -> Callable[[str, IO[bytes]], None]:
    """Return what gives outputs in which these functions have put entries."""

    def fetch(path: str, file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w") as tape:
            for fill in fills:
                fill(tape)

    return fetch


@pytest.fixture
def folder(tmp_path: Path) -> ExecutionFolder:
    found = ExecutionFolder(tmp_path / "execution")
    (found.results / "out").mkdir(parents=True)
    return found


OUT = [("out", "/outputs")]


def test_outputs_are_put_in_their_place(folder: ExecutionFolder) -> None:
    """What is there is replaced, so a second call after an interrupted one does the same."""
    for data in (b"first", b"second"):
        fetch_outputs(folder, OUT, 1 << 20, given(entry("deep/file", data=data)))
        assert (folder.results / "out" / "deep" / "file").read_bytes() == data
    (folder.results / "out" / "old").touch()
    fetch_outputs(folder, OUT, 0, given())
    assert not list((folder.results / "out").iterdir())
    assert [one.name for one in folder.path.iterdir()] == ["results"]


def test_a_zip_file_among_outputs(tmp_path: Path, folder: ExecutionFolder) -> None:
    """The last file of the archive makes it look like a zip file."""
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("other", b"other")
    data = (tmp_path / "z").read_bytes()
    fetch_outputs(folder, OUT, 1 << 20, given(entry("z.zip", data=data)))
    assert (folder.results / "out" / "z.zip").read_bytes() == data


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ([("../up",)], "leads out"),
        ([("/up",)], "leads out"),
        ([("a", tarfile.SYMTYPE, "VICTIM"), ("a/file",)], "cannot be unpacked"),
        ([("a", tarfile.LNKTYPE, "none")], "cannot be unpacked"),
        ([("a", tarfile.REGTYPE, "", bytes(600)), ("b", tarfile.REGTYPE, "", bytes(600))],
         "more than 1000 bytes"),
        ([], "is no tar file"),
    ],
)  # fmt: skip
def test_outputs_that_lie(
    tmp_path: Path, folder: ExecutionFolder, made: list[tuple[Any, ...]], why: str
) -> None:
    """Nothing of them is there, and nothing elsewhere is changed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("whole")
    (folder.results / "out" / "mine").touch()

    def lie(path: str, file: IO[bytes]) -> None:
        if not made:
            file.write(b"no archive" * 100)
            return
        fills = []
        for name, *more in made:
            values: list[Any] = [str(victim) if one == "VICTIM" else one for one in more]
            fills.append(entry(name, *values))
        given(*fills)(path, file)

    with pytest.raises(JobError, match=why) as caught:
        fetch_outputs(folder, OUT, 1000, lie)
    assert caught.value.code == "FilesystemError" and "output out" in caught.value.message
    assert (victim / "file").read_text() == "whole"
    assert [one.name for one in (folder.results / "out").iterdir()] == ["mine"]
    assert [one.name for one in folder.path.iterdir()] == ["results"]


@pytest.mark.parametrize("kind", ["zip", "gz", "headers"])
def test_outputs_are_a_plain_tar_file(folder: ExecutionFolder, kind: str) -> None:
    """All names of a zip file are in memory at once, however many a server makes up."""

    def fetch(path: str, file: IO[bytes]) -> None:
        if kind == "zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("other", b"other")
        elif kind == "headers":  # each is about the next one
            item = tarfile.TarInfo("other")
            item.type, item.size = tarfile.XHDTYPE, 8
            file.write((item.tobuf(tarfile.USTAR_FORMAT) + b"8 a=bcd\n".ljust(512, b"\0")) * 1000)
        else:
            with tarfile.open(fileobj=file, mode="w:gz") as tape:
                entry("other")(tape)

    with pytest.raises(JobError, match="is no tar file"):
        fetch_outputs(folder, OUT, 1 << 20, fetch)
    assert not list((folder.results / "out").iterdir())


def test_outputs_without_end(folder: ExecutionFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has no room where it is, or a server that does not stop: the disk is not full."""
    monkeypatch.setattr(server_files, "OUTPUT_FILES", 4)
    taken: list[int] = []

    def fetch(path: str, file: IO[bytes]) -> None:
        for _ in range(100):
            file.write(bytes(1 << 12))
            taken.append(1 << 12)

    with pytest.raises(JobError, match=r"output out .*: it holds more than 1000 bytes"):
        fetch_outputs(folder, OUT, 1000, fetch)
    assert sum(taken) <= 1000 + 4 * archives.OVERHEAD
    assert [one.name for one in folder.path.iterdir()] == ["results"]


def test_what_a_killed_process_has_fetched_is_removed(folder: ExecutionFolder) -> None:
    left = folder.path / ".outputs-of-before"
    (left / "0" / "deep").mkdir(parents=True)
    fetch_outputs(folder, OUT, 1 << 20, given(entry("file", data=b"data")))
    assert (folder.results / "out" / "file").read_bytes() == b"data"
    assert not left.exists()


def test_a_folder_that_cannot_be_opened_is_not_left_out(
    folder: ExecutionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of descriptors, say. An output without it would look whole."""
    for name in ("a", "b"):
        (folder.results / "out" / name).mkdir()
        (folder.results / "out" / name / "file").touch()
    quietly = tree_walk.quietly

    def full(directory: int, name: bytes) -> int:
        if name == b"a":
            raise OSError(errno.EMFILE, "too many open files")
        return quietly(directory, name)

    monkeypatch.setattr(tree_walk, "quietly", full)
    with pytest.raises(OSError, match="too many open files"):
        list(packed(folder.results / "out"))
    with pytest.raises(OSError, match="too many open files"):
        trees.copy(folder.results / "out", folder.path / "copy")


def test_outputs_have_one_limit_together(folder: ExecutionFolder) -> None:
    """And none is in its place unless all can be."""
    both, fetch = [*OUT, ("two", "/two")], given(entry("file", data=bytes(600)))
    with pytest.raises(JobError, match=r"output two .*more than 400 bytes"):
        fetch_outputs(folder, both, 1000, fetch)
    assert not list((folder.results / "out").iterdir())
    fetch_outputs(folder, both, 1200, fetch)
    for name in ("out", "two"):
        assert (folder.results / name / "file").stat().st_size == 600


def test_a_link_in_the_place_of_an_output_is_replaced(
    tmp_path: Path, folder: ExecutionFolder
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("whole")
    (folder.results / "out").rmdir()
    (folder.results / "out").symlink_to(victim)
    fetch_outputs(folder, OUT, 1 << 20, given(entry("file", data=b"other")))
    assert (folder.results / "out" / "file").read_bytes() == b"other"
    assert not (folder.results / "out").is_symlink()
    assert (victim / "file").read_text() == "whole"


def test_a_part_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """An earlier version had the outputs beside the program: without them it would go on alone."""
    file = saved(tmp_path)
    with tarfile.open(file, "a") as tape:
        entry("outputs.tar.gz", data=b"outputs")(tape)
    with pytest.raises(SnapshotError, match=r"has outputs\.tar\.gz"):
        ExecutionArchive(file)


def test_headers_that_lie(tmp_path: Path) -> None:
    """One wants more memory than it may have, one more of the parser's recursion."""
    large = tarfile.TarInfo("long")
    large.type, large.size = tarfile.XHDTYPE, 64 << 20
    deep = tarfile.TarInfo("execution.json")
    deep.size = 60_000
    file = tmp_path / "saved"
    with open(file, "wb") as opened:
        opened.write(large.tobuf(tarfile.GNU_FORMAT))
        opened.truncate(65 << 20)
    with pytest.raises(SnapshotError, match="announces"):
        ExecutionArchive(file)
    with tarfile.open(file, "w") as tape:
        tape.addfile(deep, io.BytesIO(b"[" * deep.size))
        for name in ("frames", "program.snapshot"):
            tape.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(SnapshotError, match="no file of a saved execution"):
        ExecutionArchive(file)


def test_a_file_is_written_past_a_link_that_waits_for_it(tmp_path: Path) -> None:
    """In a folder that others may write, a link could have the name of the part."""
    victim = tmp_path / "victim"
    victim.write_text("whole")
    (tmp_path / ".saved.part").symlink_to(victim)
    saved(tmp_path)
    assert victim.read_text() == "whole"
    with ExecutionArchive(tmp_path / "saved") as archive:
        assert archive.about.execution_id == "a"


@pytest.mark.full
def test_a_saved_execution_that_no_server_takes(tmp_path: Path) -> None:
    """Its module is not the reason, and it can be tried again."""
    file = saved(tmp_path)
    with ServerExecutor(tmp_path / "shared", Node, [f"unix:{tmp_path}/nobody"]) as executor:
        with pytest.raises(JobError, match="no server takes it") as caught:
            executor.restore(file, "b", request=counting(tmp_path, "b", lines=1))
        assert caught.value.retryable and caught.value.code == "WASIError"
        assert not [one for one in (executor.folder / "b").iterdir() if one.is_dir()]


@pytest.mark.full
def test_an_output_that_is_deeper_than_our_recursion(tmp_path: Path) -> None:
    """Its execution begins again all the same; the thread that watched it ended, and all waited."""
    with Executor(tmp_path / "jobs") as executor:
        executor.start(until_stopped(tmp_path, "a", slow=1000, on_loss="restart"))
        out, first = tmp_path / "jobs/a/results/out", executor.describe("a").worker
        here = os.open(out, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        end = time.monotonic() + 60
        while executor.describe("a").worker in (first, None):
            assert time.monotonic() < end
            time.sleep(0.01)
        stop(tmp_path / "jobs" / "a")
        try:
            assert executor.wait("a", 60).error == ""
            assert not (out / "d").exists()
        finally:
            tree_walk.remove(out)  # pytest cannot
