"""The page's questions to a real node with a real worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.node.nodes import World
from tests.node.programs import counting, lines
from wasmsr.errors import WasmsrError
from wasmsr.http.page.supervisor_source import SupervisorSource
from wasmsr.node.failures import WrongState
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor


def test_a_program_from_its_start_to_its_end(tmp_path: Path) -> None:
    node = NodeSupervisor(tmp_path / "state", NodeRules())
    try:
        source = SupervisorSource(node, "0.1.0")
        program = node.submit([counting(100_000, 5)], {}, name="count")
        assert [one["name"] for one in source.programs()] == ["count"]
        assert source.about()["software"] == "0.1.0"
        deadline = time.monotonic() + 30
        while not source.output(program, "stdout", 0, 100)[1]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert source.act(program, "pause")["standing"] == "paused"
        frames = source.inspect(program)["frames"]
        assert frames and {"function", "index", "offset"} <= frames[0].keys()
        _, data = source.output(program, "stdout", 0, 1 << 20)
        assert data == lines(0, len(data) // 9)
        begins, tail = source.output(program, "stdout", -9, 1 << 20)
        assert (begins, tail) == (len(data) - 9, data[-9:])
        assert source.output(program, "stdout", 10**9, 1 << 20) == (len(data), b"")
        assert source.output(program, "stderr", -5, 9) == (0, b"")
        assert source.act(program, "checkpoint")["saved"] is not None
        assert source.act(program, "resume")["standing"] == "running"
        assert source.act(program, "kill")["standing"] == "killed"
        with pytest.raises(WasmsrError):
            source.act(program, "pause")
        with pytest.raises(WasmsrError):
            source.output("0" * 32, "stdout", 0, 1)
    finally:
        node.stop(save=False, seconds=5)


def test_a_move_from_the_page(tmp_path: Path) -> None:
    world = World()
    try:
        a, b = world.node("a:1", tmp_path / "a"), world.node("b:1", tmp_path / "b")
        source = SupervisorSource(a, "0.1.0")
        program = a.submit([counting(100_000, 5)], {}, name="count")
        assert source.programs()[0]["move"] is None
        with pytest.raises(WasmsrError, match="nowhere"):
            source.migrate(program, "nowhere")
        source.migrate(program, "nobody:1")  # there is no such node
        assert until(source, "failed")["message"]
        source.migrate(program, "b:1")
        move = until(source, "moved")
        assert move["peer"] == "b:1" and move["downtime"] > 0
        assert move["bytes"] > 0 and move["seconds"] > 0
        assert b.find(program).shown()["standing"] == "running"
        with pytest.raises(WrongState):
            source.migrate(program, "b:1")
    finally:
        for node in world.nodes.values():
            node.stop(save=False, seconds=5)


@pytest.mark.full
def test_a_copy_of_a_running_program_is_viewed(tmp_path: Path) -> None:
    node = NodeSupervisor(tmp_path / "state", NodeRules())
    try:
        source = SupervisorSource(node, "0.1.0")
        program = node.submit([counting(1_000_000, 5)], {}, name="count")
        page = source.view(program)
        assert page.startswith(b"<!doctype html>") and b'id="part-pages"' in page
        assert node.find(program).shown()["standing"] == "running"
        assert not list(node.find(program).folder.path.glob("view-*"))
        source.act(program, "kill")
        with pytest.raises(WasmsrError):
            source.view(program)
    finally:
        node.stop(save=False, seconds=5)


def until(source: SupervisorSource, standing: str) -> dict[str, Any]:
    """Return the move of the only program when it is so far."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        move: dict[str, Any] | None = source.programs()[0]["move"]
        if move is not None and move["standing"] == standing:
            return move
        time.sleep(0.02)
    raise AssertionError(f"the move is not {standing}: {source.programs()[0]['move']}")
