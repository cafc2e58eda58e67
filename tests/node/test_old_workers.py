"""A worker of an earlier version, which outlives its supervisor: it sends its files in the rest."""

from __future__ import annotations

import os
import socket
import threading
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.test_files_in_rounds import LARGE, LIMIT, TEXT, check, grown, hosting
from wasmsr import Module
from wasmsr.errors import WasmsrError
from wasmsr.executor.messages import send
from wasmsr.executor.port import ExecutorError
from wasmsr.executor.process import ProcessExecutor
from wasmsr.executor.worker import _answer
from wasmsr.node.moving.conversation import Answering
from wasmsr.node.moving.worker_program import WorkerProgram
from wasmsr.node.supervision.node_folder import ProgramFolder
from wasmsr.node.supervision.program_record import ProgramRecord
from wasmsr.node.workers.moving_executor import MovingExecutor, _Departing

PROGRAM = b"p" * 16


class OldAnswering(Answering):
    """The worker's side as it was: it says how many pages are left, and nothing of files."""

    def stays(self, pages: int, files: int = 0) -> bool:
        def pages_only(end: socket.socket, message: Any) -> None:
            send(end, [message[0], message[1][0]] if message[0] == "stays" else message)

        patched = pytest.MonkeyPatch()
        patched.setattr("wasmsr.node.moving.conversation.send", pages_only)
        try:
            return super().stays(pages, files)
        finally:
            patched.undo()


class OldDeparting(_Departing):
    """A program that leaves, before there were `called` and `files`."""

    def __init__(self, leaving: Any, end: int) -> None:
        super().__init__(leaving, end)
        names = ("begin", "early", "round", "sample", "batches", "rest", "slow")
        self._answering = OldAnswering(self._socket, {name: getattr(self, name) for name in names})

    def begin(self) -> list[Any]:
        return super().begin()[:3]


class OldExecutor(MovingExecutor):
    """The executor of an earlier version: `leave` has no `files`."""

    asked = 0

    def leave(  # type: ignore[override]
        self, program: bytes, end: int, held: Sequence[bytes] = ()
    ) -> None:
        self.asked += 1
        leaving = self._hosted(program).leave(frozenset(held))
        departing = OldDeparting(leaving, os.dup(end))
        threading.Thread(target=departing.serve, daemon=True).start()


class FailingExecutor(MovingExecutor):
    """One of this version, whose program cannot leave."""

    asked = 0

    def leave(self, program: bytes, end: int, held: Sequence[bytes] = (), files: int = 0) -> None:
        self.asked += 1
        raise ExecutorError("as the test wants it")


class Worker:
    """A worker in this process, and its supervisor's view of a program that writes files."""

    def __init__(self, kind: type[OldExecutor] | type[FailingExecutor], folder: Path) -> None:
        self.module = Module.from_text(TEXT)
        place = folder / "node" / "programs" / PROGRAM.hex()
        place.mkdir(parents=True)
        (folder / "here" / "data").mkdir(parents=True)
        (folder / "here" / "data" / "large").write_bytes(LARGE)
        own = ProgramFolder(place)
        own.output.mkdir()
        path = folder / "module.wasm"
        path.write_bytes(self.module.binary)
        self.executor = kind(
            carried=folder / "carried", module=self.module, rings=(own.output, 1 << 16)
        )
        ours, theirs = socket.socketpair()
        serving = threading.Thread(target=_answer, args=(self.executor, theirs), daemon=True)
        serving.start()
        self.remote = ProcessExecutor(end=ours)
        spec = {"program": str(path), "mounts": [f"{folder / 'here' / 'data'}::data::carry"]}
        self.remote.start(spec, program=PROGRAM)
        record = ProgramRecord(PROGRAM.hex(), "it", self.module.digest.hex(), spec, 0.0)
        self.program = WorkerProgram(self.remote, record, own, path, lambda: None)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(OldExecutor, tmp_path)
    yield made
    made.program.pause(30)
    made.remote.close()


def test_an_old_worker_sends_its_files_in_the_rest(old: Worker, tmp_path: Path) -> None:
    grown(tmp_path / "here", 20)
    leaving = old.program.leave(files=LIMIT)
    assert isinstance(old.executor, OldExecutor) and old.executor.asked == 1
    assert not leaving.files_size and not list(leaving.called())
    there = hosting(tmp_path / "there")
    arrival = there.arrival()
    for last in (False, True):
        said: list[int] = []

        def stays(pages: int, files: int = -1, last: bool = last, said: list[int] = said) -> bool:
            said.append(files)
            return last

        assert leaving.round(stays, 30) == last
        assert said == [-1], "an old worker says nothing of files"
        arrival.resize(leaving.sizes)
        for batch in leaving.batches():
            arrival.pages(batch.memory, batch.runs, batch.data, batch.zeros or array("Q"))
        assert not list(leaving.files())
    size = 0
    for part in leaving.rest():
        assert isinstance(part, bytes)
        size += len(part)
        arrival.feed(part)
    assert size > len(LARGE)
    assert arrival.finish() == leaving.digest
    moved = arrival.restore(PROGRAM, {old.module.digest: old.module.binary})
    leaving.close()
    moved.start()
    grown(tmp_path / "there", 5)
    assert moved.pause(30)
    assert check(tmp_path / "there") > check(tmp_path / "here")
    moved.close()


def test_another_reason_is_told_once(tmp_path: Path) -> None:
    """Only a worker that does not know files is asked again: it has begun nothing."""
    made = Worker(FailingExecutor, tmp_path)
    with pytest.raises(WasmsrError, match="as the test wants it"):
        made.program.leave(files=LIMIT)
    assert isinstance(made.executor, FailingExecutor) and made.executor.asked == 1
    made.program.pause(30)
    made.remote.close()
