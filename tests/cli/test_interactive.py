"""Keys while a program runs: the classic server, through a pipe and at a terminal."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import PATIENCE, wait_for_instructions

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Terminal

Path_ = Callable[[str], str]

SHORT = ("--env", "ROUNDS=1000")
LONG = ("--env", "ROUNDS=100000000")


def requests(stdout: str) -> list[str]:
    """The results of requests that were printed."""
    return [line for line in stdout.splitlines() if line.isdecimal()]


def test_requests_through_a_pipe(cli: Cli) -> None:
    outcome = cli("run", "server", *SHORT, stdin="r\nr\nr\n")
    assert requests(outcome.stdout) == ["1001001", "2002002", "3003003"]
    assert outcome.returncode == 0
    begun = [line for line in outcome.stderr.splitlines() if "begins" in line]
    assert begun[2] == "request 3 begins: memory 2, global 2, table 2"
    ended = [line for line in outcome.stdout.splitlines() if line.startswith("request")]
    assert ended[2] == "request 3: memory 3, global 3, table 3"


def test_end_waits_for_the_request(cli: Cli) -> None:
    """The pipe ends at once; the request is answered before the server quits."""
    assert requests(cli("run", "server", *LONG, stdin="r").stdout) == ["1001001"]


def test_no_keys_no_request(cli: Cli) -> None:
    outcome = cli("run", "server", *SHORT, stdin="")
    assert (outcome.stdout, outcome.returncode) == ("", 0)


def test_quit_is_at_once(cli: Cli) -> None:
    outcome = cli("run", "server", "--env", "ROUNDS=100000000000", stdin="rq")
    assert (outcome.stdout, outcome.returncode) == ("", 0)


def begin_request(cli: Cli, *words: str) -> subprocess.Popen[bytes]:
    """A server in the middle of its first request."""
    process = cli.begin("run", "server", *words)
    press(process, b"r")
    wait_for_instructions(process, 0.25)
    return process


def press(process: subprocess.Popen[bytes], keys: bytes) -> None:
    """Types."""
    assert process.stdin is not None
    process.stdin.write(keys)
    process.stdin.flush()


@pytest.mark.full
def test_snapshot_in_the_middle_of_a_request(cli: Cli) -> None:
    """The counters go on right: in the process that goes on, and in one that resumes."""
    process = begin_request(cli, *LONG)
    press(process, b"s")
    stdout, _ = process.communicate(b"r", timeout=PATIENCE)
    assert requests(stdout.decode()) == ["1001001", "2002002"]
    described = cli("inspect", "snapshot.bin", "--program", "server").stdout
    assert " request " in described
    resume = ("run", "server", "--from-snapshot", "snapshot.bin")
    outcome = cli(*resume, stdin="r")
    assert requests(outcome.stdout) == ["1001001", "2002002"]
    assert "request 1: memory 1, global 1, table 1" in outcome.stdout
    # The same snapshot may be resumed again: it was not changed by that.
    assert requests(cli(*resume).stdout) == ["1001001"]


def test_snapshot_while_idle(cli: Cli) -> None:
    """Between requests: a store without frames, whose counters go on."""
    process = cli.begin("run", "server", *SHORT)
    press(process, b"r")
    assert process.stdout is not None
    assert b"request 1" in process.stdout.readline()
    assert process.stdout.readline() == b"1001001\n"
    time.sleep(0.1)
    stdout, _ = process.communicate(b"s", timeout=PATIENCE)
    assert stdout == b""
    resume = ("run", "server", "--from-snapshot", "snapshot.bin")
    assert requests(cli(*resume, stdin="rr").stdout) == ["2002002", "3003003"]


@pytest.mark.full
def test_requests_to_come_are_saved(cli: Cli) -> None:
    """`r` while a request runs asks for another one after it, and a snapshot knows that."""
    process = begin_request(cli, *LONG)
    press(process, b"rrs")
    deadline = time.monotonic() + PATIENCE
    while not (cli.folder / "snapshot.bin").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(PATIENCE)
    outcome = cli("run", "server", "--from-snapshot", "snapshot.bin")
    assert requests(outcome.stdout) == ["1001001", "2002002", "3003003"]


def test_guest_has_an_empty_standard_input(cli: Cli, module: Path_) -> None:
    """The keys are ours; --stdin gives the guest its own."""
    assert cli("run", module("read"), "--interactive", stdin="x").returncode == 0
    (cli.folder / "input").write_text("G")
    outcome = cli("run", module("read"), "--interactive", "--stdin", "input", stdin="x")
    assert outcome.returncode == ord("G")


def test_any_export_again(cli: Cli, module: Path_) -> None:
    """The export is called at once, and again with the same arguments for each r."""
    words = ("run", module("calc"), "--interactive", "--invoke")
    assert cli(*words, "add", "20", "3", stdin="rr").stdout == "23\n23\n23\n"
    assert cli(*words, "count", stdin="rr").stdout == "41\n42\n43\n"


def test_busy_server_at_a_terminal(terminal: Callable[..., Terminal], cli: Cli) -> None:
    tty = terminal("run", "server", *LONG)
    tty.read_until("q quits")
    tty.type("r")
    wait_for_instructions(tty.process, 0.25)
    tty.type("s")
    tty.read_until("snapshot.bin: ")
    tty.read_until("1001001")
    tty.type("q")
    assert tty.end() == 0
    assert os.path.exists(cli.folder / "snapshot.bin")


def test_time_runs_while_idle(cli: Cli) -> None:
    """--snapshot-after saves an idle server too, and ends it."""
    process = cli.begin("run", "server", "--snapshot-after", "0.2")
    assert process.wait(PATIENCE) == 120
    outcome = cli("run", "server", "--from-snapshot", "snapshot.bin")
    assert (outcome.stdout, outcome.returncode) == ("", 0)
