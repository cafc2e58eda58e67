"""What real peers of a fleet said, and what nobody should say."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from tests.fleet.peer import FRAMES, MESSAGES, needs_peer
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.frames import (
    ChannelOpening,
    FrameReader,
    FromWorker,
    ToWorker,
    WorkerFrame,
    WorkerLog,
)
from wasmsr.fleet.wire.messages import LARGEST, FleetMessage, decode
from wasmsr.fleet.wire.records import RECORD_KINDS, decode_records, encode_records
from wasmsr.fleet.wire.topics import FleetRealm, FleetTopic, check_filter, check_topic

FUZZ = int(os.environ.get("WASMSR_FUZZ", "0")) * 50 or 4000
"""Inputs of each codec: 100,000 in `make fuzz`."""


REALM = FleetRealm("realm")

EXPECTED = {
    ("frob", "control"): "invalid action/type",
    (None, "control"): "missing field",
}
"""What is wrong with the recorded messages that their orchestrator refused by their form."""


@needs_peer
def test_messages_of_a_peer_are_equal_when_written_again() -> None:
    checked = 0
    for one in (one for one in MESSAGES if "json" in one):
        message = decode(json.dumps(one["json"]).encode())
        assert json.loads(message.encode()) == one["json"]
        topic = REALM.find(one["topic"])
        assert topic is not None
        if one["scenario"].startswith("errors") and one["from"] == "client":
            if message.action in ("frob", None):
                with pytest.raises(WireError) as refused:
                    message.kind(topic.kind)
                assert refused.value.reason == EXPECTED[message.action, topic.kind]
            continue
        assert message.kind(topic.kind)
        checked += 1
    assert checked > 30


@needs_peer
def test_answers_of_a_peer_are_ours() -> None:
    """The orchestrator said what was wrong with the messages just before; we say the same."""
    said = [one["json"] for one in MESSAGES if one["scenario"].startswith("errors")]
    asked = {one["object_id"]: one for one in said if one["type"] == "req"}
    answers = [one["data"] for one in said if one["type"] == "resp"]
    for number in ("2", "3"):
        with pytest.raises(WireError) as refused:
            decode(json.dumps(asked[number]).encode()).kind("control")
        ours = {"desc": refused.value.reason, "data": refused.value.value}
        assert ours in answers


@needs_peer
def test_frames_of_a_peer_are_equal_when_written_again() -> None:
    for one in FRAMES:
        data = bytes.fromhex(one["frame_hex"])
        (frame,) = FrameReader().feed(data)
        assert frame.encode() == data
        assert frame.module == one["module"]
        if not frame.control:
            assert one["kind"] in ("publish", "receive") and frame.kind == one["fd"]
        elif one["dir"] == "manager->runtime":
            assert ToWorker(frame.kind).name.lower() == one["kind"]
        elif frame.kind == FromWorker.OPEN:
            opening = ChannelOpening.decode(frame.payload)
            assert opening.encode() == frame.payload
            assert REALM.channel(opening.topic, "m") == opening.topic.replace(
                "$SL/proc/stdio", "realm/proc/stdio/m"
            )
        elif frame.kind == FromWorker.LOG:
            line = WorkerLog.decode(frame.payload)
            assert line.encode() == frame.payload and line.level in (10, 20)


@needs_peer
def test_the_stream_comes_in_pieces() -> None:
    stream = b"".join(bytes.fromhex(one["frame_hex"]) for one in FRAMES)
    reader, draw, found, at = FrameReader(), random.Random(1), [], 0
    while at < len(stream):
        size = draw.choice((1, 3, 7, 500))
        found += reader.feed(stream[at : at + size])
        at += size
    assert b"".join(one.encode() for one in found) == stream
    assert len(found) == len(FRAMES) and not reader.waiting


@needs_peer
def test_profiles_of_a_peer() -> None:
    found = 0
    for one in MESSAGES:
        topic = REALM.find(one["topic"])
        if topic and topic.kind == "profile":
            data = bytes.fromhex(one["hex"])
            columns = decode_records(topic.ids[0], data)
            assert encode_records(topic.ids[0], columns) == data
            assert len(columns["wall"]) == 3 and min(columns["user"]) >= 0
            found += 1
    assert found == 2


def test_topics() -> None:
    realm = FleetRealm("a/b")
    assert realm.topic("control") == "a/b/proc/control"
    assert realm.topic("profile", "opcodes", "r", "m") == "a/b/proc/profile/opcodes/r/m"
    assert realm.find("a/b/proc/control") == FleetTopic("control")
    assert realm.find("a/b/proc/control/r") == FleetTopic("control", ("r",))
    for strange in ("a/proc/control", "a/b/proc/reg", "a/b/proc/control/", "a/b/proc/stdio/x/y"):
        assert realm.find(strange) is None
    assert realm.channel("$SL/x", "m") == "a/b/x/m"
    for good in ("+", "#", "a/+/b", "a//b", "a/#", "$share/x"):
        assert check_filter(good) == good
    for bad in ("", "a#", "#/a", "a/b+", "a\0b", "x" * 65_536, "\ud800"):
        with pytest.raises(WireError):
            check_filter(bad)
    for bad in ("a/+", "#"):
        with pytest.raises(WireError):
            check_topic(bad)
    for bad in ("", "a/b", "+"):
        with pytest.raises(WireError):
            realm.topic("stdio", bad)


CREATE = {"type": "module", "file": "x.wasm"}
BAD_MESSAGES: list[tuple[Any, str]] = [
    (b"\xff", "invalid JSON"),
    (b"[]", "invalid JSON: not an object"),
    (b'{"data": {}, "data": {}}', "invalid JSON: a key is there twice"),
    (b"[" * 200_000, "invalid JSON"),
    (b'{"data": NaN}', "invalid JSON"),
    (b'{"data": {"x": 1e999}}', "invalid JSON"),
    (b'{"data": {"x": ' + b"9" * 10_000 + b"}}", "invalid JSON"),
    (b'{"data": {"x": "\\ud800"}}', "invalid JSON"),
    (b" " * (LARGEST + 1), "message too large"),
    (b'{"type": "req"}', "missing field: data"),
    (b'{"type": 1, "data": {}}', "invalid field: type"),
    (b'{"data": []}', "invalid field: data"),
    ({"action": "create", "data": CREATE}, "missing field: type"),
    ({"action": "create", "type": "req", "data": {"file": "x"}}, "missing field: type"),
    ({"action": "create", "type": "req", "data": {"type": "module"}}, "missing field: file"),
    ({"action": "create", "type": "req", "data": {"type": 7}}, "invalid action/type"),
    ({"action": "create", "type": "resp", "data": CREATE}, "invalid action/type"),
    ({"action": "create", "type": "req", "data": CREATE | {"uuid": 7}}, "invalid uuid"),
    ({"action": "create", "type": "req", "data": CREATE | {"args": []}}, "invalid args"),
    (
        {"action": "create", "type": "req", "data": CREATE | {"args": {"env": ["A"]}}},
        "invalid args.env.0",
    ),
    ({"action": "create_batch", "type": "req", "data": {"modules": [{}]}}, "invalid modules.0"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_MESSAGES)))
def test_bad_messages(number: int) -> None:
    given, reason = BAD_MESSAGES[number]
    payload = given if isinstance(given, bytes) else json.dumps(given).encode()
    with pytest.raises(WireError) as refused:
        decode(payload).kind("control")
    assert str(refused.value).startswith(reason)
    json.dumps(refused.value.value)


def test_numbers_that_do_not_fit() -> None:
    for frame in (WorkerFrame(128, 0), WorkerFrame(0, 256), WorkerFrame(-1, 0)):
        with pytest.raises(WireError):
            frame.encode()
    with pytest.raises(WireError, match="too large"):
        FrameReader().feed(b"\xff\xff\xff\xff\x80\x00")
    for payload in (b"", b"\x01\x01", b"\x01\x04x", b"\x01\x00x", b"\x01\x01\0", b"\x01\x01\xff"):
        with pytest.raises(WireError):
            ChannelOpening.decode(payload)
    for payload in (b"", b"\x14text"):
        with pytest.raises(WireError):
            WorkerLog.decode(payload)
    for kind, payload in (("benchmarking", b"1234567"), ("none", b"")):
        with pytest.raises(WireError):
            decode_records(kind, payload)
    with pytest.raises(WireError):
        encode_records("seeded", {"wall": [1], "user": [1], "system": [1], "seed": [-1]})
    with pytest.raises(WireError):
        encode_records("benchmarking", {"wall": [1], "user": [1, 2], "system": [1]})
    assert set(decode_records("deployed", bytes(64))) == set(RECORD_KINDS["deployed"].columns)


def changed(draw: random.Random, data: bytes) -> bytes:
    """Bytes with a few changes: cut, doubled, other values, pieces of other things."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(found) + 1)
        how = draw.randrange(5)
        if how == 0:
            del found[at : at + draw.randint(1, 20)]
        elif how == 1:
            found[at:at] = draw.choice((b"{", b"[[", b'"', b"\\u0000", b"null", b"-1e9", b"\xff"))
        elif how == 2 and at < len(found):
            found[at] = draw.randrange(256)
        elif how == 3:
            found[at:at] = found[draw.randrange(len(found) + 1) :][: draw.randint(1, 40)]
        elif at < len(found):
            found[at] ^= 1 << draw.randrange(8)
    return bytes(found)


def try_message(data: bytes) -> None:
    message = decode(data)
    assert decode(message.encode()) == message
    for topic in ("reg", "control", "keepalive", "log"):
        with suppress(WireError):
            message.kind(topic)


def try_frame(data: bytes) -> None:
    frames = FrameReader().feed(data)
    assert data.startswith(b"".join(one.encode() for one in frames))
    for frame in frames:
        for read in (ChannelOpening.decode, WorkerLog.decode):
            with suppress(WireError):
                assert read(frame.payload).encode() == frame.payload


@pytest.mark.parametrize("target", [try_message, try_frame])
def test_nothing_escapes(target: Callable[[bytes], None]) -> None:
    message = FleetMessage("create", {**CREATE, "args": {"argv": ["a"], "env": ["A=1"]}})
    seeds = [message.encode(), FleetMessage("create_batch", {"modules": [CREATE]}).encode()]
    seeds += [json.dumps(one["json"]).encode() for one in MESSAGES if "json" in one]
    if target is try_frame:
        seeds = [bytes.fromhex(one["frame_hex"]) for one in FRAMES]
        seeds += [WorkerFrame(1, FromWorker.OPEN, b"\x01\x02a/b").encode()]
        seeds += [WorkerFrame(2, 3, b"text", control=False).encode() * 3]
    draw = random.Random(5)
    refused = 0
    for _ in range(FUZZ):
        try:
            target(changed(draw, draw.choice(seeds)))
        except WireError:
            refused += 1
    assert refused < FUZZ
