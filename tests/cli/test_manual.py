"""Help texts, README.md and the manual page: each example in them is typed, and does as it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_habits import ARGV
from tests.elements.folders import steps
from wasmsr.cli import manual, quick
from wasmsr.cli.options.run_options import ROWS
from wasmsr.cli.programs import PROGRAMS
from wasmsr.cli.subcommands import COMMANDS
from wasmsr.interp.modules.module import assemble
from wasmsr.runspec.kinds import Flag

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

SLEEPER = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 4000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"""
"""A program that takes four seconds, of which it computes none."""

PYTHON = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "1\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 2))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
"""Stands for the python.wasm of the examples: it prints 1."""


JOB = """\
Tasks:
  - Engine: {Type: wasm, Params: {EntryModule: /app.wasm}}
    InputSources:
      - {Source: {Type: localDirectory, Params: {SourcePath: app.wasm}}, Target: /app.wasm}
"""


@pytest.fixture
def furnished(cli: Cli) -> Cli:
    """A folder with the files that the examples name."""
    for name, source in (("app", SLEEPER), ("python", PYTHON), ("lib", ARGV)):
        (cli.folder / f"{name}.wasm").write_bytes(assemble(source.encode()))
    (cli.folder / "data").mkdir()
    (cli.folder / "job.yaml").write_text(JOB)
    steps(cli.folder / "steps")
    return cli


def commands(text: str) -> list[list[str]]:
    """The lines of a text that are commands, without what is said beside them."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*(?:\$ )?wasmsr (?P<words>.*)", line)
        if match is not None and not line.strip().endswith("."):
            words = re.split(r"\s{2,}|\s#", match["words"])[0]
            found.append(shlex.split(words))
    return found


ELSEWHERE = (
    *("remote", "node", "submit", "ps", "logs", "pause", "resume", "checkpoint", "kill"),
    *("migrate", "drain", "adopt", "health", "orchestrator", "fleet", "memory", "worker", "mcp"),
    *("sandbox", "kernel"),
)
"""Commands that need another process or the guest, and are typed in other tests."""

SERVED = (
    ["job", "run"],
    ["job", "get"],
    *(["dag", word] for word in ("exec", "resume", "logs", "stop")),
)
"""Commands that need another process, and are typed in tests of jobs and elements."""


def is_elsewhere(words: list[str]) -> bool:
    """Whether a command needs another process."""
    return words[0] in ELSEWHERE or "--node" in words or words[:2] in SERVED


def walk(cli: Cli, lines: list[list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Types commands one after the other; those that need other processes are typed elsewhere."""
    outcomes = []
    for words in lines:
        if is_elsewhere(words):
            continue
        keys = {"stdin": "rs"} if words[:2] == ["run", "server"] else {}
        variables = {
            "WASMSR_ENV": "ROUNDS=60000",
            "XDG_CACHE_HOME": str(cli.folder / "cache"),
            "XDG_DATA_HOME": str(cli.folder / "data"),
            "XDG_STATE_HOME": str(cli.folder / "state"),
        }
        outcome = cli(*words, **variables, **keys)
        stops = any(word.startswith(("--snapshot-after", "--snapshot-at")) for word in words)
        assert outcome.returncode == (120 if stops else 0), (words, outcome.stderr)
        assert "Traceback" not in outcome.stderr
        outcomes.append(outcome)
    return outcomes


@pytest.mark.parametrize("command", [None, *(name for name in COMMANDS if name != "remote")])
def test_help(furnished: Cli, command: str | None) -> None:
    text = furnished(*([command] if command else []), "--help").stdout
    text = text.partition("\nOptions:")[0]
    lines = commands(text.partition("\n\n")[2])
    assert len(lines) >= 2, text
    if command in ("inspect", "snapshot", "store"):
        furnished("run", "app.wasm", "--snapshot-at", "1")
    if command in ("snapshot", "store"):
        every = ("--snapshot-every", "0.3", "--checkpoint-dir", "checkpoints")
        furnished("run", *every, "--timeout", "1", "app.wasm")
    walk(furnished, lines)


def fences(root: Path, heading: str) -> str:
    """The text in code fences below a heading of README.md."""
    whole = (root / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", whole.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    return "\n".join(re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("heading", ["One minute", "Usage"])
def test_readme(furnished: Cli, root: Path, heading: str) -> None:
    text = fences(root, heading)
    lines = commands(text)
    assert len(lines) >= 2
    outcomes = walk(furnished, lines)
    shown = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    shown = [example for example in shown if not is_elsewhere(example.split()[1:])]
    for example, outcome in zip(shown, outcomes, strict=True):
        first, _, printed = example.partition("\n")
        if printed.strip():
            assert outcome.stdout == printed.rstrip() + "\n", first
    if heading == "One minute":
        assert (furnished.folder / "transcoding.avi").stat().st_size > 100_000
    else:  # the request is finished by one of the two
        assert "request 1: memory 1, global 1, table 1" in "".join(o.stdout for o in outcomes)


def test_readme_in_one_folder(furnished: Cli, root: Path) -> None:
    """As somebody types it who reads from the beginning to the end."""
    walk(furnished, commands(fences(root, "One minute") + fences(root, "Usage")))


VALUES = {
    "HOST::GUEST": ".::x",
    "HOST::GUEST::carry": ".::x::carry",
    "K=V": "A=1",
    "FILE": "some-file",
    "F": "some-file",
    "N": "100000000",
    "SECONDS": "100",
    "FOLDER\\|off": "off",
    "-tail-calls,…": "-tail-calls",
}


def test_options_that_documents_name(root: Path) -> None:
    """Each option in a code span is there, and takes the value that stands behind it."""
    rows = {row.name: row for row in ROWS}
    others = remote_options() | {"--program", "--values", "--log-level"}
    read = 0
    for document in ("README.md", "docs/guide.md"):
        text = (root / document).read_text(encoding="utf-8")
        text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        text = text.partition("## From the old names")[0]
        for span in re.findall(r"`(--[a-z][^`]*)`", text):
            words = span.split()
            name = words[0].partition("=")[0]
            if name not in rows:
                assert name in others | MISTYPED, f"{document}: {span}"
            elif len(words) == 2 and not isinstance(rows[name].type, Flag):
                value = VALUES.get(words[1], words[1])
                assert quick.read([name, value, "fib"]) is not None, f"{document}: {span}"
                read += 1
    assert read > 10


MISTYPED = {"--snapshot-aftr", "--verbose"}
"""What stands in docs/guide.md as an example of what is none of ours."""


def remote_options() -> set[str]:
    from wasmsr.cli.commands.remote import remote

    return {name for parameter in remote.params for name in parameter.opts}


# ---- the manual page -----------------------------------------------------------------------------


def test_the_page_is_current() -> None:
    assert manual.main(["--check"]) == 0


def test_the_page_says_what_help_says() -> None:
    page = manual.page()
    for row in ROWS:
        assert f".B {manual.escaped(row.name)}" in page
        assert manual.escaped(row.help) in page
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "WASMSR RUN"):
        assert f".SH {heading}\n" in page
    assert manual.escaped(".x -a\\b") == "\\&.x \\-a\\eb"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_page_is_roff(tmp_path: Path) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"],
        input=manual.page(), capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_packaged_programs_are_in_help(cli: Cli) -> None:
    text = cli("run", "--help").stdout
    for name, program in PROGRAMS.items():
        assert name in text and program.summary in text
