"""Programs that read and write remote memory: the functions, saved and moved, memories that go."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mem.served import SECONDS, served
from tests.mem.test_exactly_once import HELLO_BACK, Cutter
from tests.mem.test_memory_wire import until
from wasmsr.errors import FormatError, LinkError
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.interp.store.store import Store
from wasmsr.mem.failures import TransportError
from wasmsr.mem.guest_memory import (
    AWAY,
    NO_BUFFER,
    NO_HANDLE,
    NO_MEMORY,
    MemoryFunctions,
    MemoryGrant,
)
from wasmsr.mem.guest_state import GuestMemory
from wasmsr.mem.serving.memory_server import MemoryServer
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants

IMPORTS = """
  (import "env" "mem_open" (func $mem_open (param i32 i32) (result i32)))
  (import "env" "mem_size" (func $mem_size (param i32) (result i64)))
  (import "env" "mem_read" (func $mem_read (param i32 i64 i32 i32) (result i32)))
  (import "env" "mem_write" (func $mem_write (param i32 i64 i32 i32) (result i32)))
  (import "env" "mem_fence" (func $mem_fence (param i32) (result i32)))
  (import "env" "mem_errno" (func $mem_errno (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "numbers")"""

TYPES = {
    "mem_open": ("i32 i32", "i32"), "mem_size": ("i32", "i64"),
    "mem_read": ("i32 i64 i32 i32", "i32"), "mem_write": ("i32 i64 i32 i32", "i32"),
    "mem_fence": ("i32", "i32"), "mem_errno": ("", "i32"),
}  # fmt: skip
CALLS = "\n".join(
    f'(func (export "{name}") (param {params}) (result {result}) (call ${name} '
    + " ".join(f"(local.get {at})" for at in range(len(params.split())))
    + "))"
    for name, (params, result) in TYPES.items()
)
DRIVER = f"(module {IMPORTS} {CALLS})"
"""All functions, for a test to call."""

COUNTER = f"""(module {IMPORTS}
  (func (export "_start") (local $h i32) (local $n i32)
    (local.set $h (call $mem_open (i32.const 0) (i32.const 7)))
    (loop $again
      (if (i32.ne (call $mem_read (local.get $h) (i64.const 8) (i32.const 64) (i32.const 4))
                  (i32.const 4)) (then unreachable))
      (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
      (if (i32.ne (call $mem_write (local.get $h) (i64.const 8) (i32.const 64) (i32.const 4))
                  (i32.const 4)) (then unreachable))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const TIMES))))
    (if (call $mem_fence (local.get $h)) (then unreachable))))"""
"""Adds 1 to a number in the memory, so often. A write that is lost or doubled shows."""


def counter(times: int) -> str:
    return COUNTER.replace("TIMES", str(times))


class Guest:
    """A module whose functions a test calls."""

    def __init__(self, url: str) -> None:
        made = Module(assemble(DRIVER.encode()))
        self.functions = MemoryFunctions(MemoryGrant({"numbers": url}))
        self.store = Store()
        imports: Any = {"env": self.functions.imports([made])}
        self.instance = self.store.instantiate(made, imports, start=False)

    @property
    def memory(self) -> memoryview:
        return self.store.memory_view(0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self.instance.function(name)


def test_functions() -> None:
    with served(1 << 16) as memory:
        guest = Guest(memory.url)
        handle = guest.mem_open(0, 7)
        assert handle == 0 == guest.mem_open(0, 7)
        assert guest.mem_size(handle) == 65_536
        guest.memory[100:105] = b"hello"
        assert guest.mem_write(handle, 65_531, 100, 5) == 5
        assert memory.bytes[65_531:] == b"hello"
        assert guest.mem_read(handle, 65_530, 200, 6) == 6
        assert bytes(guest.memory[200:206]) == b"\0hello"
        assert guest.mem_fence(handle) == 0
        for addr in (65_532, 1 << 40, -1):
            assert guest.mem_write(handle, addr, 100, 5) == -1
            assert guest.mem_errno() == 1
        assert guest.mem_open(1, 6) == -1 and guest.mem_errno() == NO_MEMORY
        assert guest.mem_open(0, 1 << 31) == -1 and guest.mem_errno() == NO_MEMORY
        for call in (guest.mem_read, guest.mem_write):
            assert call(handle, 0, 65_534, 4) == -1 and guest.mem_errno() == NO_BUFFER
            assert call(handle, 0, -1, -1) == -1 and guest.mem_errno() == NO_BUFFER
            assert call(7, 0, 0, 4) == -1 and guest.mem_errno() == NO_HANDLE
        assert guest.mem_size(-1) == -1
        guest.functions.close()


def test_a_memory_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.mem.guest_memory.AWAY_SECONDS", 0.3)
    with served() as memory:
        guest = Guest(memory.url)
    handle = guest.mem_open(0, 7)
    assert guest.mem_fence(handle) == -1 and guest.mem_errno() == AWAY


@pytest.mark.full
@pytest.mark.parametrize("saved", [False, True])
def test_a_write_that_failed_and_was_done_is_not_taken_for_the_next(
    monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """The memory did the first write, and was away for so long that the program heard of no answer.

    The program writes something else to the same place: later, or after it was saved meanwhile.
    """
    monkeypatch.setattr("wasmsr.mem.guest_memory.AWAY_SECONDS", 0.6)
    with served(1 << 16) as memory:
        cuts = [(1 << 30, HELLO_BACK + 1)] + [(1 << 30, 0)] * 10_000
        cutter = Cutter(memory.server.port, cuts)
        guest = Guest(cutter.url)
        handle = guest.mem_open(0, 7)
        guest.memory[100:105] = b"first"
        assert guest.mem_write(handle, 0, 100, 5) == -1 and guest.mem_errno() == AWAY
        assert memory.bytes[:5] == b"first"
        assert guest.mem_write(handle, 0, 105, 5) == -1 and guest.mem_errno() == AWAY
        assert guest.mem_size(handle) == -1
        if saved:
            state = guest.functions.capture()
            guest.functions.close()
            guest = Guest(cutter.url)
            guest.functions.enter(state, MemoryGrant({"numbers": cutter.url}))
        monkeypatch.setattr("wasmsr.mem.guest_memory.AWAY_SECONDS", SECONDS)
        threading.Timer(0.5, cuts.clear).start()  # it is away for a while yet
        guest.memory[100:105] = b"later"
        assert guest.mem_write(handle, 0, 100, 5) == 5
        assert memory.bytes[:5] == b"later"
        assert guest.mem_read(handle, 0, 200, 5) == 5 and bytes(guest.memory[200:205]) == b"later"
        guest.functions.close()
        cutter.close()


def wasmsr(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wasmsr", "run", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS * 2)


def test_every_capture_goes_on(tmp_path: Path) -> None:
    """The program is saved and restored in place at each 50th instruction."""
    (tmp_path / "counter.wasm").write_bytes(assemble(counter(200).encode()))
    with served() as memory:
        given = ("--remote-memory", f"numbers={memory.url}")
        done = wasmsr(tmp_path, *given, "--hop", "50", "counter.wasm")
        assert done.returncode == 0, done.stderr
        assert int.from_bytes(memory.bytes[8:12], "little") == 200


def test_a_saved_program_goes_on_and_no_write_is_doubled(tmp_path: Path) -> None:
    (tmp_path / "counter.wasm").write_bytes(assemble(counter(300).encode()))
    with served() as memory:
        given = ("--remote-memory", f"numbers={memory.url};4")
        assert wasmsr(tmp_path, *given, "--snapshot-at", "2000", "counter.wasm").returncode == 120
        half = int.from_bytes(memory.bytes[8:12], "little")
        assert 0 < half < 300
        refused = wasmsr(tmp_path, "counter.wasm", "--from-snapshot", "snapshot.bin")
        assert refused.returncode == 122 and "--remote-memory" in refused.stderr
        other = ("--remote-memory", f"letters={memory.url}")
        refused = wasmsr(tmp_path, *other, "counter.wasm", "--from-snapshot", "snapshot.bin")
        assert "memory numbers open" in refused.stderr
        done = wasmsr(tmp_path, *given, "counter.wasm", "--from-snapshot", "snapshot.bin")
        assert done.returncode == 0, done.stderr
        assert int.from_bytes(memory.bytes[8:12], "little") == 300
        # What was saved is an old state of a client that has gone on: the memory notices.
        done = wasmsr(tmp_path, *given, "counter.wasm", "--from-snapshot", "snapshot.bin")
        assert done.returncode == 134
        assert int.from_bytes(memory.bytes[8:12], "little") == 300


def test_a_program_that_is_given_no_memory(tmp_path: Path) -> None:
    (tmp_path / "counter.wasm").write_bytes(assemble(counter(1).encode()))
    done = wasmsr(tmp_path, "counter.wasm")
    assert done.returncode == 122 and "mem_open" in done.stderr and "gives it" in done.stderr
    for text in ("numbers", "=tcp://x:1", "numbers=http://x:1", "numbers=tcp://x:1;x"):
        with pytest.raises(TransportError):
            MemoryGrant.parse([text])
        assert wasmsr(tmp_path, "--remote-memory", text, "counter.wasm").returncode == 2


def test_a_pause_does_not_wait_for_a_memory_that_is_away() -> None:
    """The program is saved while its command has no answer, and does it once afterwards."""
    module = Module(assemble(counter(3000).encode()))
    with served() as memory:
        grants = HostGrants(memories=MemoryGrant({"numbers": memory.url}))
        program = Program.launch(module, grants=grants, invoke="_start")
        program.start()
        for number in (40, 400, 1400):
            until(lambda number=number: value(memory) > number)
            memory.server.stop()
            began = time.monotonic()
            assert program.pause(SECONDS)
            assert time.monotonic() - began < 5  # it would try for 30 s
            state = program.snapshot()
            program.close()
            memory.server = MemoryServer(memory.region, port=memory.server.port)
            memory.server.start()
            program = Program.resume(state, module=module, grants=grants)
            program.start()
        program.wait(SECONDS)
        assert value(memory) == 3000
        program.close()


def value(memory: Any) -> int:
    return int.from_bytes(memory.bytes[8:12], "little")


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"errno": 0, "memories": [], "retried": 1},
        {"errno": -1, "memories": [], "retried": False},
        {"errno": 0, "memories": [["m", b"x" * 15, 0, False]], "retried": False},
        {"errno": 0, "memories": [["m", b"x" * 16, 65_536, False]], "retried": False},
        {"errno": 0, "memories": [["m", b"x" * 16, 0, False]] * 2, "retried": False},
        {"errno": 0, "memories": [["m"]], "retried": False},
        {"errno": 0, "memories": [[7, b"x" * 16, 0, False]], "retried": False},
        {"errno": 0, "memories": [["m", b"x" * 16, 0, False]] * 5000, "retried": False},
        {"errno": 0, "memories": [], "retried": False, "cut": ""},
        {"errno": 0, "memories": [], "retried": False, "cut": 7},
        {"errno": 0, "memories": [], "retried": False, "cut": "x" * 101},
        {"errno": 0, "memories": [], "retried": False, "other": ""},
    ],
)
def test_states_that_are_none(state: Any) -> None:
    with pytest.raises(FormatError):
        GuestMemory.restore(state)


def test_a_function_of_another_type_is_not_ours(tmp_path: Path) -> None:
    text = '(module (import "env" "mem_open" (func (param i64))) (func (export "_start")))'
    with pytest.raises(LinkError):
        Program.launch(Module(assemble(text.encode())), grants=HostGrants(), invoke="_start")
