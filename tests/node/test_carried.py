"""Carried files of programs on nodes: on the disk at the end, and those of the last life only."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.programs import COUNTER, UNTIL_STOPPED, numbers
from tests.node.nodes import World
from tests.node.test_leases import Leasing
from tests.node.test_moves import output, until, world
from wasmsr.interp.modules.module import assemble
from wasmsr.migrate.files.carried_trees import folder_name
from wasmsr.node.leases.lease_terms import LeaseTerms
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.program_record import ProgramRecord, ProgramStanding

__all__ = ["world"]

pytestmark = pytest.mark.full


def module(text: str, lines: int = 1) -> bytes:
    """Return a program that writes its lines to its output and to a file of `/outputs`."""
    return assemble(text.replace("{lines}", str(lines)).replace("{slow}", "1000000").encode())


def run(folder: Path) -> dict[str, Any]:
    """Return its run; the file `stop` of `folder` ends it."""
    folder.mkdir()
    return {"mounts": [f"{folder}::/::input", "::/outputs::carry"]}


def kept(node: NodeSupervisor, program: str) -> bytes:
    """Return the file that a program which has ended has left."""
    packed = b"".join(node.find(program).carried("/outputs"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as tape:
        assert tape.getnames() == ["numbers"]
        found = tape.extractfile("numbers")
        assert found is not None
        return found.read()


def writes_more(node: NodeSupervisor, program: str) -> None:
    """Wait until a program has written more than it has now."""
    before = len(output(node, program))
    until(lambda: len(output(node, program)) > before + 80)


def test_a_node_on_which_it_was_before_takes_it_over(tmp_path: Path) -> None:
    """What it left there when it moved is not in the way, and does not count."""
    world = Leasing(tmp_path)
    spec = run(tmp_path / "root")
    try:
        a, b = world.leasing("a"), world.leasing("b")
        terms = LeaseTerms(3.0, (a.node.hex(), b.node.hex()))
        program = a.submit([module(UNTIL_STOPPED)], spec, every=0.3, lease=terms)
        writes_more(a, program)
        a.moves.migrate(a.find(program), "b:1")
        writes_more(b, program)

        def saved() -> bool:
            last = world.record(program).checkpoint
            return last is not None and last.epoch >= 2

        until(saved)
        world.lose("b:1")
        until(lambda: world.standing("a", program) == "running", 60)
        writes_more(a, program)
        (tmp_path / "root" / "stop").touch()
        until(lambda: world.standing("a", program) == "ended", 60)
        data = kept(a, program)
        assert data == numbers(len(data) // 8)
        assert data.endswith(output(a, program).encode())
    finally:
        for node in [*world.nodes.values()]:
            node.stop(save=False, seconds=5)


def test_it_goes_on_in_the_state_in_which_it_came_back(world: World, tmp_path: Path) -> None:
    """Its worker is lost before a checkpoint is written, and its files are others by then."""
    a, b = (world.node(f"{name}:1", tmp_path / name) for name in "ab")
    program = a.submit([module(UNTIL_STOPPED)], run(tmp_path / "root"))
    writes_more(a, program)
    a.moves.migrate(a.find(program), "b:1")
    writes_more(b, program)
    b.moves.migrate(b.find(program), "a:1")
    writes_more(a, program)
    executor = a.find(program)._executor
    assert executor is not None
    os.kill(executor.pid, signal.SIGKILL)
    until(lambda: a.find(program).standing is ProgramStanding.RESUMABLE)
    a.find(program).resume()
    writes_more(a, program)
    (tmp_path / "root" / "stop").touch()
    until(lambda: a.find(program).standing is ProgramStanding.ENDED)
    data = kept(a, program)
    assert data == numbers(len(data) // 8) == output(a, program).encode()


def test_files_are_on_the_disk_before_the_end_is_noted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power, files that are shorter would be taken for those of the end."""
    done: list[int] = []
    fsync, write = os.fsync, ProgramRecord.write

    def synced(file: int) -> None:
        fsync(file)
        done.append(os.fstat(file).st_ino)

    def written(record: ProgramRecord, path: Path) -> None:
        if record.standing is ProgramStanding.ENDED:
            done.append(0)
        write(record, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(ProgramRecord, "write", written)
    a = world.node("a:1", tmp_path / "a")
    program = a.submit([module(COUNTER, 20)], run(tmp_path / "root"))
    until(lambda: a.find(program).standing is ProgramStanding.ENDED)
    folder = tmp_path / "a" / "carried" / program / folder_name("/outputs")
    for path in (folder / "numbers", folder):
        assert done.index(path.stat().st_ino) < done.index(0)
    assert kept(a, program) == numbers(20)
