"""The port of an executor: the same in this process and against a child process."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from wasmsr.errors import MalformedError, WasmsrError
from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.messages import METHODS, receive, send
from wasmsr.executor.output.logs import LogBuffer
from wasmsr.executor.port import LOG_BYTES, Executor, ExecutorError, MovesPrograms, ProgramStatus
from wasmsr.executor.process import ProcessExecutor
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.runspec.run_spec import SpecError

COUNT = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "0\\n")
  (func $print
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 2))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 128)) (i32.store (i32.const 4) (i32.const 4))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (loop $again
      (call $print)
      (i32.store8 (i32.const 64) (i32.add (i32.load8_u (i32.const 64)) (i32.const 1)))
      (br_if $again (i32.lt_u (i32.load8_u (i32.const 64)) (i32.const 57))))))"""
"""Reads four bytes to memory 128, then prints the digits from 0 to 8, a line each."""

SPIN = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'


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
    assert process.process.returncode == 0


@pytest.fixture
def count(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "count.wasm"
    path.write_bytes(assemble(COUNT.encode()))
    return {"program": str(path)}


@pytest.fixture
def spin(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "spin.wasm"
    path.write_bytes(assemble(SPIN.encode()))
    return {"program": str(path)}


LINES = b"0\n1\n2\n3\n4\n5\n6\n7\n8\n"


def test_a_program_runs_and_its_output_is_kept(executor: Executor, count: dict[str, Any]) -> None:
    program = executor.start(count)
    assert len(program) == 16 and executor.programs() == [program]
    assert executor.wait(program, 30) == ProgramStatus("idle", "finished")
    assert executor.logs(program, "stdout") == (0, LINES)
    assert executor.logs(program, "stdout", 14) == (14, LINES[14:])
    assert executor.logs(program, "stderr") == (0, b"")
    assert executor.stats(program)["memory"] == 65536
    assert executor.cancel(program) and executor.programs() == []


def test_streams_are_descriptors(executor: Executor, count: dict[str, Any]) -> None:
    """A child process gets descriptors, as this one does; the caller may close its own at once."""
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    program = executor.start(count, streams=[read_in, write_out, -1])
    os.close(read_in)
    os.close(write_out)
    os.write(write_in, b"abcd")
    executor.wait(program, 30)
    assert executor.read_memory(program, 0, 128, 4) == b"abcd"
    assert os.read(read_out, 100) == LINES
    with pytest.raises(ExecutorError, match="stdout"):
        executor.logs(program, "stdout")
    executor.cancel(program)
    assert os.read(read_out, 1) == b"", "the program's descriptors are closed with it"
    os.close(write_in)
    os.close(read_out)


def test_many_programs(executor: Executor, count: dict[str, Any], spin: dict[str, Any]) -> None:
    ids = [bytes([n]) * 16 for n in range(3)]
    for id in ids:
        assert executor.start(spin, program=id) == id
    with pytest.raises(ExecutorError, match="already"):
        executor.start(count, program=ids[0])
    assert executor.wait(ids[1], 0.01) == ProgramStatus("running")
    assert executor.pause(ids[1], 10)
    assert [executor.wait(id, 0).state for id in ids] == ["running", "paused", "running"]
    executor.resume(ids[1])
    assert executor.wait(ids[1], 0.01).state == "running"
    waited: list[ProgramStatus] = []
    thread = threading.Thread(target=lambda: waited.append(executor.wait(ids[2], 30)))
    thread.start()  # a call that waits holds no other call up
    assert executor.pause(ids[2], 10)
    thread.join(10)
    assert [status.state for status in waited] == ["paused"]
    assert all(executor.cancel(id, 10) for id in ids) and executor.programs() == []


def test_a_program_moves_between_executors(
    executor: Executor, count: dict[str, Any], tmp_path: Path
) -> None:
    """A snapshot through a descriptor, from this executor to one in this process and back."""
    program = executor.start({**count, "snapshots": {"at": 100}})
    assert executor.wait(program, 30).state == "stop"
    printed = executor.logs(program, "stdout")[1]
    assert printed and LINES.startswith(printed)
    with (tmp_path / "state").open("w+b") as file:
        size = executor.snapshot(program, file.fileno())
        assert size == file.seek(0, 2)
        file.seek(0)
        assert executor.cancel(program)
        other = LocalExecutor()
        assert other.adopt(file.fileno(), {}, program=program) == program
    assert other.wait(program, 0).state == "paused"
    read, write = os.pipe()
    other.snapshot(program, write)
    os.close(write)
    other.cancel(program)
    assert executor.adopt(read, {}, program=program) == program
    os.close(read)
    executor.resume(program)
    assert executor.wait(program, 30).ending == "finished"
    assert printed + executor.logs(program, "stdout")[1] == LINES


def test_stops(executor: Executor, count: dict[str, Any]) -> None:
    """To a count, a breakpoint, a change of memory, and the end of a host call."""
    program = executor.start({**count, "snapshots": {"at": 0}})
    assert executor.wait(program, 30).state == "stop" and len(executor.frames(program)) <= 1
    executor.step(program, 5)
    assert executor.stats(program)["executed"] == 5
    executor.run_to(program, {"stop": 60})
    assert executor.wait(program, 30).state == "stop"
    assert executor.stats(program)["executed"] == 60
    here = executor.frames(program)[0]
    executor.run_to(program, {"memory": [(0, 64, 1)]})
    before = executor.wait(program, 30)
    assert before.state == "hit"
    digit = executor.read_memory(program, 0, 64, 1)
    executor.run_to(program, {"memory": [(0, 64, 1)]})
    executor.wait(program, 30)
    assert executor.read_memory(program, 0, 64, 1)[0] == digit[0] + 1
    executor.run_to(program, {"breakpoints": [(here["function"], here["offset"])]})
    assert executor.wait(program, 30).state == "hit"
    top = executor.frames(program)[0]
    assert (top["function"], top["offset"]) == (here["function"], here["offset"])
    lines = len(executor.logs(program, "stdout")[1])
    executor.run_to(program, {"call": 2})
    assert executor.wait(program, 30).state == "hit"
    assert len(executor.logs(program, "stdout")[1]) == lines + 4
    executor.run_to(program, {})
    assert executor.wait(program, 30).ending == "finished"
    assert executor.logs(program, "stdout")[1] == LINES


def test_rewind(executor: Executor, count: dict[str, Any]) -> None:
    program = executor.start({**count, "snapshots": {"at": 50}})
    executor.wait(program, 30)
    mark, frames = executor.mark(program), executor.frames(program)
    digit = executor.read_memory(program, 0, 64, 1)
    executor.run_to(program, {})
    assert executor.wait(program, 30).ending == "finished"
    assert executor.read_memory(program, 0, 64, 1) == b"9"
    for _ in range(2):
        executor.rewind(program, mark)
        assert executor.read_memory(program, 0, 64, 1) == digit
        assert executor.frames(program) == frames
        assert executor.stats(program)["executed"] == 50
        assert executor.wait(program, 0).state == "paused"
        executor.run_to(program, {"stop": 52})
        assert executor.wait(program, 30).state == "stop"
    with pytest.raises(ExecutorError, match="mark"):
        executor.rewind(program, mark + 1)


def test_errors(executor: Executor, spin: dict[str, Any], tmp_path: Path) -> None:
    """The classes of errors cross the boundary."""
    with pytest.raises(ExecutorError, match="no program"):
        executor.wait(b"x" * 16)
    with pytest.raises(SpecError, match=r"limits\.fuel"):
        executor.start({"limits": {"fuel": "much"}})
    bad = tmp_path / "bad.wasm"
    bad.write_bytes(b"\0asm\1\0\0\0\xff")
    with pytest.raises(MalformedError):
        executor.start({"program": str(bad)})
    with pytest.raises((ExecutorError, OSError)):
        executor.start({"program": str(tmp_path / "absent.wasm")})
    program = executor.start(spin)
    for look in (
        lambda: executor.frames(program),
        lambda: executor.read_memory(program, 0, 0, 1),
        lambda: executor.step(program),
        lambda: executor.resume(program),
        lambda: executor.mark(program),
    ):
        with pytest.raises(ExecutorError, match="runs"):
            look()
    executor.pause(program)
    for place in (
        (1, 0, 1),
        (0, 65536, 1),
        (0, -1, 1),
        (0, 0, 1 << 40),
        (-1, 0, 1),
    ):
        with pytest.raises(ExecutorError):
            executor.read_memory(program, *place)
    wrongs: list[dict[str, Any]] = [
        *({"memory": [(7, 0, 1)]}, {"memory": 5}, {"stop": -1}, {"call": "x"}),
        *({"breakpoints": [(1,)]}, {"when": 1}),
    ]
    for wrong in wrongs:
        with pytest.raises(ExecutorError):
            executor.run_to(program, wrong)
    assert executor.wait(program, 0).state == "paused"
    with pytest.raises(ExecutorError, match="bytes"):
        executor.start(spin, program=b"short")


def test_traps_and_fuel(executor: Executor, spin: dict[str, Any], tmp_path: Path) -> None:
    trap = tmp_path / "trap.wasm"
    trap.write_bytes(assemble(b'(module (func (export "_start") unreachable))'))
    program = executor.start({"program": str(trap)})
    status = executor.wait(program, 30)
    assert (status.ending, status.code) == ("trapped", 134) and "unreachable" in status.sentence
    with pytest.raises(ExecutorError, match="ended"):
        executor.resume(program)
    program = executor.start({**spin, "limits": {"fuel": 1000}})
    assert executor.wait(program, 30) == ProgramStatus("fuel", "fuel", 121, "out of fuel")


def test_a_worker_that_dies_is_an_error(spin: dict[str, Any]) -> None:
    executor = ProcessExecutor()
    program = executor.start(spin)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            executor.wait(program)
        except WasmsrError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    executor.process.kill()
    thread.join(10)
    assert len(caught) == 1 and isinstance(caught[0], ExecutorError)
    with pytest.raises(ExecutorError, match="worker has ended"):
        executor.programs()
    executor.close()


def test_a_worker_ends_with_its_socket(spin: dict[str, Any]) -> None:
    executor = ProcessExecutor()
    executor.start(spin)
    began = time.monotonic()
    executor.close()
    assert executor.process.returncode == 0 and time.monotonic() - began < 5


def test_the_log_keeps_the_end() -> None:
    log = LogBuffer()
    for number in range(0, 3 * LOG_BYTES, 1 << 16):
        log.write(memoryview(struct.pack("<I", number) * (1 << 14)))
    start, data = log.read(0)
    assert start == 2 * LOG_BYTES and len(data) == LOG_BYTES
    assert struct.unpack_from("<I", data)[0] == start
    assert log.read(start + LOG_BYTES) == (start + LOG_BYTES, b"")


@pytest.mark.parametrize(
    "data",
    [b"\1", b"\xff\xff\xff\xff", struct.pack("<I", 4) + b"ab", struct.pack("<I", 1) + b"\xc1"],
)
def test_wrong_messages_are_errors(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(ExecutorError):
            receive(theirs)


def test_descriptors_of_a_wrong_message_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "f").open("wb") as file:
        send(ours, {"x": b"y"}, [file.fileno(), file.fileno()])
        message = receive(theirs)
        assert message is not None and message[0] == {"x": b"y"} and len(message[1]) == 2
        for descriptor in message[1]:
            os.close(descriptor)
        socket.send_fds(ours, [struct.pack("<I", 9) + msgpack.packb([1])], [file.fileno()])
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(ExecutorError):
            receive(theirs)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_table_of_methods_is_the_port() -> None:
    names = {name for name in vars(Executor) if not name.startswith("_")}
    moves = {name for name in vars(MovesPrograms) if not name.startswith("_")}
    assert names | moves == set(METHODS) and not names & moves
    for kind in (LocalExecutor, ProcessExecutor):
        assert all(callable(getattr(kind, name)) for name in names)
    assert all(callable(getattr(ProcessExecutor, name)) for name in moves)


def test_a_worker_that_moves_no_programs_says_so() -> None:
    worker = ProcessExecutor()
    try:
        with pytest.raises(ExecutorError, match="this executor has no method 'describe'"):
            worker.describe(b"\0" * 16)
    finally:
        worker.close()


def test_modules_of_this_process_too() -> None:
    """A program that was made in this process is steered through the same port."""
    from wasmsr.program.program import Program

    executor = LocalExecutor()
    id = executor.enroll(Program.launch(Module.from_text(SPIN)))
    executor.resume(id)
    assert executor.wait(id, 0.01).state == "running" and executor.cancel(id)
