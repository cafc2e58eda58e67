"""The worker's process, as the relay has it."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from wasmsr.kernel.settings import KernelSettings
from wasmsr.kernel.wire import MessageReader, frame, receive

_log = logging.getLogger(__name__)


class CellProcess:
    """The process that has the sandbox.

    Args:
        settings: What it is told.
        folder: Where its states are.
    """

    def __init__(self, settings: KernelSettings, folder: Path) -> None:
        self.ready = False
        """Whether it has said what its state is."""
        self.stream, other = socket.socketpair()
        with other:
            words = [sys.executable, "-m", "wasmsr.kernel.worker", str(other.fileno())]
            self.process = subprocess.Popen(
                [*words, settings.text(), str(folder)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._reader = MessageReader()

    def send(self, **message: Any) -> None:
        """Send a message; a worker that has ended does not get it."""
        try:
            self.stream.sendall(frame(message))
        except OSError:
            _log.info("the worker has ended before it got a message")

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages that are there; None if the worker has ended."""
        return receive(self.stream, self._reader)

    def close(self) -> int:
        """End it, and return its exit code."""
        self.stream.close()  # it ends when it sees that
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
