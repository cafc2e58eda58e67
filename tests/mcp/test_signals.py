"""Signals end the server, and nothing of its sandboxes stays behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the extra wasmsr[mcp] is not installed on this machine")

pytestmark = pytest.mark.full


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("by_http", [True, False])
def test_a_signal_leaves_no_folder(tmp_path: Path, number: signal.Signals, by_http: bool) -> None:
    state = tmp_path / "state"
    listen = []
    if by_http:
        with socket.create_server(("127.0.0.1", 0)) as free:
            listen = ["--listen", str(free.getsockname()[1])]
    command = [sys.executable, "-m", "wasmsr", "mcp", "--state-dir", str(state), *listen]

    def heeds() -> None:
        """Under `nohup` it would take no hangup, as it should."""
        signal.signal(number, signal.SIG_DFL)

    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heeds
        ) as server,
        ExitStack() as stack,
    ):
        stack.callback(server.kill)
        assert server.stderr is not None
        if by_http:
            assert b"clients find" in server.stderr.readline()
        else:
            while not (state.is_dir() and list(state.iterdir())):
                assert server.poll() is None
        server.send_signal(number)
        assert server.wait(60) == 128 + number
    assert not list(state.iterdir())
