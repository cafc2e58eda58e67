"""Executions of jobs on nodes: to their end, by their verbs, and from node to node."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.jobs.programs import (
    COUNTER,
    FORKED,
    counting,
    numbers,
    request,
    stop,
    until_stopped,
)
from tests.node.nodes import World
from tests.node.programs import lines
from tests.node.test_leases import Leasing, checkpointed
from tests.node.test_linked import STEPS
from tests.node.test_linked import counter as linked_counter
from tests.node.test_node import Here
from wasmsr import Node
from wasmsr.executor.output.frames import FRAMES_FILE
from wasmsr.jobs import ExecutorLeft, JobError, LogFrame
from wasmsr.jobs.execution.archive import ExecutionArchive
from wasmsr.jobs.execution.log import read_log
from wasmsr.jobs.execution.requests import ExecutionRequest
from wasmsr.jobs.executor import JobExecutor
from wasmsr.jobs.servers.copied_log import CopiedLog
from wasmsr.jobs.servers.ray_placement import RayPlacement
from wasmsr.jobs.servers.server_execution import ServerExecution
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.jobs.servers.server_port import Unwanted
from wasmsr.node.failures import NodeAway
from wasmsr.rpc.control.control_server import ControlServer


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come")


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[ServerExecutor]:
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as made:
        yield made
    here.end()


def written(executor: JobExecutor, id: str) -> int:
    path = executor.folder / id / "log" / "stdout"
    return path.stat().st_size if path.exists() else 0


@pytest.mark.full
def test_an_execution_runs_to_its_end(executor: ServerExecutor, tmp_path: Path) -> None:
    result = executor.run(counting(tmp_path, "a", lines=50))
    assert (result.exit_code, result.error) == (0, "")
    results = executor.folder / "a" / "results"
    assert (results / "stdout").read_bytes() == numbers(50)
    assert (results / "out" / "numbers").read_bytes() == numbers(50)
    assert (results / "exitCode").read_text() == "0"
    assert executor.describe("a").state == "ended"


@pytest.mark.full
def test_a_trap_and_a_cancel(executor: ServerExecutor, tmp_path: Path) -> None:
    trap = '(module (memory (export "memory") 1) (func (export "_start") unreachable))'
    result = executor.run(request(tmp_path, "t", trap))
    assert result.exit_code == 134 and "unreachable" in result.error
    executor.start(until_stopped(tmp_path, "c", slow=1000))
    until(lambda: written(executor, "c") > 80)
    executor.cancel("c")
    assert executor.wait("c", 60).error == "cancelled"
    assert executor.describe("c").state == "cancelled"


def test_it_is_paused_and_outlives_its_executor(executor: ServerExecutor, tmp_path: Path) -> None:
    given = until_stopped(tmp_path, "a", slow=1000, execution_dir=str(executor.folder / "a"))
    executor.start(given)
    until(lambda: written(executor, "a") > 80)
    executor.pause("a")
    executor.resume("a")
    executor.leave()
    with pytest.raises(ExecutorLeft):
        executor.wait("a", 60)
    before = written(executor, "a")
    with ServerExecutor(executor.folder, Node, executor._servers.addresses) as second:
        second.recover(given)
        until(lambda: written(second, "a") > before)
        stop(executor.folder / "a")
        assert second.wait("a", 60).exit_code == 0
        log = b"".join(one.data for one in second.logs("a") if isinstance(one, LogFrame))
    assert log == numbers(len(log) // 8) and len(log) > before


@pytest.mark.full
@pytest.mark.parametrize("on_loss", ["restore", "fail"])
def test_a_lost_worker(executor: ServerExecutor, tmp_path: Path, on_loss: str) -> None:
    executor.start(until_stopped(tmp_path, "a", slow=1000, on_loss=on_loss, snapshot_every=0.2))
    node = Node(executor._servers.addresses[0])
    (program,) = until(lambda: [one for one in node.ps() if one.saved is not None])
    until(lambda: written(executor, "a"))
    os.kill(program.worker, signal.SIGKILL)
    if on_loss == "restore":
        until(lambda: node.ps()[0].life == 2)
        stop(executor.folder / "a")
    result = executor.wait("a", 60)
    node.close()
    log = b"".join(one.data for one in executor.logs("a") if isinstance(one, LogFrame))
    assert log == numbers(len(log) // 8)
    if on_loss == "restore":
        assert result.error == "" and log
        out = executor.folder / "a" / "results" / "out"
        assert (out / "numbers").read_bytes() == log, "set back with the program"
    else:
        assert "SIGKILL" in result.error and executor.describe("a").state == "failed"


@pytest.mark.full
def test_a_time_out_is_about_the_time_without_pauses(
    executor: ServerExecutor, tmp_path: Path
) -> None:
    executor.start(until_stopped(tmp_path, "b", slow=1000, timeout=4))
    executor.pause("b")
    until(lambda: time.time() > executor.describe("b").began + 4)
    executor.start(until_stopped(tmp_path, "a", slow=1000, timeout=1.5))
    result = executor.wait("a", 60)
    assert result.timed_out and result.exit_code == 121 and "timed out" in result.error
    info = executor.describe("a")
    assert info.state == "failed" and info.ended is not None and info.ended - info.began >= 1.5
    assert executor.describe("b").state == "paused"
    executor.resume("b")
    assert executor.wait("b", 60).timed_out


@pytest.mark.full
def test_workers_that_are_lost_again_and_again(executor: ServerExecutor, tmp_path: Path) -> None:
    """After five losses without a new save point it has failed."""
    executor.start(until_stopped(tmp_path, "a", slow=1000, on_loss="restart"))
    seen: set[int] = set()
    with Node(executor._servers.addresses[0]) as node:
        for _ in range(6):
            (worker,) = until(lambda: {one.worker for one in node.ps() if one.worker} - seen)
            seen.add(worker)
            os.kill(worker, signal.SIGKILL)
    result = executor.wait("a", 60)
    assert "SIGKILL" in result.error and "6th time" in result.error
    assert executor.describe("a").losses == 6


@pytest.mark.full
def test_held_output_is_shown_when_a_save_point_has_it(
    executor: ServerExecutor, tmp_path: Path
) -> None:
    """A reader sees no line that a loss takes back."""
    executor.start(
        until_stopped(
            tmp_path, "a", slow=1000, on_loss="restore", output="commit", snapshot_every=0.2
        )
    )
    read: list[Any] = []
    reader = threading.Thread(target=lambda: read.extend(executor.logs("a", follow=True)))
    reader.start()
    with Node(executor._servers.addresses[0]) as node:
        until(lambda: len(read) > 2)
        (worker,) = [one.worker for one in node.ps() if one.saved is not None]
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        until(lambda: node.ps()[0].life == 2)
    count = len(read)
    until(lambda: len(read) > count)
    stop(executor.folder / "a")
    assert executor.wait("a", 60).error == ""
    reader.join(60)
    log = b"".join(one.data for one in read if isinstance(one, LogFrame))
    assert len(read) == sum(isinstance(one, LogFrame) for one in read)
    assert log == (executor.folder / "a" / "results" / "stdout").read_bytes()
    assert log == numbers(len(log) // 8)


def whole_log(executor: JobExecutor, id: str) -> bytes:
    return b"".join(one.data for one in executor.logs(id) if isinstance(one, LogFrame))


@pytest.mark.full
def test_it_is_saved_and_goes_on_elsewhere(executor: ServerExecutor, tmp_path: Path) -> None:
    """The copy has the log and the outputs up to then; the first one goes on too."""
    given = until_stopped(tmp_path, "a", slow=1000)
    executor.start(given)
    until(lambda: written(executor, "a") > 80)
    file = tmp_path / "saved"
    executor.snapshot("a", file)
    assert executor.describe("a").state == "running"
    executor.pause("a")
    executor.snapshot("a", tmp_path / "second")
    assert executor.describe("a").state == "paused"
    executor.resume("a")
    with ExecutionArchive(file) as archive:
        saved = archive.about.log
    assert saved > 80
    executor.restore(file, "b")
    request = {**given, "execution_id": "c"}
    with ServerExecutor(tmp_path / "other", Node, executor._servers.addresses) as second:
        second.restore(file, "c", request=request)
        until(lambda: (second.folder / "c" / "log" / "frames").stat().st_size > saved)
        second.leave()
    with ServerExecutor(tmp_path / "other", Node, executor._servers.addresses) as third:
        third.recover({**request, "execution_dir": str(tmp_path / "other" / "c")})
        stop(third.folder / "c")
        assert third.wait("c", 60).error == ""
        assert whole_log(third, "c") == numbers(len(whole_log(third, "c")) // 8)
    for id in ("a", "b"):
        stop(executor.folder / id)
        result = executor.wait(id, 60)
        assert (result.exit_code, result.error) == (0, "")
        log, results = whole_log(executor, id), executor.folder / id / "results"
        assert log == numbers(len(log) // 8)
        assert (results / "stdout").read_bytes() == log
        assert (results / "out" / "numbers").read_bytes() == log
    with pytest.raises(JobError) as caught:
        executor.snapshot("a", file)
    assert caught.value.code == "ExecutionAlreadyComplete"


@pytest.mark.full
def test_copies_of_an_execution(executor: ServerExecutor, tmp_path: Path) -> None:
    """Each fork calls `wasmsr_forked` first, which gives its lines its number."""
    text = FORKED.replace("{lines}", "1").replace("{slow}", "1000")
    executor.start(request(tmp_path, "a", text, outputs=[{"name": "out", "path": "/outputs"}]))
    until(lambda: written(executor, "a") > 80)
    executor.pause("a")
    assert executor.fork("a", 2) == ["a.1", "a.2"]
    size = written(executor, "a")  # a saved log is complete: what comes now is each one's own
    executor.resume("a")
    for id in ("a", "a.1", "a.2"):
        until(lambda id=id: written(executor, id) > size)  # type: ignore[misc]
        stop(executor.folder / id)
        assert executor.wait(id, 60).error == ""
        first = whole_log(executor, id).splitlines()[-1][:1]
        assert first == (id[2:] or "0").encode()


@pytest.mark.full
def test_saved_executions_that_lie(executor: ServerExecutor, tmp_path: Path) -> None:
    executor.start(until_stopped(tmp_path, "a", slow=1000))
    until(lambda: written(executor, "a") > 80)
    file = tmp_path / "saved"
    executor.snapshot("a", file)
    data = file.read_bytes()
    for number, wrong in enumerate([data[:2000], data[:-3000], b""]):
        file.write_bytes(wrong)
        with pytest.raises(JobError) as caught:
            executor.restore(file, f"b{number}", request=until_stopped(tmp_path, "a", slow=1000))
        assert caught.value.code == "SpecError"
        assert not [one for one in (executor.folder / f"b{number}").glob("*") if one.is_dir()]
    with Node(executor._servers.addresses[0]) as node:
        assert len(node.ps()) == 1


@pytest.mark.full
def test_it_goes_from_one_machine_to_servers_and_back(
    executor: ServerExecutor, tmp_path: Path
) -> None:
    """A saved execution goes on at either kind of executor, with its log and its outputs."""
    given = until_stopped(tmp_path, "a", slow=1000)
    first, second = tmp_path / "first", tmp_path / "second"
    with JobExecutor(tmp_path / "here") as here:
        here.start(given)
        until(lambda: written(here, "a") > 80)
        here.snapshot("a", first)
        executor.restore(first, "b", request=given)
        size = written(executor, "b")
        until(lambda: written(executor, "b") > size)
        executor.snapshot("b", second)
        here.restore(second, "c", request=given)
        size = written(here, "c")
        until(lambda: written(here, "c") > size)
        for runs, id in ((executor, "b"), (here, "c")):
            stop(runs.folder / id)
            assert runs.wait(id, 60).error == ""
            log, results = whole_log(runs, id), runs.folder / id / "results"
            assert log == numbers(len(log) // 8) == (results / "stdout").read_bytes()
            assert (results / "out" / "numbers").read_bytes() == log


@pytest.mark.full
def test_a_program_of_several_modules(executor: ServerExecutor, tmp_path: Path) -> None:
    """The node gets them all, and links them as this machine does."""
    for name, binary in (("steps", STEPS), ("main", linked_counter(50))):
        (tmp_path / f"{name}.wasm").write_bytes(binary)
    names = ("/steps.wasm", "/main.wasm")
    given = {
        "execution_id": "a",
        "engine": {"EntryModule": "/main.wasm", "ImportModules": ["/steps.wasm"]},
        "inputs": [{"source": f"{tmp_path}{one}", "target": one} for one in names],
    }
    result = executor.run(given)
    assert (result.exit_code, result.error) == (7, "")
    assert whole_log(executor, "a") == lines(0, 50)


@pytest.mark.full
def test_what_a_server_cannot_run(executor: ServerExecutor, tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        executor.start(
            counting(
                tmp_path, "a", lines=1, inputs=[{"source": str(tmp_path / "none"), "target": "/x"}]
            )
        )
    assert caught.value.code == "InputConfigError"
    with pytest.raises(JobError) as caught:
        executor.restore(tmp_path / "saved", "b")
    assert caught.value.code == "SpecError"


class Losing:
    """A node whose answer to `submit` is lost."""

    def __init__(self, address: str) -> None:
        self._node = Node(address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def submit(self, *values: Any, **named: Any) -> Any:
        self._node.submit(*values, **named)
        raise NodeAway("the connection was lost")


@pytest.mark.full
def test_places_of_an_execution_that_has_ended_are_given_back(
    executor: ServerExecutor, tmp_path: Path
) -> None:
    """Also the one that it had when its end was told."""
    given_back: list[str] = []

    class Place:
        def __init__(self, server: str) -> None:
            self.server = server

        def release(self) -> None:
            given_back.append(self.server)

    executor.run(counting(tmp_path, "a", lines=1))
    (execution,) = executor.ours()
    execution._place = Place("one")
    execution.take(Place("two"))
    assert given_back == ["one", "two"] and execution._place is None


@pytest.mark.full
def test_a_server_that_is_away_is_waited_for() -> None:
    """And nobody waits for ever: not for one that is not wanted, and not for one that never says
    where it is."""
    placement = object.__new__(RayPlacement)
    node = {"Alive": True, "NodeID": "1", "Labels": {}, "Resources": {"wasmsr@one:7443": 1}}
    placement._ray = SimpleNamespace(nodes=lambda: [node])
    placement._asking, placement._seconds = threading.BoundedSemaphore(1), 60.0
    placement._drained = frozenset()
    asked = ExecutionRequest.read({"execution_id": "a", "engine": {"EntryModule": "/m"}})
    away = lambda: frozenset({"one:7443"})  # noqa: E731
    with pytest.raises(Unwanted):
        placement.reserve(asked, but=away, wanted=lambda: False)
    placement._seconds = 0.0
    with pytest.raises(JobError, match="no server has room") as late:
        placement.reserve(asked, but=away)
    assert late.value.retryable
    placement._drained = frozenset({"one:7443"})
    with pytest.raises(JobError, match="no server matches"):
        placement.reserve(asked)


@pytest.mark.full
def test_the_end_waits_for_what_is_being_started(
    executor: ServerExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go = threading.Event(), threading.Event()
    begin = ServerExecution.begin

    def slowly(self: ServerExecution, *values: Any) -> None:
        begun.set()
        assert may_go.wait(60)
        begin(self, *values)

    monkeypatch.setattr(ServerExecution, "begin", slowly)
    given = until_stopped(tmp_path, "a", slow=1000)
    starting = threading.Thread(target=executor.start, args=(given,))
    starting.start()
    assert begun.wait(60)
    ending = threading.Thread(target=executor.leave)
    ending.start()
    until(lambda: executor._left)
    may_go.set()
    ending.join(60)
    starting.join(60)
    with pytest.raises(ExecutorLeft):
        executor.wait("a", 60)


@pytest.mark.full
def test_it_moves_while_it_runs(tmp_path: Path) -> None:
    """Each line is in the log once, and in the output folder too."""
    world, servers, sockets = World(), [], {}
    for name in "ab":
        supervisor = world.node(f"{name}:1", tmp_path / name)
        sockets[f"{name}:1"] = f"unix:{tmp_path}/{name}.control"
        servers.append(
            ControlServer(supervisor, sockets[f"{name}:1"], "0", lambda *caller: "tester")
        )
    try:
        with ServerExecutor(
            tmp_path / "shared", lambda address: Node(sockets[address]), list(sockets)
        ) as executor:
            executor.start(until_stopped(tmp_path, "m", slow=1000))
            for there in ("b:1", "a:1", "b:1"):
                before = written(executor, "m")
                until(lambda before=before: written(executor, "m") > before + 400)
                executor.migrate("m", there)
                until(lambda there=there: executor.server("m") == there)
            before = written(executor, "m")
            until(lambda: written(executor, "m") > before + 400)
            stop(executor.folder / "m")
            assert executor.wait("m", 60).error == ""
            log = b"".join(one.data for one in executor.logs("m") if isinstance(one, LogFrame))
            results = executor.folder / "m" / "results"
            assert log == numbers(len(log) // 8) == (results / "stdout").read_bytes()
            assert (results / "out" / "numbers").read_bytes() == log
            with pytest.raises(JobError):
                executor.migrate("m", "a:1")
    finally:
        for server in servers:
            server.stop(0)
        for supervisor in world.nodes.values():
            supervisor.stop(save=False, seconds=5)


@pytest.mark.full
def test_another_server_takes_over(tmp_path: Path) -> None:
    """A lost node comes back later; until then it may be the only one that has some lines."""
    world, servers, sockets = Leasing(tmp_path), {}, {}

    def serve(name: str) -> None:
        sockets[f"{name}:1"] = f"unix:{tmp_path}/{name}.control"
        servers[name] = ControlServer(
            world.leasing(name), sockets[f"{name}:1"], "0", lambda *caller: "tester"
        )

    for name in "ab":
        serve(name)
    lease = {"seconds": 1.0, "failover": [world.nodes["b:1"].node.hex()]}
    text = COUNTER.replace("{lines}", "3000").replace("{slow}", "1000000")
    try:
        with ServerExecutor(
            tmp_path / "shared", lambda at: Node(sockets[at]), list(sockets), lease=lease
        ) as executor:
            outputs = [{"name": "out", "path": "/outputs"}]
            more: dict[str, Any] = {"snapshot_every": 0.3, "on_loss": "restore"}
            executor.start(request(tmp_path, "a", text, outputs=outputs, **more))
            (program,) = [one.record.program for one in world.nodes["a:1"].programs()]
            checkpointed(world, program)
            servers.pop("a").stop(0)
            world.lose("a:1")
            until(lambda: world.standing("b", program) in ("running", "ended"))
            serve("a")
            result = executor.wait("a", 120)
            assert (result.exit_code, result.error) == (0, "")
            log = b"".join(one.data for one in executor.logs("a") if isinstance(one, LogFrame))
            assert log == numbers(3000)
            out = executor.folder / "a" / "results" / "out"
            assert (out / "numbers").read_bytes() == numbers(3000), "those of the last owner"
            assert world.record(program).epoch == 2
    finally:
        for server in servers.values():
            server.stop(0)
        for supervisor in world.nodes.values():
            supervisor.stop(save=False, seconds=5)


def test_a_copied_log_goes_back(tmp_path: Path) -> None:
    """What came after the cut of one stream goes too, and is asked for again."""
    log = CopiedLog(tmp_path / "log", {"stdout": 1 << 20, "stderr": 1 << 20})
    for stream, data in (("stdout", b"one"), ("stderr", b"bad"), ("stdout", b"two")):
        log.write(stream, data)
    log.write("stderr", b"worse")
    log.rewind("stdout", 3)
    assert log.sizes == {"stdout": 3, "stderr": 3}
    log.write("stderr", b"!")
    log.close()
    again = CopiedLog(tmp_path / "log", {"stdout": 1 << 20, "stderr": 1 << 20})
    assert again.sizes == {"stdout": 3, "stderr": 4}
    again.close()
    assert (tmp_path / "log" / "stdout").read_bytes() == b"one"
    assert (tmp_path / "log" / "stderr").read_bytes() == b"bad!"
    assert [(one.stream, one.data) for one in read_log(tmp_path / "log")] == [  # type: ignore[union-attr]
        (1, b"one"),
        (2, b"bad"),
        (2, b"!"),
    ]


@pytest.mark.parametrize(
    ("file", "left"), [("frames", 4), ("frames", 8), ("frames", 10), ("stdout", 2), ("stdout", 0)]
)
@pytest.mark.full
def test_a_copy_that_a_killed_process_left(tmp_path: Path, file: str, left: int) -> None:
    """A frame that is half there is copied again, and so is one that its stream's file lacks."""
    folder, limits = tmp_path / "log", {"stdout": 1 << 20, "stderr": 1 << 20}
    log = CopiedLog(folder, limits)
    log.write("stderr", b"first")
    before = os.path.getsize(folder / FRAMES_FILE)
    log.write("stdout", b"second")
    log.close()
    path, kept = (folder / FRAMES_FILE, before) if file == "frames" else (folder / "stdout", 0)
    os.truncate(path, kept + left)
    again = CopiedLog(folder, limits)
    assert again.sizes == {"stdout": 0, "stderr": 5}
    again.write("stdout", b"second")
    again.close()
    assert (folder / "stdout").read_bytes() == b"second"
    found = [one.data for one in read_log(folder) if isinstance(one, LogFrame)]
    assert found == [b"first", b"second"]
