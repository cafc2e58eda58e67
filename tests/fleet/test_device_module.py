"""One module on a device: its file, its standard input, and its end while it is about to go on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from wasmsr.errors import WasmsrError
from wasmsr.fleet.device import device_module
from wasmsr.fleet.device.device_module import (
    INPUT_WAITING,
    DeviceModule,
    ModuleEnd,
    ModuleInput,
    deployed_records,
)
from wasmsr.fleet.device.hub import REPORTS
from wasmsr.fleet.device.module_run import ModuleRun, readable_module
from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.wire.messages import LARGEST
from wasmsr.node.supervision.program_record import ProgramStanding

SECONDS = 60.0


def test_a_pipe_is_no_module(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(FleetError, match=path.name):
            readable_module(path)


def test_a_module_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.fleet.device.module_run.LARGEST", 100)
    (tmp_path / "m.wasm").write_bytes(bytes(100))
    assert readable_module(tmp_path / "m.wasm") == bytes(100)
    (tmp_path / "m.wasm").write_bytes(bytes(101))
    with pytest.raises(FleetError, match="more than 100 bytes"):
        readable_module(tmp_path / "m.wasm")


def test_records_of_a_module_fit_into_a_message() -> None:
    records = deployed_records([bytes(24)] * REPORTS)
    assert len(records) == 32 * REPORTS <= LARGEST
    assert device_module.MOST_RUNS * device_module.TIMES.size <= LARGEST


def test_standard_input_comes_whole_and_in_order() -> None:
    made = ModuleInput.make()
    said = b"".join(b"%d\n" % number for number in range(100_000))
    for at in range(0, len(said), 1000):
        made.put(said[at : at + 1000])
    found = b""
    while len(found) < len(said):
        found += os.read(made.read_end, 1 << 16)
        made.pump()
    assert found == said
    made.put(bytes(INPUT_WAITING))
    assert len(made.waiting) <= INPUT_WAITING
    made.put(bytes(1 << 20))  # there is no room for it
    assert len(made.waiting) <= INPUT_WAITING
    os.close(made.read_end)
    made.read_end = -1
    made.pump()  # nobody reads it any more
    assert not made.waiting
    made.close()


class Program:
    """A program that goes on from a save point; it ends only when it is killed."""

    def __init__(self) -> None:
        self.pid = 0
        self.asked, self.goes_on = threading.Event(), threading.Event()
        self.standing = ProgramStanding.RESUMABLE
        self.killed: list[str] = []
        self.refuses = False

    @property
    def record(self) -> Any:
        return SimpleNamespace(
            standing=self.standing, saved=None, reason="killed by request", digest="d", life=1
        )

    def resume(self) -> None:
        self.asked.set()
        assert self.goes_on.wait(SECONDS)
        if self.refuses:
            raise WasmsrError("it cannot be resumed")
        self.standing = ProgramStanding.RUNNING

    def kill(self, why: str) -> None:
        if self.standing is not ProgramStanding.RUNNING:
            raise WasmsrError("it cannot be killed")
        self.killed.append(why)
        self.standing = ProgramStanding.KILLED


class Host:
    """A device with one module, which was there before."""

    def __init__(self, program: Program) -> None:
        self.program: Any = program
        self.ends: list[ModuleEnd] = []

    def saved(self, module: DeviceModule) -> Any:
        return self.program

    def output(self, module: DeviceModule, data: bytes) -> None:
        pass

    def ended(self, module: DeviceModule, end: ModuleEnd) -> None:
        self.ends.append(end)


def output(program: Any, *, gone: Any, **_: Any) -> Iterator[Any]:
    while not program.standing.is_final and not gone():
        time.sleep(0.01)
    yield from ()


@pytest.mark.parametrize("refuses", [False, True])
def test_a_module_that_is_ended_while_it_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    monkeypatch.setattr(device_module, "program_output", output)
    (tmp_path / "m.wasm").write_bytes(b"\0asm\1\0\0\0")
    program = Program()
    program.refuses = refuses
    host: Any = Host(program)
    run = ModuleRun("uuid", "m", tmp_path / "m.wasm", {}, on_crash="restore", every=10.0)
    module = DeviceModule(run, host)
    module.start()
    assert program.asked.wait(SECONDS)
    module.kill("stopped by request")
    program.goes_on.set()
    assert module.wait(SECONDS)
    (end,) = host.ends
    assert (end.code, end.reason, end.message) == (137, "killed", "stopped by request")
    assert program.killed == ([] if refuses else ["stopped by request"])
