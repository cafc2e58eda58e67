"""What a relay has to know again after it was killed: requests without an end, and the history.

Both files are lines of JSON. The relay appends to its own; a last line without an end is left out.
The worker writes what a cell shows into another one before it tells the relay, so all that a state
counts as shown is there.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.kernel.ports import ClientMessage

REQUESTS = "requests.jsonl"
SHOWN = "shown.jsonl"


@dataclass
class Remembered:
    """What a journal says.

    Attributes:
        waiting: Requests that have no end, in their order.
        number, count: The number of the last request that the worker got; of the last cell.
        executed: The number of the last cell that has ended.
        begun: The id of the request that has `number`, if it has no end.
        lines: What was typed for it.
        history: Cells: number, code, value.
    """

    waiting: dict[str, ClientMessage] = field(default_factory=dict)
    number: int = 0
    count: int = 0
    executed: int = 0
    begun: str | None = None
    lines: list[str] = field(default_factory=list)
    history: list[tuple[int, str, str | None]] = field(default_factory=list)


class RequestJournal:
    """The journal of one relay.

    Args:
        folder: Where it is.
        keeps: Whether what is there is read; otherwise it begins anew.
    """

    def __init__(self, folder: Path, *, keeps: bool) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / REQUESTS
        self.remembered = Remembered()
        if keeps:
            for entry in read_lines(self._path):
                self._apply(entry)
        self._rewrite()

    def got(self, message: ClientMessage) -> None:
        """Note a request."""
        self._note(
            {
                "got": message.kind,
                "header": message.header,
                "content": message.content,
                "idents": [base64.b64encode(one).decode() for one in message.idents],
            }
        )

    def begun(self, message: ClientMessage, number: int, count: int) -> None:
        """Note that the worker gets a request."""
        self._note({"begun": message.header["msg_id"], "number": number, "count": count})

    def typed(self, line: str) -> None:
        """Note a line that was typed."""
        self._note({"line": line})

    def over(
        self, message: ClientMessage, executed: int, past: tuple[int, str, str | None] | None
    ) -> None:
        """Note that a request has ended, after its answer was sent."""
        self._note({"over": message.header["msg_id"], "executed": executed, "past": past})
        if past is not None:
            self._rewrite()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _note(self, entry: dict[str, Any]) -> None:
        data = (json.dumps(entry, default=_as_text) + "\n").encode()
        self._apply(json.loads(data))
        while data:
            data = data[os.write(self._file, data) :]

    def _apply(self, entry: Mapping[str, Any]) -> None:
        now = self.remembered
        if "got" in entry:
            idents = [base64.b64decode(one) for one in entry["idents"]]
            header = entry["header"]
            now.waiting[header["msg_id"]] = ClientMessage(
                entry["got"], header, entry["content"], idents
            )
        elif "begun" in entry:
            now.begun, now.lines = entry["begun"], []
            now.number, now.count = entry["number"], entry["count"]
        elif "line" in entry:
            now.lines.append(entry["line"])
        elif "over" in entry:
            now.waiting.pop(entry["over"], None)
            now.executed = entry["executed"]
            if entry["past"] is not None:
                now.history.append(tuple(entry["past"]))
            if now.begun == entry["over"]:
                now.begun, now.lines = None, []
        elif "history" in entry:
            now.number, now.count, now.executed = (
                entry[name] for name in ("number", "count", "executed")
            )
            now.history = [tuple(one) for one in entry["history"]]

    def _rewrite(self) -> None:
        """Leave out what is no longer needed."""
        now = self.remembered
        first = {name: getattr(now, name) for name in ("number", "count", "executed", "history")}
        small_files.replace(self._path, (json.dumps(first) + "\n").encode())
        old = getattr(self, "_file", None)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if old is not None:
            os.close(old)
        waiting, begun, lines = list(now.waiting.values()), now.begun, list(now.lines)
        for one in waiting:
            self.got(one)
        if begun is not None:
            self._note({"begun": begun, "number": now.number, "count": now.count})
            for line in lines:
                self.typed(line)


class ShownFile:
    """What the cell that runs has shown, as its worker writes it.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SHOWN
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def begin(self, counts: Mapping[str, int]) -> None:
        """Keep only so much: characters by stream, and objects."""
        kept = list(cut(read_lines(self._path), counts)) if any(counts.values()) else []
        os.ftruncate(self._file, 0)
        for one in kept:
            self.add(one)

    def add(self, message: Mapping[str, Any]) -> None:
        """Add what is shown."""
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(self._file, data) :]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file, up to the first line that is not whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n")[:-1]:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if type(entry) is not dict:
            return
        yield entry


def cut(
    messages: Iterator[dict[str, Any]], counts: Mapping[str, int] | None
) -> Iterator[dict[str, Any]]:
    """Yield so much of what was shown; all of it without counts."""
    left = None if counts is None else dict(counts)
    for one in messages:
        if left is None:
            yield one
        elif one["k"] == "out":
            text = one["text"][: left[one["stream"]]]
            left[one["stream"]] -= len(text)
            if text:
                yield {**one, "text": text}
        elif left["objects"] > 0:
            left["objects"] -= 1
            yield one


def _as_text(value: Any) -> str:
    """Return a date as the protocol writes it."""
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
