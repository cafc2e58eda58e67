"""What all clients are told: in order, and with a bound, whoever listens and does not read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

zmq = pytest.importorskip("zmq", reason="the extra wasmsr[jupyter] is not installed")
pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")

from jupyter_client.connect import write_connection_file  # noqa: E402
from jupyter_client.session import Session  # noqa: E402

from wasmsr.kernel import ports as module  # noqa: E402
from wasmsr.kernel.ports import ClientPorts  # noqa: E402
from wasmsr.kernel.settings import ConnectionFile  # noqa: E402

TEXT = "x" * 60_000


class Listener:
    """A client that is told what all are told.

    Args:
        address: Where.
        number: Tells it apart: the port is told of each topic once, whoever asks for it.
        reads: Whether it ever reads.
    """

    def __init__(self, address: str, number: int, *, reads: bool) -> None:
        self.socket = zmq.Context.instance().socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, 1000 if reads else 1)
        self.socket.setsockopt(zmq.RCVBUF, 65536)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.setsockopt(zmq.SUBSCRIBE, f"no topic {number}".encode())
        self.socket.connect(address)
        self.heard: list[str] = []

    def listen(self) -> None:
        """Take messages up to the one that says "end"."""
        session = Session(key=b"key")
        while not self.heard or self.heard[-1] != "end":
            assert self.socket.poll(60_000)
            _, message = session.recv(self.socket)
            self.heard.append(message["content"]["text"].partition(":")[0])


class Kernel:
    """The ports of a kernel, and who listens there."""

    def __init__(self, folder: Path) -> None:
        file, about = write_connection_file(str(folder / "kernel.json"), key=b"key")
        self.address = f"tcp://{about['ip']}:{about['iopub_port']}"
        self.ports = ClientPorts(ConnectionFile.read(Path(file)))
        self.listeners: list[Listener] = []

    def listener(self, *, reads: bool = True) -> Listener:
        made = Listener(self.address, len(self.listeners), reads=reads)
        self.listeners.append(made)
        self.wait(lambda: self.ports.subscribers > len(self.listeners))
        return made

    def wait(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end
            self.ports.sockets["iopub"].poll(10)
            self.ports.listened()

    def publish(self, count: int) -> int:
        """Tell so many messages and an end as a relay does; return the most bytes that waited."""
        most = 0
        for number in range(count + 1):
            while self.ports.crowded:
                time.sleep(self.ports.tell() or 0)
            text = f"{number}:{TEXT}" if number < count else "end"
            self.ports.publish("stream", {"name": "stdout", "text": text}, None)
            most = max(most, self.ports._told_bytes)
        while (wait := self.ports.tell()) is not None:
            time.sleep(wait)
        return most


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setattr(module, "MOST_TOLD", 1 << 20)
    made = Kernel(tmp_path)
    yield made
    for one in made.listeners:
        one.socket.close(linger=0)
    made.ports.close()


def listening(one: Listener) -> threading.Thread:
    made = threading.Thread(target=one.listen)
    made.start()
    return made


def test_nothing_is_lost_and_little_waits(kernel: Kernel) -> None:
    """A client that begins to read late gets all of it; until then the kernel waits."""
    slow = kernel.listener()
    sent = 0
    while not kernel.ports.crowded:
        kernel.ports.publish("stream", {"name": "stdout", "text": f"{sent}:{TEXT}"}, None)
        sent += 1
        assert sent < 3000, "the port takes anything"
    thread = listening(slow)
    most = kernel.publish(100)
    thread.join()
    assert slow.heard == [*map(str, range(sent)), *map(str, range(100)), "end"]
    assert most < (1 << 20) + 2 * len(TEXT)


def test_who_never_reads_is_waited_for_only_so_long(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALLED", 0.2)
    kernel.listener(reads=False)
    reader = kernel.listener()
    thread = listening(reader)
    ports, sent, told = kernel.ports, 0, 0
    while not ports._lossy:
        if ports.crowded:
            time.sleep(ports.tell() or 0)
        else:
            ports.publish("stream", {"name": "stdout", "text": f"{sent}:{TEXT}"}, None)
            sent += 1
        told = told if ports._lossy else sent - len(ports._told)
        assert ports._told_bytes < (1 << 20) + 2 * len(TEXT)
        assert sent < 3000, "a client that never reads is never full"
    while thread.is_alive():  # who has no room may lose some of these
        ports.publish("stream", {"name": "stdout", "text": "end"}, None)
        time.sleep(ports.tell() or 0.01)
    numbers = [int(one) for one in reader.heard[:-1]]
    assert numbers[:told] == list(range(told)), "what came before was for all"
    assert numbers == sorted(set(numbers))


def test_nobody_listens(kernel: Kernel) -> None:
    assert kernel.publish(50) < 1 << 20
    assert kernel.ports.tell() is None


def test_ports_that_cannot_be_opened_are_closed(kernel: Kernel, tmp_path: Path) -> None:
    about: Any = ConnectionFile.read(tmp_path / "kernel.json")
    with pytest.raises(module.KernelError, match="cannot be opened"):
        ClientPorts(about)
