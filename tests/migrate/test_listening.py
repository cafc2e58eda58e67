"""A program that listens moves: it listens anew where it is, and stays while it is connected."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.migrate.remote import Ends
from tests.migrate.test_killing import free_ports

GREETER = str(Path(__file__).with_name("greeter.wat"))
PATIENCE = 30.0


def connected(port: int) -> socket.socket:
    """A connection to a program that may not be there yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody listens on {port}"
            time.sleep(0.02)


def greeted(connection: socket.socket) -> bytes:
    """What the program answers."""
    with connection:
        connection.sendall(b"?")
        answer = b""
        while piece := connection.recv(10):
            answer += piece
    return answer


def refused(port: int) -> None:
    """Waits until nobody listens there: the one who did hears of the move a moment later."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
        assert time.monotonic() < deadline, f"somebody listens on {port} still"
        time.sleep(0.02)


@pytest.mark.full
def test_a_program_that_listens_moves(ends: Ends) -> None:
    here, there = free_ports()
    listen = [f"--tcp-listen=127.0.0.1:{port}" for port in (here, there)]
    ends.listen("b", "--every", "2", listen[1])
    ends.start("a", "--send", "--program", GREETER, "--every", "0.5", listen[0])
    first = connected(here)
    # A connection cannot be saved; the program goes on with it where it is.
    event = ends.until("a", "not-moved")
    assert "is an open connection" in str(event["message"])
    assert greeted(first) == b"1"
    ends.until("b", "arrived")
    refused(here)
    assert greeted(connected(there)) == b"2"
    # Back at the first address, where it can listen again at once.
    ends.until("b", "moved")
    refused(there)
    assert greeted(connected(here)) == b"3"
    for end in "ab":
        _, said = ends.events(end)
        assert ends.processes[end].returncode == 0, said


def test_an_end_without_a_socket_for_it(ends: Ends) -> None:
    """The program is not stopped for long, and listens where it was."""
    here, _ = free_ports()
    ends.listen("b")
    listen = f"--tcp-listen=127.0.0.1:{here}"
    ends.start("a", "--send", "--program", GREETER, "--every", "0.5", listen)
    event = ends.until("a", "not-moved")
    assert "no socket was given for it" in str(event["message"])
    for answer in (b"1", b"2", b"3"):
        assert greeted(connected(here)) == answer
    events, err = ends.events("a")
    assert ends.processes["a"].returncode == 0, err
    assert events[-1]["event"] == "ended"
