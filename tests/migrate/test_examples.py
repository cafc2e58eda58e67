"""Every example of `wasmsr remote --help` and of README.md's two hosts works as it is printed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.migrate.test_killing import free_ports
from wasmsr.cli.commands.remote import HELP
from wasmsr.interp.modules.module import Module

DIARY = Path(__file__).with_name("diary.wat")
ROOT = Path(__file__).parents[2]
MOVES = 2
SECONDS = 100.0


def blocks() -> list[list[str]]:
    """The examples, a list of lines each."""
    found = [part.splitlines() for part in HELP.split("\n\n") if part.startswith("\b")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        if "wasmsr remote" in block:
            found.append([line.removeprefix("$ ") for line in block.splitlines()])
    return [[line.strip() for line in block if line.strip("\b \n")] for block in found]


def test_there_are_examples() -> None:
    assert len(blocks()) >= 4
    for block in blocks():
        assert sum(line.startswith("wasmsr remote") for line in block) == 2, block
        for line in block:
            assert line.startswith(("wasmsr ", "head ")), line


class Terminal:
    """A command as somebody types it, and what it says."""

    def __init__(self, line: str, folder: Path, home: Path, state: str = "state") -> None:
        self.said: list[str] = []
        environment = {
            **os.environ,
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / state),
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "WASMSR_EVERY": "0.3",
        }
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {line}" if line.startswith("wasmsr") else line],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr
        self.said.extend(self.process.stderr)

    def moves(self) -> int:
        return sum("moved here from" in line for line in self.said)

    def finish(self) -> int:
        code = self.process.wait(SECONDS)
        self._thread.join(10)
        return code


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A user who has the command."""
    folder = tmp_path / "home"
    (folder / "bin").mkdir(parents=True)
    command = folder / "bin" / "wasmsr"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m wasmsr "$@"\n')
    command.chmod(0o755)
    yield folder


@pytest.mark.full
@pytest.mark.parametrize("number", range(len(blocks())))
def test_an_example(number: int, tmp_path: Path, home: Path) -> None:
    lines = blocks()[number]
    text = "\n".join(lines)
    same = "::carry" not in text and "--dir" in text
    folders = [tmp_path / name for name in (("one", "one") if same else ("one", "two"))]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    first = folders[0]
    (first / "app.wasm").write_bytes(Module.from_file(DIARY).binary)
    (first / "data").mkdir()
    for name in ("old", "gone", "large"):
        (first / "data" / name).write_bytes(name.encode())
    # Other ports, since somebody may listen on these; and two hosts that are one.
    ports = sorted(set(re.findall(r"(?<=[ :])(?:7000|7001|50051|50052)\b", text)))
    for port, free in zip(ports, map(str, free_ports()), strict=False):
        lines = [re.sub(rf"(?<=[ :]){port}\b", free, line) for line in lines]
    lines = [line.replace("10.0.0.", "127.0.0.") for line in lines]
    for line in lines:
        if line.startswith("head "):
            for folder in folders:
                if folder == first:
                    assert Terminal(line, folder, home).finish() == 0
                else:
                    (folder / "key").write_bytes((first / "key").read_bytes())
                    (folder / "key").chmod(0o600)
    commands = [line for line in lines if line.startswith("wasmsr remote")]
    began = [line for line in commands if "--send" in line]
    waits = [line for line in commands if "--send" not in line]
    assert len(began) == len(waits) == 1
    state = "other" if "--token-file" in text else "state"  # the other host
    receiver = Terminal(waits[0], folders[1], home, state)
    deadline = time.monotonic() + SECONDS
    while not any("listening" in line for line in receiver.said):
        assert receiver.process.poll() is None and time.monotonic() < deadline, receiver.said
        time.sleep(0.02)
    sender = Terminal(began[0], folders[0], home)
    both = [sender, receiver]
    try:
        while sum(one.moves() for one in both) < MOVES and time.monotonic() < deadline:
            assert all(one.process.poll() is None for one in both), sender.said + receiver.said
            time.sleep(0.05)
        if "--program" not in text:  # it would run for minutes
            sender.process.send_signal(signal.SIGINT)
            receiver.process.send_signal(signal.SIGINT)
        codes = [one.finish() for one in both]
    finally:
        for one in both:
            one.process.kill()
            one.process.wait()
    said = "".join(sender.said + receiver.said)
    assert "not moved" not in said and "Traceback" not in said and "refused" not in said
    if "--program" in text:
        assert codes == [0, 0], said
        ends = [folder / "data" / "diary" for folder in folders]
        assert any(path.exists() and path.read_bytes().count(b"\n") >= 149 for path in ends), said
    else:
        assert set(codes) <= {0, 125, 130}, (codes, said)


@pytest.mark.full
def test_two_folders_that_are_not_the_same(tmp_path: Path, home: Path) -> None:
    """What is to be the same folder and is not: said once with the remedy, tried less and less."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        (folder / "data").mkdir(parents=True)
    for name in ("old", "gone", "large"):
        (folders[0] / "data" / name).write_bytes(name.encode())
    one, two = map(str, free_ports())
    receiver = Terminal(f"wasmsr remote --port {two} --peer {one} --dir data", folders[1], home)
    while not any("listening" in line for line in receiver.said):
        time.sleep(0.02)
    command = f"wasmsr remote --port {one} --peer {two} --send --program {DIARY} --dir data"
    sender = Terminal(command, folders[0], home)
    code = sender.finish()
    receiver.finish()
    assert code == 0
    tries = [line for line in sender.said if "not moved" in line]
    assert "start both in the same folder" in tries[0] and "::data::carry" in tries[0], tries
    assert all("for the same reason as before" in line for line in tries[1:]), tries
    assert len(tries) <= 5  # it takes some two seconds and would be tried every 0.3
    assert any("the next try to move it is in" in line for line in sender.said)
    # The other end says why too, which also takes its progress line away.
    assert any("refused a program from" in line for line in receiver.said), receiver.said


@pytest.mark.parametrize("other", ["two", "one"])
def test_the_packaged_transcoding_in_any_two_folders(
    tmp_path: Path, home: Path, other: str
) -> None:
    folders = [tmp_path / "one", tmp_path / other]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "of somebody else").write_text("stays")
    one, two = map(str, free_ports())
    receiver = Terminal(f"wasmsr remote --port {two} --peer {one}", folders[1], home)
    while not any("listening" in line for line in receiver.said):
        time.sleep(0.02)
    words = "--frames 60 --scale 2 --progress 0"
    command = f"wasmsr remote --port {one} --peer {two} --send -- {words}"
    sender = Terminal(command, folders[0], home)
    assert [sender.finish(), receiver.finish()] == [0, 0], sender.said + receiver.said
    (film,) = {path.resolve() for folder in folders for path in folder.glob("transcoding.avi")}
    alone = tmp_path / "alone"
    alone.mkdir()
    assert Terminal(f"wasmsr run transcoding {words}", alone, home).finish() == 0
    assert film.read_bytes() == (alone / "transcoding.avi").read_bytes()
    assert any(f"transcoding.avi is in {film.parent}" in line for line in sender.said)
    for folder in folders:
        assert (folder / "of somebody else").read_text() == "stays"
    assert not list((home / "state").glob("wasmsr/remote/*/files"))
