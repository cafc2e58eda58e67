"""Nodes that are lost while a program moves: started again, they say whose it is, and are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node.nodes import Killed, World
from tests.node.programs import counting, lines
from tests.node.test_moves import output, until, world
from wasmsr.node.failures import NotMoved, WrongState
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.program_record import ProgramStanding

__all__ = ["world"]

LINES = 100_000
SLOW = 2


def where(world: World, program: str) -> dict[str, str]:
    """Return what each node says of a program."""
    found = {}
    for address, node in world.nodes.items():
        for one in node.programs():
            if one.record.program == program:
                found[address] = str(one.shown()["standing"])
    return found


def begun(world: World, folder: Path, **rules: object) -> str:
    for name in ("a", "b"):
        world.node(f"{name}:1", folder / name, **rules)
    program = world.nodes["a:1"].submit([counting(LINES, SLOW)], {})
    until(lambda: output(world.nodes["a:1"], program))
    return program


def goes_on_once(world: World, program: str) -> NodeSupervisor:
    """Wait until exactly one node runs the program, and it goes on; check its output."""

    def running() -> list[str]:
        return [address for address, said in where(world, program).items() if said == "running"]

    until(lambda: running() and not {"moving", "arriving"} & {*where(world, program).values()}, 60)
    assert len(running()) == 1, where(world, program)
    node = world.nodes[running()[0]]
    before = output(node, program)
    until(lambda: len(output(node, program)) > len(before) + 90)
    assert lines(0, LINES).decode().startswith(output(node, program)), "each line once"
    return node


@pytest.mark.parametrize("lost", ["a", "ab"])
@pytest.mark.parametrize(
    ("kills", "goes_on_at"),
    [("finish", "a:1"), ("finish done", "b:1"), ("commit", "b:1"), ("commit done", "b:1")],
)
def test_a_node_that_is_killed_at_a_step(
    world: World, tmp_path: Path, kills: str, goes_on_at: str, lost: str
) -> None:
    program = begun(world, tmp_path)
    a = world.nodes["a:1"]
    world.kills = kills
    with pytest.raises(Killed):
        a.moves.migrate(a.find(program), "b:1")
    world.kills = ""
    for name in lost:
        world.lose(f"{name}:1")
    for name in reversed(lost):
        world.node(f"{name}:1", tmp_path / name)
    node = goes_on_once(world, program)
    assert node is world.nodes[goes_on_at]
    if goes_on_at == "b:1":
        assert world.nodes["a:1"].find(program).standing is ProgramStanding.MOVED


def test_a_program_whose_worker_dies_after_its_arrival_goes_on_from_it(
    world: World, tmp_path: Path
) -> None:
    program = begun(world, tmp_path)
    a, b = world.nodes["a:1"], world.nodes["b:1"]
    a.moves.migrate(a.find(program), "b:1")
    b.find(program)._executor.kill()  # type: ignore[union-attr]
    until(lambda: b.find(program).standing is ProgramStanding.RESUMABLE)
    b.find(program).resume()
    goes_on_once(world, program)


def test_a_silent_destination_leaves_the_program_where_it_is(world: World, tmp_path: Path) -> None:
    program = begun(world, tmp_path)
    a = world.nodes["a:1"]
    world.lost = {"prepare"}
    with pytest.raises(NotMoved, match="does not answer"):
        a.moves.migrate(a.find(program), "b:1")
    assert where(world, program) == {"a:1": "running"}
    with pytest.raises(WrongState, match="nothing is undecided"):
        a.adopt(program)
    world.lost = set()
    a.moves.migrate(a.find(program), "b:1")
    goes_on_once(world, program)


def test_adoption_by_force_of_a_move_that_is_not_confirmed(world: World, tmp_path: Path) -> None:
    program = begun(world, tmp_path)
    a = world.nodes["a:1"]
    world.kills = "commit"
    with pytest.raises(Killed):
        a.moves.migrate(a.find(program), "b:1")
    world.kills = ""
    a.moves.end.stop.set()
    world.lost = {"commit", "status", "prepare"}
    world.lose("b:1")  # for good
    world.lose("a:1")
    a = world.node("a:1", tmp_path / "a")
    assert where(world, program) == {"a:1": "moved"}
    with pytest.raises(WrongState, match="nothing is left"):
        a.adopt(program)  # it had no checkpoint, and its worker is gone


def test_adoption_by_force_from_the_last_checkpoint(world: World, tmp_path: Path) -> None:
    program = begun(world, tmp_path)
    a = world.nodes["a:1"]
    a.find(program).checkpoint()
    a.moves.migrate(a.find(program), "b:1")
    assert a.find(program).standing is ProgramStanding.MOVED
    world.lose("b:1")
    adopted = a.adopt(program)
    assert adopted.record.epoch == 3 and adopted.standing is ProgramStanding.RUNNING
    goes_on_once(world, program)


def test_adoption_by_force_of_a_state_that_waits(world: World, tmp_path: Path) -> None:
    program = begun(world, tmp_path)
    a, b = world.nodes["a:1"], world.nodes["b:1"]
    world.kills = "commit"
    with pytest.raises(Killed):
        a.moves.migrate(a.find(program), "b:1")
    world.kills = ""
    world.lost = {"commit", "status"}
    world.lose("a:1")
    assert where(world, program) == {"b:1": "arriving"}
    b.adopt(program)
    goes_on_once(world, program)
