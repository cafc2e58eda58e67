"""A kernel as clients start it, and what they see of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the kernel `wasmsr` is installed, and no other one is found."""
    words = ["kernel", "install", "--prefix", str(tmp_path), "--checkpoint-every", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "wasmsr", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


class Client:
    """A client of one kernel.

    Args:
        manager: What has started it.
        client: A blocking client, whose channels are open.
    """

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager, self.client = manager, client

    def outcome(self, sent: str, timeout: float = 120) -> tuple[dict[str, Any], list[Any]]:
        """The reply to a request, and what was shown for it until the kernel was idle."""
        shown: list[Any] = []
        while True:
            message = self.client.get_iopub_msg(timeout=timeout)
            parent = message["parent_header"]
            # The manager sends interrupts with ids that the client has, too.
            if parent.get("msg_id") != sent or parent["msg_type"] == "interrupt_request":
                continue
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    break
                continue
            shown.append((message["msg_type"], message["content"]))
        while True:
            reply = self.client.get_shell_msg(timeout=timeout)
            if reply["parent_header"]["msg_id"] == sent:
                return reply["content"], shown

    def run(self, code: str, **options: Any) -> tuple[dict[str, Any], list[Any]]:
        """Execute a cell."""
        return self.outcome(self.client.execute(code, **options))

    def text(self, code: str) -> str:
        """Execute a cell, and return all that it has written."""
        reply, shown = self.run(code)
        assert reply["status"] == "ok", reply
        return written(shown)

    def until_written(self, text: str, timeout: float = 120) -> None:
        """Wait until some cell has written a text."""
        seen = ""
        while text not in seen:
            message = self.client.get_iopub_msg(timeout=timeout)
            if message["msg_type"] == "stream":
                seen += message["content"]["text"]


def written(shown: list[Any], name: str = "stdout") -> str:
    """The output among what was shown."""
    return "".join(one["text"] for kind, one in shown if kind == "stream" and one["name"] == name)


@pytest.fixture
def kernel(jupyter: Path) -> Iterator[Client]:
    with started() as client:
        yield client


@contextmanager
def started() -> Iterator[Client]:
    """Start the kernel `wasmsr` as its spec says."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="wasmsr", startup_timeout=120)
    try:
        yield Client(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)
