"""`wasmsr snapshot`: tools for snapshots, with whole, damaged and unsuitable files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import one_sentence
from tests.snapshot.checkpoints.guest import GUEST
from wasmsr import Module, Snapshot, Store
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.format import content_digest, mark_handed
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

STEPS = 4
"""Checkpoints in the folder `d`."""


@pytest.fixture
def states(cli: Cli) -> list[SnapshotState]:
    """The states of the checkpoints in `d`, and the last as `one.bin` (version 1)."""
    (cli.folder / "d").mkdir()
    found = []
    with Store() as store:
        instance = store.instantiate(Module.from_text(GUEST))
        store.enqueue(instance.function("run"), 100_000)
        checkpointer = Checkpointer(CheckpointFolder(cli.folder / "d"), keep=100, merge_after=100)
        for _ in range(STEPS):
            store.run(fuel=50_000)
            assert checkpointer.take(store, lambda: capture(store, embed=True))
            found.append(Snapshot.of(store, embed=True).state)
            assert checkpointer._thread is not None
            checkpointer._thread.join()
        checkpointer.close()
    Snapshot(found[-1]).save(cli.folder / "one.bin")
    return found


def checkpoint(cli: Cli, number: int) -> Path:
    """The file of a checkpoint."""
    return cli.folder / "d" / f"checkpoint-{number:08}.bin"


def as_object(cli: Cli, *words: str, code: int = 0) -> dict[str, Any]:
    """The object that a tool prints."""
    outcome = cli("snapshot", *words, "--json")
    assert outcome.returncode == code, outcome.stderr
    assert bool(outcome.stderr) is bool(code)
    found = json.loads(outcome.stdout)
    assert isinstance(found, dict)
    return found


def refused(cli: Cli, *words: str, code: int = 123) -> str:
    """The sentence with which a tool refuses its work."""
    outcome = cli("snapshot", *words)
    assert outcome.returncode == code, outcome.stderr
    assert outcome.stdout == ""
    return one_sentence(outcome)


HOSTILE = {
    "empty": b"",
    "text": b"hello\n" * 100,
    "module": b"\0asm\1\0\0\0",
    "magic": b"\x89WSR",
    "zeros": bytes(4096),
}
"""Files that are no snapshots."""


# ---- verify ----


def test_verify_says_what_a_file_is(cli: Cli, states: list[SnapshotState]) -> None:
    found = as_object(cli, "verify", "one.bin")
    assert found["complete"] is True and found["error"] is None
    assert (found["version"], found["form"], found["depth"]) == (1, "full", 0)
    assert found["bytes"] == (cli.folder / "one.bin").stat().st_size
    assert found["content_digest"] == content_digest(states[-1]).hex()
    assert found["handed_over"] is False
    shown = cli("snapshot", "verify", "one.bin").stdout
    assert found["root_digest"] in shown and found["content_digest"] in shown
    mark_handed(cli.folder / "one.bin")
    assert as_object(cli, "verify", "one.bin")["handed_over"] is True
    assert "handed over" in cli("snapshot", "verify", "one.bin").stdout


def test_verify_reads_a_whole_folder(cli: Cli, states: list[SnapshotState]) -> None:
    found = as_object(cli, "verify", "d")
    assert (found["complete"], found["last_complete"]) == (True, STEPS)
    rows = found["checkpoints"]
    assert [row["checkpoint"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["depth"] for row in rows] == list(range(STEPS))
    assert [row["form"] for row in rows] == ["full"] + ["incremental"] * (STEPS - 1)
    for row, state in zip(rows, states, strict=True):
        assert row["content_digest"] == content_digest(state, version=2).hex()
        assert row["bytes"] == (cli.folder / row["file"]).stat().st_size
        alone = as_object(cli, "verify", row["file"])
        assert alone | {"checkpoint": row["checkpoint"]} == row
    shown = cli("snapshot", "verify", "d").stdout
    assert shown.count("complete") == STEPS


def test_verify_names_what_is_damaged(cli: Cli, states: list[SnapshotState]) -> None:
    third = checkpoint(cli, 3)
    data = bytearray(third.read_bytes())
    data[len(data) // 2] ^= 1
    third.write_bytes(data)
    found = as_object(cli, "verify", "d", code=123)
    assert (found["complete"], found["last_complete"]) == (False, 2)
    assert [row["complete"] for row in found["checkpoints"]] == [True, True, False, False]
    for row in found["checkpoints"][2:]:
        assert third.name in row["error"]
        assert row["root_digest"] is None
    outcome = cli("snapshot", "verify", "d")
    assert outcome.returncode == 123
    assert "2 of 4 checkpoints in d are not complete" in one_sentence(outcome)
    assert third.name in refused(cli, "verify", f"d/{checkpoint(cli, 4).name}")


def test_verify_misses_a_base(cli: Cli, states: list[SnapshotState]) -> None:
    checkpoint(cli, 1).unlink()
    found = as_object(cli, "verify", "d", code=123)
    assert (found["complete"], found["last_complete"]) == (False, None)
    checkpoint(cli, 4).rename(cli.folder / "moved.bin")
    assert "its base with the root" in refused(cli, "verify", "moved.bin")


@pytest.mark.parametrize("what", HOSTILE)
def test_verify_refuses_what_is_no_snapshot(cli: Cli, what: str) -> None:
    (cli.folder / "x.bin").write_bytes(HOSTILE[what])
    assert "x.bin" in refused(cli, "verify", "x.bin")
    assert as_object(cli, "verify", "x.bin", code=123)["complete"] is False
    (cli.folder / "d").mkdir()
    (cli.folder / "d" / "checkpoint-00000001.bin").write_bytes(HOSTILE[what])
    found = as_object(cli, "verify", "d", code=123)
    assert "checkpoint-00000001.bin" in found["checkpoints"][0]["error"]


def test_verify_refuses_every_cut_and_every_flipped_bit(
    cli: Cli, states: list[SnapshotState]
) -> None:
    from wasmsr.snapshot.tools.verify import verify_file

    path = checkpoint(cli, 2)
    data = path.read_bytes()
    for at in range(0, len(data), 997):
        path.write_bytes(data[:at])
        assert not verify_file(path).complete, at
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert not verify_file(path).complete, at
    path.write_bytes(data + b"x")
    assert not verify_file(path).complete
    path.write_bytes(data)
    assert verify_file(path).complete


def test_verify_without_a_snapshot(cli: Cli) -> None:
    assert "nothing.bin" in refused(cli, "verify", "nothing.bin")
    (cli.folder / "empty").mkdir()
    assert "no complete checkpoint in empty" in refused(cli, "verify", "empty")
    assert cli("snapshot", "verify").returncode == 2
    assert "/dev/zero" in refused(cli, "verify", "/dev/zero")


def test_a_tool_must_be_named(cli: Cli) -> None:
    outcome = cli("snapshot")
    assert outcome.returncode == 2
    assert "wasmsr snapshot verify" in outcome.stderr
    assert cli("snapshot", "nothing").returncode == 2
