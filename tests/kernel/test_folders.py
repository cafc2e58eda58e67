"""The folders of kernels: one relay has each, and those of killed kernels are removed some day."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
from click.testing import CliRunner, Result

from tests.kernel.test_install import GIVEN
from wasmsr.cli.sandboxes.kernel import run
from wasmsr.kernel.checkpoints import (
    KEPT,
    KEPT_SECONDS,
    RECORD,
    RELAY,
    WORKER,
    CellRecord,
    KernelFolder,
    StateFolder,
    remove_old,
)
from wasmsr.kernel.settings import ConnectionFile
from wasmsr.kernel.wire import KernelError

DAY = 86400.0


def begun(file: Path) -> Result:
    """What comes of a kernel that a client starts."""
    return CliRunner().invoke(run, ["-f", str(file)])


def test_a_second_kernel_leaves_the_states_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = tmp_path / "kernel.json"
        file.write_text(json.dumps({**GIVEN, "shell_port": taken.getsockname()[1]}))
        first = KernelFolder(ConnectionFile.read(file).folder)
        (first.path / RECORD).write_text("{}")
        refused = begun(file).exception
        assert isinstance(refused, KernelError)
        assert "is running" in str(refused)
        os.close(first._lock)  # it was killed; somebody else has its ports
        refused = begun(file).exception
        assert isinstance(refused, KernelError)
        assert "cannot be opened" in str(refused)
    assert (first.path / RECORD).exists()


def test_a_folder_is_emptied_and_removed(tmp_path: Path) -> None:
    folder = KernelFolder(tmp_path / "a")
    for name in (RECORD, WORKER, "state-1.bin", "kept-61.bin"):
        (folder.path / name).write_bytes(b"")
    (folder.path / "state-2.bin").mkdir()
    folder.empty()
    assert sorted(one.name for one in folder.path.iterdir()) == [WORKER, RELAY]
    with pytest.raises(KernelError, match="is running"):
        KernelFolder(tmp_path / "a")
    folder.remove()
    assert not folder.path.exists()
    KernelFolder(tmp_path / "a").remove()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KernelError, match="cannot keep states"):
        KernelFolder(tmp_path / "file" / "a")


def made(kernels: Path, number: int, days: float) -> Path:
    """The folder of a kernel that was killed so many days ago."""
    folder = kernels / f"{number:032x}"
    folder.mkdir(parents=True)
    (folder / RECORD).write_text("{}")
    for one in (folder / RECORD, folder):
        os.utime(one, times=(time.time() - days * DAY,) * 2)
    return folder


def test_old_states_are_removed(tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    limit = KEPT_SECONDS / DAY
    old, live, young = (made(kernels, n, days) for n, days in enumerate((limit + 1, limit + 2, 1)))
    (live / RELAY).touch()
    os.utime(live / RELAY, times=(time.time() - (limit + 2) * DAY,) * 2)
    lives = KernelFolder(live)
    other = kernels / "not of a kernel"
    other.mkdir()
    os.utime(other, times=(0, 0))
    elsewhere = made(tmp_path / "elsewhere", 9, 99)
    (kernels / ("f" * 32)).symlink_to(elsewhere)
    remove_old(kernels)
    assert not old.exists()
    assert all(one.exists() for one in (live, young, other, elsewhere / RECORD))
    lives.remove()
    remove_old(tmp_path / "none")


def test_there_are_only_so_many(tmp_path: Path) -> None:
    folders = [made(tmp_path, n, 1 + n / 100) for n in range(KEPT + 3)]
    remove_old(tmp_path)
    assert [one.exists() for one in folders] == [True] * KEPT + [False] * 3


def test_what_a_killed_worker_left_is_removed(tmp_path: Path) -> None:
    record = CellRecord(number=3, file="state-3.bin", between="state-2.bin")
    (tmp_path / RECORD).write_text(json.dumps(asdict(record)))
    left = ("state-1.bin", "state-4.bin", ".state-4.bin.x.part", ".record.json.y.part")
    kept = ("state-2.bin", "state-3.bin", "kept-61.bin", ".requests.jsonl.z.part")
    for name in (*left, *kept):
        (tmp_path / name).write_bytes(b"")
    StateFolder(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {RECORD, WORKER, *kept}


@pytest.mark.parametrize(
    "lie",
    [
        {"file": "record.json"},
        {"between": ".."},
        {"done": -1},
        {"reply": []},
        {"value": 5},
        {"shown": {"stdout": "x"}},
        {"shown": {"other": 1}},
        {"shown": []},
        {"lines": True},
    ],
)
def test_a_lying_record_is_refused(tmp_path: Path, lie: dict[str, object]) -> None:
    (tmp_path / RECORD).write_text(json.dumps({**asdict(CellRecord()), **lie}))
    with pytest.raises(KernelError, match="damaged"):
        CellRecord.read(tmp_path)
