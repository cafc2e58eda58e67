"""`wasmsr run`: the named programs, exports, streams, exit codes, and how it tells of the end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

Path_ = Callable[[str], str]


def test_fib(cli: Cli) -> None:
    outcome = cli("run", "fib")
    assert (outcome.stdout, outcome.stderr, outcome.returncode) == ("34\n", "", 0)
    assert cli("run", "fib", "15").stdout == "610\n"


def test_cat(cli: Cli, root: Path) -> None:
    outcome = cli("run", "cat")
    assert outcome.stdout == (root / "examples/snapshot/test.txt").read_text()
    assert (outcome.stderr, outcome.returncode) == ("", 0)
    (cli.folder / "mine.txt").write_text("of my own\n")
    assert cli("run", "cat", "--dir", ".", "mine.txt").stdout == "of my own\n"
    assert cli("run", "cat", "-", stdin="from a pipe\n").stdout == "from a pipe\n"


def test_transcoding(cli: Cli) -> None:
    outcome = cli("run", "transcoding", "--", "--frames", "2", "--progress", "0")
    assert outcome.returncode == 0, outcome.stderr
    film = (cli.folder / "transcoding.avi").read_bytes()
    assert film[:4] == b"RIFF"
    assert film[8:12] == b"AVI "
    (cli.folder / "out").mkdir()
    outcome = cli("run", "transcoding", "--dir", "out", "--frames", "2", "--progress", "0")
    assert outcome.returncode == 0, outcome.stderr
    assert (cli.folder / "out" / "transcoding.avi").read_bytes() == film


def test_python_m(cli: Cli) -> None:
    assert re.match(
        r"wasmsr \S+ \((tail calls|portable) loop, (gcc|clang) \d+\.\d+\)\n$",
        cli("--version").stdout,
    )


@pytest.mark.parametrize(
    ("export", "words", "lines"),
    [
        ("add", ["2", "3"], ["5"]),
        ("add", ["-1", "0xffffffff"], ["-2"]),
        ("half", ["0.2"], ["0.1"]),
        ("pair", ["9223372036854775807", "-inf"], ["-inf", "9223372036854775807"]),
        ("pair", ["-1", "nan"], ["nan", "-1"]),
        ("count", [], ["41"]),
        ("null", [], ["null"]),
    ],
)
def test_invoke(cli: Cli, module: Path_, export: str, words: list[str], lines: list[str]) -> None:
    outcome = cli("run", module("calc"), "--invoke", export, *words)
    assert outcome.stdout.splitlines() == lines
    assert outcome.returncode == 0


def test_text_format(cli: Cli) -> None:
    text = '(module (func (export "seven") (result i32) (i32.const 7)))'
    (cli.folder / "seven.wat").write_text(text)
    assert cli("run", "seven.wat", "--invoke", "seven").stdout == "7\n"
    # By content, not by suffix.
    (cli.folder / "seven.wasm").write_text(text)
    assert cli("run", "seven.wasm", "--invoke", "seven").stdout == "7\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 16 * 1),
        (["a", "b"], 16 * 3),
        (["-c", "print(1)"], 16 * 3),
        (["--", "--fuel", "1"], 16 * 3),
        (["--env", "A=1", "--env", "B=x=y", "--flag"], 16 * 2 + 2),
        (["--env", "A=1", "--", "--env", "B=2", "--"], 16 * 4 + 1),
        (["--version"], 16 * 2),
    ],
)
def test_arguments_and_variables(cli: Cli, module: Path_, words: list[str], code: int) -> None:
    assert cli("run", module("count"), *words).returncode == code


def test_nothing_of_our_environment(cli: Cli, module: Path_) -> None:
    assert cli("run", module("count"), SECRET="1").returncode == 16


@pytest.mark.parametrize(
    ("words", "variables", "code"),
    [
        ([], {"WASMSR_ENV": "A=1\nB=two words\nC="}, 16 + 3),
        (["--env", "D=4"], {"WASMSR_ENV": "A=1\nB=2"}, 16 + 1),
        ([], {"WASMSR_FUEL": "1"}, 121),
        (["--fuel", "1000000"], {"WASMSR_FUEL": "1"}, 16),
        ([], {"WASMSR_INVOKE": "nothing"}, 2),
        ([], {"WASMSR_FUEL": "lots"}, 2),
        ([], {"WASMSR_SNAPSHOT_AT": "1"}, 120),
        ([], {"WASMSR_SNAPSHOT_AT": "1", "WASMSR_KEEP_RUNNING": "1"}, 16),
        (["--stop"], {"WASMSR_SNAPSHOT_AT": "1", "WASMSR_KEEP_RUNNING": "1"}, 120),
        (["--snapshot-after", "50"], {"WASMSR_SNAPSHOT_AT": "1"}, 16),
        ([], {"WASMSR_TRACE": "0"}, 16),
    ],
)
def test_options_as_variables(
    cli: Cli, module: Path_, words: list[str], variables: dict[str, str], code: int
) -> None:
    assert cli("run", *words, module("count"), **variables).returncode == code


def test_every_option_has_its_variable() -> None:
    from wasmsr.cli.app import wasmsr
    from wasmsr.cli.commands.run import run

    for command in (wasmsr, run):
        for parameter in command.params:
            name = parameter.opts[-1]
            if name.startswith("--") and name not in ("--help", "--version"):
                expected = "WASMSR_" + name[2:].replace("-", "_").upper()
                assert parameter.envvar == expected


def test_run_has_no_one_letter_options() -> None:
    from wasmsr.cli.commands.run import run

    for parameter in run.params:
        if parameter.param_type_name == "option":
            assert all(name.startswith("--") for name in parameter.opts)


def test_standard_input(cli: Cli, module: Path_) -> None:
    assert cli("run", module("read"), stdin="A").returncode == 65
    (cli.folder / "input").write_text("B")
    assert cli("run", module("read"), "--stdin", "input", stdin="A").returncode == 66
    assert cli("run", module("read"), stdin=None).returncode == 0


def test_closed_pipe_is_for_the_guest(cli: Cli, module: Path_) -> None:
    process = cli.begin("run", module("write"))
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    process.stdout = None
    assert process.wait(60) == 64  # EPIPE of WASI


def test_closed_pipe_is_no_traceback(cli: Cli, module: Path_) -> None:
    command = shlex.join([sys.executable, "-m", "wasmsr", "run", str(module("calc"))])
    line = f"{command} --invoke count | true; exit 0"
    outcome = subprocess.run(
        ["sh", "-c", line], cwd=cli.folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert outcome.stderr == ""


def test_trap(cli: Cli, module: Path_) -> None:
    outcome = cli("run", module("calc"), "--invoke", "outer", "0")
    assert outcome.returncode == 134
    lines = outcome.stderr.splitlines()
    assert lines[0] == "wasmsr: trap: integer divide by zero"
    assert [line.split()[1] for line in lines[1:]] == ["calc!divide", "calc!outer"]
    assert "byte 0x" in lines[1]
    assert outcome.stdout == ""


def test_deep_recursion_is_a_short_trap(cli: Cli, module: Path_) -> None:
    outcome = cli("run", module("calc"), "--invoke", "deep")
    assert outcome.returncode == 134
    assert "call stack exhausted" in outcome.stderr
    assert len(outcome.stderr.splitlines()) < 40


def test_fuel(cli: Cli, module: Path_) -> None:
    outcome = cli("run", "--fuel", "1000", module("loop"))
    assert outcome.returncode == 121
    assert "out of fuel after 1,000 instructions" in outcome.stderr
    needed = cli.json(module("count"), "--fuel", "1000")["executed"]
    assert 0 < needed < 100
    assert cli("run", module("count"), "--fuel", str(needed)).returncode == 16
    assert cli("run", module("count"), "--fuel", str(needed - 1)).returncode == 121
    assert cli("run", module("count"), "--fuel", "0").returncode == 121


def test_max_memory(cli: Cli, module: Path_) -> None:
    grow = ("--invoke", "grow", "15")
    assert cli("run", module("calc"), "--max-memory", "1M", *grow).stdout == "1\n"
    assert cli("run", module("calc"), "--max-memory", "983040", *grow).stdout == "-1\n"


def test_features(cli: Cli) -> None:
    source = '(module (global i32 (i32.add (i32.const 1) (i32.const 2))) (func (export "_start")))'
    (cli.folder / "sum.wat").write_text(source)
    assert cli("run", "sum.wat").returncode == 0
    assert cli("run", "--features", "-tail-calls", "sum.wat").returncode == 0
    refused = cli("run", "--features", "-extended-constants", "sum.wat")
    assert refused.returncode == 122
    assert 'needs the feature "extended-constants", which is switched off' in refused.stderr
    refused = cli("run", "sum.wat", WASMSR_FEATURES="-extended-constants")
    assert refused.returncode == 122
    saved = cli("run", "sum.wat", "--snapshot-at", "0", "--embed-module")
    assert saved.returncode == 120
    resume = ("run", "--from-snapshot", "snapshot.bin")
    assert cli(*resume).returncode == 0
    assert cli(*resume, "--features", "-extended-constants").returncode == 122


@pytest.mark.parametrize(
    ("words", "outcome", "exit_code"),
    [
        (["calc", "--invoke", "add", "2", "3"], "finished", 0),
        (["calc", "--invoke", "outer", "0"], "trapped", 134),
        (["count", "x"], "exited", 32),
        (["loop", "--fuel", "10"], "out-of-fuel", 121),
        (["loop", "--snapshot-at", "10"], "stopped", 120),
        (["calc", "--invoke", "add", "x", "3"], "error", 2),
        (["calc", "--invoke", "nothing"], "error", 2),
    ],
)
def test_json(cli: Cli, module: Path_, words: list[str], outcome: str, exit_code: int) -> None:
    found = cli.json(module(words[0]), *words[1:])
    assert (found["outcome"], found["exit_code"]) == (outcome, exit_code)
    if outcome == "finished":
        assert found["results"] == [[5]]
    if outcome == "exited":
        assert found["guest_exit_code"] == exit_code
    if outcome == "trapped":
        assert found["trap"]["code"] == "integer divide by zero"
        assert [f["function"] for f in found["trap"]["backtrace"]] == ["divide", "outer"]
    if outcome == "error":
        assert found["error"]["message"]
    if outcome in ("out-of-fuel", "stopped"):
        assert found["executed"] == 10
        assert found["snapshot"] == ("snapshot.bin" if outcome == "stopped" else None)


def test_json_is_strict(cli: Cli, module: Path_) -> None:
    outcome = cli("run", module("calc"), "--json", "--invoke", "pair", "1", "nan")
    assert json.loads(outcome.stdout, parse_constant=pytest.fail)["results"] == [["nan", 1]]


def test_json_has_a_line_of_its_own(cli: Cli, module: Path_) -> None:
    text = """(module (import "wasi_snapshot_preview1" "fd_write"
          (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\\08\\00\\00\\00\\04\\00\\00\\00text")
        (func (export "_start")
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"""
    (cli.folder / "text.wat").write_text(text)
    assert cli("run", "text.wat").stdout == "text"
    assert cli.json("text.wat")["outcome"] == "finished"
    # Every object has all fields.
    shapes = [
        cli.json("text.wat"),
        cli.json("nothing.wasm"),
        cli.json(module("loop"), "--fuel", "1"),
    ]
    assert shapes[0].keys() == shapes[1].keys() == shapes[2].keys()


def test_without_standard_streams(cli: Cli, module: Path_) -> None:
    """Started with all three closed; nothing of what the guest writes goes astray."""
    wasmsr = shlex.join([sys.executable, "-m", "wasmsr", "run"])
    line = f"{wasmsr} {shlex.quote(str(module('read')))} --snapshot-at 4 <&- >&- 2>&-"
    outcome = subprocess.run(["sh", "-c", line], cwd=cli.folder, timeout=60, check=False)
    assert outcome.returncode == 120
    line = f"{wasmsr} fib --invoke fib 9 <&- >&-"
    outcome = subprocess.run(["sh", "-c", line], cwd=cli.folder, timeout=60, check=False)
    assert outcome.returncode == 0


def test_exit_codes_beyond_a_byte(cli: Cli) -> None:
    text = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 0x12a))))"""
    (cli.folder / "exit.wat").write_text(text)
    found = cli.json("exit.wat")
    assert (found["exit_code"], found["guest_exit_code"]) == (0x2A, 0x12A)


def test_reactor_is_initialized(cli: Cli) -> None:
    text = """(module (global $ready (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $ready (i32.const 1)))
        (func (export "ready") (result i32) (global.get $ready)))"""
    (cli.folder / "reactor.wat").write_text(text)
    assert cli("run", "reactor.wat", "--invoke", "ready").stdout == "1\n"


def test_deterministic(cli: Cli) -> None:
    text = """(module (import "wasi_snapshot_preview1" "random_get"
          (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "number") (result i64)
          (drop (call $random (i32.const 0) (i32.const 8))) (i64.load (i32.const 0))))"""
    (cli.folder / "random.wat").write_text(text)
    words = ("run", "random.wat", "--invoke", "number")
    assert cli(*words, "--deterministic").stdout == cli(*words, "--deterministic").stdout
    assert cli(*words).stdout != cli(*words).stdout


def test_quiet_and_verbose(cli: Cli, module: Path_) -> None:
    assert "stopped" in cli("run", module("loop"), "--snapshot-at", "9").stderr
    assert cli("-q", "run", module("loop"), "--snapshot-at", "9").stderr == ""
    assert "Traceback" in cli("-vv", "run", "nothing.wasm").stderr
    assert "Traceback" not in cli("-v", "run", "nothing.wasm").stderr
    assert "Traceback" in cli("--log-level", "debug", "run", "nothing.wasm").stderr


DIARY = Path(__file__).parents[1] / "migrate" / "diary.wat"


def a_diary(cli: Cli) -> Path:
    """A folder for the program of tests/migrate, which writes 150 lines in 3 seconds."""
    home = cli.folder / "home"
    home.mkdir()
    (home / "old").write_bytes(b"old")
    (home / "gone").write_bytes(b"gone")
    return home


@pytest.mark.full
def test_carried_files_come_out_of_the_snapshot(cli: Cli) -> None:
    home = a_diary(cli)
    save = ("--snapshot-after", "0.5", "--snapshot-file", "s.bin")
    assert cli("run", str(DIARY), "--dir", "home::data::carry", *save).returncode == 120
    lines = len((home / "diary").read_bytes().splitlines())
    assert 0 < lines < 60
    cli("run", str(DIARY), "--from-snapshot", "s.bin", "--dir", "there::data::carry")
    assert len((cli.folder / "there" / "diary").read_bytes().splitlines()) == 150
    assert sorted(path.name for path in (cli.folder / "there").iterdir()) == ["diary", "older"]
    assert len((home / "diary").read_bytes().splitlines()) == lines
    # A folder of somebody else's.
    (cli.folder / "mine").mkdir()
    (cli.folder / "mine" / "letter").write_bytes(b"dear")
    words = ("run", str(DIARY), "--from-snapshot", "s.bin", "--dir", "mine::data::carry")
    outcome = cli(*words, "--on-changed", "error")
    assert "data/letter is not the program's" in outcome.stderr
    outcome = cli(*words, "--carry-limit", "10")
    assert "--carry-limit SIZE allows more" in outcome.stderr
    assert (cli.folder / "mine" / "letter").read_bytes() == b"dear"


def test_output_to_files(cli: Cli) -> None:
    a_diary(cli)
    words = ("run", str(DIARY), "--dir", "home::data", "--stdout", "out", "--stderr", "out")
    outcome = cli(*words, "--snapshot-after", "0.5", "--snapshot-file", "s.bin")
    assert "done" not in outcome.stdout and outcome.returncode == 120
    cli(*words, "--from-snapshot", "s.bin")
    assert (cli.folder / "out").read_bytes() == b"done\n"
