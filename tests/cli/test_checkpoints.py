"""`--checkpoint-dir`: a program that is killed goes on from its last complete checkpoint."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE, Cli, one_sentence
from tests.snapshot.checkpoints.guest import GUEST

TURNS = "20000000"
"""A second or more: a program that ends sooner is not killed at its eighth checkpoint."""
FEW_TURNS = "2000000"
EVERY = ("--snapshot-every", "0.02", "--checkpoint-dir", "d")


@pytest.fixture
def result(cli: Cli) -> str:
    """What the program prints without a checkpoint."""
    (cli.folder / "guest.wat").write_text(GUEST)
    outcome = cli("run", "--invoke", "run", "guest.wat", TURNS)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def wait_for(folder: Path, number: int) -> None:
    """Wait until a checkpoint of this number or a later one is there: old ones are removed."""
    deadline = time.monotonic() + PATIENCE
    while not any(int(path.stem[-8:]) >= number for path in folder.glob("checkpoint-*.bin")):
        assert time.monotonic() < deadline, "it takes no checkpoints"
        time.sleep(0.01)


def test_killed_twice_it_ends_as_if_it_never_was(cli: Cli, result: str) -> None:
    first = cli.begin("run", *EVERY, "--invoke", "run", "guest.wat", TURNS)
    wait_for(cli.folder / "d", 2)
    first.kill()
    second = cli.begin("run", *EVERY, "guest.wat", "--from-snapshot", "d")
    wait_for(cli.folder / "d", 3)
    second.kill()
    second.wait()
    outcome = cli("-v", "run", "guest.wat", "--from-snapshot", "d")
    assert outcome.stdout == result
    assert "continues from checkpoint" in outcome.stderr


def test_checkpoints_change_nothing(cli: Cli, result: str) -> None:
    outcome = cli("-v", "run", *EVERY, "--keep", "1", "--invoke", "run", "guest.wat", TURNS)
    assert outcome.stdout == result, outcome.stderr
    assert "checkpoint 1: whole" in outcome.stderr
    assert list((cli.folder / "d").glob("checkpoint-*.bin"))


def test_the_module_can_be_in_the_checkpoints(cli: Cli, result: str) -> None:
    running = cli.begin("run", *EVERY, "--embed-module", "--invoke", "run", "guest.wat", TURNS)
    wait_for(cli.folder / "d", 2)
    running.kill()
    running.wait()
    (cli.folder / "guest.wat").unlink()
    assert cli("run", "--from-snapshot", "d").stdout == result


def test_damage_is_named_and_passed_over(cli: Cli, result: str) -> None:
    running = cli.begin("run", *EVERY, "--invoke", "run", "guest.wat", TURNS)
    wait_for(cli.folder / "d", 3)
    running.kill()
    running.wait()
    last = max((cli.folder / "d").glob("checkpoint-*.bin"))
    last.write_bytes(last.read_bytes()[:-1])
    outcome = cli("run", "guest.wat", "--from-snapshot", "d")
    assert outcome.stdout == result
    assert "is passed over" in outcome.stderr
    assert last.name in outcome.stderr


def test_a_folder_that_cannot_be_written_is_named_first(cli: Cli, result: str) -> None:
    (cli.folder / "file").write_text("x")
    for place in ("file", "file/d", "/proc/d"):
        outcome = cli("run", "--snapshot-every", "1", "--checkpoint-dir", place, "guest.wat")
        assert outcome.returncode in (2, 123)
        assert "d" in one_sentence(outcome)


def test_checkpoints_of_another_program_are_not_removed(cli: Cli, result: str) -> None:
    assert cli("run", *EVERY, "--invoke", "run", "guest.wat", FEW_TURNS).returncode == 0
    before = sorted(path.name for path in (cli.folder / "d").iterdir())
    (cli.folder / "other.wat").write_text(GUEST.replace("(i32.const 5000)", "(i32.const 5001)"))
    other = ("run", *EVERY, "--invoke", "run", "other.wat", FEW_TURNS)
    outcome = cli(*other)
    assert outcome.returncode == 2
    assert "checkpoints of another program" in one_sentence(outcome)
    assert sorted(path.name for path in (cli.folder / "d").iterdir()) == before
    assert cli("run", "--force", *other[1:]).returncode == 0


def test_wrong_words(cli: Cli) -> None:
    (cli.folder / "guest.wat").write_text(GUEST)
    outcome = cli("run", "--checkpoint-dir", "d", "guest.wat")
    assert "needs --snapshot-every" in one_sentence(outcome)
    (cli.folder / "empty").mkdir()
    outcome = cli("run", "--from-snapshot", "empty", "guest.wat")
    assert outcome.returncode == 123
    assert "no complete checkpoint in empty" in one_sentence(outcome)
    for wrong in ("0", "-1", "x"):
        assert cli("run", *EVERY, "--keep", wrong, "guest.wat").returncode == 2
