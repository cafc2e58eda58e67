"""Programs that move between nodes: worker to worker through the hand-over, without a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.nodes import World
from tests.node.programs import counting, lines
from wasmsr.node.failures import NotMoved
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.output_pieces import program_output
from wasmsr.node.supervision.program_record import ProgramStanding


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for node in world.nodes.values():
        node.stop(save=False, seconds=5)


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def output(node: NodeSupervisor, program: str) -> str:
    """Return standard output as `logs` gives it, from the first byte that is kept."""
    return "".join(piece.data.decode() for piece in program_output(node.find(program), ("stdout",)))


def test_a_program_moves_to_and_fro_with_its_output(world: World, tmp_path: Path) -> None:
    a = world.node("a:1", tmp_path / "a")
    b = world.node("b:1", tmp_path / "b")
    program = a.submit([counting(6000, 1)], {})
    until(lambda: output(a, program))
    moved = a.moves.migrate(a.find(program), "b:1")
    assert moved.downtime < 10 and moved.figures.rounds >= 1
    gone = a.find(program)
    assert gone.standing is ProgramStanding.MOVED
    assert gone.record.went is not None and gone.record.went.confirmed
    assert (gone.record.went.address, gone.record.went.epoch) == ("b:1", 2)
    here = b.find(program)
    assert here.shown()["standing"] == "running" and here.shown()["epoch"] == 2
    before = output(b, program)
    until(lambda: len(output(b, program)) > len(before))
    b.moves.migrate(b.find(program), "a:1")
    assert a.find(program).record.epoch == 3
    until(lambda: a.find(program).standing is ProgramStanding.ENDED)
    assert a.find(program).record.code == 7
    assert output(a, program) == lines(0, 6000).decode()
    until(lambda: "ended" in b.find(program).record.reason)
    until(lambda: not a.moves.journal.records() and not b.moves.journal.records())


def test_what_was_called_here_has_code_there_before_the_first_instruction(
    world: World, tmp_path: Path
) -> None:
    a, b = (world.node(f"{name}:1", tmp_path / name) for name in "ab")
    program = a.submit([counting(100_000, 1)], {})
    until(lambda: len(output(a, program)) > 20)
    id = a.find(program).id
    executor = a.find(program)._executor
    assert executor is not None
    a.find(program).pause()
    known = executor.called(id)
    assert known[0]
    a.moves.migrate(a.find(program), "b:1")
    there = b.find(program)._executor
    assert there is not None and b.find(program).standing is ProgramStanding.PAUSED
    assert there.called(id) == known


def test_the_source_hears_of_the_end_after_a_try_at_a_third_node(
    world: World, tmp_path: Path
) -> None:
    a, b, _ = (world.node(f"{name}:1", tmp_path / name) for name in "abc")
    program = a.submit([counting(100_000, 1)], {})
    a.moves.migrate(a.find(program), "b:1")
    world.lost = {"transfer"}
    with pytest.raises(NotMoved):
        b.moves.migrate(b.find(program), "c:1")
    world.lost = set()
    record = b.moves.journal.get(b.find(program).id)
    assert record is not None and (record.peer, record.source) == ("c:1", "a:1")
    b.find(program).kill()
    until(lambda: "ended" in a.find(program).record.reason)
