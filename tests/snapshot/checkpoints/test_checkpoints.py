"""Checkpoints: each is the program's state, whatever is removed, merged or damaged meanwhile."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.snapshot.checkpoints import campaign
from tests.snapshot.checkpoints.guest import GUEST
from wasmsr import Module, Snapshot, SnapshotError, Store
from wasmsr.errors import HandedOver
from wasmsr.interp.outcomes import Finished, Paused
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.checkpoints import checkpointer as writing
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer, Done, merge
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.format import mark_handed
from wasmsr.snapshot.memory.dirty_pages import METHODS, VARIABLE
from wasmsr.snapshot.state import SnapshotState

TURNS = 6_000
BOUNDS = [method.name for method in METHODS]


@pytest.fixture(params=BOUNDS)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The method by which dirty pages are found."""
    kind = next(one for one in METHODS if one.name == request.param)
    if (refusal := kind.refusal()) is not None:
        pytest.skip(refusal)
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


class Run:
    """The guest with a checkpointer, and the states at its checkpoints."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.module = Module.from_text(GUEST)
        self.store = Store()
        self.instance = self.store.instantiate(self.module)
        self.store.enqueue(self.instance.function("run"), TURNS)
        self.folder = CheckpointFolder(path)
        path.mkdir(exist_ok=True)
        self.failures: list[BaseException] = []
        self.made: list[Done] = []
        self.states: dict[int, SnapshotState] = {}
        self.checkpointer = Checkpointer(
            self.folder, done=self.made.append, failed=self.failures.append, **options
        )

    def go(self, fuel: int) -> bool:
        """Run for some instructions; return whether it is paused."""
        return isinstance(self.store.run(fuel=fuel), Paused)

    def take(self) -> None:
        """Take a checkpoint, let it be written, and remember what it should be."""
        number = self.checkpointer._next
        assert self.checkpointer.take(self.store, lambda: capture(self.store, embed=True))
        self.states[number] = Snapshot.of(self.store, embed=True).state
        self.checkpointer.wait()

    def check(self) -> None:
        """Compare all checkpoints that are there with what they should be."""
        heads = self.folder.heads()
        for number in self.folder.numbers():
            state = self.folder.read(number, heads)
            wanted = replace(self.states[number], lineage=state.lineage)
            assert state == wanted, number


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "d", keep=100, merge_after=100)
    yield made
    made.checkpointer.close()


def result_of(state: SnapshotState) -> tuple[int, ...]:
    """The end of a program that goes on from a state."""
    with Snapshot(state).restore() as store:
        outcome = store.run()
        assert isinstance(outcome, Finished)
        return tuple(outcome.results)


def test_every_checkpoint_is_the_state_then(run: Run, method: str) -> None:
    chance = random.Random(len(method))
    while run.go(chance.randrange(1, 120_000)):
        run.take()
        memory = run.instance.memory("memory")
        at = chance.randrange(len(memory.data) - 100)
        memory.data[at : at + 50] = chance.randbytes(50)  # a host function may write too
        memory.data[at : at + 4] = bytes(4)
    assert len(run.made) > 5
    assert not run.failures
    run.check()
    assert [one.full for one in run.made] == [True] + [False] * (len(run.made) - 1)


def test_the_program_goes_on_from_each_of_them(run: Run, method: str) -> None:
    while run.go(100_000):
        run.take()
    ends = {result_of(run.folder.read(n, run.folder.heads())) for n in run.folder.numbers()}
    assert len(ends) == 1


def test_an_idle_program_costs_nothing(run: Run) -> None:
    run.go(1000)
    run.take()
    run.take()
    assert run.made[1].pages == 0
    assert run.made[1].size < 3000
    run.check()


@pytest.mark.parametrize(("keep", "merge_after"), [(1, 1), (3, 1), (2, 3), (3, 100)])
def test_old_ones_are_removed_and_merged(
    tmp_path: Path, keep: int, merge_after: int, method: str
) -> None:
    run = Run(tmp_path / "d", keep=keep, merge_after=merge_after)
    while run.go(60_000):
        run.take()
        heads = run.folder.heads()
        for number in run.folder.numbers()[-keep:]:
            assert run.folder.chain(number, heads)
        run.check()
    assert not run.failures
    assert len(run.folder.numbers()) <= max(keep + merge_after, keep) + 1 or merge_after == 100
    assert run.made[-1].number in run.folder.numbers()
    run.checkpointer.close()


def test_a_merge_keeps_the_root_and_the_state(run: Run) -> None:
    for _ in range(5):
        run.go(50_000)
        run.take()
    before = run.folder.heads()
    merge(run.folder, 3)
    after = run.folder.heads()
    assert {n: head.root for n, head in before.items()} == {n: h.root for n, h in after.items()}
    assert after[3].base is None
    assert run.folder.chain(5, after) == [3, 4, 5]
    run.check()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, os.unlink])
@pytest.mark.parametrize("number", [5, 3, 1])
def test_damaged_ones_are_passed_over(
    run: Run, damage: Callable[[Path], None], number: int
) -> None:
    for _ in range(5):
        run.go(50_000)
        run.take()
    damage(Path(run.folder.file(number)))
    warned: list[str] = []
    if number == 1:
        with pytest.raises(SnapshotError, match="no complete checkpoint"):
            run.folder.load(warn=warned.append)
        return
    found, state = run.folder.load(warn=warned.append)
    assert found == number - 1
    assert result_of(state) == result_of(run.states[found])
    assert len(warned) == (5 if damage is os.unlink else 6) - number
    assert all(f"checkpoint {5 - i} is passed over" in text for i, text in enumerate(warned))


def test_one_that_cannot_be_written_costs_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is whole, because what was dirty is known to nobody any more."""
    run.go(50_000)
    run.take()

    def full(*args: object) -> int:
        raise SnapshotError("cannot write the snapshot: no space left on device")

    with monkeypatch.context() as context:
        context.setattr(writing, "save_pieces", full)
        run.go(50_000)
        run.take()
    assert [str(error) for error in run.failures] == [
        "cannot write the snapshot: no space left on device"
    ]
    for _ in range(2):
        run.go(50_000)
        run.take()
    assert [one.full for one in run.made] == [True, True, False]
    run.check()


def test_what_comes_due_too_early_is_skipped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gate = threading.Event()
    save = writing.save_pieces
    monkeypatch.setattr(writing, "save_pieces", lambda *args: (gate.wait(), save(*args))[1])
    run.go(1000)
    assert run.checkpointer.take(run.store, lambda: capture(run.store))
    for _ in range(3):
        run.go(1000)
        assert not run.checkpointer.take(run.store, lambda: capture(run.store))
    gate.set()
    run.checkpointer.close()
    assert (run.checkpointer.skipped, run.checkpointer.written) == (3, 1)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "d")
    (tmp_path / "d").mkdir()
    left = tmp_path / "d" / ".checkpoint-00000004.bin.abc.part"
    left.write_bytes(b"x")
    with folder.locked():
        assert not left.exists()
        with pytest.raises(SnapshotError, match="another program writes"), folder.locked():
            pass
    with folder.locked():
        pass


def test_a_program_that_was_handed_over_does_not_go_on(run: Run) -> None:
    for _ in range(2):
        run.go(50_000)
        run.take()
    mark_handed(run.folder.file(2))
    with pytest.raises(HandedOver):
        run.folder.load(warn=lambda text: None)
    assert run.folder.load(warn=lambda text: None, adopt=True)[0] == 2


def test_a_chain_that_leads_to_itself_is_refused(run: Run) -> None:
    heads = run.folder.heads()
    for _ in range(2):
        run.go(50_000)
        run.take()
    heads = run.folder.heads()
    heads[1] = heads[1]._replace(base=heads[2].root)
    with pytest.raises(SnapshotError, match="below itself"):
        run.folder.chain(2, heads)


@pytest.mark.full
@pytest.mark.skipif(
    os.environ.get("WASMSR_SANITIZED") == "1",
    reason="programs start too slowly under a sanitizer to be killed soon after",
)
def test_killed_at_random_moments_it_ends_as_undisturbed(tmp_path: Path) -> None:
    """The seeded part of a campaign; a thousand kills are `python -m` this room's `campaign`."""
    tally = campaign.run(5, 7, campaign.Tally(), tmp_path)
    assert tally.kills >= 5
    assert tally.ended
