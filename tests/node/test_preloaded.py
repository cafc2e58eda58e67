"""Workers import nothing: what they need is in their warm parent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.nodes import World
from tests.node.programs import counting, warmed
from tests.node.test_moves import output, until
from wasmsr.executor.output.rings import ring_bounds
from wasmsr.node.supervision.node_supervisor import NodeSupervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are confined on Linux")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # Warm parents and workers then write what they import; a worker has a file for that.
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    world = World()
    yield world
    for node in world.nodes.values():
        node.stop(save=False, seconds=5)


def imported(node: NodeSupervisor, program: str) -> list[str]:
    """Return what the worker of a program has imported, by the file of its errors."""
    said = (node.find(program).folder.workers / "worker.errors").read_text()
    return [line for line in said.splitlines() if line.startswith("import ")]


def test_a_worker_from_its_start_to_the_end_of_a_move(world: World, tmp_path: Path) -> None:
    """A worker that imports a module has half a MiB more, and its program waits 1 to 50 ms."""
    a, b = (world.node(f"{name}:1", tmp_path / name) for name in "ab")
    program = a.submit([counting(100_000, 1)], {})
    until(lambda: output(a, program))
    a.find(program).checkpoint()
    a.find(program).inspect()
    before = imported(a, program)
    a.moves.migrate(a.find(program), "b:1")
    until(lambda: output(b, program))
    assert (before, imported(b, program)) == ([], [])
    b.moves.migrate(b.find(program), "a:1")
    assert imported(a, program) == []


def test_a_fork_of_a_snapshot(world: World, tmp_path: Path) -> None:
    binary, snapshot = warmed(tmp_path)
    node = world.node("a:1", tmp_path / "a")
    kept = node.folder.take_snapshot([snapshot.read_bytes()])
    program = node.submit([binary], {}, snapshot=kept)
    until(lambda: ring_bounds(node.find(program).folder.output, "stdout")[1] >= 28)
    node.find(program).checkpoint()
    assert imported(node, program) == []
