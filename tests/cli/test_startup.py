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


def imported(cli: Cli, *words: str, **variables: str) -> set[str]:
    """The modules that a command line imports, from Python's own report."""
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "wasmsr", *words],
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
    "words", [["--help"], ["run", "--help"], ["inspect", "--help"], ["run", "--wrong"], []]
)
def test_help_is_light(cli: Cli, words: list[str]) -> None:
    names = imported(cli, *words)
    assert "wasmsr.cli.app" in names
    assert found(names, (*HEAVY, "wasmsr._ffi", "wasmsr.interp", "asyncio", "logging")) == []


def test_run_fib_is_light(cli: Cli) -> None:
    names = imported(cli, "run", "fib")
    assert "wasmsr._ffi" in names
    unwanted = (
        *HEAVY,
        "wasmsr.wasi",
        "wasmsr.snapshot",
        "asyncio",
        "logging",
        "importlib.metadata",
    )
    assert found(names, unwanted) == []


def test_run_cat_needs_no_snapshot(cli: Cli) -> None:
    assert found(imported(cli, "run", "cat"), (*HEAVY, "wasmsr.snapshot")) == []


def test_help_teaches(cli: Cli) -> None:
    text = cli("--help").stdout
    for part in ("wasmsr run fib", "Exit codes", "120", "134", "WASMSR_", "_WASMSR_COMPLETE"):
        assert part in text
    text = cli("run", "--help").stdout
    for part in ("fib", "cat", "server", "transcoding", "--snapshot-after", "untouched", "USR1"):
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
    assert complete(cli, "r") == ["run", "remote"]
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
