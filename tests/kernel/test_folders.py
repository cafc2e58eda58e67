"""The folders of kernels: one relay has each, and those of killed kernels are removed some day."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
from click.testing import CliRunner, Result

from tests.kernel.test_install import GIVEN
from wasmsr.cli.sandboxes.kernel import run
from wasmsr.kernel import checkpoints
from wasmsr.kernel.checkpoints import (
    KEPT,
    KEPT_SECONDS,
    RECORD,
    RELAY,
    SESSION,
    WORKER,
    CellRecord,
    KernelFolder,
    StateFolder,
    _lock,
    kept_sessions,
    remove_old,
)
from wasmsr.kernel.magics import MagicError, Magics
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


def kept(
    kernels: Path, number: int, session: str | None, when: float, now: int = 0
) -> KernelFolder:
    """The folder of a kernel with one state; its lock is held."""
    folder = KernelFolder(kernels / f"{number:032x}")
    if session is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SESSION, session)
            assert folder.describe() == session
    (folder.path / "state-1.bin").write_bytes(b"")
    os.utime(folder.path / "state-1.bin", times=(when, when))
    record = CellRecord(number=1, file="state-1.bin", between="state-1.bin", now=now)
    (folder.path / RECORD).write_text(json.dumps(asdict(record)))
    return folder


def test_what_killed_kernels_have_left_is_found(tmp_path: Path) -> None:
    killed = [
        kept(tmp_path, 1, "a.ipynb", 1e9),
        kept(tmp_path, 2, "b.ipynb", 3e9),
        kept(tmp_path, 3, "a.ipynb", 2e9, now=5),
        kept(tmp_path, 4, None, 4e9),
        kept(tmp_path, 5, "", 1.5e9),
    ]
    lives = kept(tmp_path, 6, "a.ipynb", 5e9)
    own = kept(tmp_path, 7, "a.ipynb", 6e9)
    for one in killed:
        os.close(one._lock)
    (tmp_path / f"{8:032x}").mkdir()  # of a kernel that has kept nothing
    damaged = kept(tmp_path, 9, "a.ipynb", 7e9)
    (damaged.path / RECORD).write_text("{")
    os.close(damaged._lock)
    strange = killed[3].path / "about.json"
    for text in ("[", "[1]", '{"session": 5}', '{"session": "a\\nb"}', "[" * 9999):
        strange.write_text(text)
        found = kept_sessions(own.path)
        assert [int(one.folder.name, 16) for one in found] == [3, 1, 4, 2, 5]
    assert "a.ipynb, in the middle of a cell" in found[0].said
    assert found[1].said.endswith("a.ipynb")
    assert "without a name" in found[2].said
    (killed[2].path / "kept-61.bin").write_bytes(b"kept")
    with found[0].held():
        found[0].give_over(own.path)
    assert (own.path / "kept-61.bin").read_bytes() == b"kept"
    assert not killed[2].path.exists()
    with pytest.raises(KernelError, match="was removed"), found[0].held():
        pass
    nameless = kept(tmp_path, 10, None, 1.0)
    assert [int(one.folder.name, 16) for one in kept_sessions(nameless.path)] == [4, 2, 5, 1]
    lives.remove()
    assert kept_sessions(tmp_path / "none" / "x") == []


def test_who_asks_keeps_no_kernel_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another kernel that starts now asks whether this one lives."""
    monkeypatch.setattr(checkpoints, "ASKS_SECONDS", 60.0)
    folder = KernelFolder(tmp_path / "a")
    asking = threading.Timer(0.1, os.close, (folder._lock,))
    asking.start()
    again = KernelFolder(tmp_path / "a")
    asking.join()
    again.remove()


def test_a_worker_that_does_not_end_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, killed = kept(tmp_path, 1, None, 1.0), kept(tmp_path, 2, None, 1.0)
    os.close(killed._lock)
    worker = _lock(killed.path / WORKER)
    monkeypatch.setattr(checkpoints, "ENDS_SECONDS", 0.1)
    assert kept_sessions(own.path) == []
    monkeypatch.setattr(checkpoints, "ENDS_SECONDS", 60.0)
    threading.Timer(0.1, os.close, (worker,)).start()
    assert [one.folder for one in kept_sessions(own.path)] == [killed.path]


def test_what_is_restored_is_for_one_kernel(tmp_path: Path) -> None:
    """Until it has a state of its own, which is then the only one."""
    killed, *living = (kept(tmp_path, number, None, 1.0) for number in range(1, 4))
    os.close(killed._lock)
    sandbox: Any = Mock()
    settings: Any = None
    first, second = (
        Magics(one.path, settings, lambda file: sandbox, lambda text: None) for one in living
    )
    assert first.do(["restore"], sandbox) is sandbox
    assert first.between == str(killed.path / "state-1.bin")
    with pytest.raises(MagicError, match="has left a state"):
        second.do(["restore"], sandbox)
    assert killed.path.exists()
    first.settle()
    assert (first.between, killed.path.exists()) == ("", False)
    first.settle()


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
