"""A module with a lease on a device: it begins, waits to be taken over, leaves, and ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from wasmsr.errors import WasmsrError
from wasmsr.fleet.device import leased_module
from wasmsr.fleet.device.device_module import ModuleEnd
from wasmsr.fleet.device.leased_module import LeasedModule
from wasmsr.fleet.device.module_run import ModuleRun
from wasmsr.node.supervision.program_record import ProgramStanding
from wasmsr.ownership.failures import RecordDamaged, RegisterAway
from wasmsr.ownership.owner_record import LastCheckpoint, OwnerRecord, Standing

SECONDS = 60.0
OURS, OTHER = b"a" * 16, b"b" * 16
RECORD = OwnerRecord(
    b"p" * 16, OURS, 1, b"t" * 16, 1, 10_000, 1, checkpoint=LastCheckpoint(b"r" * 32, "store:x", 1)
)


class Program:
    """A program of the node."""

    def __init__(self) -> None:
        self.standing = ProgramStanding.RUNNING
        self.refuses = 0
        self.killed: list[str] = []
        self.saved: list[bool] = []

    @property
    def record(self) -> Any:
        return SimpleNamespace(
            standing=self.standing, reason="why", digest="0" * 64, begins=[[1, 0, 0], [2, 30, 0]],
            ending="exited", code=3, epoch=1, program="70" * 16,
        )  # fmt: skip

    def kill(self, why: str) -> None:
        if self.refuses:
            self.refuses -= 1
            raise WasmsrError("the register has not taken it")
        self.killed.append(why)
        self.standing = ProgramStanding.KILLED

    def leave(self, save: bool) -> bool:
        self.saved.append(save)
        self.standing = ProgramStanding.RESUMABLE
        return True


class World:
    """The register, the node and the device, as a test wants them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "m.wasm").write_bytes(b"\0asm\1\0\0\0")
        self.records: list[OwnerRecord | WasmsrError | None] = [None]
        """What the register says, one after the other; the last one stays."""
        self.asked = 0
        self.program: Any = None
        self.begins: list[Any] = []
        self.ends: list[ModuleEnd] = []
        self.gone: list[Any] = []
        self.had: list[Any] = []
        run = ModuleRun("uuid", "m", folder / "m.wasm", {}, program="70" * 16, lease=10.0)
        host: Any = self
        self.module = LeasedModule(run, host, host, self.gone.append)
        monkeypatch.setattr(leased_module, "LOOK_SECONDS", 0.01)
        monkeypatch.setattr(leased_module, "program_output", self._output)

    def _output(self, program: Any, *, had: Any, gone: Any = None, **_: Any) -> Iterator[Any]:
        if gone is None:  # the rest
            return
        self.had.append(dict(had))
        while not program.standing.is_final and not gone():
            time.sleep(0.01)
        yield from ()

    def owner(self, run: ModuleRun) -> OwnerRecord | None:
        self.asked += 1
        found = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        if isinstance(found, WasmsrError):
            raise found
        return found

    def is_ours(self, record: OwnerRecord) -> bool:
        return record.owner == OURS

    def here(self, run: ModuleRun) -> Any:
        return self.program

    def launch(self, module: LeasedModule, code: bytes) -> Any:
        self.begins.append(code)
        if isinstance(self.program, WasmsrError):
            error, self.program = self.program, None
            raise error
        self.program = self.program or Program()
        return self.program

    def ended(self, module: LeasedModule, end: ModuleEnd) -> None:
        self.ends.append(end)

    def runs(self) -> None:
        self.module.start()

    def over(self) -> None:
        assert self.module.wait(SECONDS)
        assert len(self.ends) + len(self.gone) == 1
        assert self.module.input is None


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.module.kill("the test ends")
    if made.program is not None:
        made.program.standing = ProgramStanding.KILLED
    assert made.module.wait(SECONDS)


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_it_begins_and_ends(world: World) -> None:
    world.runs()
    until(lambda: bool(world.had))
    world.program.standing = ProgramStanding.ENDED
    world.over()
    assert world.begins == [b"\0asm\1\0\0\0"] and world.ends == [ModuleEnd(3, "exit")]


def test_it_waits_for_a_register_that_is_away(world: World) -> None:
    away: list[OwnerRecord | WasmsrError | None] = [RegisterAway("away")] * 3
    world.records = [*away, None]
    world.runs()
    until(lambda: bool(world.begins))
    assert world.asked == 4


def test_the_register_is_away_when_it_begins(world: World) -> None:
    world.program = RegisterAway("the register does not take its first record")
    world.runs()
    until(lambda: len(world.begins) == 2 and bool(world.had))
    world.program.standing = ProgramStanding.ENDED
    world.over()


def test_a_first_record_that_comes_too_late(world: World) -> None:
    """Nothing of the program is here: it has not begun, and never will."""
    world.program = RegisterAway("the register does not take its first record")
    world.records = [None, replace(RECORD, checkpoint=None)]
    world.runs()
    world.over()
    (end,) = world.ends
    assert (end.code, end.reason) == (1, "error") and "too late" in end.message


def test_a_record_that_nobody_can_read(world: World) -> None:
    world.records = [RecordDamaged("it is damaged")]
    world.runs()
    world.over()
    assert world.ends[0].reason == "error" and "damaged" in world.ends[0].message


def test_it_is_taken_over(world: World) -> None:
    """What the owner before has written was published there."""
    world.records = [replace(RECORD, owner=OTHER)]
    world.runs()
    until(lambda: world.asked > 2)
    assert not world.begins and not world.had
    world.program = Program()
    until(lambda: bool(world.had))
    assert world.had[0] == {"stdout": (30, 2), "stderr": (0, 2)}
    world.program.standing = ProgramStanding.MOVED
    world.over()
    assert world.gone == [world.module]


@pytest.mark.parametrize("what", ["faster", "ended", "forgotten", "not wanted"])
def test_it_waits_in_vain(world: World, what: str) -> None:
    """Nobody is told of an end: the module is another's."""
    theirs = replace(RECORD, owner=OTHER)
    after: OwnerRecord | None = theirs
    if what == "faster":
        after = replace(theirs, owner=b"c" * 16, epoch=2)
    elif what == "ended":
        after = replace(theirs, standing=Standing.ENDED)
    elif what == "forgotten":
        after = None
    world.records = [theirs, after]
    world.runs()
    if what == "not wanted":
        until(lambda: world.asked > 1)
        world.module.kill("stopped by request")
    world.over()
    assert world.gone and not world.begins


def test_it_has_ended_here_before(world: World) -> None:
    world.records = [replace(RECORD, standing=Standing.ENDED)]
    world.runs()
    world.over()
    assert world.ends[0].reason == "error" and "it has ended in epoch 1" in world.ends[0].message


@pytest.mark.parametrize("ours", [True, False])
def test_it_is_stopped_before_it_goes_on(world: World, ours: bool) -> None:
    """The orchestrator waits for the end of what is ours."""
    world.records = [RECORD] if ours else [RegisterAway("away")]
    world.runs()
    until(lambda: world.asked > 1)
    world.module.kill("stopped by request")
    world.over()
    assert world.ends == [ModuleEnd(137, "killed", "stopped by request")]


def test_it_is_stopped(world: World) -> None:
    """`kill` does not wait: the answer of the register comes by the thread that calls it."""
    world.runs()
    until(lambda: bool(world.had))
    world.program.refuses = 3
    world.module.kill("stopped by request")
    world.over()
    assert world.ends == [ModuleEnd(137, "killed", "stopped by request")]
    assert world.program.killed == ["stopped by request"]


def test_it_is_lost_while_it_is_stopped(world: World) -> None:
    world.runs()
    until(lambda: bool(world.had))
    world.program.refuses = 1 << 30
    world.module.kill("stopped by request")
    until(lambda: world.program.refuses < 1 << 30)
    world.program.standing = ProgramStanding.MOVED
    world.over()
    assert world.gone and not world.ends


def test_it_makes_way_for_another_program(world: World) -> None:
    """The orchestrator gives the module anew: nobody waits for an end of this one."""
    world.runs()
    until(lambda: bool(world.had))
    run = world.module.run
    assert not world.module.makes_way(run)  # it was not sure
    assert not world.module.makes_way(replace(run, program="71" * 16, epoch=-1))
    assert world.module.makes_way(replace(run, program="71" * 16, index=2))
    world.over()
    assert world.gone and world.program.saved == [True]


def test_it_makes_way_when_it_was_told_to_end(world: World) -> None:
    """But one that runs here ends, and says how."""
    world.records = [replace(RECORD, owner=OTHER)]
    world.runs()
    until(lambda: world.asked > 1)
    assert not world.module.makes_way(world.module.run)
    world.module._wanted.set()
    assert world.module.makes_way(world.module.run)
    world.over()
    assert world.gone
    world.program = Program()
    assert not world.module.makes_way(world.module.run)


def test_a_lost_worker_is_restored_by_the_node(world: World) -> None:
    world.runs()
    until(lambda: bool(world.had))
    world.program.standing = ProgramStanding.RESUMABLE
    time.sleep(0.1)
    assert world.module._thread.is_alive() and len(world.had) == 1
    world.program.standing = ProgramStanding.RUNNING
    world.program.standing = ProgramStanding.ENDED
    world.over()
    assert len(world.begins) == 1


def test_its_limit(world: World) -> None:
    world.module.run = replace(world.module.run, limit=0.05)
    world.runs()
    world.over()
    assert world.ends[0].reason == "killed" and "its limit of 0.05 s" in world.ends[0].message


def test_its_device_ends(world: World) -> None:
    world.runs()
    until(lambda: bool(world.had))
    world.module.leave()
    world.over()
    assert world.program.saved == [True] and world.gone and not world.ends


def test_its_device_ends_before_it_is_here(world: World) -> None:
    world.records = [RECORD]
    world.runs()
    until(lambda: world.asked > 1)
    world.module.leave()
    world.over()
    assert world.gone
