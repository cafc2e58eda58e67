"""The command line as a user has it: real processes, pipes and terminals, and small modules."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0
"""Seconds after which a test gives up on a process; the machine may be busy."""

WASI = "wasi_snapshot_preview1"

MODULES = {
    # Runs for ever, in WASI's way of a command.
    "loop": '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))',
    # Waits for one byte of standard input, then exits with its value.
    "read": f"""(module
        (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "{WASI}" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (i32.store (i32.const 0) (i32.const 16))
          (i32.store (i32.const 4) (i32.const 1))
          (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
          (call $exit (i32.load8_u (i32.const 16)))))""",
    # Writes for ever; exits with the errno of the first write that fails.
    "write": f"""(module
        (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "{WASI}" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "many words and more\\0a")
        (func (export "_start") (local $errno i32)
          (i32.store (i32.const 0) (i32.const 16))
          (i32.store (i32.const 4) (i32.const 20))
          (loop $again
            (local.set $errno (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br_if $again (i32.eqz (local.get $errno))))
          (call $exit (local.get $errno))))""",
    # Exits with the number of its arguments and variables: 16 * argc + environ.
    "count": f"""(module
        (import "{WASI}" "args_sizes_get" (func $args (param i32 i32) (result i32)))
        (import "{WASI}" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
        (import "{WASI}" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (drop (call $args (i32.const 0) (i32.const 4)))
          (drop (call $environ (i32.const 8) (i32.const 12)))
          (call $exit (i32.add (i32.mul (i32.const 16) (i32.load (i32.const 0)))
                               (i32.load (i32.const 8))))))""",
    # Typed exports, traps, a memory that grows, a global.
    "calc": """(module
        (memory (export "memory") 1)
        (global $counter (mut i32) (i32.const 40))
        (func (export "add") (param i32 i32) (result i32)
          (i32.add (local.get 0) (local.get 1)))
        (func (export "half") (param f32) (result f32)
          (f32.mul (local.get 0) (f32.const 0.5)))
        (func (export "pair") (param i64 f64) (result f64 i64)
          (local.get 1) (local.get 0))
        (func (export "count") (result i32)
          (global.set $counter (i32.add (global.get $counter) (i32.const 1)))
          (global.get $counter))
        (func $divide (param i32) (result i32)
          (i32.div_s (i32.const 1) (local.get 0)))
        (func (export "outer") (param i32) (result i32) (call $divide (local.get 0)))
        (func $deep (export "deep") (call $deep))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "null") (result funcref) (ref.null func))
        (func (export "spin") (loop (br 0))))""",
}


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The path of one of `MODULES`, in the binary format."""
    from wasmsr.interp.modules.module import assemble

    folder = tmp_path_factory.mktemp("modules")

    def path(name: str) -> str:
        file = folder / f"{name}.wasm"
        if not file.exists():
            file.write_bytes(assemble(MODULES[name].encode()))
        return str(file)

    return path


def environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment without our own variables, and `extra`."""
    return {k: v for k, v in os.environ.items() if not k.startswith("WASMSR_")} | extra


@dataclass
class Cli:
    """`wasmsr` in an empty folder."""

    folder: Path
    running: list[subprocess.Popen[Any]] = field(default_factory=list)

    def __call__(
        self, *words: str, stdin: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command line to its end; without `stdin` its standard input is empty."""
        return subprocess.run(
            [sys.executable, "-m", "wasmsr", *words],
            cwd=self.folder,
            env=environment(variables),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def begin(self, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command line and goes on; it is killed at the test's end if need be."""
        variables = options.pop("variables", {})
        process = subprocess.Popen(
            [sys.executable, "-m", "wasmsr", *words],
            cwd=self.folder,
            env=environment(variables),
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            | options,
        )
        self.running.append(process)
        return process

    def json(self, *words: str, **options: Any) -> dict[str, Any]:
        """The object of a `run --json`, which is the last line of standard output."""
        outcome = self("run", "--json", *words, **options)
        found = json.loads(outcome.stdout.splitlines()[-1])
        assert found["exit_code"] == outcome.returncode
        assert isinstance(found, dict)
        return found


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """`wasmsr` in an empty folder."""
    found = Cli(tmp_path)
    yield found
    for process in found.running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def one_sentence(outcome: subprocess.CompletedProcess[str]) -> str:
    """The sentence that an error printed: one line, perhaps a hint, no traceback."""
    lines = outcome.stderr.splitlines()
    assert lines, "nothing was said"
    assert lines[0].startswith("wasmsr: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), outcome.stderr
    assert "Traceback" not in outcome.stderr
    return lines[0].removeprefix("wasmsr: ")


def wait_for_instructions(process: subprocess.Popen[Any], seconds: float = 0.25) -> None:
    """Waits until a process has computed for a while: its program runs, not only its start-up."""
    deadline = time.monotonic() + PATIENCE
    start: float | None = None
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended"
        threads = os.listdir(f"/proc/{process.pid}/task")
        with open(f"/proc/{process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if start is None and len(threads) > 1 and handles(process.pid, signal.SIGINT):
            start = used
        if start is not None and used - start >= seconds:
            return
        time.sleep(0.02)
    raise AssertionError("it does not get going")


def wait_for_sleep(process: subprocess.Popen[Any]) -> None:
    """Waits until all threads of a process sleep, with its program's thread among them."""
    deadline = time.monotonic() + PATIENCE
    calm = 0
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended"
        states = []
        for task in os.listdir(f"/proc/{process.pid}/task"):
            with open(f"/proc/{process.pid}/task/{task}/stat") as file:
                states.append(file.read().rpartition(")")[2].split()[0])
        asleep = len(states) > 1 and set(states) == {"S"}
        calm = calm + 1 if asleep and handles(process.pid, signal.SIGINT) else 0
        if calm == 5:
            return
        time.sleep(0.05)
    raise AssertionError("it does not come to rest")


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal, other than Python's for SIGINT:
    one for SIGUSR1 tells that."""
    with open(f"/proc/{pid}/status") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    mask = int(caught.split()[1], 16)
    wanted = (1 << (number - 1)) | (1 << (signal.SIGUSR1 - 1))
    return mask & wanted == wanted


class Terminal:
    """A pseudo-terminal with `wasmsr` in it, as its session's leader with a shell's settings."""

    def __init__(self, folder: Path, words: Sequence[str], variables: dict[str, str]) -> None:
        self.output = b""
        # The slave stays open here: its settings are looked at after the process has gone.
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wasmsr", *words],
            cwd=folder,
            env=environment({"TERM": "xterm"} | variables),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=self._take_terminal,
        )

    def _take_terminal(self) -> None:
        import fcntl

        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run below nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def settings(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self.slave)

    @property
    def by_single_keys(self) -> bool:
        """Whether keys are given one by one and not echoed."""
        return not self.settings()[3] & (termios.ICANON | termios.ECHO)

    def read_until(self, text: str) -> str:
        """Reads until `text` has come."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.output:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.master], [], [], max(0.0, left))
            assert ready, f"{text!r} does not come, only {self.output!r}"
            self.output += os.read(self.master, 4096)
        return self.output.decode()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Looks until it holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it does not come to that"
            time.sleep(0.01)

    def type(self, keys: str) -> None:
        """Types."""
        os.write(self.master, keys.encode())

    def end(self) -> int:
        """Waits for the end and returns the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; it said {self.output!r}"
            ready, _, _ = select.select([self.master], [], [], 0.05)
            if ready:
                self.output += os.read(self.master, 4096)
        return self.process.returncode

    def close(self) -> None:
        """Kills what is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts `wasmsr` in a pseudo-terminal."""
    opened: list[Terminal] = []

    def begin(*words: str, **variables: str) -> Terminal:
        opened.append(Terminal(tmp_path, words, variables))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()
