"""Our own self-checking programs (`programs/`, C), which make every call of preview 1: at one go,
then stopped before every host call and resumed in place and by new processes, and by the command
line."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.wasi.legs import Job, in_place, in_processes, straight
from wasmsr import Module
from wasmsr.wasi.preview1.functions import FUNCTIONS, MODULE

FOLDER = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True)
class Program:
    """How one of them is run, and its exit code."""

    name: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    stdin: str = ""
    stdout: str = ""
    code: int = 0
    serves: bool = False

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.wasm"


PROGRAMS = [
    Program("process", ("one", "two words", ""), {"A": "1", "EMPTY": ""}),
    Program("clocks"),
    Program("files"),
    Program("descriptors"),
    Program("paths"),
    Program("listing"),
    Program("polling", stdin="12345"),
    Program("ending", code=42),
    Program("ending", ("raise",), code=134),
    Program("serving", serves=True),
    Program("library", ("argument",), {"KEY": "value"}, stdin="12345", stdout="done\n"),
]
WAYS: dict[str, Callable[[Job], tuple[int, int]]] = {
    "straight": lambda job: (straight(job), 0),
    "in place": in_place,
    "new processes": in_processes,
}


# Who asks again and again may get its own port and talk to itself, unless its address is another.
SOURCE = ("127.0.0.2", 0) if sys.platform == "linux" else None
QUICK = ("process", "polling", "ending", "serving")
"""Programs of few calls: they go through new processes in the quick tests too."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def clients(port: int) -> Iterator[list[bytes]]:
    """Asks the program at that port, until it answers, whoever has it just now."""
    answers: list[bytes] = []

    def ask(question: bytes) -> bytes:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with socket.create_connection(
                    ("127.0.0.1", port), timeout=60, source_address=SOURCE
                ) as connection:
                    connection.sendall(question)
                    connection.shutdown(socket.SHUT_WR)
                    answer = b""
                    while piece := connection.recv(100):
                        answer += piece
                if answer:
                    return answer
            except OSError:
                time.sleep(0.02)
        return b""

    def talk() -> None:
        answers.extend(map(ask, [b"hello", b"wor" * 100 + b"ld", b"quit"]))

    thread = threading.Thread(target=talk)
    thread.start()
    yield answers
    thread.join()


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Program], Job]:
    def make(program: Program) -> Job:
        (tmp_path / "data").mkdir()
        (tmp_path / "in").write_text(program.stdin)
        return Job(
            module=str(program.path),
            stdout=str(tmp_path / "out"),
            stderr=str(tmp_path / "err"),
            args=list(program.args),
            env=program.env,
            mounts=[(str(tmp_path / "data"), "/data")],
            stdin=str(tmp_path / "in"),
            listen=[f"127.0.0.1:{free_port()}"] if program.serves else [],
        )

    return make


def name_of(program: Program) -> str:
    return "-".join([program.name, *program.args[:1]])


def cases() -> Iterator[object]:
    for program in PROGRAMS:
        for way in WAYS:
            long = way == "new processes" and program.name not in QUICK
            marks = [pytest.mark.full] if long else []
            yield pytest.param(program, way, marks=marks, id=f"{name_of(program)}-{way}")


@pytest.mark.parametrize(("program", "way"), list(cases()))
def test_program(program: Program, way: str, made: Callable[[Program], Job]) -> None:
    job = made(program)
    if program.serves:
        with clients(int(job.listen[0].rpartition(":")[2])) as answers:
            code, legs = WAYS[way](job)
        assert answers == [b"HELLO", b"WOR" * 100 + b"LD", b"QUIT"]
    else:
        code, legs = WAYS[way](job)
    assert code == program.code, Path(job.stderr).read_text()
    assert Path(job.stdout).read_text() == program.stdout
    assert way == "straight" or legs > 3


def test_together_they_make_every_call() -> None:
    called = set()
    for program in PROGRAMS:
        for item in Module.from_file(program.path).imports:
            assert item.module == MODULE
            called.add(item.name)
    assert called == {row.name for row in FUNCTIONS}


def test_listening_on_the_command_line(made: Callable[[Program], Job], tmp_path: Path) -> None:
    """Saved while it waits for a connection, and resumed at another address."""
    (program,) = (program for program in PROGRAMS if program.serves)
    job = made(program)
    run = [sys.executable, "-m", "wasmsr", "run", f"--dir={job.mounts[0][0]}::/data"]
    file = f"--snapshot-file={tmp_path / 'saved'}"
    saved = [*run, "--tcp-listen=127.0.0.1:0", "--snapshot-after=0.3", file, str(program.path)]
    done = subprocess.run(saved, capture_output=True, text=True, timeout=60)
    assert done.returncode == 120, done.stderr
    assert "the program listens on 127.0.0.1:" in done.stderr
    resumed = [*run, f"--from-snapshot={tmp_path / 'saved'}", str(program.path)]
    done = subprocess.run(resumed, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "descriptor 4 (it was 127.0.0.1:" in done.stderr and "--tcp-listen" in done.stderr
    port = free_port()
    with clients(port) as answers:
        done = subprocess.run(
            [*resumed, f"--tcp-listen=127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    assert answers[-1] == b"QUIT"
