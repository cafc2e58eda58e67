"""etcd that answers with garbage, not at all, without end, or that is full."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ownership.services import EtcdHost, etcd_missing, first, taken
from wasmsr.ownership.failures import OwnershipError, RegisterAway, RegisterDamaged, SwapInDoubt
from wasmsr.ownership.record_bytes import encode_record
from wasmsr.ownership.register import Register

pytest.importorskip("etcd3gw", reason="the Python package etcd3gw is not installed")


class Garbage:
    """A server that answers every request with the same bytes, and then closes."""

    def __init__(self) -> None:
        self.answer = b""
        self.drip = 0.0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def body(self, data: bytes, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        self.answer = head.encode() + data

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(near,), daemon=True).start()

    def _one(self, near: socket.socket) -> None:
        with near:
            try:
                question = b""
                while not question.endswith(b"}"):  # a close before the end would be a reset
                    question += near.recv(1 << 16)
                step = 1 if self.drip else 1 << 16
                for at in range(0, len(self.answer), step):
                    near.sendall(self.answer[at : at + step])
                    time.sleep(self.drip)
            except OSError:
                return

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    made = Garbage()
    yield made
    made.close()


def answer(**values: object) -> bytes:
    return json.dumps({"header": {}, **values}).encode()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


HEADER = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
ANSWERS = {
    "nothing": b"",
    "no HTTP": b"\x00\xff" * 500,
    "a cut body": HEADER + b"Content-Length: 500\r\n\r\n{",
    "no JSON": HEADER + b"Content-Length: 3\r\n\r\n\xff{[",
    "deep": HEADER + b"\r\n" + b"[" * 100_000,
    "a number": HEADER + b"Content-Length: 1\r\n\r\n7",
    "no header": HEADER + b'\r\n{"kvs": []}',
    "endless": HEADER + b"\r\n" + b" " * 1_000_000,
    "a bomb": HEADER + b"Content-Length: 99999999999\r\n\r\n" + b" " * 1_000_000,
    "keys of another kind": HEADER + b"\r\n" + answer(kvs=7),
    "a key that is no text": HEADER + b"\r\n" + answer(kvs=[{"key": 7, "value": ""}]),
    "not base64": HEADER + b"\r\n" + answer(kvs=[{"key": "!", "value": "!"}]),
    "two records": HEADER + b"\r\n" + answer(kvs=[{"key": "", "value": ""}] * 2),
    "a swap that says maybe": HEADER + b"\r\n" + answer(succeeded="yes", kvs=[{}]),
    "an error of a server": b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno",
    "no leader": b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nno leader",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_garbage(name: str, garbage: Garbage) -> None:
    from wasmsr.http.etcd_backend import EtcdBackend

    garbage.answer = ANSWERS[name]
    register = Register(EtcdBackend([garbage.address], timeout=0.5), patience=0.1)
    record = first()
    with pytest.raises((RegisterAway, RegisterDamaged)) as error:
        register.read(record.program)
    assert error.value.program == record.program
    # Whether a swap was done cannot be told from garbage. An answer with a header and no
    # "succeeded" says that it was not; then the record cannot be read.
    fine = b'"header"' in ANSWERS[name] and "maybe" not in name
    with pytest.raises((RegisterAway, RegisterDamaged) if fine else SwapInDoubt) as doubt:
        register.swap(record, taken(record))
    assert isinstance(doubt.value, OwnershipError)
    assert record.program.hex()[:8] in str(doubt.value)
    if isinstance(doubt.value, SwapInDoubt):
        assert doubt.value.record == record and doubt.value.owner == record.owner
    with pytest.raises((RegisterAway, RegisterDamaged)):
        register.programs()
    register.close()


def test_an_answer_in_drops(garbage: Garbage) -> None:
    """Each byte comes in time, the whole does not."""
    from wasmsr.http.etcd_backend import EtcdBackend

    garbage.body(answer(kvs=[]) + b" " * 1000)
    garbage.drip = 0.02
    register = Register(EtcdBackend([garbage.address], timeout=0.5), patience=0.1)
    begin = time.monotonic()
    with pytest.raises(RegisterAway):
        register.read(first().program)
    assert time.monotonic() - begin < 5
    register.close()


@pytest.mark.parametrize("key", [b"/wasmsr/owner/xyz", b"/elsewhere/" + b"00" * 16, b"\xff"])
def test_keys_that_are_no_programs(key: bytes, garbage: Garbage) -> None:
    from wasmsr.http.etcd_backend import EtcdBackend

    garbage.body(answer(kvs=[{"key": text(key)}]))
    backend = EtcdBackend([garbage.address], timeout=0.5)
    with pytest.raises(RegisterDamaged):
        backend.programs()
    same = text(b"/wasmsr/owner/" + b"00" * 16)
    garbage.body(answer(kvs=[{"key": same}, {"key": same}]))
    with pytest.raises(RegisterDamaged, match="order"):
        backend.programs()
    backend.close()


@pytest.mark.parametrize("address", ["", "127.0.0.1:2379", "ftp://x", "http://", "http://x:99999"])
def test_addresses(address: str) -> None:
    from wasmsr.http.etcd_backend import EtcdBackend

    with pytest.raises(RegisterAway, match="address"):
        EtcdBackend([address])
    with pytest.raises(RegisterAway, match="address"):
        EtcdBackend([])


def test_nobody_is_there(tmp_path: Path) -> None:
    """No connection: nothing was sent, so the swap has not happened, and that is what is said."""
    from wasmsr.http.etcd_backend import EtcdBackend

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    register = Register(EtcdBackend([f"http://127.0.0.1:{port}"], timeout=0.5), patience=0.1)
    record = first()
    with pytest.raises(RegisterAway) as away:
        register.swap(record, taken(record))
    assert away.value.record == record
    register.close()


@pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "-")
def test_the_next_member_is_asked(tmp_path: Path) -> None:
    from wasmsr.http.etcd_backend import EtcdBackend

    host = EtcdHost(tmp_path)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            nobody = server.getsockname()[1]
        register = Register(
            EtcdBackend([f"http://127.0.0.1:{nobody}", f"http://127.0.0.1:{host.port}"])
        )
        record = first()
        register.swap(None, record)
        assert register.read(record.program) == record
        register.close()
    finally:
        host.close()


@pytest.mark.skipif(bool(etcd_missing()), reason=etcd_missing() or "-")
def test_a_full_etcd(tmp_path: Path) -> None:
    host = EtcdHost(tmp_path, "--quota-backend-bytes", "400000")
    try:
        register = Register(host.backend(timeout=5), patience=1)
        record = first()
        register.swap(None, record)
        with pytest.raises(RegisterAway, match="full"):
            for _ in range(100):
                register.backend.compare_and_swap(
                    secrets.token_bytes(16), None, secrets.token_bytes(20_000)
                )
        new = taken(record)
        with pytest.raises(RegisterAway, match="full") as full:
            register.swap(record, new)
        assert full.value.record == record and full.value.owner == record.owner
        assert register.read(record.program) == record
        assert register.backend.get(record.program) == encode_record(record)
        register.close()
    finally:
        host.close()
