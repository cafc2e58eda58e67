"""The scheduler's end of the process that forks copies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from wasmsr.elements.engine.control import PACKET, CopyControl
from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.failures import ElementError
from wasmsr.errors import printable

START_SECONDS = 60.0
"""How long the forker may take to start on a busy machine."""
END_SECONDS = 30.0
"""How long copies of an earlier scheduler may take to end."""


class ForkerLink:
    """A forker that this process has started."""

    def __init__(self, run: RunFolder) -> None:
        """Start it.

        Raises:
            ElementError: It does not start, or one of an earlier scheduler has not ended.
        """
        lock = run.lock_copies(END_SECONDS)
        try:
            self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                words = [sys.executable, "-m", "wasmsr.elements.engine.forker"]
                self._process = subprocess.Popen(
                    [*words, str(run.path), str(theirs.fileno()), str(lock)],
                    pass_fds=[theirs.fileno(), lock],
                    stdin=subprocess.DEVNULL,
                )
        finally:
            os.close(lock)
        self._sock.settimeout(START_SECONDS)
        try:
            said = self._sock.recv(PACKET)
        except OSError:
            said = b""
        if not said:
            self._process.kill()
            self.close()
            raise ElementError("the process that forks elements did not start",
                               hint="the machine may have no memory or no time for it")  # fmt: skip
        self._sock.setblocking(True)

    def fileno(self) -> int:
        """Return the descriptor that is ready when copies have ended."""
        return self._sock.fileno()

    def start(self, asked: Mapping[str, Any], *, steered: bool) -> CopyControl | None:
        """Have a copy started.

        Args:
            asked: What it is.
            steered: Whether it can be paused and saved.

        Returns:
            The way to steer it, if it can be.

        Raises:
            ElementError: It has too many memories and parents.
            OSError: The forker is gone.
        """
        packet = json.dumps(asked).encode()
        name = f"{asked['element']}@{asked['index']}"
        if len(packet) > PACKET:
            raise ElementError(f"{printable(name)} has too many memories and parents")
        if not steered:
            self._sock.send(packet)
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                socket.send_fds(self._sock, [packet], [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        return CopyControl(name, ours)

    def kill(self, number: int) -> None:
        """Have a copy ended. Raises OSError if the forker is gone."""
        self._sock.send(json.dumps({"kill": number}).encode())

    def told(self) -> Iterator[tuple[int, int, str]]:
        """Yield (number, exit code, why it was not started) of copies that have ended.

        Raises:
            ElementError: The forker is gone.
        """
        while True:
            try:
                packet = self._sock.recv(PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                raise ElementError("the process that forks elements has ended")
            said = json.loads(packet)
            yield said["id"], said["code"], said["why"]

    def close(self) -> None:
        """End the forker, and with it all copies."""
        self._sock.close()
        self._process.wait()
