"""The gate suffices to record a run of a WASI program and to replay it without the host.

The recorder is part of the tests. It notes results, written memory and endings of the calls of one
run. The replay answers every call from these notes: its WASI has no files, another clock and other
arguments, and it must end in the same memory, after the same instructions.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.wasi.test_programs import PROGRAMS, Program, name_of
from wasmsr import Module, Mount, Store, Wasi
from wasmsr.errors import Exit
from wasmsr.interp.gate import HostCall, HostGate
from wasmsr.interp.outcomes import Exited, Outcome, Paused
from wasmsr.interp.store.externs import Retry

FUEL = 1 << 40


@dataclass
class Note:
    """One call: what it was asked, what it answered, what it wrote, how it ended otherwise."""

    name: str
    arguments: tuple[int, ...]
    results: tuple[int, ...] = ()
    written: list[tuple[int, bytes]] = field(default_factory=list)
    ending: BaseException | None = None


class Recorder(HostGate):
    """Performs the calls and takes notes."""

    def __init__(self) -> None:
        self.notes: list[Note] = []

    def host_call(self, call: HostCall) -> None:
        note = Note(call.name, call.arguments)
        self.notes.append(note)
        try:
            call.perform()
        except (Exit, Retry) as error:
            note.ending = error
            raise
        finally:
            if note.ending is None:
                note.results = call.results()
            spans = call.written(succeeded=note.results == (0,))
            assert spans is not None, f"{call.name} does not declare what it writes"
            memory = call.caller.memory
            note.written = [(at, bytes(memory[at : at + size])) for at, size in spans]


class Replay(HostGate):
    """Answers the calls from notes, in their order."""

    def __init__(self, notes: list[Note]) -> None:
        self.notes = iter(notes)

    def host_call(self, call: HostCall) -> None:
        note = next(self.notes)
        assert (call.name, call.arguments) == (note.name, note.arguments), "another run"
        memory = call.caller.memory
        for at, data in note.written:
            memory[at : at + len(data)] = data
        if note.ending is not None:
            raise note.ending
        call.answer(note.results)


def run(program: Path, gate: HostGate, wasi: Wasi) -> tuple[list[Outcome], int, bytes]:
    """The outcomes of a run (again after each pause), its instructions, a digest of the memory."""
    with wasi, Store(deterministic=True) as store:
        store.gate = gate
        instance = store.instantiate(Module(program.read_bytes()), wasi.imports)
        store.enqueue(instance.function("_start"))
        outcomes: list[Outcome] = [store.run(fuel=FUEL)]
        while isinstance(outcomes[-1], Paused):
            outcomes.append(store.run(fuel=FUEL))
        memory: Any = instance.exports["memory"]
        assert store.executed is not None
        return outcomes, store.executed, sha256(memory.data).digest()


class Nowhere:
    """Output that the replay must not reach."""

    def write(self, data: memoryview) -> int:
        raise AssertionError("the replay reached the host")


QUIET = [program for program in PROGRAMS if not program.serves]


def recorded(program: Program, folder: Path, recorder: Recorder) -> Any:
    """A run with what the program needs of the host."""
    (folder / "data").mkdir()
    wasi = Wasi(
        args=[program.path.name, *program.args],
        env=program.env,
        mounts=[Mount(folder / "data", "/data")],
        stdin=program.stdin.encode(),
        stdout=io.BytesIO(),
        stderr=io.BytesIO(),
    )
    return run(program.path, recorder, wasi)


@pytest.mark.parametrize("program", QUIET, ids=name_of)
def test_a_run_is_replayed_without_the_host(program: Program, tmp_path: Path) -> None:
    recorder = Recorder()
    first = recorded(program, tmp_path, recorder)
    last = first[0][-1]
    assert (last.code if isinstance(last, Exited) else 0) == program.code, last
    replay = Replay(recorder.notes)
    nothing = Wasi(args=["another"], stdout=Nowhere(), stderr=Nowhere())
    assert run(program.path, replay, nothing) == first
    assert next(replay.notes, None) is None, "the replay made fewer calls"
    assert {note.name for note in recorder.notes}


class Pausing(Recorder):
    """Gives up every third call, as for a pause; the call is made again."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def host_call(self, call: HostCall) -> None:
        self.count += 1
        if self.count % 3 == 0:
            self.notes.append(Note(call.name, call.arguments, ending=Retry()))
            raise Retry
        super().host_call(call)


def test_retried_calls_are_replayed_too(tmp_path: Path) -> None:
    program = QUIET[0]
    recorder = Pausing()
    first = recorded(program, tmp_path, recorder)
    assert Paused("requested") in first[0]
    nothing = Wasi(stdout=Nowhere(), stderr=Nowhere())
    assert run(program.path, Replay(recorder.notes), nothing) == first
