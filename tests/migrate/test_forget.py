"""What is kept of programs that are gone: it is said, and removed on request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.migrate.remote import Ends
from wasmsr.migrate.journal.forget import forget, kept, lost
from wasmsr.migrate.journal.journal import Incoming, Journal, Record
from wasmsr.migrate.protocol import OwnershipState

LOST, READY, OWNED, HANDED = (bytes([number]) * 16 for number in (0x11, 0x22, 0x33, 0x44))


def fill(state: Path, port: int) -> Path:
    """An end's folder with programs of each standing, each with a state of 8 KiB."""
    folder = state / "remote" / str(port)
    journal = Journal(folder)

    def stored(name: str) -> str:
        (folder / name).write_bytes(os.urandom(8192))
        return name

    journal.put(
        Record(LOST, OwnershipState.LOST, epoch=2, received=stored(f"{LOST.hex()}-2.received"))
    )
    incoming = Incoming(2, b"a" * 16, "b", stored(f"{READY.hex()}-2.received"), (b"d" * 32,))
    journal.put(Record(READY, incoming=incoming))
    journal.put(Record(OWNED, OwnershipState.OWNED, epoch=1))
    journal.put(
        Record(HANDED, OwnershipState.HANDED, epoch=2, file=stored(f"{HANDED.hex()}-2.handed"))
    )
    stored(f"{'55' * 16}-7.handed")
    (folder / "files" / LOST.hex() / "tree").mkdir(parents=True)
    (folder / "files" / LOST.hex() / "tree" / "file").write_bytes(os.urandom(4096))
    (folder / "files" / ("66" * 16)).mkdir()  # of a program that has ended here: its user's
    (folder / "files" / ("66" * 16) / "film").write_text("precious")
    journal.close()
    return folder


def names(folder: Path) -> set[str]:
    return {path.name[:2] for path in folder.glob("*.*")} | {
        path.name[:2] for path in folder.glob("files/*")
    }


def test_only_what_nobody_needs_goes(tmp_path: Path) -> None:
    folders = [fill(tmp_path, port) for port in (7000, 7001)]
    journal = Journal(folders[0])
    assert [one.standing for one in kept(journal)] == [
        "LOST",
        "READY",
        "OWNED",
        "HANDED",
        "nothing",
    ]
    assert lost(journal) == (2, 8192 + 4096 + 8192)
    journal.close()
    said: list[str] = []
    removed = forget(tmp_path, 7000, "", said.append)
    assert [(one.program[:2], one.size) for one in removed] == [("11", 12288), ("55", 8192)]
    assert names(folders[0]) == {"22", "33", "44", "66"}
    assert names(folders[1]) == {"11", "22", "33", "44", "55", "66"}
    assert len(said) == 3 and "22222222 at port 7000 is READY and is kept" in said[0]
    assert [one.port for one in forget(tmp_path, None, "", said.append)] == ["7001", "7001"]
    assert forget(tmp_path, None, "", said.append) == []


def test_a_program_that_is_named_goes(tmp_path: Path) -> None:
    folder = fill(tmp_path, 7000)
    said: list[str] = []
    (one,) = forget(tmp_path, None, "2222", said.append)
    assert (one.standing, one.size) == ("READY", 8192) and not said
    assert "22" not in names(folder) and "11" in names(folder)


def test_an_end_that_runs_is_left_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path, 7000)
    journal = Journal(folder)
    said: list[str] = []
    assert forget(tmp_path, None, "", said.append) == []
    assert said == ["the end of port 7000 is running: end it first"]
    journal.close()


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "wasmsr", "remote", "--state-dir", "state", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_command(tmp_path: Path) -> None:
    fill(tmp_path / "state", 7000)
    done = command(tmp_path, "--forget", "--json")
    assert done.returncode == 0, done.stderr
    assert "forgot program 11111111 at port 7000 (was LOST): 12.0 KiB" in done.stderr
    assert "20.0 KiB in all" in done.stderr
    assert [json.loads(line)["program"][:2] for line in done.stdout.splitlines()] == ["11", "55"]
    done = command(tmp_path, "--port", "7000", "--forget", "2222")
    assert "forgot program 22222222 at port 7000 (was READY)" in done.stderr
    assert "nothing to forget" in command(tmp_path, "--forget", "9999").stderr
    for wrong in ("222", "xyz0", "../.."):
        done = command(tmp_path, "--forget", wrong)
        assert done.returncode == 2 and "first four digits" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("times", [1, 2])
def test_an_end_says_how_much_it_keeps(ends: Ends, times: int) -> None:
    for time in range(1, times + 1):
        ends.listen("b", "--every", "60")
        ends.start("a", "--every", "0.3", "--send", "--", "--frames", "4000", "--scale", "4")
        ends.until("b", "arrived")
        ends.processes["b"].kill()
        ends.rest("b")
        ends.processes["a"].send_signal(signal.SIGINT)
        ends.rest("a")
        ends.start("a")
        ends.until("a", "listening")
        ends.start("b")
        values = ends.until("b", "kept")
        assert values["programs"] == time and int(str(values["bytes"])) > 4096 * time
        ends.until("b", "listening")
        for end in "ab":
            ends.processes[end].terminate()
            ends.rest(end)
    done = command(ends.folder, "--forget")
    assert done.returncode == 0 and "was LOST" in done.stderr, done.stderr
    assert not list(ends.state.glob("remote/*/*.received"))
    assert not list(ends.state.glob(f"remote/{ends.ports['b']}/files/*"))
