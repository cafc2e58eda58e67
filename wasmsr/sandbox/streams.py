"""The two ends of the conversation with a guest, and how a call of the guest is found in it.

A guest is a program that never ends. It reads requests from standard input, a line of JSON each,
and writes answers to standard output: `MARK`, JSON, a line feed. All other bytes of standard output
belong to the code that it runs. Requests have an `op`; answers have a kind `k`:

- `ready`: the guest has started; `about` says where its interrupt is, if it has one;
- `done`: the request is answered; `value` or `error`;
- `show`: `data` is to be shown;
- `tool`, `input`: a question with an `id`; the guest waits for the request `answer` with this id.

What was sent and not read is a part of the program's state, as the unread bytes of its input.
"""

from __future__ import annotations

import json
from typing import Any

from wasmsr.interp.store.externs import Caller, Retry
from wasmsr.wasi.streams.standard import InputStream

MARK = b"\x1ewasmsr:"
LONGEST = 256 << 20
"""Bytes of one answer; a guest that sends more is cut off."""


class Mailbox(InputStream):
    """Standard input of a guest: if nothing is there, the program pauses, and no thread waits.

    Attributes:
        hungry: Whether the program waits for input.
        hung_up: Whether the next read finds the end of the input.
    """

    __slots__ = ("hung_up", "hungry")

    def __init__(self, unread: bytes = b"") -> None:
        super().__init__(-1, unread)
        self.hungry = self.hung_up = False

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Read what was sent; if nothing was, pause the program in front of this call."""
        self.hungry = False
        if self.unread:
            return self._read_unread(buffers)
        if self.hung_up:
            self.hung_up = False
            return 0
        self.hungry = True
        raise Retry

    def available(self, event: int) -> int | None:
        """Return how many bytes wait."""
        return len(self.unread)

    def send(self, **request: Any) -> None:
        """Put a request behind what is there."""
        self.unread += json.dumps(request).encode() + b"\n"


class AnswerReader:
    """Tells answers and output of the code apart, in bytes that come in pieces."""

    def __init__(self, rest: bytes = b"") -> None:
        self.rest = rest

    def feed(self, data: bytes) -> list[bytes | dict[str, Any]]:
        """Take bytes, and return output and answers in their order."""
        found: list[bytes | dict[str, Any]] = []
        text = self.rest + data
        while text:
            at = text.find(MARK)
            if at < 0:
                keep = _beginning(text)
                if keep < len(text):
                    found.append(text[: len(text) - keep])
                self.rest = text[len(text) - keep :]
                return found
            if at:
                found.append(text[:at])
            end = text.find(b"\n", at)
            if end < 0 and len(text) - at <= LONGEST:
                self.rest = text[at:]
                return found
            line = text[at + len(MARK) : end if end >= 0 else None]
            text = text[end + 1 :] if end >= 0 else b""
            try:
                answer = json.loads(line)
            except (ValueError, RecursionError):
                answer = None
            if type(answer) is dict and type(answer.get("k")) is str:
                found.append(answer)
            else:  # the code wrote something that looks like an answer
                found.append(MARK + line + b"\n")
        self.rest = b""
        return found


def _beginning(text: bytes) -> int:
    """Return how many bytes at the end may be the beginning of a mark."""
    for size in range(min(len(MARK) - 1, len(text)), 0, -1):
        if text.endswith(MARK[:size]):
            return size
    return 0
