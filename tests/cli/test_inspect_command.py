"""`wasmsr inspect` of modules and snapshots, and `wasmsr cache`, as people read them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import one_sentence
from tests.cli.test_foreign import CASES
from wasmsr.cli.commands.cache import ago
from wasmsr.cli.programs import PROGRAMS
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.interp.modules.module_cache import RACY, SMALLEST
from wasmsr.interp.tier import refusal
from wasmsr.snapshot.inspect.text_tables import lines, moment, seconds, text
from wasmsr.snapshot.inspect.wasi import bits, rights
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, Right

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

Path_ = Callable[[str], str]

EVERYTHING = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
  (memory (export "memory") 1 5) (memory i64 2)
  (table (export "table") 3 funcref) (global (export "g") (mut f64) (f64.const 1))
  (func (export "add") (param i32 i64) (result f32 f64) unreachable)
  (func $begin) (start $begin)
  (func (export "_start") (drop (i32x4.extract_lane 0 (v128.const i64x2 0 0)))))"""


def described(cli: Cli, *words: str) -> dict[str, Any]:
    outcome = cli("inspect", "--json", *words)
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("kind", ["wasm", "wat"])
def test_a_module(cli: Cli, kind: str) -> None:
    data = EVERYTHING.encode()
    (cli.folder / f"app.{kind}").write_bytes(data if kind == "wat" else assemble(data))
    found = described(cli, f"app.{kind}")
    assert found["runs_here"] is True
    assert found["hint"] == f"wasmsr run app.{kind}"
    assert found["functions"] == {"imported": 1, "defined": 3}
    assert found["imports"] == [
        {
            "module": "wasi_snapshot_preview1",
            "name": "proc_exit",
            "kind": "function",
            "type": "(i32)->()",
        }
    ]
    exports = {export["name"]: (export["kind"], export["type"]) for export in found["exports"]}
    assert exports["add"] == ("function", "(i32 i64)->(f32 f64)")
    assert exports["memory"] == ("memory", "1..5")
    assert exports["table"] == ("table", "funcref 3..")
    assert exports["g"] == ("global", "mut f64")
    assert found["memories"] == [
        {"minimum": 1, "maximum": 5, "address": "i32"},
        {"minimum": 2, "maximum": None, "address": "i64"},
    ]
    assert {"simd", "multi-memory", "memory64"} <= set(found["features"])
    kinds = [section["kind"] for section in found["sections"]]
    assert kinds[:3] == ["type", "import", "function"]
    shown = cli("inspect", f"app.{kind}").stdout
    for part in ("Runs here\n  yes\n", "(i32 i64)->(f32 f64)", "multi-memory", "Sections"):
        assert part in shown


@pytest.mark.parametrize("what", CASES)
def test_modules_that_do_not_run_here(cli: Cli, what: str) -> None:
    data, said, hint = CASES[what]
    (cli.folder / "app.wasm").write_bytes(data)
    outcome = cli("inspect", "app.wasm")
    if data.startswith(b"\0asm") and (len(data) > 8 or data[6:] == b"\1\0"):
        assert outcome.returncode == 0, outcome.stderr
        assert f"no, because {said[:20]}" in outcome.stdout or said in " ".join(
            outcome.stdout.split()
        )
        assert "Sections" in outcome.stdout or what == "one without WASI"
        if hint is not None:
            assert hint in outcome.stdout
    else:
        assert outcome.returncode in (0, 122, 123)
        one_sentence(outcome)


def test_whether_it_runs_is_true(cli: Cli) -> None:
    """The answer of `inspect` is what `run` does."""
    texts = {
        "yes": '(module (func (export "_start")))',
        "no-import": '(module (import "env" "f" (func)) (func (export "_start")))',
        "no-function": '(module (import "wasi_snapshot_preview1" "fd_nothing" (func)) '
        '(memory (export "memory") 1) (func (export "_start")))',
        "no-type": '(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) '
        '(memory (export "memory") 1) (func (export "_start")))',
    }
    for name, source in texts.items():
        (cli.folder / f"{name}.wasm").write_bytes(assemble(source.encode()))
        runs = cli("run", f"{name}.wasm").returncode == 0
        found = described(cli, f"{name}.wasm")
        assert found["runs_here"] is runs is (name == "yes")
        assert bool(found["because"]) is not runs


def test_an_invalid_module_is_shown_as_far_as_it_goes(cli: Cli) -> None:
    binary = bytearray(PROGRAMS["fib"].path.read_bytes())
    module = Module(bytes(binary))
    begin, _ = module.body_range(0)
    binary[begin + 1] = 0x0B  # the body's first instruction is its end
    (cli.folder / "bad.wasm").write_bytes(binary)
    found = described(cli, "bad.wasm")
    assert found["runs_here"] is False
    assert [export["name"] for export in found["exports"]] == ["memory", "fib"]


def test_packaged_programs_by_name(cli: Cli) -> None:
    for name in PROGRAMS:
        found = described(cli, name)
        assert found["runs_here"] is True
        assert found["hint"] == f"wasmsr run {name}"


def test_features_are_judged(cli: Cli) -> None:
    (cli.folder / "app.wat").write_text(EVERYTHING)
    found = described(cli, "app.wat", "--features", "-simd")
    assert found["runs_here"] is False
    assert '"simd"' in found["because"] and "+simd" in found["hint"]


def test_components(cli: Cli) -> None:
    (cli.folder / "app.wasm").write_bytes(CASES["one with a core"][0])
    found = described(cli, "app.wasm")
    assert (found["format"], found["wasi"]) == ("component", ["0.2.3"])
    assert [core["imports_from"] for core in found["core_modules"]] == [
        ["env", "wasi:io/streams@0.2.3"],
        ["wasi_snapshot_preview1"],
    ]
    assert "Core modules" in cli("inspect", "app.wasm").stdout


# ---- snapshots -----------------------------------------------------------------------------------


def test_a_snapshot_for_people(cli: Cli) -> None:
    (cli.folder / "in").write_text("words\n" * 2000)
    words = ("cat", "--dir", ".::x", "--snapshot-at", "2000", "x/in")
    assert cli("run", *words).returncode == 120
    shown = cli("inspect", "snapshot.bin").stdout
    assert "{" not in shown and "}" not in shown and "'" not in shown
    assert re.search(r"^  2 +stderr\b", shown, re.MULTILINE)
    assert re.search(r"^  1 +stdout\b", shown, re.MULTILINE)
    assert re.search(r"^  1 .* fd_write\b", shown, re.MULTILINE)
    assert re.search(r"^  stopped at +\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$", shown, re.MULTILINE)
    assert re.search(r"^  monotonic clock +\d+\.\d+ s$", shown, re.MULTILINE)
    assert not re.search(r"\b1[0-9]{17}\b", shown), "a time as a number"
    assert "136314952" not in shown


def test_words_of_cells() -> None:
    assert rights(ALL_RIGHTS) == "all 30"
    assert rights(Right.FD_READ | Right.PATH_OPEN) == "fd_read path_open"
    assert rights(1 << 40 | Right.FD_READ) == "fd_read 0x10000000000"
    assert rights(0) == "-" and rights("odd") == "odd"
    assert bits(5, {1: "append", 4: "nonblock"}) == "append nonblock"
    assert text({"a": [1, None], "b": True}) == "a 1, -, b yes"
    assert moment(1_000_000_001) == "1970-01-01T00:00:01.000000001Z"
    assert moment(10**30) == "1000000000000000000000 s after 1970"
    assert (seconds(1_500_000_000), seconds(0), seconds(3)) == ("1.5 s", "0 s", "0.000000003 s")
    assert (ago(1), ago(130), ago(7300), ago(200000), ago(-5)) == (
        "1 s", "2 min", "2 h", "2 d", "0 s"
    )  # fmt: skip


def test_long_cells_go_on_below() -> None:
    words = " ".join(f"word{number}" for number in range(30))
    found = list(lines([("T", ("", "b"), [("1", words), ("2", "x" * 300)]), ("Empty", (), [])]))
    assert max(map(len, found[:5])) < 90
    assert " ".join(" ".join(found[2:-2]).split()).startswith("1 word0 word1")
    assert found[-2].endswith("x" * 300)
    assert "Empty" not in found


# ---- the cache -----------------------------------------------------------------------------------


def test_the_cache_says_which_modules(cli: Cli) -> None:
    bodies = "(func (result i32) (i32.const 7))" * (SMALLEST // 5)
    for name in ("one", "größe 2"):
        source = f'(module {bodies} (func (export "{name}") (result i32) (i32.const 7)))'
        (cli.folder / f"{name}.wasm").write_bytes(Module.from_text(source).binary)
    time.sleep(RACY / 1e9 + 0.1)
    for name in ("one", "größe 2"):
        cli("run", f"{name}.wasm", "--invoke", name, "--module-cache", "notes")
    shown = cli("cache", "--module-cache", "notes").stdout
    size = (cli.folder / "one.wasm").stat().st_size
    found = json.loads(cli("cache", "--json", "--module-cache", "notes").stdout)["notes"]
    assert {note["path"] for note in found} == {
        str(cli.folder / "one.wasm"),
        str(cli.folder / "größe 2.wasm"),
    }
    assert {note["size"] for note in found} >= {size}
    for name in ("one", "größe 2"):
        line = next(line for line in shown.splitlines() if f"{name}.wasm" in line)
        assert f"{size / 1024:.1f} KiB" in line or name != "one"
        assert re.search(r"\d+ s ago +[0-9a-f]{16}  is valid, 1 file$", line)
    assert len(shown.splitlines()) == 6


# ---- native code ----

needs_native = pytest.mark.skipif(refusal() is not None, reason="no native code here")


@needs_native
def test_code_of_a_function(cli: Cli) -> None:
    outcome = cli("inspect", "fib", "--code", "fib")
    assert outcome.returncode == 0, outcome.stderr
    head, called, *rest = outcome.stdout.splitlines()
    assert head.startswith("fib (function 0); ")
    assert called == "called:"
    assert any(re.match(r" +0x[0-9a-f]+  call 0 +call_own$", line) for line in rest)
    found = described(cli, "fib", "--code", "0")
    assert found["name"] == "fib"
    assert {"i32.add", "call_own", "return_1"} <= {cell["cell"] for cell in found["cells"]}
    assert all(cell["native"] == bool(cell["code"]) or cell["native"] for cell in found["cells"])


@needs_native
@pytest.mark.parametrize("name", ["nothing", "1", "99999999999", "-1", "\N{SUPERSCRIPT TWO}"])
def test_code_of_a_function_that_is_none(cli: Cli, name: str) -> None:
    outcome = cli("inspect", "fib", "--code", name)
    assert outcome.returncode == 1
    assert "the module defines no function" in one_sentence(outcome)


@needs_native
def test_perf_map_and_budget(cli: Cli) -> None:
    outcome = cli("run", "--tier", "native", "--perf-map", "--code-budget", "1M", "fib", "5")
    assert (outcome.returncode, outcome.stdout) == (0, "5\n")
    assert outcome.stderr == ""
    small = cli("run", "--tier", "native", "--code-budget", "0", "fib", "5")
    assert (small.returncode, small.stdout) == (0, "5\n")
