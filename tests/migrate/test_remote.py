"""`wasmsr remote` as it is typed: two processes, a real program, real folders."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.migrate.remote import Ends

FRAMES = ("--frames", "200", "--scale", "2", "--progress", "0")
"""About three billion instructions."""


def wasmsr(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wasmsr", *words],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def film(folder: Path) -> str:
    return hashlib.sha256((folder / "transcoding.avi").read_bytes()).hexdigest()


def kinds(events: list[dict[str, object]]) -> list[object]:
    return [event["event"] for event in events]


def unmoved(folder: Path) -> str:
    """The digest of what a run that is not moved makes."""
    folder.mkdir()
    run = wasmsr(folder, "run", "transcoding", *FRAMES)
    assert run.returncode == 0, run.stderr
    return film(folder)


def test_a_real_program_moves(ends: Ends, tmp_path: Path) -> None:
    ends.listen("b", "--every", "0.1")
    ends.start("a", "--every", "0.1", "--send", "--", *FRAMES)
    sent, _ = ends.events("a")
    received, _ = ends.events("b")
    assert [ends.processes[end].returncode for end in "ab"] == [0, 0]
    assert kinds(sent)[:3] == ["prepared", "started", "prepared"]
    moves = [event for event in sent + received if event["event"] == "moved"]
    arrivals = [event for event in sent + received if event["event"] == "arrived"]
    assert len(moves) == len(arrivals) >= 2
    assert {event["epoch"] for event in moves} == set(range(2, 2 + len(moves)))
    for event in moves:
        assert isinstance(event["bytes"], int)
        assert event["bytes"] > 1000
        assert 0 < float(str(event["downtime"])) < 10
    assert kinds(sent)[-1] == kinds(received)[-1] == "ended"
    assert sorted(bool(events[-1]["here"]) for events in (sent, received)) == [False, True]
    # Nothing is left over of a program that has ended.
    left = {path.name for path in ends.state.glob("remote/*/*")}
    assert left == {"lock", "node"}
    assert film(ends.work) == unmoved(tmp_path / "unmoved")


@pytest.mark.full
def test_the_receiver_is_killed_and_its_program_taken_over(ends: Ends, tmp_path: Path) -> None:
    ends.listen("b", "--every", "60")
    ends.start("a", "--every", "0.1", "--send", "--", *FRAMES)
    ends.until("a", "moved")
    ends.processes["b"].kill()
    ends.processes["a"].send_signal(signal.SIGINT)
    _, said = ends.events("a")
    assert ends.processes["a"].returncode == 130, said
    # It was lost with b, and the state in which it came there is on the disk of b.
    (state,) = ends.state.glob("remote/*/*.received")
    refused = wasmsr(ends.work, "run", "transcoding", "--from-snapshot", str(state))
    assert refused.returncode == 123
    assert "--adopt" in refused.stderr
    assert "Traceback" not in refused.stderr
    adopted = wasmsr(ends.work, "run", "transcoding", "--adopt", "--from-snapshot", str(state))
    assert adopted.returncode == 0, adopted.stderr
    assert film(ends.work) == unmoved(tmp_path / "unmoved")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(ends: Ends, number: signal.Signals, code: int) -> None:
    ends.listen("b", "--every", "60")
    ends.start("a", "--every", "0.3", "--send")
    ends.until("b", "arrived")
    ends.processes["b"].send_signal(number)
    began = time.monotonic()
    events, said = ends.events("b")
    assert ends.processes["b"].returncode == code, said
    assert time.monotonic() - began < 10
    assert events[-1] == {"event": "ended", "code": code, "kind": "interrupted", "here": True}
    events, _ = ends.events("a")
    assert ends.processes["a"].returncode == 0
    assert events[-1] == {"event": "ended", "code": code, "kind": "interrupted", "here": False}
    assert {path.name for path in ends.state.glob("remote/*/*")} == {"lock", "node"}


@pytest.mark.full
def test_nobody_is_there(ends: Ends) -> None:
    began = time.monotonic()
    ends.start("a", "--send")
    events, said = ends.events("a")
    assert ends.processes["a"].returncode == 124
    assert 9 < time.monotonic() - began < 60
    assert "retry" in kinds(events)
    assert events[-1]["event"] == "error"
    assert "cannot be reached" in said
    assert "hint:" in said
    assert "Traceback" not in said
    assert not (ends.work / "transcoding.avi").exists()


def test_a_program_that_ends_before_it_moves(ends: Ends) -> None:
    ends.listen("b", "--program", "cat")
    ends.start("a", "--send", "--program", "cat")
    for end, here in (("a", True), ("b", False)):
        events, said = ends.events(end)
        assert ends.processes[end].returncode == 0, said
        assert events[-1]["event"] == "ended"
        assert (events[-1]["code"], events[-1]["here"]) == (0, here)


def test_a_folder_that_the_receiver_lacks(ends: Ends) -> None:
    ends.listen("b", "--program", "fib")
    ends.start("a", "--send")
    _, said = ends.events("a")
    assert ends.processes["a"].returncode == 124
    assert "refuses: it was not given the program's folder film" in said
    assert "--dir HOST::film" in said


def test_a_port_in_use(ends: Ends) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", ends.ports["a"]))
        other.listen()
        ends.start("a")
        _, said = ends.events("a")
    assert ends.processes["a"].returncode == 124
    assert f"cannot listen on 127.0.0.1:{ends.ports['a']}: another process listens there" in said


def test_the_same_end_twice(ends: Ends) -> None:
    ends.start("a")
    ends.until("a", "listening")
    first = ends.processes["a"]
    ends.start("a")
    _, said = ends.events("a")
    assert ends.processes["a"].returncode == 124
    assert "in use" in said
    first.terminate()
    first.wait(20)
    assert first.returncode == 143


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "1", "--peer", "x"], "not of the form [HOST:]PORT"),
        (["--port", "0", "--peer", "1"], "--port"),
        (["--port", "1"], "--peer"),
        (["--port", "7000", "--peer", "7000"], "--peer 7000 is this very end"),
        (["--port", "7000", "--peer", "localhost:7000", "--send"], "this very end"),
        (["--port", "7", "--peer", "8", "--listen", "0.0.0.0"], "--insecure"),
        (["--port", "7", "--peer", "10.0.0.1:8"], "--insecure"),
        (["--port", "7", "--peer", "8", "argument"], "--send"),
        (["--port", "7", "--peer", "8", "--every", "0"], "--every"),
        (["--port", "7", "--peer", "8", "--dir", "nowhere"], "nowhere"),
        (["--port", "7", "--peer", "8", "--dir", "a::b::mem"], "mem"),
    ],
)
def test_wrong_usage(tmp_path: Path, words: list[str], said: str) -> None:
    run = wasmsr(tmp_path, "remote", "--state-dir", "state", *words)
    assert run.returncode == 2, run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_a_program_that_is_not_there(ends: Ends) -> None:
    ends.listen("b")
    ends.start("a", "--send", "--program", "nothing.wasm")
    _, said = ends.events("a")
    assert ends.processes["a"].returncode == 2
    assert "nothing.wasm" in said


def test_help() -> None:
    run = wasmsr(Path.cwd(), "remote", "--help")
    assert run.returncode == 0
    assert "--send" in run.stdout
    assert os.environ.get("HOME", "?") not in run.stdout


# Keys --------------------------------------------------------------------------------------------


def stranger(port: int, version: int, name: str, request: bytes) -> str:
    """A call as version 1 of the protocol, or somebody else, makes it; the status."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(f"/wasmsr.v{version}.Migration/{name}")(request, timeout=10)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.mark.full
@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_stranger_can_do_nothing_to_an_end(ends: Ends, version: int) -> None:
    """`protocol = 1, 2`, and Ended with a sentence: each ended an end of version 0.1."""
    ends.listen("b")
    port = ends.ports["b"]
    for request in (b"\x08\x01", b"\x08\x02", b"\x08\x63", b"", b"\xff" * 50):
        for name in ("Prepare", "Ended", "Transfer", "Upload", "Status"):
            status = stranger(port, version, name, request)
            assert status in ("UNAUTHENTICATED", "UNIMPLEMENTED")
            assert (status == "UNAUTHENTICATED") == (version == 3)
    assert ends.processes["b"].poll() is None
    ends.start("a", "--every", "0.1", "--send", "--", *FRAMES)
    for end in "ab":
        events, said = ends.events(end)
        assert ends.processes[end].returncode == 0, said
        assert kinds(events)[-1] == "ended"
        if end == "b":
            refused = [event for event in events if event["event"] == "refused"]
            assert [event["reason"] for event in refused] == ["key" if version == 3 else "version"]


def key(ends: Ends, name: str, text: str) -> str:
    path = ends.folder / name
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_ends_with_other_keys(ends: Ends) -> None:
    ends.listen("b", "--token-file", key(ends, "one", "one key of many bytes"))
    ends.start("a", "--send", "--token-file", key(ends, "two", "another key of bytes"))
    _, said = ends.events("a")
    assert ends.processes["a"].returncode == 124
    assert "has not the same key as this end" in said and "--token-file" in said
    assert ends.until("b", "refused")["reason"] == "key"
    # The end goes on, and takes a program from one that has the key.
    ends.start("a", "--send", "--program", "cat", "--token-file", str(ends.folder / "one"))
    _, said = ends.events("a")
    assert ends.processes["a"].returncode in (0, 124), said
    assert "has not the same key" not in said


def test_the_key_is_found_by_itself(ends: Ends, tmp_path: Path) -> None:
    """Also by two ends with state directories of their own; who is another user has another."""
    ends.listen("b")
    path = ends.state / "remote" / "key"
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size == 32
    ends.state = tmp_path / "of its own"
    ends.start("a", "--every", "0.1", "--send", "--", *FRAMES)
    _, said = ends.events("a")
    assert ends.processes["a"].returncode == 0, said
    assert (ends.state / "remote" / "key").read_bytes() == path.read_bytes()


def test_insecure_says_what_it_gives_up(ends: Ends) -> None:
    ends.listen("b", "--insecure")
    ends.start("a", "--every", "0.1", "--send", "--insecure", "--", *FRAMES)
    for end in "ab":
        _, said = ends.events(end)
        assert ends.processes[end].returncode == 0, said
        assert "nobody is asked for a key" in said and "--token-file" in said
    ends.listen("b", "--insecure")
    ends.start("a", "--send")
    _, said = ends.events("a")
    assert "has not the same key" in said and "--insecure to both or to neither" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [("short", "5 bytes, fewer than the 16"), ("x" * 5000, "more than 4096"), (None, "No such")],
)
def test_a_token_file_that_is_none(ends: Ends, content: str | None, said: str) -> None:
    name = str(ends.folder / "none") if content is None else key(ends, "token", content)
    ends.start("a", "--token-file", name)
    _, error = ends.events("a")
    assert ends.processes["a"].returncode == 124
    assert said in error and "chmod 600" in error
