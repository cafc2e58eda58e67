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
"""Bytes of one answer, unless the sandbox has a lower limit."""
PIECE = 1 << 20
"""Bytes that are looked at together."""
TOO_LONG = {"k": "too long"}
"""What stands for an answer that is longer."""
DEEPEST = 150
"""Levels of an answer. A value that is passed on has at most 100."""


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
    """Tells answers and output of the code apart, in bytes that come in pieces.

    Attributes:
        longest: Bytes of one answer. A longer one is dropped, and `TOO_LONG` is in its place.
    """

    def __init__(self, rest: bytes = b"") -> None:
        self.longest = LONGEST
        self.rest = rest

    @property
    def rest(self) -> bytes:
        """What may become an answer, and has not come to its end."""
        return bytes(self._text)

    @rest.setter
    def rest(self, rest: bytes) -> None:
        self._text = bytearray(rest)
        self._looked = 0  # there is no line feed before this
        self._dropping = False  # the rest of an answer that was too long

    def feed(self, data: bytes) -> list[bytes | dict[str, Any]]:
        """Take bytes, and return output and answers in their order."""
        found: list[bytes | dict[str, Any]] = []
        for start in range(0, len(data), PIECE):
            self._feed(data[start : start + PIECE], found)
        return found

    def _feed(self, data: bytes, found: list[bytes | dict[str, Any]]) -> None:
        if self._dropping:
            end = data.find(b"\n")
            if end < 0:
                return
            self._dropping, data = False, data[end + 1 :]
        text = self._text
        text += data
        done, looked, self._looked = 0, self._looked, 0
        while done < len(text):
            mark = text.find(MARK, done)
            output = len(text) - _beginning(text) if mark < 0 else mark
            if output > done:
                found.append(bytes(text[done:output]))
                done = output
            if mark < 0:
                break
            end = text.find(b"\n", max(mark, looked))
            looked = 0
            if (len(text) if end < 0 else end) - mark > self.longest:
                found.append(dict(TOO_LONG))
                self._dropping = end < 0
                done = len(text) if end < 0 else end + 1
                continue
            if end < 0:
                self._looked = len(text) - mark
                break
            found.append(_answer(bytes(text[mark + len(MARK) : end])))
            done = end + 1
        del text[:done]


def _answer(line: bytes) -> bytes | dict[str, Any]:
    """Return the answer of a line, or the line, if the code wrote what only looks like one."""
    try:
        answer = well_formed(json.loads(line))
    except (ValueError, RecursionError):
        answer = None
    if type(answer) is dict and type(answer.get("k")) is str and answer != TOO_LONG:
        return answer
    return MARK + line + b"\n"


def well_formed(value: Any, depth: int = DEEPEST) -> Any:
    """Return a value of JSON whose strings are Unicode, for those who write or copy it.

    JSON can have half of a surrogate pair, which no file, terminal or message can have. U+FFFD
    takes its place.

    Raises:
        ValueError: The value has more than `depth` levels.
    """
    if depth < 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {
            well_formed(name, depth): well_formed(one, depth - 1) for name, one in value.items()
        }
    if isinstance(value, list):
        return [well_formed(one, depth - 1) for one in value]
    return value


def _beginning(text: bytearray) -> int:
    """Return how many bytes at the end may be the beginning of a mark."""
    for size in range(min(len(MARK) - 1, len(text)), 0, -1):
        if text.endswith(MARK[:size]):
            return size
    return 0
