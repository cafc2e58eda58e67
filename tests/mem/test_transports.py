"""Transports and their texts, and what an element gets as `action`."""

from __future__ import annotations

import os
import struct
import sys
import threading

import pytest

from tests.mem.served import SECONDS, served
from tests.mem.test_memory_wire import until
from wasmsr.mem.action import ElementAction, provide_disagg
from wasmsr.mem.durl import Durl
from wasmsr.mem.failures import RemoteMemoryError, TransportError
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.serving.place import shared_place
from wasmsr.mem.sizes import parse_size
from wasmsr.mem.transports import MemoryTransport, local, remove_shared, shm, transport_of


def test_text_of_a_transport() -> None:
    durl = Durl.parse("client1;rdma_tcp;url,tcp://localhost:2333;size,64;")
    assert durl == Durl("client1", "tcp", {"url": "tcp://localhost:2333", "size": "64"})
    assert Durl.parse(str(durl)) == durl
    assert Durl.parse("a;local;") == Durl("a", "local")


@pytest.mark.parametrize("text", ["", "a", "a;", ";tcp;", "a;tcp;url", "a;tcp;,x;", "a" * 5000])
def test_texts_that_are_no_transport(text: str) -> None:
    with pytest.raises(TransportError):
        Durl.parse(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("m;rdma_uverbs;", "rdma_uverbs is not supported"),
        ("m;rdma_uverbs_proxy;", "rdma_uverbs_proxy is not supported"),
        ("m;pipe;", "pipe is unknown"),
        ("m;tcp;", "needs url"),
        ("m;tcp;url,http://x:1;", "no address tcp://"),
        ("m;tcp;url,tcp://x:99999;", "no port"),
        ("m;local;size,many;", "many is no size"),
        ("m;shm;shm_id,wasmsr-no-such;", "shared memory wasmsr-no-such"),
    ],
)
def test_transports_that_cannot_be_had(text: str, sentence: str) -> None:
    with pytest.raises(TransportError, match=sentence):
        transport_of(Durl.parse(text))


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65_536), ("512 MB", 1 << 29), ("1G", 1 << 30), ("2 KiB", 2048), ("3b", 3)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "1 X", "9999999T", "1e9", "0x10"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|more than"):
        parse_size(text)


def exercise(transport: MemoryTransport) -> None:
    """What every way to a memory of 64 KiB does."""
    transport.reg(64)
    struct.pack_into("<I", transport.buf, 0, 12345)
    assert transport.write(4, addr=65_532) == 0
    assert transport.read(4, addr=65_532, offset=8) == 0
    assert struct.unpack_from("<I", transport.buf, 8) == (12345,)
    for addr in (65_533, -1, 1 << 63):
        with pytest.raises(RemoteMemoryError):
            transport.read(4, addr=addr)
        with pytest.raises(RemoteMemoryError):
            transport.write(4, addr=addr)
    for size, offset in ((65, 0), (1, 64), (-1, 0), (1, -1)):
        with pytest.raises(TransportError):
            transport.read(size, addr=0, offset=offset)
    assert transport.size() == 65_536


def test_local() -> None:
    transport = local(1 << 16)
    with pytest.raises(TransportError, match="has no buffer"):
        transport.read(1, addr=0)
    exercise(transport)
    transport.close()


def test_shm_is_one_memory() -> None:
    name = f"wasmsr-test-{os.getpid()}"
    first, second = shm(1 << 16, name), shm(0, name)
    try:
        exercise(first)
        got = bytearray(4)
        second.read_into(65_532, memoryview(got))
        assert got == struct.pack("<I", 12345)
        with pytest.raises(TransportError, match="has 65536 bytes"):
            shm(1 << 20, name)
    finally:
        first.close()
        second.close()
        remove_shared(name)


def test_tcp() -> None:
    with served(1 << 16) as memory:
        transport = transport_of(Durl.parse(f"m;tcp;url,{memory.url};"))
        exercise(transport)
        transport.close()


def test_one_buffer_for_two() -> None:
    first, second = local(1 << 16), local(1 << 16)
    first.reg(16)
    second.reg(8, first)
    first.buf[0:4] = b"once"
    second.write(4, addr=0)
    first.read(4, addr=0, offset=8)
    assert bytes(first.buf[8:12]) == bytes(4)
    with pytest.raises(TransportError):
        second.reg(17, first)


def test_an_element_serves_a_memory() -> None:
    with served() as memory:
        port = memory.server.port
    url = f"tcp://127.0.0.1:{port}"
    action = ElementAction([Durl("memory", "tcp", {"url": url, "size": "64K"})])
    server = action.get_transport("memory", "rdma_server")
    thread = threading.Thread(target=server.serve)
    thread.start()
    link = MemoryLink("m", url)
    link.write(65_532, memoryview(b"here"))
    assert link.size() == 65_536
    link.close()
    action.terminate()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_an_action_as_the_peer_has_it() -> None:
    provide_disagg()
    from disagg import LibdAction  # type: ignore[import-not-found]

    with served() as memory:
        action = LibdAction(threading.Condition(), "0000")
        action.add_transport("client1;rdma_tcp;")
        action.config_transport("client1", f"url,{memory.url};")
        transport = action.get_transport("client1", "rdma")
        assert transport is action.get_transport("client1", "rdma")
        transport.reg(16)
        transport.buf[0:2] = b"ok"
        transport.write(2, addr=5)
        assert memory.bytes[5:7] == b"ok"
        with pytest.raises(TransportError):
            action.config_transport("client1", "url,tcp://localhost:1;")
        action.profile(3)
        assert action.profiled[0][0] == 3
        action.terminate()
        until(lambda: memory.server.connections == 0)
    sys.modules.pop("disagg")


def test_shared_memory_of_another_user_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"wasmsr-test-{os.getpid()}"
    other = shm(4096, name)  # somebody makes it just after what was there is removed
    try:
        with monkeypatch.context() as patch:
            patch.setattr("wasmsr.mem.serving.place.remove_shared", lambda name: None)
            with pytest.raises(TransportError, match=name), shared_place(4096, name):
                pass
        for failing in ("open", "unlink"):
            with monkeypatch.context() as patch:
                calls = "multiprocessing.shared_memory._posixshmem"
                patch.setattr(f"{calls}.shm_{failing}", refused)
                with pytest.raises(TransportError, match="Permission denied"):
                    remove_shared(name)
        with shared_place(8192, name) as place:  # of this user: it is removed first
            assert len(place) == 8192
    finally:
        other.close()
        remove_shared(name)


def refused(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")
