"""`folder` compares what others generate: a few modules by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

wasmtime = pytest.importorskip("wasmtime", reason="Wasmtime is what the results are compared with")

MODULES = {
    "values": """(module (memory (export "") 1 2) (table (export "t") 2 5 funcref)
      (global (export "g") (mut f32) (f32.const nan:0x200001))
      (func (export "f") (param i32 f64) (result f64 i32)
        (drop (memory.grow (i32.const 1))) (i32.store8 (i32.const 70000) (local.get 0))
        (f64.sqrt (local.get 1)) (table.grow (ref.null func) (i32.const 2)))
      (func (export "vector") (param v128)))""",
    "exception": """(module (tag $e (param i32)) (global $n (export "n") (mut i64) (i64.const 0))
      (func (export "throws") (param i32)
        (global.set $n (i64.const 5)) (throw $e (local.get 0)))
      (func (export "after") (result i64) (global.get $n)))""",
    "start": """(module (memory (export "m") 1) (func $f (i32.store (i32.const -1) (i32.const 1)))
      (start $f) (func (export "never")))""",
    "segment": '(module (memory (export "m") 1) (data (i32.const 65536) "x"))',
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import folder
    from wasmsr import Module

    module = Module.from_text(MODULES[name])
    calls = {"values": 1, "exception": 2}.get(name, 0 if name == "segment" else 1)
    assert folder.compare(module, 1)[0] == calls
    there = folder.there

    def wrong(*args: object) -> list[folder.Step]:
        steps = there(*args)  # type: ignore[arg-type]
        trap, results, exports = steps[-1]
        return [*steps[:-1], (trap, (*results, 1), exports)]

    monkeypatch.setattr(folder, "there", wrong)
    with pytest.raises(AssertionError, match="Wasmtime"):
        folder.compare(module, 1)


def test_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.fuzz import folder

    for name, text in {**MODULES, "import": '(module (import "a" "b" (func)))'}.items():
        (tmp_path / f"{name}.wasm").write_bytes(wasmtime.wat2wasm(text))
    monkeypatch.setattr("sys.argv", ["folder", str(tmp_path)])
    with pytest.raises(SystemExit) as done:
        folder.main()
    assert done.value.code == 0
    assert "4 modules, 1 unfit, 0 differ; 4 calls" in capsys.readouterr().out
