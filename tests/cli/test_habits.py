"""What people type who come from elsewhere, or mistype; and arguments next to `--invoke`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import one_sentence
from tests.cli.test_startup import complete
from wasmsr.cli.options.argv import Split, split
from wasmsr.cli.options.run_options import ROWS
from wasmsr.cli.subcommands import COMMANDS, instead_of, resembling, with_command
from wasmsr.interp.modules.module import assemble

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

Path_ = Callable[[str], str]
WASI = "wasi_snapshot_preview1"
NAMES = [row.name for row in ROWS]

ARGV = f"""(module
  (import "{WASI}" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "{WASI}" "args_get" (func $args (param i32 i32) (result i32)))
  (import "{WASI}" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
  (import "{WASI}" "environ_get" (func $env (param i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func $show (param $size i32)
    (i32.store (i32.const 16) (i32.const 4096))
    (i32.store (i32.const 20) (local.get $size))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8))))
  (func $list (export "list")
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 1024) (i32.const 4096)))
    (call $show (i32.load (i32.const 4))))
  (func (export "add") (param i32 i32) (result i32)
    (call $list) (i32.add (local.get 0) (local.get 1)))
  (func (export "env")
    (drop (call $env_sizes (i32.const 0) (i32.const 4)))
    (drop (call $env (i32.const 1024) (i32.const 4096)))
    (call $show (i32.load (i32.const 4))))
  (func (export "_initialize"))
  (func (export "spin") (loop (br 0)))
  (global (export "none") i32 (i32.const 1)))"""
"""Shows its arguments or its variables, each with a zero byte behind it."""


@pytest.fixture
def app(cli: Cli) -> str:
    (cli.folder / "app.wasm").write_bytes(assemble(ARGV.encode()))
    command = ARGV.replace('(export "list")', '(export "_start")').replace(
        '(func (export "_initialize"))', ""
    )
    (cli.folder / "command.wasm").write_bytes(assemble(command.encode()))
    return "app.wasm"


def shown(text: str) -> list[str]:
    return text.split("\0")[:-1]


# ---- arguments together with --invoke ------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "argv", "result"),
    [
        ("run app.wasm --invoke list", [], ""),
        ("run app.wasm --invoke list -- a --trace -- b", ["a", "--trace", "--", "b"], ""),
        ("run app.wasm --invoke list --arg a --arg=-b", ["a", "-b"], ""),
        ("run app.wasm --arg x --invoke add 2 3", ["x"], "5\n"),
        ("run app.wasm --invoke add 2 3 -- a -b", ["a", "-b"], "5\n"),
        ("run app.wasm --invoke add -2 3 -- a", ["a"], "1\n"),
        ("run app.wasm --invoke add -- 2 3", [], "5\n"),
        ("run app.wasm --invoke add -- 2 3 -- y", ["y"], "5\n"),
        ("run --strict --invoke add app.wasm 2 3 -- --trace", ["--trace"], "5\n"),
        ("run command.wasm a --arg b", ["a", "--arg", "b"], ""),
        ("run command.wasm --arg b a", ["b", "a"], ""),
        ("run command.wasm -- a -- b", ["a", "--", "b"], ""),
        ("run --strict command.wasm --trace -- b", ["--trace", "--", "b"], ""),
        ("run command.wasm --strict --trace --", ["--trace", "--"], ""),
        ("run --strict -- command.wasm --trace", ["--trace"], ""),
    ],
)
def test_arguments_and_invoke(cli: Cli, app: str, line: str, argv: list[str], result: str) -> None:
    outcome = cli(*line.split())
    assert outcome.returncode == 0, outcome.stderr
    name = "command.wasm" if "command.wasm" in line else "app.wasm"
    assert outcome.stdout.rpartition("\0")[2] == result
    assert shown(outcome.stdout) == [name, *argv]


def test_too_many_arguments_say_where_they_belong(cli: Cli, app: str) -> None:
    outcome = cli("run", app, "--invoke", "list", "a", "b")
    assert outcome.returncode == 2
    assert "after a --" in one_sentence(outcome)


def test_a_saved_program_has_its_arguments(cli: Cli, app: str) -> None:
    words = ("run", app, "--invoke", "list", "--snapshot-at", "1", "--arg", "kept")
    assert cli(*words).returncode == 120
    outcome = cli("run", app, "--from-snapshot", "snapshot.bin")
    assert shown(outcome.stdout) == ["app.wasm", "kept"]
    assert cli("run", app, "--from-snapshot", "snapshot.bin", "--arg", "x").returncode == 2


# ---- typos ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("--snapshot-aftr 5", ["--snapshot-after"]),
        ("--snapshot_after=5", ["--snapshot-after"]),
        ("x --fule 5", ["--fuel"]),
        ("-trace", ["--trace"]),
        ("--Max-Memory 5", ["--max-memory"]),
        ("a --trace", ["--trace"]),
        ("--from-snapshots s", ["--from-snapshot"]),
        ("--keep-runing", ["--keep-running"]),
    ],
)
def test_typos_are_said(cli: Cli, app: str, words: str, ours: list[str]) -> None:
    outcome = cli("run", "command.wasm", *words.split())
    assert outcome.returncode == 0
    assert shown(outcome.stdout) == ["command.wasm", *words.split()]
    for option in ours:
        assert f"{option} of wasmsr" in one_sentence(outcome)
    for line in (["--strict", "command.wasm", *words.split()],
                 ["command.wasm", "--", *words.split()]):  # fmt: skip
        assert cli("run", *line).stderr == ""
    assert cli("run", "command.wasm", *words.split(), WASMSR_STRICT="1").stderr == ""
    assert cli("-q", "-q", "run", "command.wasm", *words.split()).stderr == ""


@pytest.mark.parametrize(
    "words",
    ["-c print(1)", "--frames 200 --scale 2 --quality 9 --progress 4", "-h", "--help", "--version",
     "--input a --outfile b", "-v -n 3 --verbose --file x --name y", "-- --trace", "- -1 --1"],
)  # fmt: skip
def test_what_is_no_typo(words: str) -> None:
    assert resembling(words.split(), NAMES) == []


def test_strict_divides() -> None:
    options = {"--trace": False, "--fuel": True, "--strict": False}
    line = ["--fuel", "1", "app", "--trace", "--", "x"]
    assert split(line, options, strict=True) == Split(
        ["--fuel", "1"], "app", ["--trace", "--", "x"]
    )
    assert split(["app", "--strict", "--trace"], options) == Split(["--strict"], "app", ["--trace"])
    assert split(["app", "--trace", "--strict"], options) == Split(
        ["--trace", "--strict"], "app", []
    )


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_strict_as_a_variable(cli: Cli, app: str, value: str) -> None:
    outcome = cli("run", "command.wasm", "--trace", "--", WASMSR_STRICT=value)
    assert shown(outcome.stdout) == ["command.wasm", "--trace", "--"]
    assert "0x" not in outcome.stderr
    assert shown(cli("run", "command.wasm", "--", WASMSR_STRICT="0").stdout) == ["command.wasm"]


# ---- habits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["command.wasm a", "./command.wasm a", "run command.wasm a", "-v command.wasm a",
     "-q --log-level debug command.wasm a", "--fuel 1M command.wasm a", "--fuel=1M command.wasm a",
     "--log-level=error --dir . command.wasm a"],
)  # fmt: skip
def test_run_can_be_left_out(cli: Cli, app: str, line: str) -> None:
    assert shown(cli(*line.split()).stdout)[1:] == ["a"]


def test_commands_come_first() -> None:
    def known(line: str) -> list[str]:
        return with_command(line.split(), COMMANDS, {"--dir"}, lambda word: word == "run.wasm")

    assert known("inspect run.wasm") == ["inspect", "run.wasm"]
    assert known("run.wasm --dir x") == ["run", "run.wasm", "--dir", "x"]
    assert known("help") == ["--help"]
    assert known("-v help remote") == ["-v", "remote", "--help"]
    assert known("go") == ["go"]
    assert known("--dir . go") == ["run", "--dir", ".", "go"]
    assert known("-vq -v") == ["-vq", "-v"]
    assert known("") == []
    assert known("-") == ["-"]


@pytest.mark.parametrize("line", ["-h", "help", "--help"])
def test_help(cli: Cli, line: str) -> None:
    outcome = cli(*line.split())
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "Exit codes" in outcome.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(cli: Cli, command: str) -> None:
    texts = [cli(command, "--help"), cli(command, "-h"), cli("help", command)]
    assert all(text.returncode == 0 for text in texts)
    assert len({text.stdout for text in texts}) == 1
    assert f"Usage: wasmsr {command}" in texts[0].stdout


def test_h_behind_program_is_the_programs(cli: Cli, app: str) -> None:
    assert shown(cli("run", "command.wasm", "-h").stdout) == ["command.wasm", "-h"]
    assert shown(cli("run", "command.wasm", "-V").stdout) == ["command.wasm", "-V"]


def test_version(cli: Cli) -> None:
    assert cli("-V").stdout == cli("--version").stdout != ""


def test_version_says_what_the_host_offers_for_snapshots(cli: Cli) -> None:
    short = cli("--version").stdout
    for words in (("--version", "-v"), ("-v", "--version"), ("-vV",)):
        lines = cli(*words, WASMSR_DIRTY_PAGES="hash").stdout.splitlines(keepends=True)
        assert lines[0] == short and lines[1].startswith("native code: ")
        assert lines[2] == "dirty pages: hash\n"
        heads = [line.partition(": ")[0] for line in lines]
        assert heads.index("SHA-256") + 1 == heads.index("cores")
        assert heads[-1].startswith("workers of a node, ")
    said = cli("-vV", WASMSR_DIRTY_PAGES="magic")
    assert "dirty pages: none: WASMSR_DIRTY_PAGES is 'magic'" in said.stdout
    assert said.returncode == 0


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("-S cli=y app.wasm", "--inherit-env"),
        ("run -Scli app.wasm", "--tcp-listen"),
        ("run -W fuel=4 app.wasm", "--fuel"),
        ("-Wtimeout=1s app.wasm", "--timeout"),
        ("compile app.wasm", "wasmsr run app.wasm"),
        ("explore app.wasm", "wasmsr inspect app.wasm"),
        ("serve app.wasm", "--tcp-listen"),
        ("run -mount=a:b app.wasm", "--dir"),
        ("run --net app.wasm", "--tcp-listen"),
    ],
)
def test_options_of_others(cli: Cli, app: str, line: str, part: str) -> None:
    outcome = cli(*line.split())
    assert outcome.returncode == 2
    sentence = one_sentence(outcome)
    assert part in sentence
    assert sentence.count(". ") <= 1


def test_no_option_of_ours_is_taken_for_one_of_others() -> None:
    assert [name for name in NAMES if instead_of(name) is not None] == []


def test_timeout(cli: Cli, app: str, module: Path_) -> None:
    began = time.monotonic()
    found = cli.json(app, "--invoke", "spin", "--timeout", "0.3")
    assert (found["outcome"], found["exit_code"]) == ("timed-out", 121)
    assert time.monotonic() - began < 30
    outcome = cli("run", module("read"), "--timeout", "0.3", "--snapshot-on-interrupt")
    assert outcome.returncode in (0, 121)
    words = (app, "--invoke", "spin", "--timeout", "0.2", "--snapshot-on-interrupt")
    found = cli.json(*words, "--force")
    assert (found["outcome"], found["snapshot"]) == ("timed-out", "snapshot.bin")
    assert cli("run", "fib", "--timeout", "100").stdout == "34\n"
    assert cli("run", "fib", "--timeout", "0").returncode == 2


def test_inherit_env(cli: Cli, app: str) -> None:
    words = ("run", app, "--invoke", "env")
    assert cli(*words, MINE="1").stdout == ""
    found = shown(cli(*words, "--inherit-env", MINE="1", OTHER="x", WASMSR_QUIET="1").stdout)
    assert {"MINE=1", "OTHER=x", f"PATH={os.environ['PATH']}"} <= set(found)
    assert not [text for text in found if text.startswith("WASMSR_")]
    found = shown(cli(*words, "--inherit-env", "--env", "MINE=2", MINE="1").stdout)
    assert [text for text in found if text.startswith("MINE=")] == ["MINE=2"]


@pytest.mark.parametrize("option", ["--mapdir=.::there", "--mapdir=::there", "--mapdir=there:sub"])
def test_mapdir(cli: Cli, option: str) -> None:
    (cli.folder / "sub").mkdir()
    (cli.folder / "sub" / "letter").write_text("words")
    option = option.replace(".::there", "there::sub").replace("=::there", "=there::./sub")
    outcome = cli("run", "cat", option, "there/letter")
    assert outcome.stdout == "words", outcome.stderr
    assert cli("run", "cat", "--mapdir", "there").returncode == 2


# ---- completion of values ------------------------------------------------------------------------


def test_completion_of_values(cli: Cli, app: str) -> None:
    assert complete(cli, "run", "fib", "--on-changed", "") == ["error", "keep", "truncate"]
    assert complete(cli, "run", "fib", "--on-changed", "k") == ["keep"]
    assert "-simd" in complete(cli, "run", "--features", "-s")
    assert complete(cli, "run", "--features", "-simd,+wide") == ["-simd,+wide-arithmetic"]
    found = complete(cli, "run", app, "--invoke", "")
    assert found == ["list", "add", "env", "_initialize", "spin"]
    assert complete(cli, "run", app, "--invoke", "a") == ["add"]
    assert complete(cli, "run", "fib", "--invoke", "") == ["fib"]
    assert complete(cli, "run", "nothing.wasm", "--invoke", "") == [""]
    outcome = cli(_WASMSR_COMPLETE="bash_complete", COMP_WORDS="wasmsr run --dir ", COMP_CWORD="3")
    assert outcome.stdout.startswith("dir,")


def test_every_option_is_explained_in_one_place(cli: Cli) -> None:
    text = cli("run", "--help").stdout
    for row in ROWS:
        assert re.search(rf"^  {row.name}\b", text, re.MULTILINE), row.name
