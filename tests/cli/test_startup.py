"""What is imported when: help is light, and `run fib` brings nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import environment

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

HEAVY = ("grpc", "google.protobuf", "wasmtime", "zstandard", "msgpack", "rich", "platformdirs")


SLOW = (
    "click",
    "typing",
    "dataclasses",
    "inspect",
    "re",
    "hashlib",
    "_hashlib",
    "socket",
    "tempfile",
)
"""What takes longer to import than a small program takes to run, and `run` has no need of."""


def imported(cli: Cli, *words: str, **variables: str) -> set[str]:
    """The modules that a command line imports, less those that any program here does: an editable
    install brings a finder of packages with modules of its own."""
    return reported(cli, "-m", "wasmsr", *words, **variables) - reported(cli, "-c", "pass")


def reported(cli: Cli, *words: str, **variables: str) -> set[str]:
    """The modules that Python says it imports."""
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        cwd=cli.folder,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def found(names: set[str], wanted: tuple[str, ...]) -> list[str]:
    """Which packages of `wanted` are among the modules."""
    return [w for w in wanted if any(n == w or n.startswith(f"{w}.") for n in names)]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["inspect", "--help"],
        ["snapshot", "verify", "--help"],
        ["run", "--wrong"],
        [],
    ],
)
def test_help_is_light(cli: Cli, words: list[str]) -> None:
    names = imported(cli, *words)
    assert "wasmsr.cli.app" in names
    assert found(names, (*HEAVY, "wasmsr._ffi", "wasmsr.interp", "asyncio", "logging")) == []


def test_run_fib_is_light(cli: Cli) -> None:
    names = imported(cli, "run", "fib")
    assert "wasmsr._ffi" in names
    assert len(names) < 110, sorted(names)
    unwanted = (
        *HEAVY,
        *SLOW,
        "pathlib",
        "json",
        "wasmsr.wasi",
        "wasmsr.snapshot",
        "asyncio",
        "logging",
        "importlib.metadata",
    )
    assert found(names, unwanted) == []


def test_run_cat_needs_no_snapshot(cli: Cli) -> None:
    # A mount's folder is a Path, which brings `re`.
    slow = tuple(name for name in SLOW if name != "re")
    unwanted = (*HEAVY, *slow, "wasmsr.snapshot", "wasmsr.wasi.state", "wasmsr.wasi.restore")
    names = imported(cli, "run", "cat")
    assert found(names, unwanted) == []
    assert len(names) < 145, sorted(names)


@pytest.mark.parametrize(
    ("words", "variables", "quick"),
    [
        (["run", "fib", "--", "5"], {}, True),
        (["run", "--fuel", "1k", "fib"], {"WASMSR_INVOKE": "fib"}, True),
        (["run", "fib", "--dir=.", "--env", "A=1", "--env", "B=2"], {"WASMSR_ENV": "C=3"}, True),
        (["--version"], {}, True),
        (["run", "fib"], {"WASMSR_TRACE": "0"}, False),
        (["-v", "run", "fib"], {}, False),
        (["run", "fib", "--help"], {}, False),
        (["run", "--fuel", "lots", "fib"], {}, False),
        (["run", "fib", "--fuel"], {}, False),
    ],
)
def test_click_is_only_for_what_needs_it(
    cli: Cli, words: list[str], variables: dict[str, str], quick: bool
) -> None:
    names = imported(cli, *words, **variables)
    assert ("click" in names) != quick


def test_both_ways_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options by the short way and by click, for lines that both understand."""
    from wasmsr.cli import quick
    from wasmsr.cli.commands import run as run_command
    from wasmsr.cli.running import launch

    seen: list[dict[str, object]] = []

    class Fake:
        def __init__(self, options: object) -> None:
            seen.append(vars(options))

        def run(self) -> int:
            return 0

    monkeypatch.setattr(launch, "Launch", Fake)
    monkeypatch.setenv("WASMSR_DIR", "one\ntwo")
    monkeypatch.setenv("WASMSR_MAX_MEMORY", "2M")
    for line in (
        "fib 9",
        "fib --env A=1 --dir x --dir=y::z --json -- --json",
        "--fuel 40M --snapshot-after 2.5 fib --max-memory=1G -3 x",
        "--from-snapshot file --snapshot-file other --keep-running --snapshot-at 1_000",
        "app.wasm --features -tail-calls --stdin f --module-cache off --invoke g",
        "--mapdir g::h --arg a --arg=-b --inherit-env --timeout 3 --core app.wasm -- x",
        "app.wasm --invoke g --force --json-file j -- 1 -- 2",
        "--strict --invoke g app.wasm --trace -- 1",
        "app.wasm --strict -h --trace",
    ):
        assert quick.attempt(["run", *line.split()]) == 0
        run_command.run.main(line.split(), prog_name="run", standalone_mode=False)
        assert seen[-1] == seen[-2], line
    assert len(seen) == 18


def test_help_teaches(cli: Cli) -> None:
    text = cli("--help").stdout
    for part in ("wasmsr run fib", "Exit codes", "120", "134", "WASMSR_", "_WASMSR_COMPLETE"):
        assert part in text
    text = cli("run", "--help").stdout
    for part in (
        "fib",
        "cat",
        "server",
        "transcoding",
        "--snapshot-after",
        "every argument",
        "USR1",
    ):
        assert part in text


def test_version(cli: Cli) -> None:
    import wasmsr

    assert cli("--version").stdout.startswith(f"wasmsr {wasmsr.__version__} ")


def complete(cli: Cli, *words: str) -> list[str]:
    """What bash would be offered for the last word."""
    outcome = cli(
        _WASMSR_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["wasmsr", *words]),
        COMP_CWORD=str(len(words)),
    )
    return [line.partition(",")[2] for line in outcome.stdout.splitlines()]


def test_completion(cli: Cli) -> None:
    assert complete(cli, "r") == ["run", "remote", "resume"]
    assert {"fib", "cat", "server", "transcoding"} <= set(complete(cli, "run", ""))
    assert "fib" in complete(cli, "run", "fi")
    assert complete(cli, "run", "--snapshot-a") == ["--snapshot-after", "--snapshot-at"]
    assert complete(cli, "run", "fib", "--snapshot-a") == ["--snapshot-after", "--snapshot-at"]
    assert "fib" in complete(cli, "run", "--trace", "f")
    assert complete(cli, "--log-level", "no") == ["notice"]


def test_completion_script(cli: Cli) -> None:
    outcome = cli(_WASMSR_COMPLETE="bash_source")
    assert "_wasmsr_completion" in outcome.stdout
    assert outcome.returncode == 0
