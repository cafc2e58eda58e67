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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.kernel.ports import ClientMessage
from wasmsr.kernel.replies import Cell, forget_old
from wasmsr.kernel.wire import KernelError

REQUESTS = "requests.jsonl"
SHOWN = "shown.jsonl"
SPARE = 1 << 20
"""Bytes of notes that are no longer needed, from which on a small journal is written anew."""


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
    history: list[Cell] = field(default_factory=list)


class RequestJournal:
    """The journal of one relay.

    Notes that cannot be written, because the disk is full, are written later. `failure` tells it.

    Args:
        folder: Where it is.
        keeps: Whether what is there is read; otherwise it begins anew.

    Raises:
        KernelError: It cannot be written.
    """

    def __init__(self, folder: Path, *, keeps: bool) -> None:
        self._path = folder / REQUESTS
        self._file: int | None = None
        self._size = self._added = 0
        """Bytes when it was written anew, and since then."""
        self._behind = self._secret = False
        """Whether it lacks notes; whether it has lines that were typed, which may be passwords."""
        self._failure: str | None = None
        self.remembered = Remembered()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in folder.glob(f".{REQUESTS}.*.part"):  # a relay was killed that wrote it
                part.unlink()
            if keeps:
                self._read()
            self._rewrite()
        except OSError as error:
            raise KernelError(f"requests cannot be noted in {folder}: {error}") from error

    def failure(self) -> str | None:
        """Return why requests cannot be noted at present, once."""
        found, self._failure = self._failure, None
        return found

    def got(self, message: ClientMessage) -> None:
        """Note a request."""
        self._note(_got(message))

    def begun(self, message: ClientMessage, number: int, count: int) -> None:
        """Note that the worker gets a request."""
        self._note({"begun": message.header["msg_id"], "number": number, "count": count})

    def typed(self, line: str) -> None:
        """Note a line that was typed."""
        self._note({"line": line})

    def over(self, message: ClientMessage, executed: int, past: Cell | None) -> None:
        """Note that a request has ended, after its answer was sent."""
        self._secret = bool(self.remembered.lines)
        self._note({"over": message.header["msg_id"], "executed": executed, "past": past})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)

    def _read(self) -> None:
        """Take over what is there, up to the first entry that is damaged."""
        with suppress(LookupError, TypeError, ValueError):
            for entry in read_lines(self._path):
                self._apply(entry)

    def _note(self, entry: dict[str, Any]) -> None:
        data = _line(entry)
        self._apply(json.loads(data))
        try:
            if self._behind or self._secret or self._added > max(SPARE, self._size):
                self._rewrite()  # with this entry
            else:
                self._append(data)
        except OSError as error:
            if not self._behind:
                self._failure = error.strerror or str(error)
            self._behind = True

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._added += len(data)
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
                forget_old(now.history)
            if now.begun == entry["over"]:
                now.begun, now.lines = None, []
        elif "history" in entry:
            now.number, now.count, now.executed = (
                entry[name] for name in ("number", "count", "executed")
            )
            now.history = [tuple(one) for one in entry["history"]]

    def _rewrite(self) -> None:
        """Leave out what is no longer needed. Raises OSError."""
        now = self.remembered
        first = {name: getattr(now, name) for name in ("number", "count", "executed", "history")}
        entries = [first, *map(_got, now.waiting.values())]
        if now.begun is not None:
            entries.append({"begun": now.begun, "number": now.number, "count": now.count})
            entries += [{"line": line} for line in now.lines]
        data = b"".join(map(_line, entries))
        small_files.replace(self._path, data)
        made = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.close()
        self._file, self._size, self._added = made, len(data), 0
        self._behind = self._secret = False


class ShownFile:
    """What the cell that runs has shown, as its worker writes it.

    If the disk is full, the rest is left out: a relay that takes over shows less of the cell.

    Args:
        folder: Where it is.

    Raises:
        KernelError: It cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SHOWN
        self._full = False
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._file = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise KernelError(f"the kernel cannot write {self._path}: {error}") from error

    def begin(self, counts: Mapping[str, int]) -> None:
        """Keep only so much: characters by stream, and objects."""
        kept = list(cut(read_lines(self._path), counts)) if any(counts.values()) else []
        os.ftruncate(self._file, 0)
        self._full = False
        for one in kept:
            self.add(one)

    def add(self, message: Mapping[str, Any]) -> None:
        """Add what is shown."""
        data = b"" if self._full else _line(message)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            self._full = True


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


def _got(message: ClientMessage) -> dict[str, Any]:
    return {
        "got": message.kind,
        "header": message.header,
        "content": message.content,
        "idents": [base64.b64encode(one).decode() for one in message.idents],
    }


def _line(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry, default=_as_text) + "\n").encode()


def _as_text(value: Any) -> str:
    """Return a date as the protocol writes it."""
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
