"""The contract of a worker: deadlines, versions, locks, and its end without a supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from wasmsr import realtime
from wasmsr.errors import WasmsrError
from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.messages import VERSION, check_hello, hello, send
from wasmsr.executor.old_workers import HeldLock, living
from wasmsr.executor.port import HELD, Executor, ExecutorError
from wasmsr.executor.process import ProcessExecutor, old_executors
from wasmsr.interp.modules.module import assemble

SPIN = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'


@pytest.fixture
def spin(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "spin.wasm"
    path.write_bytes(assemble(SPIN.encode()))
    return {"program": str(path)}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of workers; what is left of them is killed."""
    place = tmp_path / "workers"
    place.mkdir()
    yield place
    for _, process in living(place):
        if process:
            os.kill(process, signal.SIGKILL)


def ms(milliseconds: float) -> int:
    return realtime.boot() + int(milliseconds * 1e6)


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(params=["local", "process"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "local":
        local = LocalExecutor()
        yield local
        for program in local.programs():
            local.cancel(program)
        return
    process = ProcessExecutor()
    yield process
    process.close()


# ---- deadlines -----------------------------------------------------------------------------------


def test_a_program_pauses_itself_at_its_deadline(executor: Executor, spin: dict[str, Any]) -> None:
    program = executor.start(spin)
    executor.lease(program, ms(150), ms(5000))
    assert executor.wait(program, 0.05).state == "running"
    assert executor.wait(program, 5).state == "paused"
    with pytest.raises(ExecutorError, match="has not been renewed"):
        executor.resume(program)
    executor.lease(program, ms(60_000), ms(90_000))
    executor.resume(program)
    assert executor.wait(program, 0.3).state == "running"
    # A later deadline replaces an earlier one, and none removes it.
    executor.lease(program, ms(100), ms(5000))
    executor.lease(program, None, None)
    assert executor.wait(program, 0.4).state == "running"


def test_times_that_are_none(executor: Executor, spin: dict[str, Any]) -> None:
    program = executor.start(spin)
    for wrong in (-1, 1 << 63, "soon", 1.5):
        with pytest.raises(ExecutorError, match="deadline"):
            executor.lease(program, wrong, wrong)  # type: ignore[arg-type]
    with pytest.raises(ExecutorError, match="no program"):
        executor.lease(bytes(16), None, None)


def test_a_frozen_worker_pauses_when_it_goes_on(spin: dict[str, Any]) -> None:
    executor = ProcessExecutor()
    try:
        program = executor.start(spin)
        executor.lease(program, ms(300), ms(60_000))
        os.kill(executor.pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(executor.pid, signal.SIGCONT)
        assert executor.wait(program, 0.5).state == "paused"
    finally:
        os.kill(executor.pid, signal.SIGCONT)
        executor.close()


def test_programs_without_a_lease_run_on(executor: Executor, spin: dict[str, Any]) -> None:
    leased, free = executor.start(spin), executor.start(spin)
    executor.lease(leased, ms(50), ms(5000))
    assert executor.wait(leased, 5).state == "paused"
    assert executor.wait(free, 0.2).state == "running"


def test_a_program_that_does_not_pause_keeps_no_other(spin: dict[str, Any]) -> None:
    """And its worker ends at the end of its lease, so that nothing of it runs on."""
    from wasmsr.executor.deadlines import Deadlines

    paused: list[bytes] = []
    overdue: list[bytes] = []

    def pause(program: bytes, seconds: float) -> bool:
        if program == b"stuck":
            time.sleep(seconds)
            return False
        paused.append(program)
        return True

    deadlines = Deadlines(pause, overdue.append)
    deadlines.set(b"stuck", ms(0), ms(600))
    deadlines.set(b"good", ms(100), ms(900))
    until(lambda: paused == [b"good"], 0.5)
    assert not overdue and deadlines.may(b"stuck")
    until(lambda: overdue == [b"stuck"], 3)
    assert not deadlines.may(b"stuck")
    time.sleep(0.1)
    assert paused == [b"good"] and overdue == [b"stuck"]
    # A start between the check and the deadline is noticed.
    deadlines.started(b"good")
    until(lambda: paused == [b"good", b"good"], 1)


# ---- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "hello",
        ["wasmsr worker"],
        ["another", VERSION, 1],
        ["wasmsr worker", VERSION, "x"],
    ],
)
def test_what_is_no_worker(message: object) -> None:
    with pytest.raises(ExecutorError):
        check_hello(message)


def test_a_worker_of_another_version() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        send(theirs, [*hello()[:1], VERSION + 1, 1])
        with pytest.raises(ExecutorError, match=f"version {VERSION + 1}.*version {VERSION}"):
            ProcessExecutor(end=ours)
    assert check_hello(hello()) == os.getpid()


# ---- locks ---------------------------------------------------------------------------------------


def test_two_workers_cannot_have_one_program(spin: dict[str, Any], folder: Path) -> None:
    one, two = ProcessExecutor(folder=folder), ProcessExecutor(folder=folder)
    try:
        program = one.start(spin)
        with pytest.raises(ExecutorError, match=f"held by process {one.pid}"):
            two.start(spin, program=program)
        assert two.programs() == []
        one.cancel(program)
        assert two.start(spin, program=program) == program
    finally:
        one.close()
        two.close()
    assert living(folder) == []


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    lock = HeldLock(tmp_path / "lock", "this")
    with pytest.raises(ExecutorError, match=f"this is held by process {os.getpid()}"):
        HeldLock(tmp_path / "lock", "this")
    lock.close()
    HeldLock(tmp_path / "lock", "this").close()
    with pytest.raises(ExecutorError, match="cannot be opened"):
        HeldLock(tmp_path / "nowhere" / "lock", "this")


# ---- without a supervisor ------------------------------------------------------------------------

SUPERVISOR = """
import sys, time
from pathlib import Path
from wasmsr.executor.process import ProcessExecutor
executor = ProcessExecutor(folder=Path(sys.argv[1]), wait=float(sys.argv[3]))
program = executor.start({"program": sys.argv[2]})
print(executor.pid, program.hex(), flush=True)
time.sleep(600)
"""


def lost(folder: Path, spin: dict[str, Any], wait: float) -> tuple[int, bytes]:
    """A worker whose supervisor was killed: its process, and its program."""
    done = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(folder), spin["program"], str(wait)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout is not None
    pid, program = done.stdout.readline().split()
    done.kill()
    done.wait()
    done.stdout.close()
    return int(pid), bytes.fromhex(program)


def test_a_worker_is_adopted(spin: dict[str, Any], folder: Path) -> None:
    pid, program = lost(folder, spin, 30)
    assert [process for _, process in living(folder)] == [pid]
    (executor,) = old_executors(folder)
    try:
        assert executor.pid == pid and executor.programs() == [program]
        assert executor.wait(program, 5).state == "paused"
        executor.resume(program)
        assert executor.wait(program, 0.2).state == "running"
    finally:
        executor.close()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    assert living(folder) == []


def test_a_worker_that_does_not_answer_is_killed(spin: dict[str, Any], folder: Path) -> None:
    pid, _ = lost(folder, spin, 30)
    os.kill(pid, signal.SIGSTOP)
    assert old_executors(folder) == []
    assert living(folder) == []


def test_a_worker_that_nobody_adopts_saves_and_ends(spin: dict[str, Any], folder: Path) -> None:
    pid, program = lost(folder, spin, 0.5)
    until(lambda: living(folder) == [])
    assert (folder / f"{program.hex()}.snapshot").stat().st_size > 100
    assert not (folder / f"{program.hex()}.part").exists()
    with LocalExecutorOf(folder / f"{program.hex()}.snapshot", spin) as found:
        assert found
    assert old_executors(folder) == []
    del pid


class LocalExecutorOf:
    """Restores a snapshot here, and ends it again."""

    def __init__(self, path: Path, spec: dict[str, Any]) -> None:
        self.path, self.spec, self.local = path, spec, LocalExecutor()

    def __enter__(self) -> bool:
        with open(self.path, "rb") as file:
            self.program = self.local.adopt(file.fileno(), self.spec)
        self.local.resume(self.program)
        return self.local.wait(self.program, 0.1).state == "running"

    def __exit__(self, *error: object) -> None:
        self.local.cancel(self.program)


def test_a_worker_whose_lease_has_ended_saves_nothing(spin: dict[str, Any], folder: Path) -> None:
    executor = ProcessExecutor(folder=folder, wait=1)
    program = executor.start(spin)
    executor.lease(program, ms(100), ms(300))
    executor._end.shutdown(socket.SHUT_RDWR)  # as if this process had ended
    assert executor.process is not None
    assert executor.process.wait(20) == 0
    assert living(folder) == [] and not list(folder.glob("*.snapshot"))


# ---- output that is held, checkpoints, effects ---------------------------------------------------

WRITER = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $n (mut i32) (i32.const 0))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
    (loop $again
      (i32.store (i32.const 1024) (global.get $n))
      (if (i32.ne (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
        (i32.const 0)) (then unreachable))
      (global.set $n (i32.add (global.get $n) (i32.load (i32.const 8))))
      (br $again))))"""
"""Writes blocks of 4 KiB; each begins with the number of bytes before it."""


@pytest.fixture
def writer(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "writer.wasm"
    path.write_bytes(assemble(WRITER.encode()))
    return {"program": str(path)}


def take(executor: Executor, program: bytes, offset: int, least: int) -> bytes:
    """Read held output until so many bytes are there."""
    data = b""
    while len(data) < least:
        start, piece = executor.logs(program, "stdout", offset + len(data))
        assert start == offset + len(data)
        data += piece
    return data


def check_blocks(data: bytes, at: int = 0) -> None:
    """The output is in order and complete, whole blocks or not."""
    for offset in range(-at % 4096, len(data) - 4, 4096):
        assert int.from_bytes(data[offset : offset + 4], "little") == at + offset


def test_held_output_is_not_lost_and_the_program_waits(
    executor: Executor, writer: dict[str, Any]
) -> None:
    program = executor.start(writer, streams=[-1, HELD, -1])
    data = take(executor, program, 0, 5 << 20)
    check_blocks(data)
    # Nobody reads: the program waits, and pauses nevertheless.
    time.sleep(0.1)
    assert executor.wait(program, 0).state == "running"
    assert executor.pause(program, 5)
    more = take(executor, program, len(data), 1)
    check_blocks(more, len(data))
    # Bytes that the reader has are dropped, and those that are not there yet cannot be had.
    for offset in (0, 1 << 40):
        with pytest.raises(ExecutorError, match="has no byte"):
            executor.logs(program, "stdout", offset)


def test_checkpoints_of_a_program_that_runs(
    executor: Executor, writer: dict[str, Any], tmp_path: Path
) -> None:
    folder = str(tmp_path / "checkpoints")
    program = executor.start(writer, streams=[-1, HELD, -1], paused=True)
    assert executor.wait(program, 0.05).state == "paused"
    first = executor.checkpoint(program, folder)
    assert first["output"] == {"stdout": 0, "stderr": 0}
    executor.resume(program)
    data = take(executor, program, 0, 1 << 20)
    second = executor.checkpoint(program, folder)
    assert executor.wait(program, 0).state == "running", "it went on"
    assert len(second["root"]) == 32 != first["root"] and second["number"] == 2
    assert second["output"]["stdout"] >= len(data)
    assert executor.pause(program, 5)
    third = executor.checkpoint(program, folder)
    assert executor.wait(program, 0).state == "paused", "it was paused before"
    assert executor.cancel(program, 5)
    for found in (second, third):
        again = executor.restore(folder, found["root"], writer, streams=[-1, HELD, -1])
        executor.resume(again)
        check_blocks(take(executor, again, 0, 100_000), found["output"]["stdout"])
        assert executor.cancel(again, 5)
    with pytest.raises(WasmsrError, match="no checkpoint with the root digest"):
        executor.restore(folder, bytes(32), writer)


def test_a_pause_wins_over_a_checkpoint(spin: dict[str, Any], tmp_path: Path) -> None:
    executor = LocalExecutor()
    program = executor.start(spin)
    held = executor._of(program)
    before = held.program.snapshot

    def slow(**options: Any) -> Any:
        assert executor.pause(program, 1)  # another caller pauses while the checkpoint copies
        return before(**options)

    held.program.snapshot = slow  # type: ignore[method-assign]
    executor.checkpoint(program, str(tmp_path / "d"))
    assert executor.wait(program, 0.1).state == "paused"
    assert executor.cancel(program, 5)


def test_an_ended_program_has_no_checkpoint(executor: Executor, tmp_path: Path) -> None:
    path = tmp_path / "end.wasm"
    path.write_bytes(assemble(b'(module (memory (export "memory") 1) (func (export "_start")))'))
    program = executor.start({"program": str(path)})
    assert executor.wait(program, 5).ending == "finished"
    with pytest.raises(ExecutorError, match="has ended"):
        executor.checkpoint(program, str(tmp_path / "d"))


def test_no_effect_after_the_deadline(writer: dict[str, Any]) -> None:
    """A program that is behind its deadline makes the host call again under the next lease."""
    executor = LocalExecutor()
    executor.deadlines._look = lambda: None  # type: ignore[method-assign]  # a thread that is late
    program = executor.start(writer, streams=[-1, HELD, -1], paused=True)
    executor.lease(program, ms(60_000), ms(60_000))
    executor.resume(program)
    data = take(executor, program, 0, 100_000)
    executor.deadlines.set(program, ms(-1), ms(-1))
    time.sleep(0.05)
    had = len(data)
    while piece := executor.logs(program, "stdout", had)[1]:  # what it wrote before
        had += len(piece)
    time.sleep(0.05)
    assert executor.logs(program, "stdout", had)[1] == b""
    assert executor.pause(program, 5)
    executor.lease(program, ms(60_000), ms(60_000))
    executor.resume(program)
    check_blocks(take(executor, program, had, 1), had)
    # Without a lease there is no gate.
    executor.lease(program, None, None)
    assert executor._of(program).program.store.gate is None
    assert executor.cancel(program, 5)


def test_a_frozen_worker_does_not_keep_its_supervisor(spin: dict[str, Any]) -> None:
    executor = ProcessExecutor()
    executor.patience = 0.3
    program = executor.start(spin)
    os.kill(executor.pid, signal.SIGSTOP)
    try:
        for ask in (
            lambda: executor.logs(program, "stdout"),
            lambda: executor.pause(program, 0.1),
            lambda: executor.wait(program, 0),
        ):
            with pytest.raises(ExecutorError, match="has not answered"):
                ask()
    finally:
        executor.kill()
    assert not psutil.pid_exists(executor.pid)
    with pytest.raises(ExecutorError, match="has ended"):
        executor.programs()
