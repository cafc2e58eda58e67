"""Ctrl-C, SIGTERM, SIGUSR1: how soon, with which code, and what the terminal is like afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import PATIENCE, wait_for_instructions, wait_for_sleep

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Terminal

Path_ = Callable[[str], str]

ATTEMPTS = 6
SOON = 0.1
"""Seconds from a signal to the end. The best of a few attempts counts: a machine that is busy with
other tests may not let us run at all for longer than that."""
SURELY = 5.0
"""Seconds that every attempt keeps to."""


def until_end(process: subprocess.Popen[bytes], number: int) -> float:
    """Sends a signal; seconds until the process has ended."""
    began = time.monotonic()
    process.send_signal(number)
    process.wait(PATIENCE)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("name", "ready"), [("loop", wait_for_instructions), ("read", wait_for_sleep)]
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ends_within_100_ms(
    cli: Cli,
    module: Path_,
    name: str,
    ready: Callable[[subprocess.Popen[bytes]], None],
    number: int,
    code: int,
) -> None:
    spans = []
    for _ in range(ATTEMPTS):
        process = cli.begin("run", module(name))
        ready(process)
        spans.append(until_end(process, number))
        assert process.returncode == code
        assert process.stderr is not None
        assert process.stderr.read() == b"wasmsr: interrupted\n"
        if spans[-1] < SOON:
            break
    assert min(spans) < SOON
    assert max(spans) < SURELY


def test_blocked_write(cli: Cli, module: Path_) -> None:
    """Nobody reads what the program writes: the pipe is full, and Ctrl-C ends it all the same."""
    process = cli.begin("run", module("write"))
    wait_for_sleep(process)
    assert until_end(process, signal.SIGINT) < SURELY
    assert process.returncode == 130


def test_nobody_reads_the_last_words(cli: Cli, module: Path_) -> None:
    """Output and errors go to one pipe or terminal, which is full: no word of ours waits for it."""
    for words in (["run"], ["run", "--json"]):
        process = cli.begin(*words, module("write"), stderr=subprocess.STDOUT)
        wait_for_sleep(process)
        assert until_end(process, signal.SIGTERM) < SURELY
        assert process.returncode == 143


def test_metered_and_traced_loops_end_too(cli: Cli, module: Path_) -> None:
    for words in (["--hop", "5000"], ["--trace-file", os.devnull], ["--fuel", "1000G"]):
        process = cli.begin("run", *words, module("loop"))
        wait_for_instructions(process)
        assert until_end(process, signal.SIGINT) < SURELY
        assert process.returncode == 130, words


def test_while_a_host_does_not_yield(cli: Cli, module: Path_) -> None:
    """A second Ctrl-C ends at once, whatever the first one waits for: here a snapshot into a pipe
    that nobody reads."""
    os.mkfifo(cli.folder / "slow")
    process = cli.begin("run", module("loop"), "--snapshot-on-interrupt", "--snapshot-file", "slow")
    wait_for_instructions(process)
    process.send_signal(signal.SIGINT)
    wait_for_sleep(process)
    assert until_end(process, signal.SIGINT) < SURELY
    assert process.returncode == 130


def test_ignored_in_the_background(cli: Cli, module: Path_) -> None:
    """A shell script starts background jobs with SIGINT ignored; `kill -INT` ends us there too."""
    process = cli.begin(
        "run",
        module("loop"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    wait_for_instructions(process)
    until_end(process, signal.SIGINT)
    assert process.returncode == 130


@pytest.mark.full
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_snapshot_on_interrupt(cli: Cli, module: Path_, number: int, code: int) -> None:
    process = cli.begin("run", "fib", "--snapshot-on-interrupt", "--json", "39")
    wait_for_instructions(process, 0.05)
    until_end(process, number)
    assert process.returncode == code
    assert process.stdout is not None
    found = json.loads(process.stdout.read())
    assert (found["outcome"], found["snapshot"]) == ("interrupted", "snapshot.bin")
    assert found["signal"] == signal.Signals(number).name
    assert cli("run", "fib", "--from-snapshot", "snapshot.bin").stdout == "63245986\n"


def test_blocked_read_is_saved_and_goes_on(cli: Cli, module: Path_) -> None:
    process = cli.begin("run", module("read"), "--snapshot-on-interrupt")
    wait_for_sleep(process)
    until_end(process, signal.SIGTERM)
    assert process.returncode == 143
    outcome = cli("run", module("read"), "--from-snapshot", "snapshot.bin", stdin="C")
    assert outcome.returncode == 67


def test_usr1_saves_and_goes_on(cli: Cli) -> None:
    process = cli.begin("run", "fib", "39")
    wait_for_instructions(process, 0.05)
    process.send_signal(signal.SIGUSR1)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (stdout, process.returncode) == (b"63245986\n", 0)
    assert b"snapshot.bin: " in stderr
    assert cli("run", "fib", "--from-snapshot", "snapshot.bin").stdout == "63245986\n"


def test_usr1_in_a_blocked_read(cli: Cli, module: Path_) -> None:
    process = cli.begin("run", module("read"))
    wait_for_sleep(process)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE
    while not (cli.folder / "snapshot.bin").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.communicate(b"D", timeout=PATIENCE)[0] == b""
    assert process.returncode == 68
    outcome = cli("run", module("read"), "--from-snapshot", "snapshot.bin", stdin="E")
    assert outcome.returncode == 69


def test_interrupted_while_loading(cli: Cli) -> None:
    """The module comes from a pipe to which nobody writes."""
    os.mkfifo(cli.folder / "late.wasm")
    process = cli.begin("run", "late.wasm")
    wait_for_sleep(process)
    until_end(process, signal.SIGINT)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("name", "ready"), [("loop", wait_for_instructions), ("read", wait_for_sleep)]
)
def test_ctrl_c_in_a_terminal(
    terminal: Callable[..., Terminal],
    module: Path_,
    name: str,
    ready: Callable[[subprocess.Popen[bytes]], None],
) -> None:
    tty = terminal("run", module(name))
    ready(tty.process)
    tty.type("\x03")
    assert tty.end() == 130
    assert tty.settings() == tty.before


ENDS = {
    "key q": lambda tty: tty.type("q"),
    "end of input": lambda tty: tty.type("\x04"),
    "ctrl-c": lambda tty: tty.type("\x03"),
    "ctrl-\\": lambda tty: tty.type("\x1c"),
    "term": lambda tty: tty.process.terminate(),
    "hup": lambda tty: tty.process.send_signal(signal.SIGHUP),
}


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_terminal_is_put_back(terminal: Callable[..., Terminal], way: str, busy: bool) -> None:
    rounds = "100000000000" if busy and way != "end of input" else "10000"
    tty = terminal("run", "server", "--env", f"ROUNDS={rounds}")
    tty.read_until("q quits")
    assert tty.by_single_keys
    if busy:
        tty.type("r")
        if way != "end of input":
            wait_for_instructions(tty.process, 0.05)
    ENDS[way](tty)
    codes = {"ctrl-c": 130, "term": 143, "hup": 129, "ctrl-\\": 131}
    assert tty.end() == codes.get(way, 0)
    assert tty.settings() == tty.before


def test_terminal_is_put_back_after_a_trap(
    terminal: Callable[..., Terminal], module: Path_
) -> None:
    tty = terminal("run", module("calc"), "--interactive", "--invoke", "outer", "0")
    assert tty.end() == 134
    assert tty.settings() == tty.before


def test_terminal_is_put_back_while_stopped(terminal: Callable[..., Terminal]) -> None:
    """Ctrl-Z gives the shell its terminal as it was, `fg` gives it to us again."""
    tty = terminal("run", "server", "--env", "ROUNDS=1000")
    tty.read_until("q quits")
    os.kill(tty.process.pid, signal.SIGTSTP)

    def state() -> str:
        with open(f"/proc/{tty.process.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]

    tty.wait_until(lambda: state() == "T")
    assert tty.settings() == tty.before
    os.kill(tty.process.pid, signal.SIGCONT)
    tty.wait_until(lambda: tty.by_single_keys)
    tty.type("r")
    tty.read_until("request 1: ")
    tty.type("q")
    assert tty.end() == 0
    assert tty.settings() == tty.before


def test_keys_are_not_echoed(terminal: Callable[..., Terminal]) -> None:
    tty = terminal("run", "server", "--env", "ROUNDS=1000")
    tty.read_until("q quits")
    tty.type("x")
    tty.read_until("q quits\r\nwasmsr: keys")
    tty.type("q")
    tty.end()
    assert b"x" not in tty.output.replace(b"xterm", b"")


def test_settings_compare() -> None:
    """What the tests above compare does tell single keys from lines."""
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    changed = termios.tcgetattr(slave)
    changed[3] &= ~termios.ICANON
    termios.tcsetattr(slave, termios.TCSANOW, changed)
    assert termios.tcgetattr(slave) != before
    os.close(master)
    os.close(slave)
