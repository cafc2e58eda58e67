"""How the scheduler steers a copy that it can pause and save: questions and answers in JSON."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from wasmsr.errors import printable

PACKET = 1 << 16
"""Most bytes of a packet."""
SEND_SECONDS = 5.0
"""How long a copy may not take a question."""


class CutFailed(Exception):
    """A cut cannot be made now; everything runs on."""


class CopyEnded(CutFailed):
    """A copy has ended meanwhile, and the scheduler hears of it soon."""


class CopyControl:
    """The scheduler's end. One thread at a time asks.

    Questions: "prepare" (make ready to save), "pause", "take" (copy the state of the paused
    program), "go" (run on), "saved" (answered when the state is on the disk).

    Attributes:
        name: The copy, for messages.
    """

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self._sock = sock
        self._number = 0

    def ask(self, question: str, **values: Any) -> None:
        """Send a question; `answer` gives what comes back.

        Raises:
            CopyEnded: The copy is gone.
            CutFailed: It takes nothing.
        """
        self._number += 1
        said = {"number": self._number, "do": question, **values}
        try:
            self._sock.settimeout(SEND_SECONDS)
            self._sock.send(json.dumps(said).encode())
        except TimeoutError:
            raise CutFailed(f"{printable(self.name)} takes no question") from None
        except OSError:
            raise CopyEnded(f"{printable(self.name)} has ended") from None

    def answer(self, seconds: float) -> Mapping[str, Any]:
        """Return the answer to the last question; answers to others are ignored.

        Raises:
            CopyEnded: The copy is gone, or its program has ended.
            CutFailed: It refuses and says why, or gives no answer.
        """
        ends = time.monotonic() + seconds
        while True:
            try:
                self._sock.settimeout(max(0.001, ends - time.monotonic()))
                packet = self._sock.recv(PACKET)
            except TimeoutError:
                raise CutFailed(f"{printable(self.name)} does not answer ({seconds:g} s)") from None
            except OSError:
                packet = b""
            if not packet:
                raise CopyEnded(f"{printable(self.name)} has ended")
            said = json.loads(packet)
            if said["number"] != self._number:
                continue
            if said.get("ended"):
                raise CopyEnded(f"{printable(self.name)} has ended")
            if said.get("error"):
                raise CutFailed(f"{printable(self.name)}: {printable(said['error'], 300)}")
            return said  # type: ignore[no-any-return]

    def close(self) -> None:
        """Give the way back; the copy runs on."""
        self._sock.close()
