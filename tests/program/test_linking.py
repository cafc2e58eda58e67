"""Programs of several modules, by the command and by a description."""

from __future__ import annotations

from pathlib import Path

import pytest

from wasmsr.errors import LinkError, ModuleMismatch
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.interp.outcomes import Exited, Finished, Paused
from wasmsr.library import open_program
from wasmsr.program.program import Program
from wasmsr.runspec.run_spec import RunSpec, SpecError
from wasmsr.snapshot.format import encode, load

BASE = """(module
  (memory (export "memory") 1)
  (global $order (export "order") (mut i32) (i32.const 0))
  (func $note (export "note") (param $digit i32)
    (global.set $order (i32.add (i32.mul (global.get $order) (i32.const 10)) (local.get $digit))))
  (func $begin (call $note (i32.const 1)))
  (start $begin))"""

MIDDLE = """(module
  (import "base" "note" (func $note (param i32)))
  (func (export "_initialize") (call $note (i32.const 2)))
  (func (export "twice") (param $n i32) (result i32) (i32.mul (i32.const 2) (local.get $n))))"""

PROGRAM = """(module
  (import "base" "note" (func $note (param i32)))
  (import "base" "order" (global $order (mut i32)))
  (import "middle" "twice" (func $twice (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "order") (result i32) (global.get $order))
  (func $spin (local $n i32)
    (loop $more (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 100000)))))
  (func $begin (call $note (i32.const 3)))
  (start $begin)
  (func (export "_start")
    (call $note (i32.const 4))
    (call $spin)
    (call $exit (i32.sub (call $twice (global.get $order)) (i32.const 2400)))))"""
"""Exits with 68 if everything was called in its order: 2 * 1234 - 2400."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in (("base", BASE), ("middle", MIDDLE), ("program", PROGRAM)):
        (tmp_path / f"{name}.wasm").write_bytes(assemble(text.encode()))
    return tmp_path


def described(files: Path, *names: str, **more: object) -> RunSpec:
    return RunSpec.read(
        {
            "program": str(files / "program.wasm"),
            "preload": [f"{name}={files / name}.wasm" for name in names],
            **more,
        }
    )


def finished(program: Program) -> object:
    program.start()
    outcome = program.wait()
    program.close()
    return outcome


def test_modules_begin_in_their_order(files: Path) -> None:
    program = open_program(described(files, "base", "middle"))
    assert program.module is program.modules[-1]
    assert [one.name for one in program.modules][:2] == ["base", "middle"]
    assert finished(program) == Exited(68)


def test_an_export_of_the_program_is_called(files: Path) -> None:
    program = open_program(described(files, "base", "middle", invoke="order"))
    results: list[tuple[int, ...]] = []
    program.on_result = lambda kind, values: results.append(values)
    assert isinstance(finished(program), Finished)
    assert results[-1] == (123,)


@pytest.mark.parametrize("at", [0, 1, 5, 9, 60000])
def test_it_is_saved_and_goes_on(files: Path, at: int, tmp_path: Path) -> None:
    program = open_program(described(files, "base", "middle", snapshots={"at": at}))
    program.start()
    assert isinstance(program.wait(), Paused)
    path = tmp_path / "saved.bin"
    path.write_bytes(b"".join(encode(program.snapshot())))
    program.close()
    program.store.close()
    for names in (("base", "middle"), ("middle", "base")):
        spec = described(files, *names)
        assert finished(open_program(spec, snapshot=load(path))) == Exited(68)
    with pytest.raises(ModuleMismatch, match=r"the module \(middle\).*not given"):
        open_program(described(files, "base"), snapshot=load(path))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("middle", "base"), "the module middle imports note from base, which comes after it"),
        (("base",), "the program imports twice from middle, which is not there"),
        (("middle",), "the module middle imports note from base, which is not there"),
    ],
)
def test_what_is_missing_is_named(files: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(LinkError) as caught:
        open_program(described(files, *names))
    assert sentence in caught.value.message
    assert caught.value.hint


def test_names(files: Path) -> None:
    with pytest.raises(SpecError, match="the name base is there twice"):
        open_program(described(files, "base", "base"))
    with pytest.raises(SpecError, match="NAME=FILE"):
        RunSpec.read({"preload": ["base"]})
    host = {"wasi_snapshot_preview1": Module((files / "base.wasm").read_bytes())}
    program = Module((files / "program.wasm").read_bytes())
    with pytest.raises(LinkError, match="the name wasi_snapshot_preview1 is the host's"):
        Program.launch(program, preload=host)
