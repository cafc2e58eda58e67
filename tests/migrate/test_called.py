"""A destination makes code of what a program has called before the program is stopped."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.migrate.test_arriving import hosting
from wasmsr import Module
from wasmsr.errors import SnapshotError
from wasmsr.interp.modules.ahead import CalledFunctions, called
from wasmsr.migrate.hosting.hosted_program import HostedProgram
from wasmsr.program.program import Program

TEXT = """(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (memory (export "memory") 1)
  (func $inner (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
  (func $never (drop (call $yield)))
  (func $work (i32.store (i32.const 0) (call $inner (i32.load (i32.const 0)))))
  (func (export "_start") (loop (call $work) (br 0))))"""
INNER, NEVER, WORK, START = range(1, 5)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[HostedProgram]:
    here = hosting(tmp_path / "here")
    made = here.launch(lambda grants: Program.launch(Module.from_text(TEXT), grants=grants))
    yield made
    made.close()


def test_the_first_instructions_need_no_translation(program: HostedProgram, tmp_path: Path) -> None:
    program.start()
    while len(called(program.program.module)[0]) < 3:
        pass
    there = hosting(tmp_path / "there")
    leaving = program.leave()
    arrival = there.arrival()
    binary = program.program.module.binary
    modules = {program.program.module.digest: binary}
    names = list(leaving.called())
    for one in names:
        arrival.called(one, binary)
    arrival.early(leaving.early)
    arrival.prepare(modules)
    module = there.compiled(program.program.module.digest, binary)
    assert module is not program.program.module
    before = called(module)
    assert before[0] == [INNER, WORK, START] and NEVER not in before[0]

    assert leaving.round(lambda *_: True, 30)
    arrival.resize(leaving.sizes)
    for batch in leaving.batches():
        arrival.pages(batch.memory, batch.runs, batch.data, batch.zeros)
    for part in leaving.rest():
        arrival.feed(bytes(part))
    assert arrival.finish() == leaving.digest
    moved = arrival.restore(b"p" * 16, modules)
    count = moved.program.store.memory_view(0)[0:4].tobytes()
    moved.start()
    while moved.program.store.memory_view(0)[0:4].tobytes() == count:
        pass
    assert moved.pause(30)
    assert called(module) == before, "something was translated after the move"
    leaving.close()
    moved.close()


@pytest.mark.parametrize("functions", [(0,), (5,), (WORK, INNER)])
def test_a_source_that_lies_about_functions(
    program: HostedProgram, tmp_path: Path, functions: tuple[int, ...]
) -> None:
    arrival = hosting(tmp_path / "there").arrival()
    module = program.program.module
    lie = CalledFunctions(module.digest, False, False, False, array("I", functions))
    with pytest.raises(SnapshotError, match="comes twice or has no body"):
        arrival.called(lie, module.binary)
    arrival.close()
