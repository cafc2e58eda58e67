"""Outputs in the file of an execution that ran on a server, and outputs that are begun again."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.programs import NOTHING, counting, request, until_stopped
from wasmsr import Node
from wasmsr.errors import SnapshotError
from wasmsr.jobs import Executor, JobError
from wasmsr.jobs.execution.archive import ExecutionArchive, write_archive
from wasmsr.jobs.execution.requests import ExecutionFolder
from wasmsr.jobs.servers.saved_on_server import save_execution
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.wasi.filesystem import archives, tree_walk

Fill = Callable[[tarfile.TarFile], None]


def saved(folder: Path, fill: Fill) -> Path:
    """Return the file of a saved execution whose outputs are what `fill` puts into an archive."""
    log, outputs, file = folder / "frames", folder / "packed", folder / "saved"
    log.write_bytes(b"")
    with tarfile.open(outputs, "w:gz") as tape:
        fill(tape)
    write_archive(file, "a", log, 0, lambda descriptor: os.write(descriptor, b"program"), outputs)
    return file


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> Fill:
    def fill(tape: tarfile.TarFile) -> None:
        item = tarfile.TarInfo(name)
        item.type, item.linkname, item.size, item.mode = kind, link, len(data), 0o755
        tape.addfile(item, io.BytesIO(data))

    return fill


@pytest.fixture
def results(tmp_path: Path) -> Path:
    found = tmp_path / "execution" / "results"
    (found / "out").mkdir(parents=True)
    return found


def put(file: Path, results: Path) -> None:
    with ExecutionArchive(file) as archive:
        assert archive.has_outputs
        archive.put_outputs(results, ["out"], 1 << 20)


def test_outputs_are_put_in_their_place(tmp_path: Path, results: Path) -> None:
    put(saved(tmp_path, entry("out/deep/file", data=b"data")), results)
    assert (results / "out" / "deep" / "file").read_bytes() == b"data"
    assert [one.name for one in results.parent.iterdir()] == ["results"]


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("out", tarfile.SYMTYPE, "VICTIM"),
        ("exitCode", tarfile.SYMTYPE, "VICTIM/file"),
        ("stdout", tarfile.SYMTYPE, "VICTIM/file"),
        ("stdout", tarfile.REGTYPE, ""),
        ("out", tarfile.REGTYPE, ""),
        ("other", tarfile.DIRTYPE, ""),
    ],
)
def test_outputs_that_lie(tmp_path: Path, results: Path, name: str, kind: bytes, link: str) -> None:
    """The program would get the folder to which a link leads, and our files would go there."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("whole")
    file = saved(tmp_path, entry(name, kind, link.replace("VICTIM", str(victim))))
    with pytest.raises(SnapshotError, match=f"has {name}, which is no output"):
        put(file, results)
    assert (victim / "file").read_text() == "whole"
    assert [(one.name, one.is_symlink()) for one in results.iterdir()] == [("out", False)]
    assert [one.name for one in results.parent.iterdir()] == ["results"]


def test_more_files_than_can_be_unpacked_are_not_saved(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file could never be restored."""
    monkeypatch.setattr(archives, "ENTRIES", 3)
    folder = ExecutionFolder(results.parent)
    folder.log.mkdir()
    (folder.log / "frames").write_bytes(b"")
    for name in "ab":
        (results / "out" / name).touch()
    save_execution("a", folder, tmp_path / "file", lambda file: file.write(b"program"))
    (tmp_path / "again" / "results" / "out").mkdir(parents=True)
    put(tmp_path / "file", tmp_path / "again" / "results")
    (results / "out" / "c").touch()
    with pytest.raises(OSError, match="more than 3 files and folders"):
        save_execution("a", folder, tmp_path / "second", lambda file: file.write(b"program"))
    assert not (tmp_path / "second").exists()


def test_a_file_of_a_server_is_refused_on_one_machine(tmp_path: Path) -> None:
    file = saved(tmp_path, lambda tape: None)
    with Executor(tmp_path / "jobs") as executor, pytest.raises(JobError) as caught:
        executor.restore(file, "b", request=request(tmp_path, "b", NOTHING))
    assert "on servers only" in caught.value.message and caught.value.hint


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
    saved(tmp_path, lambda tape: None)
    assert victim.read_text() == "whole"
    with ExecutionArchive(tmp_path / "saved") as archive:
        assert archive.about.execution_id == "a"


@pytest.mark.full
def test_a_saved_execution_that_no_server_takes(tmp_path: Path) -> None:
    """Its module is not the reason, and it can be tried again."""
    file = saved(tmp_path, entry("out", tarfile.DIRTYPE))
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
        (out / "stop").touch()
        try:
            assert executor.wait("a", 60).error == ""
            assert not (out / "d").exists()
        finally:
            tree_walk.remove(out)  # pytest cannot
