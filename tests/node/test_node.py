"""A node: its verbs over gRPC, its programs, and what it says of them after each kind of loss."""

from __future__ import annotations

import hashlib
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.programs import COUNTER, numbers
from tests.node import programs
from tests.node.programs import counting, lines
from wasmsr import Node, errors
from wasmsr.executor.old_workers import living
from wasmsr.interp.modules.module import assemble
from wasmsr.node import kept_snapshots
from wasmsr.node.failures import (
    NodeAway,
    NodeBusy,
    NoSuchProgram,
    SubmissionRefused,
    WrongState,
)
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.rpc.control import control_messages as messages
from wasmsr.rpc.control import control_server
from wasmsr.rpc.control.control_server import ControlServer
from wasmsr.rpc.control.program_info import ProgramInfo
from wasmsr.snapshot.memory.parts import cores

SLOW = 10
"""Milliseconds after each line: a hundred lines a second at most."""


class Here:
    """A node in this process, whose supervisor can be lost and started again."""

    def __init__(self, folder: Path, **rules: Any) -> None:
        self.folder, self.rules = folder, rules
        self.address = f"unix:{folder}/control"
        self.begin()

    def begin(self) -> None:
        self.supervisor = NodeSupervisor(self.folder / "state", NodeRules(**self.rules))
        admit = self.rules.get("caller", lambda peer, certificate, token: "tester")
        self.server = ControlServer(self.supervisor, self.address, "0", admit)
        self.node = Node(self.address)

    def lose(self) -> None:
        """End as a killed supervisor does: sockets and locks are closed, and nothing is said."""
        self.node.close()
        self.server.stop(0)
        for program in self.supervisor.programs():
            program._closing = True
            if program._executor is not None:
                program._executor._end.shutdown(2)
        self.supervisor.close()

    def end(self) -> None:
        self.node.close()
        self.server.stop(0)
        self.supervisor.stop(save=False, seconds=5)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    made.end()
    for folder in (tmp_path / "state" / "programs").iterdir():
        assert not living(folder / "worker"), "a worker outlives its node"


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def output(node: Node, program: ProgramInfo, **more: Any) -> bytes:
    """Return standard output as a reader has it in the end."""
    data = b""
    for piece in node.logs(program.program, ["stdout"], **more):
        assert piece.offset == len(data) or piece.rewound
        data = data[: piece.offset] + piece.data
    return data


def size(node: Node, program: ProgramInfo) -> int:
    return len(output(node, program))


# ---- verbs ---------------------------------------------------------------------------------------


def test_a_program_runs_to_its_end(here: Here) -> None:
    node = here.node
    program = node.submit(counting(100), {"args": ["x"]}, name="count")
    assert (program.standing, program.name, program.submitter) == ("running", "count", "tester")
    assert output(node, program, follow=True) == lines(0, 100)
    ended = node.wait(program.program, 20)
    assert (ended.standing, ended.ending, ended.code) == ("ended", "exited", 7)
    assert ended.worker is None and ended.memory is None
    assert [one.program for one in node.ps()] == [program.program]
    info = node.info()
    assert info["programs"] == {"ended": 1} and info["cpus"] == cores()
    assert output(node, program) == lines(0, 100), "the output stays"
    until(lambda: not living(here.folder / "state" / "programs" / program.program / "worker"))
    with pytest.raises(WrongState, match=r"is ended .*cannot be killed|is ended and cannot"):
        node.kill(program.program)


def test_pause_resume_checkpoint_inspect_kill(here: Here) -> None:
    node = here.node
    program = node.submit(counting(10**7, SLOW))
    id = program.program[:8]
    until(lambda: size(node, program) > 0)
    assert node.pause(id).standing == "paused"
    before = size(node, program)
    time.sleep(0.1)
    assert size(node, program) == before
    shown = node.inspect(id)
    assert shown.standing == "paused" and shown.details is not None
    assert shown.details["depth"] >= 1 and shown.details["frames"][0]["offset"] > 0
    assert shown.details["stats"]["memory"] == 65536
    saved = node.checkpoint(id).saved
    assert saved is not None and saved["number"] == 1 and saved["stdout"] == before
    assert node.resume(id).standing == "running"
    until(lambda: size(node, program) > before)
    assert node.inspect(id).standing == "running"
    assert node.kill(id).standing == "killed"
    with pytest.raises(WrongState):
        node.resume(id)


@pytest.mark.full
def test_carried_files_are_there_when_the_program_has_ended(here: Here, tmp_path: Path) -> None:
    """Also if the node is started again; a program that runs on may still change them."""
    (tmp_path / "root").mkdir()
    spec = {"mounts": [f"{tmp_path}/root::/::ro", "::/outputs::carry"]}

    def counter(count: int) -> ProgramInfo:
        text = COUNTER.replace("{lines}", str(count)).replace("{slow}", "1000")
        return here.node.submit(assemble(text.encode()), spec)

    def numbered(program: ProgramInfo) -> bytes:
        size = here.node.carried(program.program, "/outputs", tmp_path / "files.tar")
        assert size == (tmp_path / "files.tar").stat().st_size
        with tarfile.open(tmp_path / "files.tar") as tape:
            assert tape.getnames() == ["numbers"]
            found = tape.extractfile("numbers")
            assert found is not None
            return found.read()

    ended, killed = counter(50), counter(10**7)
    here.node.wait(ended.program, 20)
    until(lambda: size(here.node, killed) > 80)
    with pytest.raises(WrongState, match="is running and cannot be asked for its files"):
        here.node.carried(killed.program, "/outputs", tmp_path / "files.tar")
    assert not (tmp_path / "files.tar").exists()
    here.node.kill(killed.program)
    data = numbered(killed)
    assert len(data) >= 80 and data == numbers(len(data) // 8)
    here.lose()
    here.begin()
    assert numbered(ended) == numbers(50)
    with pytest.raises(SubmissionRefused, match="keeps at /other") as caught:
        here.node.carried(ended.program, "/other", tmp_path / "files.tar")
    assert caught.value.hint == "it has: /outputs"
    here.node.drop_carried(ended.program, "/outputs")
    with pytest.raises(WrongState, match="not on this node any more"):
        here.node.carried(ended.program, "/outputs", tmp_path / "files.tar")
    assert numbered(killed) == data


@pytest.mark.full
def test_a_node_that_sends_as_many_files_as_it_may_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "SENDERS", 1)
    here = Here(tmp_path)
    try:
        program = here.node.submit(counting(10**7, SLOW))
        executor = here.supervisor.find(program.program)._executor
        assert executor is not None
        saving, go_on, write = threading.Event(), threading.Event(), executor.snapshot

        def slowly(*values: Any) -> int:
            saving.set()
            assert go_on.wait(60)
            return write(*values)

        monkeypatch.setattr(executor, "snapshot", slowly)
        files = [tmp_path / "one", tmp_path / "two"]
        threads = [
            threading.Thread(target=here.node.snapshot, args=(program.program, one))
            for one in files
        ]
        threads[0].start()
        assert saving.wait(60)
        with Node(here.address, seconds=0.2) as hasty, pytest.raises(NodeBusy, match="too many"):
            hasty.snapshot(program.program, tmp_path / "three")
        assert here.node.ps()[0].standing == "running", "questions have places of their own"
        threads[1].start()
        go_on.set()
        for one in threads:
            one.join(60)
        assert all(one.stat().st_size for one in files) and not (tmp_path / "three").exists()
    finally:
        go_on.set()
        here.end()


@pytest.mark.full
def test_snapshots_in_which_programs_go_on_do_not_stay(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is as large as a program. That of a fork stays, as long as the node shows the fork."""
    monkeypatch.setattr(kept_snapshots, "UNUSED", 1)
    (tmp_path / "module.wasm").write_bytes(counting(10**7, SLOW))
    first = here.node.submit(tmp_path / "module.wasm")
    digests = []
    for number in range(3):
        file = tmp_path / f"saved-{number}"
        until(lambda: size(here.node, first) > 9 * number)  # noqa: B023
        here.node.snapshot(first.program, file)
        digests.append(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(set(digests)) == 3
    here.node.submit(tmp_path / "module.wasm", from_snapshot=tmp_path / "saved-0")
    for number in (1, 2):
        file = tmp_path / f"saved-{number}"
        here.node.submit(tmp_path / "module.wasm", from_snapshot=file, goes_on=True)
    left = {one.stem for one in (here.folder / "state" / "snapshots").iterdir()}
    assert left == {digests[0], digests[2]}
    known = here.node.ps()[0].module
    here.node.submit_known(known, snapshot=digests[2], goes_on=True)
    with pytest.raises(SubmissionRefused, match="the node has no snapshot"):
        here.node.submit_known(known, snapshot=digests[1], goes_on=True)


def test_results_of_an_export_are_output(here: Here) -> None:
    fib = Path(__file__).parents[2] / "examples" / "snapshot" / "fib.wasm"
    program = here.node.submit(fib, {"invoke": "fib", "args": ["20"]})
    assert program.name == "fib.wasm"
    assert here.node.wait(program.program, 20).ending == "finished"
    assert output(here.node, program) == b"6765\n"


def test_a_damaged_record_is_a_lost_program_that_stays(here: Here) -> None:
    program = here.node.submit(counting(9, SLOW)).program
    here.node.kill(program)
    here.lose()
    folder = here.folder / "state" / "programs" / program
    record = folder / "record"
    record.write_bytes(record.read_bytes()[:-20] + b"x" * 20)
    here.begin()
    (shown,) = here.node.ps()
    assert (shown.program, shown.standing) == (program, "lost") and "is damaged" in shown.reason
    assert list((here.folder / "state" / "modules").glob("*.wasm")) and record.exists()
    for act in (here.node.resume, here.node.checkpoint, here.node.kill):
        with pytest.raises(WrongState, match="is lost"):
            act(program)


def test_programs_by_name(here: Here) -> None:
    node = here.node
    first = node.submit(counting(9, SLOW), name="ledger").program
    assert node.pause("ledger").program == first == node.kill(first[:6]).program
    node.kill(node.submit(counting(9, SLOW), name="ledger").program)
    with pytest.raises(NoSuchProgram, match="several programs have the name"):
        node.pause("ledger")
    with pytest.raises(NoSuchProgram, match="there is no program"):
        node.pause("ledge")


def test_refusals(here: Here) -> None:
    node = here.node
    with pytest.raises(NoSuchProgram):
        node.pause("abc")
    with pytest.raises(errors.InvalidError):
        node.submit(b"\0asm\1\0\0\0" + bytes.fromhex("0105016000017f030201000a040102000b"))
    with pytest.raises(errors.MalformedError):
        node.submit(b"no module")
    for wrong in (
        {"streams": {"stdout": "/etc/passwd"}}, {"from_snapshot": "/etc/passwd"},
        {"inherit_env": True}, {"snapshots": {"file": "x"}}, {"limits": {"timeout": 1}},
        {"decrypt_with": "env:HOME"}, {"program": "/etc/passwd"},
    ):  # fmt: skip
        with pytest.raises(SubmissionRefused, match="cannot have"):
            node.submit(counting(1), wrong)
    with pytest.raises(SubmissionRefused, match="absolute"):
        node.submit(counting(1), {"mounts": ["data::/data"]})
    with pytest.raises(errors.WasmsrError, match="args"):
        node.submit(counting(1), {"args": 5})
    with pytest.raises(errors.WasmsrError, match="exports no function"):
        node.submit(counting(1), {"invoke": "nothing"})
    with pytest.raises(NodeAway, match="cannot be reached"):
        Node(f"unix:{here.folder}/nobody").ps()
    assert node.ps() == []


def test_logs_say_what_was_dropped(tmp_path: Path) -> None:
    here = Here(tmp_path, ring=4096)
    try:
        program = here.node.submit(counting(2000))
        here.node.wait(program.program, 30)
        (first, *rest) = here.node.logs(program.program, ["stdout"])
        assert first.dropped == first.offset > 0
        data = first.data + b"".join(piece.data for piece in rest)
        assert data == lines(0, 2000)[first.offset :]
    finally:
        here.end()


def test_health_and_reflection(here: Here) -> None:
    import grpc

    def ask(service: str, method: str, *requests: Any) -> list[Any]:
        kind = messages.methods(service)[method]
        with grpc.insecure_channel(here.address) as channel:
            call = channel.stream_stream(
                f"/{service}/{method}",
                request_serializer=kind.request.SerializeToString,
                response_deserializer=kind.reply.FromString,
            )
            return list(call(iter(requests), timeout=10))

    request = messages.methods(messages.HEALTH)["Check"].request
    (health,) = ask(messages.HEALTH, "Check", request(service=messages.CONTROL))
    assert health.status == messages.HealthResponse.SERVING
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        ask(messages.HEALTH, "Check", request(service="other"))
    question = messages.methods(messages.REFLECTION)["ServerReflectionInfo"].request
    found = ask(
        messages.REFLECTION, "ServerReflectionInfo",
        question(list_services=""), question(file_containing_symbol=messages.CONTROL),
        question(file_by_filename="none"),
    )  # fmt: skip
    names = {one.name for one in found[0].list_services_response.service}
    assert names == {messages.CONTROL, messages.HEALTH, messages.REFLECTION}
    assert b"SubmitBegin" in found[1].file_descriptor_response.file_descriptor_proto[0]
    assert found[2].error_response.error_code == 5


# ---- losses --------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_lost_worker_is_named_and_resumed(here: Here, name: str) -> None:
    """Readers hear that output comes again; together they have each line once."""
    node = here.node
    program, other = node.submit(counting(300, SLOW)), node.submit(counting(10**7, SLOW))
    until(lambda: size(node, program) > 90)
    saved = node.checkpoint(program.program).saved
    assert saved is not None
    until(lambda: size(node, program) > saved["stdout"] + 45)
    reader = node.logs(program.program, ["stdout"], follow=True)
    data = b""
    while len(data) <= saved["stdout"]:
        piece = next(reader)
        data = data[: piece.offset] + piece.data
    worker = node.inspect(program.program).worker
    assert worker is not None
    os.kill(worker, getattr(signal, name))
    lost = node.wait(program.program, 20)
    assert lost.standing == "resumable" and f"ended by {name}" in lost.reason
    assert lost.worker is None and lost.saved == saved
    resumed = node.resume(program.program)
    assert (resumed.standing, resumed.life) == ("running", 2)
    rewound = []
    for piece in reader:
        rewound += [piece.offset] * piece.rewound
        data = data[: piece.offset] + piece.data
    assert rewound == [saved["stdout"]] and data == lines(0, 300)
    assert node.wait(program.program, 20).code == 7
    os.kill(node.inspect(other.program).worker or 0, signal.SIGKILL)
    assert node.wait(other.program, 20).standing == "lost", "it has no save point"


def test_a_supervisor_that_is_started_again_adopts(here: Here) -> None:
    node = here.node
    running, paused = (node.submit(counting(10**7, SLOW)) for _ in range(2))
    done = node.submit(counting(3))
    node.wait(done.program, 20)
    node.pause(paused.program)
    until(lambda: size(node, running) > 45)
    here.lose()
    time.sleep(0.2)
    here.begin()
    node = here.node
    found = {one.program: one for one in node.ps()}
    assert found[running.program].standing == "running"
    assert found[running.program].reason == "adopted"
    assert found[running.program].worker == running.worker
    assert found[paused.program].standing == "paused"
    assert (found[done.program].standing, found[done.program].code) == ("ended", 7)
    before = size(node, running)
    until(lambda: size(node, running) > before + 45)
    node.pause(running.program)
    text = output(node, running)
    assert text == lines(0, len(text) // 9), "no line is lost or twice"
    node.resume(paused.program)
    until(lambda: size(node, paused) > 0)


@pytest.mark.full
def test_a_supervisor_that_comes_late_resumes(tmp_path: Path) -> None:
    """Workers without a supervisor save their programs, or how these have ended."""
    here = Here(tmp_path, adopt=0.2)
    try:
        running = here.node.submit(counting(300, SLOW))
        killed = here.node.submit(counting(10**7, SLOW))
        saved = here.node.submit(counting(10**7, SLOW))
        until(lambda: size(here.node, running) > 90)
        here.node.checkpoint(saved.program)
        here.lose()
        for one in (killed, saved):
            os.kill(one.worker or 0, signal.SIGKILL)
        until(lambda: not living(here.folder / "state/programs" / running.program / "worker"))
        here.begin()
        node = here.node
        found = {one.program: one for one in node.ps()}
        assert found[running.program].standing == "resumable"
        assert (found[running.program].saved or {})["number"] == 0
        assert found[killed.program].standing == "lost"
        assert found[saved.program].standing == "resumable"
        assert (found[saved.program].saved or {})["number"] == 1
        node.resume(running.program)
        assert output(node, running, follow=True) == lines(0, 300)
        node.resume(saved.program)
        assert node.inspect(saved.program).life == 2
    finally:
        here.end()


def test_a_stop_saves_what_runs(here: Here) -> None:
    node = here.node
    program = node.submit(counting(300, SLOW))
    until(lambda: size(node, program) > 45)
    node.close()
    here.server.stop(0)
    assert here.supervisor.stop(save=True, seconds=20) == []
    here.begin()
    (found,) = here.node.ps()
    assert found.standing == "resumable" and found.reason == "its node has ended"
    assert found.saved is not None and found.saved["stdout"] == size(here.node, found)
    here.node.resume(found.program)
    assert output(here.node, found, follow=True) == lines(0, 300)


def test_checkpoints_are_written_in_time(here: Here) -> None:
    program = here.node.submit(counting(10**7, SLOW), every=0.2)
    until(lambda: ((here.node.ps()[0].saved or {}).get("number", 0)) >= 3)
    assert program.every == 0.2


def test_a_hostile_program_ends_alone(here: Here) -> None:
    """It dies of its own, and the others run on."""
    node = here.node
    other = node.submit(counting(10**7, SLOW))
    fill = node.submit(assemble(programs.FILL.encode()))
    ended = node.wait(fill.program, 60)
    assert ended.standing in ("ended", "lost"), ended
    assert ended.reason
    before = size(node, other)
    until(lambda: size(node, other) > before)


def number_in(output: bytes) -> int:
    """Return the number of the last whole line, or -1."""
    return len(output.split(b"\n")) - 2


@pytest.mark.full
def test_the_list_does_not_wait_for_a_program_that_is_being_saved(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write a large memory takes minutes; others, and who watches them, are asked meanwhile."""
    program = here.node.submit(counting(10**7, SLOW))
    executor = here.supervisor.find(program.program)._executor
    assert executor is not None
    saving, go_on, write = threading.Event(), threading.Event(), executor.snapshot

    def slowly(*values: Any) -> int:
        saving.set()
        assert go_on.wait(60)
        return write(*values)

    monkeypatch.setattr(executor, "snapshot", slowly)
    file = tmp_path / "saved"
    thread = threading.Thread(target=here.node.snapshot, args=(program.program, file))
    thread.start()
    try:
        assert saving.wait(60)
        with Node(here.address, seconds=20) as other:
            assert [one.standing for one in other.ps()] == ["running"]
    finally:
        go_on.set()
        thread.join(60)
    assert file.stat().st_size > 0


@pytest.mark.full
def test_a_program_for_which_nobody_waits_is_not_started(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller may have another node run it: on a slow machine it ran on both."""
    supervisor = here.supervisor
    loading, go_on, over = threading.Event(), threading.Event(), threading.Event()
    load, submit = supervisor._parents.load, supervisor.submit

    def slowly(*values: Any) -> None:
        loading.set()
        assert go_on.wait(60)
        load(*values)

    def submitted(*values: Any, **named: Any) -> str:
        try:
            return submit(*values, **named)
        finally:
            over.set()

    monkeypatch.setattr(supervisor._parents, "load", slowly)
    monkeypatch.setattr(supervisor, "submit", submitted)
    with Node(here.address, seconds=2) as hasty:
        with pytest.raises(NodeAway):
            hasty.submit(counting(10**7, SLOW))
        assert loading.is_set() and not over.is_set()
    assert here.node.ps() == []
    go_on.set()
    assert over.wait(60)
    assert here.node.ps() == []
    monkeypatch.setattr(supervisor._parents, "load", load)
    assert here.node.submit(counting(10**7, SLOW)).standing == "running"


def test_a_large_submission_has_the_time_of_a_slow_line(tmp_path: Path) -> None:
    """It was given up after 60 s, however much there was to send."""
    asked: list[float | None] = []

    class Waiting(Node):
        def _stream(self, name: str, requests: Any, seconds: float | None) -> Iterator[Any]:
            asked.append(seconds)
            return iter(())

    with Waiting("unix:nobody") as node:
        for size in (0, 1 << 24):
            with pytest.raises(NodeAway):
                node.submit(bytes(size), name="x")
        with pytest.raises(NodeAway):
            node.ps()
    assert asked == [60.0, 60.0 + 1024, 60.0]


@pytest.mark.full
def test_a_program_goes_on_from_its_snapshot_elsewhere(here: Here, tmp_path: Path) -> None:
    """The snapshot is taken while it runs; each copy goes on where it was."""
    node = here.node
    module = counting(500, SLOW)
    program = node.submit(module, {"args": ["x"]}, name="count")
    until(lambda: len(output(node, program)) > 0)
    file = tmp_path / "saved.wsp"
    saved = node.snapshot(program.program, file)
    assert saved.size == file.stat().st_size and saved.stderr == 0
    before = output(node, program)[: saved.stdout]
    with open(tmp_path / "two", "w+b") as opened:
        opened.write(b"before")
        paused = node.pause(program.program)
        again = node.snapshot(program.program, opened)
        assert opened.tell() == 6 + again.size and node.ps()[0].standing == paused.standing
    copies = [node.submit(module, from_snapshot=file, goes_on=True, name=one) for one in "ab"]
    for one in copies:
        assert node.wait(one.program, 60).code == 7
        assert before + output(node, one) == lines(0, 500)
    node.resume(program.program)
    assert node.wait(program.program, 60).code == 7 and output(node, program) == lines(0, 500)
    with pytest.raises(WrongState):
        node.snapshot(program.program, tmp_path / "none")
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["saved.wsp", "two"]
    with pytest.raises(SubmissionRefused, match="none is named"):
        node.submit(module, goes_on=True)
    bad = tmp_path / "bad"
    bad.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(errors.SnapshotError):
        node.submit(module, from_snapshot=bad, goes_on=True)
    with pytest.raises(errors.WasmsrError):
        node.submit(counting(3), from_snapshot=file, goes_on=True)
    assert all(one.standing == "ended" for one in node.ps())
