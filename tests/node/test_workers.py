"""Workers: forked from warm parents, confined, and hostile programs in them."""

from __future__ import annotations

import ast
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.node import programs
from wasmsr.errors import InvalidError, ModuleError
from wasmsr.executor.old_workers import living
from wasmsr.executor.output.rings import RingLog, cut_ring, read_ring, ring_bounds
from wasmsr.executor.port import RING, ExecutorError
from wasmsr.executor.process import ProcessExecutor, old_executors
from wasmsr.interp.modules.module import assemble
from wasmsr.node.workers.confinement import Confinement, HostAccess, WorkerLimits, host_confinement
from wasmsr.node.workers.warm_parents import WarmParents, WorkerPlace
from wasmsr.runspec.run_spec import RunSpec

STREAMS = (-1, RING, RING)
ID = bytes(range(16))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are confined on Linux")


class Place:
    """A folder in which workers of one module are made."""

    def __init__(self, folder: Path, parents: WarmParents) -> None:
        self.folder, self.parents = folder, parents
        self.workers: list[ProcessExecutor] = []

    def worker(
        self, binary: bytes, spec: Mapping[str, Any] | None = None, *, name: str = "one",
        wait: float = 5, ring: int = 1 << 20, **limits: int,
    ) -> ProcessExecutor:  # fmt: skip
        digest = hashlib.sha256(binary).hexdigest()
        module = self.folder / f"{digest}.wasm"
        module.write_bytes(binary)
        home = self.folder / name
        access = HostAccess.of(RunSpec.read(spec or {}), home)
        made = self.parents.worker(
            module, digest, None,
            WorkerPlace(home / "worker", home / "output", home / "tmp", home / "carried"),
            Confinement(WorkerLimits(**limits), access), ring=ring, wait=wait,
        )  # fmt: skip
        self.workers.append(made)
        return made

    @property
    def output(self) -> Path:
        return self.folder / "one" / "output"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    parents = WarmParents()
    made = Place(tmp_path, parents)
    yield made
    for one in made.workers:
        one.kill()
    parents.close()
    for _, process in living(tmp_path / "one" / "worker"):
        os.kill(process, signal.SIGKILL)


def until_gone(process: int) -> int:
    """Return the status with which a worker, which is a child of ours, has ended."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    raise AssertionError("it lives")


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


# ---- forks ---------------------------------------------------------------------------------------


def test_workers_of_a_module_come_from_one_parent(place: Place) -> None:
    binary = programs.counting(3)
    one, two = place.worker(binary), place.worker(binary, name="two")
    assert one.pid != two.pid and len(place.parents.processes()) == 1
    for worker in (one, two):
        # Its father has ended: this process, which waits for it, is the next.
        assert psutil.Process(worker.pid).ppid() == os.getpid()
        program = worker.start({}, program=ID, streams=STREAMS)
        status = worker.wait(program, 20)
        assert (status.state, status.ending, status.code) == ("ended", "exited", 7)
    assert read_ring(place.output, "stdout", 0) == (0, programs.lines(0, 3))


def test_a_parent_learns_which_functions_workers_call(place: Place) -> None:
    binary = programs.counting(3)
    first = place.worker(binary)
    assert first.wait(first.start({}, program=ID, streams=STREAMS), 20).code == 7
    known = first.called(ID)
    assert known[0]
    place.worker(binary, name="two")  # the parent now asks the first one, on another thread
    for number in range(200):
        worker = place.worker(binary, name=f"later{number}")
        found = worker.called(worker.start({}, program=ID, streams=STREAMS, paused=True))
        worker.kill()
        if found == known:
            break
    else:
        raise AssertionError("no worker has code before its first instruction")


@pytest.mark.parametrize("lie", [[[-1]], [["x"]], 7, [[1 << 40]], [[4_000_000_000] * 9] * 9, None])
def test_a_parent_survives_a_worker_that_lies_about_functions(place: Place, lie: Any) -> None:
    binary = programs.counting(3)
    place.worker(binary)
    (parent,) = place.parents._parents.values()
    parent._ask("compile", 20, functions=lie)
    worker = place.worker(binary, name="two")
    assert worker.wait(worker.start({}, program=ID, streams=STREAMS), 20).code == 7
    assert len(place.parents.processes()) == 1


def test_the_least_recently_used_parent_ends(tmp_path: Path) -> None:
    parents = WarmParents(most=2)
    place = Place(tmp_path, parents)
    try:
        binaries = [programs.counting(n) for n in (1, 2, 3)]
        workers = [place.worker(one, name=str(n)) for n, one in enumerate(binaries)]
        known = [hashlib.sha256(one).hexdigest() for one in binaries]
        assert set(parents.processes()) == set(known[1:])
        # Its workers stay, and can start their programs.
        assert workers[0].wait(workers[0].start({}, streams=STREAMS), 20).code == 7
        # A parent that is killed is replaced.
        os.kill(parents.processes()[known[2]], signal.SIGKILL)
        again = place.worker(binaries[2], name="again")
        assert again.wait(again.start({}, streams=STREAMS), 20).code == 7
    finally:
        for one in place.workers:
            one.kill()
        parents.close()


def test_a_parent_says_what_is_wrong_with_a_module(place: Place) -> None:
    bad = b"\0asm\1\0\0\0" + bytes.fromhex("0105016000017f030201000a040102000b")
    with pytest.raises(InvalidError):
        place.worker(bad)
    assert not place.parents.processes()


def test_a_module_that_takes_too_much_to_load(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wasmsr.node.workers.warm_parents.LOAD_MEMORY", 64 << 20)
    size = 1 << 26
    custom = bytes((0, *(size >> at & 0x7F | 0x80 for at in (0, 7, 14)), size >> 21)) + bytes(size)
    bomb = b"\0asm\1\0\0\0" + custom
    with pytest.raises(ModuleError, match="needs more than 64 MiB to load"):
        place.worker(bomb)
    assert not place.parents.processes()
    worker = place.worker(programs.counting(1))
    assert worker.wait(worker.start({}, streams=STREAMS), 20).code == 7


def test_no_secret_of_the_supervisor_reaches_a_worker(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASMSR_TOKEN", "secret-of-the-node")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-node")
    worker = place.worker(programs.counting(1))
    found = Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert b"PATH=" in found and b"secret-of-the-node" not in found
    names = {Path(one.path).name for one in psutil.Process(worker.pid).memory_maps()}
    assert not any("grpc" in name or "cygrpc" in name for name in names)
    descriptors = Path(f"/proc/{worker.pid}/fd")
    opened = [os.readlink(descriptors / number) for number in os.listdir(descriptors)]
    assert sum(name.startswith("socket:") for name in opened) == 2, opened


# ---- confinement ---------------------------------------------------------------------------------

ATTEMPTS = """
import ctypes, errno, os, signal, socket, sys, threading
from pathlib import Path
from wasmsr.node.workers.confinement import Confinement, HostAccess, WorkerLimits
home = Path(sys.argv[1])
(home / "inside").mkdir()
outside = home.parent / "outside.txt"
outside.write_text("x")
libc = ctypes.CDLL(None, use_errno=True)
stranger = int(sys.argv[2])
missing = Confinement(access=HostAccess(writable=(str(home / "inside"),))).apply(home / "inside")
assert not missing, missing
def errno_of(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
def call(number, *values):
    if libc.syscall(number, *values) < 0:
        raise OSError(ctypes.get_errno(), "")
found = {
    "exec": errno_of(lambda: os.execv("/bin/true", ["true"])),
    "fork": errno_of(os.fork),
    "kill": errno_of(lambda: os.kill(stranger, signal.SIGKILL)),
    "read": errno_of(lambda: open(outside).read()),
    "write": errno_of(lambda: open(outside, "w")),
    "make": errno_of(lambda: open(home / "new", "w")),
    "passwd": errno_of(lambda: open("/etc/passwd").read()),
    "own": errno_of(lambda: open(home / "inside" / "new", "w").write("x")),
    "socket": errno_of(lambda: socket.socket()),
    "ptrace": errno_of(lambda: call(101, 16, stranger, 0, 0)),
    "mount": errno_of(lambda: call(165, b"x", b"/", b"tmpfs", 0, 0)),
    "setrlimit": errno_of(lambda: call(302, 0, 4, bytes(16), 0)),
    "memfd": errno_of(lambda: os.memfd_create("x")),
    "self": errno_of(lambda: os.kill(os.getpid(), 0)),
}
thread = threading.Thread(target=lambda: found.update(thread=errno_of(lambda: open("/etc/passwd"))))
thread.start(); thread.join()
sys.stdout.write(repr(found)); sys.stdout.flush()
os._exit(0)
"""


def test_what_a_worker_may_not_do(tmp_path: Path) -> None:
    if any(": no" in line for line in host_confinement()) or os.uname().machine != "x86_64":
        pytest.skip("this machine lacks a part: " + "; ".join(host_confinement()))
    home = tmp_path / "home"
    home.mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        words = [sys.executable, "-c", ATTEMPTS, str(home), str(stranger.pid)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert stranger.poll() is None
        stranger.kill()
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout)
    allowed = {name for name, how in found.items() if how == "allowed"}
    assert allowed == {"own", "memfd", "self"}, found
    assert found["fork"] == found["kill"] == found["setrlimit"] == "EPERM"
    assert found["exec"] == found["ptrace"] == found["socket"] == "ENOSYS"
    assert found["read"] == found["passwd"] == found["thread"] == "EACCES"


def test_a_confined_program_is_saved_and_restored(place: Place, tmp_path: Path) -> None:
    """Also with a folder of the host, one in memory, and the methods that look at pages."""
    shared = tmp_path / "shared"
    shared.mkdir()
    spec = {"mounts": [f"{shared}::/shared", "::/memory::mem"]}
    binary = programs.counting(200, 10)
    worker = place.worker(binary, spec)
    program = worker.start(spec, program=ID, streams=STREAMS)
    checkpoints = str(tmp_path / "one" / "checkpoints")
    until(lambda: ring_bounds(place.output, "stdout")[1] > 0)
    for _ in range(3):
        time.sleep(0.05)
        done = worker.checkpoint(program, checkpoints)
    written = ring_bounds(place.output, "stdout")[1]
    assert 0 < done["output"]["stdout"] <= written
    os.kill(worker.pid, signal.SIGKILL)
    assert os.WTERMSIG(until_gone(worker.pid)) == signal.SIGKILL
    for stream in ("stdout", "stderr"):
        cut_ring(place.output, stream, done["output"][stream])
    worker = place.worker(binary, spec)
    assert worker.restore(checkpoints, done["root"], spec, program=ID, streams=STREAMS) == ID
    worker.resume(ID)
    assert worker.wait(ID, 60).code == 7
    assert read_ring(place.output, "stdout", 0) == (0, programs.lines(0, 200))


def test_a_worker_is_adopted(place: Place, tmp_path: Path) -> None:
    worker = place.worker(programs.counting(10_000_000, 2), wait=10)
    program = worker.start({}, program=ID, streams=STREAMS)
    worker._end.shutdown(2)  # as if the supervisor were killed
    (other,) = old_executors(tmp_path / "one" / "worker")
    assert other.pid == worker.pid and other.programs() == [program]
    assert other.wait(program, 0).state == "paused"
    other.resume(program)
    before = ring_bounds(place.output, "stdout")[1]
    until(lambda: ring_bounds(place.output, "stdout")[1] > before)
    start, data = read_ring(place.output, "stdout", before)
    assert start == before and data
    other.kill()


# ---- hostile programs ----------------------------------------------------------------------------


def test_a_program_that_fills_memory(place: Place) -> None:
    worker = place.worker(assemble(programs.FILL.encode()), memory=200 << 20)
    program = worker.start({}, streams=STREAMS)
    status = worker.wait(program, 60)
    assert (status.ending, status.sentence[:33]) == ("trapped", "trap: out of bounds memory access")
    assert worker.stats(program)["memory"] == 65536, "no growth was granted"


def test_a_program_that_asks_for_a_terabyte(place: Place) -> None:
    worker = place.worker(assemble(programs.TERABYTE.encode()))
    assert worker.wait(worker.start({}, streams=STREAMS), 60).ending == "finished"


def test_a_program_that_writes_without_end(place: Place) -> None:
    worker = place.worker(assemble(programs.FLOOD.encode()), ring=1 << 20)
    program = worker.start({}, streams=STREAMS)
    end = time.monotonic() + 60
    while ring_bounds(place.output, "stdout")[1] < 20 << 20:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert worker.pause(program, 10)
    first, last = ring_bounds(place.output, "stdout")
    assert 1 << 20 <= last - first <= 5 << 18
    assert sum(path.stat().st_size for path in place.output.iterdir()) <= 5 << 18
    assert read_ring(place.output, "stdout", 0)[0] == first, "it says where it was cut"


def test_a_program_that_opens_everything(place: Place, tmp_path: Path) -> None:
    """It is out of descriptors, and can be saved all the same."""
    spec = {"mounts": [f"{tmp_path}::/"]}
    worker = place.worker(assemble(programs.OPEN_ALL.encode()), spec, descriptors=128)
    program = worker.start(spec, streams=STREAMS)
    end = time.monotonic() + 20
    while len(os.listdir(f"/proc/{worker.pid}/fd")) < 100:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)
    assert worker.checkpoint(program, str(tmp_path / "one" / "checkpoints"))["number"] == 1


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGTERM", "SIGSYS"])
def test_a_worker_that_a_signal_ends(place: Place, name: str) -> None:
    binary = assemble(programs.SPIN.encode())
    worker, other = place.worker(binary), place.worker(binary, name="two")
    worker.start({}, program=ID, streams=STREAMS)
    other.start({}, program=ID, streams=STREAMS)
    os.kill(worker.pid, getattr(signal, name))
    with pytest.raises(ExecutorError, match="the worker has ended"):
        worker.wait(ID, 20)
    assert os.WTERMSIG(until_gone(worker.pid)) == getattr(signal, name)
    assert other.wait(ID, 0.1).state == "running"


# ---- rings ---------------------------------------------------------------------------------------


def test_rings(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    data = os.urandom(40_000)
    ring, at = RingLog(folder, "stdout", 8192), 0
    while at < len(data):
        assert ring.write(memoryview(data)[at : at + 1000]) == 1000, "a file takes all"
        at += 1000
        if at % 7000 == 0:
            ring.close()
            ring = RingLog(folder, "stdout", 8192)  # a later worker goes on
    ring.close()
    first, end = ring_bounds(folder, "stdout")
    assert end == 40_000 and 8192 <= end - first <= 10_240
    found, at = b"", 0
    while (piece := read_ring(folder, "stdout", at))[1]:
        assert piece[0] == max(at, first)
        found, at = found + piece[1], piece[0] + len(piece[1])
    assert found == data[first:]
    cut_ring(folder, "stdout", 35_000)
    assert ring_bounds(folder, "stdout") == (first, 35_000)
    cut_ring(folder, "stdout", 100)  # which was dropped long ago
    assert ring_bounds(folder, "stdout") == (100, 100)
    ring = RingLog(folder, "stdout", 8192)
    ring.write(memoryview(b"again"))
    assert read_ring(folder, "stdout", 0) == (100, b"again")
    assert read_ring(folder, "stderr", 5) == (5, b"")
