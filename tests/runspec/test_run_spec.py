"""`RunSpec` is read from a dictionary, a file, variables and options, with one set of kinds."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest

from wasmsr import Exited, Finished, Paused, Snapshot
from wasmsr.cli.options.run_options import ROWS
from wasmsr.cli.quick import read as read_line
from wasmsr.interp.modules.module import assemble
from wasmsr.library import open_program, run
from wasmsr.program.state import ProgramState
from wasmsr.record import replaced
from wasmsr.runspec.run_spec import (
    KINDS,
    OPTIONS,
    LimitSpec,
    RunSpec,
    SnapshotPolicy,
    SpecError,
    StreamSpec,
)

FULL = RunSpec(
    program="app.wasm",
    args=("one", "--two"),
    own_args=("zero",),
    env=("A=1", "B=x=y"),
    inherit_env=True,
    mounts=("data::/data::ro", "::/tmp::mem"),
    listen=("127.0.0.1:0",),
    streams=StreamSpec(stdout="out.txt", stderr=2),
    limits=LimitSpec(memory=1 << 20, fuel=1000, timeout=2.5, carried=4096),
    features="-simd",
    deterministic=True,
    snapshots=SnapshotPolicy(every=0.5, file="s-{n}.bin", embed_module=True, hop=7),
    on_changed="keep",
)
"""Nearly every field has a value that is not its default."""

ECHO = b"""(module
  (import "wasi_snapshot_preview1" "args_sizes_get"
    (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "_start")
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (call $exit (i32.load (i32.const 0)))))"""
"""A program whose exit code is the number of its arguments."""

LOOP = b'(module (func (export "_start") (loop br 0)))'


def written(folder: Path, text: bytes) -> str:
    path = folder / "app.wasm"
    path.write_bytes(assemble(text))
    return str(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    plain = FULL.as_dict()
    assert RunSpec.read(plain) == FULL
    file = tmp_path / "run.json"
    file.write_text(json.dumps(plain))
    assert RunSpec.from_file(file) == FULL
    assert RunSpec().as_dict() == {} and RunSpec.read({}) == RunSpec()


def test_four_readers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One description, by a dictionary, variables, a file, and a command line."""
    monkeypatch.chdir(tmp_path)
    given = {
        "limits": {"memory": "64M", "fuel": "40k", "timeout": "1.5"},
        "snapshots": {"at": "1_000", "file": "x.bin", "keep_running": True},
        "mounts": ["data", "a::/b::ro"],
        "env": {"K": "v"},
    }
    spec = RunSpec.read(given)
    assert (spec.limits.memory, spec.limits.fuel, spec.snapshots.at) == (64 << 20, 40_000, 1000)
    variables = {
        "WASMSR_MAX_MEMORY": "64M",
        "WASMSR_FUEL": "40k",
        "WASMSR_TIMEOUT": "1.5",
        "WASMSR_SNAPSHOT_AT": "1000",
        "WASMSR_SNAPSHOT_FILE": "x.bin",
        "WASMSR_KEEP_RUNNING": "yes",
        "WASMSR_DIR": "data\na::/b::ro",
        "WASMSR_ENV": "K=v",
        "WASMSR_JSON": "1",
        "PATH": "/bin",
    }
    assert RunSpec.from_variables(variables) == spec
    file = tmp_path / "run.json"
    file.write_text(json.dumps(given))
    assert RunSpec.from_file(file) == spec
    line = "--max-memory 64M --fuel 40k --timeout 1.5 --snapshot-at 1000 --snapshot-file x.bin"
    line += " --keep-running --dir data --dir a::/b::ro --env K=v app.wasm 1 2"
    options = read_line(line.split())
    assert options is not None
    assert options.spec() == replaced(spec, program="app.wasm", args=("1", "2"))


def test_the_command_has_each_option_of_a_run() -> None:
    assert {f"--{name}" for name in OPTIONS} <= {row.name for row in ROWS}
    assert all(row.type is KINDS[OPTIONS[row.name[2:]]] for row in ROWS if row.own is None)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"memory": 1}, "memory"),
        ({"limits": {"ram": 1}}, "limits.ram"),
        ({"limits": 5}, "limits"),
        ({"limits": {"memory": "5X"}}, "limits.memory"),
        ({"limits": {"fuel": -1}}, "limits.fuel"),
        ({"limits": {"fuel": 1.5}}, "limits.fuel"),
        ({"limits": {"fuel": True}}, "limits.fuel"),
        ({"limits": {"timeout": float("nan")}}, "limits.timeout"),
        ({"limits": {"memory": float("inf")}}, "limits.memory"),
        ({"deterministic": "perhaps"}, "deterministic"),
        ({"deterministic": 1}, "deterministic"),
        ({"args": "one"}, "args"),
        ({"args": [1]}, "args"),
        ({"env": ["NOVALUE"]}, "env"),
        ({"on_changed": "hope"}, "on_changed"),
        ({"features": "+nonsense"}, "features"),
        ({"streams": {"stdin": 1.5}}, "streams.stdin"),
    ],
)
def test_wrong_values_name_their_field(given: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError, match=f"^{word}: ") as caught:
        RunSpec.read(given)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000])
def test_wrong_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(SpecError, match=r"run\.json"):
        RunSpec.from_file(file)


def test_the_library_runs_a_description(tmp_path: Path) -> None:
    program = written(tmp_path, ECHO)
    assert run(RunSpec(program=program, args=("a", "b"), own_args=("c",))) == Exited(4)
    with pytest.raises(SpecError, match="no timers"):
        run(RunSpec(program=program, snapshots=SnapshotPolicy(after=1.0)))
    with pytest.raises(SpecError, match="program"):
        run(RunSpec())
    fuel = RunSpec(program=written(tmp_path, LOOP), limits=LimitSpec(fuel=10_000))
    assert run(fuel) == Paused("fuel")


def test_an_export_gets_typed_arguments(tmp_path: Path) -> None:
    program = open_program(
        RunSpec(program=written(tmp_path, ECHO), invoke="add", args=("2", "0x10"))
    )
    program.start()
    outcome = program.wait()
    assert isinstance(outcome, Finished) and outcome.raw == (18,)
    assert program.state is ProgramState.IDLE
    program.close()
    for args in (("2",), ("2", "x")):
        with pytest.raises(SpecError, match="args"):
            open_program(RunSpec(program=written(tmp_path, ECHO), invoke="add", args=args))


def test_files_of_streams_are_closed(tmp_path: Path) -> None:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    out = tmp_path / "out"
    spec = RunSpec(program=written(tmp_path, ECHO), streams=StreamSpec(stdout=str(out)))
    assert run(spec) == Exited(1)
    assert out.read_bytes() == b""
    with pytest.raises(SpecError):
        run(replaced(spec, invoke="add"))
    gc.collect()  # a store and its parts refer to each other
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_saved_run_goes_on(tmp_path: Path) -> None:
    program = written(tmp_path, ECHO)
    stop = SnapshotPolicy(at=3)
    first = open_program(RunSpec(program=program, args=("x",), snapshots=stop))
    first.start()
    first.wait()
    assert first.state is ProgramState.STOP
    snapshot = tmp_path / "state.bin"
    Snapshot(first.snapshot()).save(snapshot)
    first.close()
    assert run(RunSpec(program=program, from_snapshot=str(snapshot))) == Exited(2)
