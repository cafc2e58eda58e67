"""Relayed output when the end that shows it is killed: nothing is lost in silence."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.remote import PATIENCE, Ends
from wasmsr.migrate.protocol import PeerLost, PeerRefused, Reason, Refusal
from wasmsr.migrate.streams.relays import Relay, Shown

LINES = Path(__file__).with_name("lines.wat")
LAST = 400
"""The number of its last line; it writes one every ten milliseconds."""


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"line (\d+)\n", text)]


def gaps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "output-gap"]


def split(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The program's output and the events, of what an end wrote."""
    lines = text.splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return "".join(line for line in lines if not line.startswith("{")), events


@pytest.mark.full
def test_the_end_that_shows_the_output_is_killed_and_started_again(ends: Ends) -> None:
    ends.listen("b", "--every", "60")
    words = ("--program", str(LINES), "--stdout-after-move", "relay", "--every", "0.3")
    ends.start("a", "--send", *words)
    shown = ""
    while len(numbers(shown)) < 60:
        shown += ends.line("a")
    ends.processes["a"].kill()
    shown += ends.rest("a")[0]
    first, _ = split(shown)
    time.sleep(0.5)
    ends.start("a", "--send", *words)
    (rest, said), (other, heard) = ends.rest("a"), ends.rest("b")
    assert [process.returncode for process in ends.processes.values()] == [0, 0], said + heard
    second, events = split(rest)
    seen = numbers(first) + numbers(second)
    assert sorted(set(seen)) == list(range(LAST + 1)), "a line is missing"
    # Both ends say from where on it is shown, and how much was for the process before.
    (here,), (there,) = gaps(events), gaps(split(other)[1])
    assert here["bytes"] == there["bytes"] > 0 and here["from"] == there["from"] == 0
    assert here["stream"] == there["stream"] == "stdout"
    length = sum(len(f"line {number}\n") for number in numbers(first))
    assert here["bytes"] <= length
    assert "output-cut" not in other


@pytest.mark.full
def test_the_end_that_shows_the_output_comes_back_with_nothing(ends: Ends, tmp_path: Path) -> None:
    """Started again with another state directory it knows nothing of the program: what is lost is
    counted where the program is, and that end says that it refuses it."""
    ends.listen("b", "--every", "60")
    words = ("--program", str(LINES), "--stdout-after-move", "relay", "--every", "0.3")
    ends.start("a", "--send", *words)
    while '"moved"' not in ends.line("a"):
        pass
    for _ in range(30):
        ends.line("a")
    ends.processes["a"].kill()
    ends.rest("a")
    key = (ends.state / "remote" / "key").read_bytes()
    ends.state = tmp_path / "other"
    (ends.state / "remote").mkdir(parents=True)
    (ends.state / "remote" / "key").write_bytes(key)
    (ends.state / "remote" / "key").chmod(0o600)
    ends.listen("a")
    events = split(ends.rest("b")[0])[1]
    cut = [event for event in events if event["event"] == "output-cut"]
    assert cut and cut[0]["from"] > 0 and cut[0]["stream"] == "stdout", events
    assert cut[-1]["bytes"] > 0
    refused = ends.until("a", "refused")
    assert refused["reason"] == "output"


# Its pieces --------------------------------------------------------------------------------------


def test_a_new_process_shows_from_where_the_program_is() -> None:
    seen: list[bytes] = []
    said: list[tuple[str, str, dict[str, object]]] = []

    def write(number: int, data: bytes) -> int:
        seen.append(bytes(data))
        return len(data)

    shown = [Shown(write)]
    relay = Relay(
        "stderr",
        lambda stream, offset, data: shown[0].show(b"attempt", stream, offset, data),
        lambda kind, text, values: said.append((kind, text, values)),
    )
    relay.write(memoryview(b"one "))
    assert said == []
    shown[0] = Shown(write)  # another process
    relay.write(memoryview(b"two "))
    relay.write(memoryview(b"three"))
    assert seen == [b"one ", b"two ", b"three"]
    ((kind, text, values),) = said
    assert kind == "output-gap" and "continues at byte 4" in text
    assert values == {"stream": "stderr", "from": 0, "bytes": 4}
    shown[0] = Shown(write)
    relay.write(memoryview(b"!"))
    assert said[-1][2]["bytes"] == 13
    relay.close()
    assert len(said) == 2


def test_what_is_refused_is_counted() -> None:
    said: list[tuple[str, str, dict[str, object]]] = []

    def refuse(stream: str, offset: int, data: bytes) -> int:
        if offset < 3:
            return 0
        raise PeerRefused(Refusal(Reason.STORAGE, "its terminal is gone"))

    relay = Relay("stdout", refuse, lambda *event: said.append(event))
    relay.write(memoryview(b"abc"))
    for _ in range(3):
        with pytest.raises(OSError, match="terminal is gone"):
            relay.write(memoryview(b"defg"))
    relay.close()
    assert [(kind, values) for kind, _, values in said] == [
        ("output-cut", {"stream": "stdout", "from": 3}),
        ("output-cut", {"stream": "stdout", "bytes": 12}),
    ]
    assert "lost from byte 3 on" in said[0][1] and "12 bytes" in said[1][1]


def test_a_program_that_waits_to_write_is_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.migrate.streams.relays.PATIENCE", 0.05)
    monkeypatch.setattr("wasmsr.migrate.streams.relays.AGAIN", 0.02)
    said: list[str] = []
    tries = iter(range(20))

    def absent(stream: str, offset: int, data: bytes) -> int:
        if next(tries) < 10:
            raise PeerLost("nobody there")
        return 0

    relay = Relay("stdout", absent, lambda kind, text, values: said.append(kind))
    assert relay.write(memoryview(b"x")) == 1
    assert said == ["output-waits"]
    assert PATIENCE > 1
