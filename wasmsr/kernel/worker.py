"""The process behind a kernel's ports: it has the sandbox, and executes one request at a time.

The relay starts it as `python -m wasmsr.kernel.worker DESCRIPTOR SETTINGS FOLDER`. It ends with its
relay. It writes its state into the folder after each cell, before it says that the cell has ended,
and from time to time while a cell runs; a new process goes on there.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.kernel.checkpoints import CellRecord, StateFolder
from wasmsr.kernel.journal import ShownFile
from wasmsr.kernel.magics import Magics, split_magics
from wasmsr.kernel.settings import KernelSettings
from wasmsr.kernel.wire import LONGEST, MessageReader, frame, receive
from wasmsr.sandbox.driving import ASIDE_INSTRUCTIONS
from wasmsr.sandbox.results import SandboxLimits, SandboxResult, SandboxValue
from wasmsr.sandbox.sandbox import Sandbox

NUDGE = 0.02
"""Seconds after which a wish is told again: a call that begins just then does not hear it."""
INTERRUPTS = 3
"""From so many interrupts on, a cell that goes on is undone."""
MOST_TOLD = LONGEST // 2
"""Bytes of what comes of a request, so that a message and a record can have it."""


class _InputAwaited(Exception):
    """Takes a call out of the sandbox while somebody types: it can be saved meanwhile."""

    def __init__(self, prompt: str, password: bool) -> None:
        super().__init__()
        self.prompt, self.password = prompt, password


class CellWorker:
    """Executes requests in a sandbox.

    Args:
        stream: The connection with the relay.
        settings: What it is told.
        folder: Where its states are.
    """

    def __init__(
        self, stream: socket.socket, settings: KernelSettings, folder: StateFolder
    ) -> None:
        self._settings = settings
        self._folder = folder
        self.sandbox = self._opened(folder.record.file)
        self._magics = Magics(
            folder.path, settings, self._opened, lambda text: self._wrote("stdout", text)
        )
        self._stream = stream
        self._requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._number = 0
        self._nudging = threading.Lock()
        self._running = threading.Event()
        """Whether the sandbox does something that an interrupt can end."""
        self._in_cell = False
        """Whether that is the cell, of which states are kept."""
        self._saved_at = 0.0
        self._file = ShownFile(folder.path)
        self._shown = {"stdout": 0, "stderr": 0, "objects": 0}
        self._read = 0
        self._cancel = 0
        """The number of the request that is to end."""
        self._cancels = 0

    def serve(self) -> None:
        """Answer requests until the relay ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._nudge, daemon=True).start()
        self.tell("ready", record=asdict(self._folder.record))
        while True:
            request = self._requests.get()
            self._number = request["n"]
            try:
                value, reply = getattr(self, f"do_{request['op']}")(request)
            except WasmsrError as error:
                text = f"{error}\n{error.hint}" if error.hint else str(error)
                value, reply = None, failed(type(error).__name__, str(error), text)
            value, reply = bounded(value, reply)
            if request["op"] == "execute":
                self._keep(value, reply)
            self.tell("done", reply=reply, value=value, parks=self._magics.parks)
            if self._magics.parks:
                return

    def tell(self, kind: str, **what: Any) -> None:
        """Tell the relay something about the present request."""
        self._stream.sendall(frame({"k": kind, "n": self._number, **what}))

    # ---- what clients ask ------------------------------------------------------------------------

    def do_execute(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Execute a cell; return its value as data, and the content of the reply."""
        record = self._folder.record
        goes_on = request["goes_on"] and record.now == self._number
        self._cancels, self._saved_at = 0, time.monotonic()
        self._shown = {"stdout": 0, "stderr": 0, "objects": 0, **(record.shown if goes_on else {})}
        self._file.begin(self._shown)
        self._read = record.lines if goes_on else 0
        if not goes_on and self.sandbox.status != "idle":  # of a cell that was given up
            self.sandbox = self._opened(record.between)
        begins = not goes_on
        if begins:
            magics, code = split_magics(request["code"])
            request = {**request, "code": code}
            for words in magics:
                self.sandbox = self._magics.do(words, self.sandbox)
            begins = self.sandbox.status == "idle"  # otherwise %restore goes on with its cell
            if magics and begins and not code.strip():
                return None, {"status": "ok", "payload": [], "user_expressions": {}}
        with self._interruptible():
            self._in_cell = True
            result = self._finish(self._go_on(request, begins=begins), request)
        if result.error is not None:
            error = result.error
            text = error.traceback or f"{error.type}: {error.message}"
            if self.sandbox.status == "closed":
                self.sandbox = self._opened(self._magics.between or record.between)
                text += "\nThe state is that before the cell."
            elif error.rolled_back:
                text += "\nThe state is that before the cell."
            return None, failed(error.type, error.message, text)
        reply: dict[str, Any] = {"status": "ok", "payload": []}
        with self._interruptible():
            reply["user_expressions"] = {
                name: self._expression(code) for name, code in request["expressions"].items()
            }
        return None if result.value is None else as_data(result.value), reply

    def do_complete(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what a name can go on with."""
        with self._interruptible():
            found = self.sandbox.complete(request["code"], request["cursor"])
        return None, {
            "status": "ok",
            "matches": list(found.matches),
            "cursor_start": found.start,
            "cursor_end": found.end,
            "metadata": {},
        }

    def do_inspect(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what is known of a name."""
        with self._interruptible():
            found = self.sandbox.inspect(request["code"], request["cursor"], request["detail"])
        return None, {
            "status": "ok",
            "found": found is not None,
            "data": {} if found is None else as_data(found),
            "metadata": {},
        }

    def do_is_complete(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Say whether code can be executed as it is."""
        with self._interruptible():
            status, indent = self.sandbox.is_complete(request["code"])
        return None, {"status": status, **({"indent": indent} if status == "incomplete" else {})}

    # ---- a call that runs ------------------------------------------------------------------------

    def _finish(self, go_on: Callable[[], SandboxResult], request: dict[str, Any]) -> SandboxResult:
        """Begin a call, or go on with it, until it has an end."""
        while True:
            try:
                result = go_on()
            except _InputAwaited as asked:
                line = self._line(asked)
                if line is None:
                    result = self._cancelled()
                else:
                    go_on = self._go_on(request, line=line)
                    continue
            if result.status == "finished":
                return result
            if self._cancel == self._number:
                result = self._cancelled()
                if result.status == "finished":
                    return result
            elif self._due():
                self._keep_middle()
            go_on = self._go_on(request)

    def _go_on(
        self, request: dict[str, Any], *, begins: bool = False, line: str | None = None
    ) -> Callable[[], SandboxResult]:
        """Return what begins a call or goes on with it; a line is what it waits for."""
        given = [] if line is None else [line]

        def ask(prompt: str, password: bool) -> str:
            if not given:
                raise _InputAwaited(prompt, password)
            self._read += 1
            return given.pop()

        told: dict[str, Any] = {
            "on_output": self._wrote,
            "on_display": self._displayed,
            "on_input": ask if request["stdin"] else None,
        }
        if not begins:
            return lambda: self.sandbox.resume(**told)
        name, silent = f"<cell {request['count']}>", request["silent"]
        return lambda: self.sandbox.run(request["code"], filename=name, silent=silent, **told)

    def _cancelled(self) -> SandboxResult:
        """End the call by a KeyboardInterrupt; it may go on if the code catches this."""
        self._cancel = 0
        self._cancels += 1
        result = self.sandbox.cancel(gently=self._cancels < INTERRUPTS)
        assert result is not None
        return result

    def _line(self, asked: _InputAwaited) -> str | None:
        """Return what somebody types; None if the cell is to end."""
        while not self._lines.empty():
            self._lines.get()
        if self._cancel == self._number:
            return None
        self.tell("input", at=self._read, prompt=asked.prompt, password=asked.password)
        return self._lines.get()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let interrupts of the client reach the sandbox meanwhile."""
        self._running.set()
        try:
            yield
        finally:
            with self._nudging:  # none reaches the request that follows
                self._running.clear()
            self._in_cell = False

    def _expression(self, code: str) -> dict[str, Any]:
        """Return the value of an expression of the client's, which no notebook shows.

        It has as many instructions as a question about code; an interrupt ends it, too.
        """
        result = self.sandbox.run(code, pause_after=ASIDE_INSTRUCTIONS)
        while result.status != "finished":  # it may wait for a tool, too
            if self._cancel == self._number:
                self._cancel = 0  # so that nothing comes between this and its end
            ended = self.sandbox.cancel()
            assert ended is not None
            result = ended
        if result.error is not None:
            return failed(result.error.type, result.error.message, result.error.traceback)
        data = {"text/plain": "None"} if result.value is None else as_data(result.value)
        return {"status": "ok", "data": data, "metadata": {}}

    def _wrote(self, stream: str, text: str) -> None:
        self._shown[stream] += len(text)
        self._file.add({"k": "out", "stream": stream, "text": text})
        self.tell("out", stream=stream, text=text)

    def _displayed(self, value: SandboxValue) -> None:
        self._shown["objects"] += 1
        data = as_data(value)
        self._file.add({"k": "show", "data": data})
        self.tell("show", data=data)

    # ---- states ----------------------------------------------------------------------------------

    def _opened(self, file: str) -> Sandbox:
        """Return the sandbox of a file of the folder, or a new one."""
        settings = self._settings
        limits = SandboxLimits(memory=settings.memory, output=settings.output)
        if file:
            path = self._folder.path / file  # or a file of another folder
            return Sandbox.load(path, mounts=settings.mounts, limits=limits)
        return Sandbox.python(settings.packages, mounts=settings.mounts, limits=limits)

    def _keep(self, value: Any, reply: dict[str, Any]) -> None:
        """Write the state after a cell; say it if that fails."""
        record = CellRecord(done=self._number, reply=reply, value=value)
        try:
            self._folder.write(self.sandbox.saver(), record)
            failure = self._folder.failure()
            self._magics.settle()
        except WasmsrError as error:
            failure = str(error)
        if failure is not None:
            text = f"wasmsr: the state was not kept: {failure}\n"
            self.tell("out", stream="stderr", text=text)

    def _keep_middle(self) -> None:
        """Write the state in the middle of a cell, while the cell goes on."""
        last = self._folder.record
        record = CellRecord(
            done=last.done, now=self._number, shown=dict(self._shown), lines=self._read
        )
        self._folder.write_later(self.sandbox.saver(), record)
        self._saved_at = time.monotonic()

    def _due(self) -> bool:
        every = self._settings.every
        if not self._in_cell:
            return False
        if self._cancels >= INTERRUPTS or self._folder.busy:  # what is to end soon is left alone
            return False
        return 0 < every <= time.monotonic() - self._saved_at

    # ---- threads ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take what the relay sends. The process ends with it, and with what is no message."""
        reader = MessageReader()
        try:
            while (found := receive(self._stream, reader)) is not None:
                for message in found:
                    op = message["op"]
                    if op == "cancel":
                        self._cancel = message["n"]
                        self._lines.put(None)
                    elif op == "input":
                        self._lines.put(message["value"])
                    elif op == "end":
                        return
                    else:
                        self._requests.put(message)
        finally:
            os._exit(0)

    def _nudge(self) -> None:
        """Stop the call as long as somebody has a wish that it does not know of."""
        while True:
            self._running.wait()
            with self._nudging:
                if self._running.is_set() and (self._cancel == self._number or self._due()):
                    self.sandbox.interrupt()
            time.sleep(NUDGE)


def as_data(value: SandboxValue) -> dict[str, str]:
    """Return a value as a client shows it."""
    return {
        mime: one if isinstance(one, str) else base64.b64encode(one).decode()
        for mime, one in value.data.items()
    }


def bounded(value: Any, reply: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what came of a request, or an error in its place that says that it is too long."""
    size = len(json.dumps([value, reply]))
    if size <= MOST_TOLD:
        return value, reply
    said = f"the value has {size} bytes as a message: the limit is {MOST_TOLD}; show a part of it"
    return None, failed("LimitExceeded", said)


def failed(name: str, message: str, text: str = "") -> dict[str, Any]:
    """Return the content of a reply that says what went wrong."""
    lines = (text or f"{name}: {message}").rstrip("\n").split("\n")
    return {"status": "error", "ename": name, "evalue": message, "traceback": lines}


def main() -> None:
    """Serve the relay that has started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the relay gets it, and says what it means
    stream = socket.socket(fileno=int(sys.argv[1]))
    settings = KernelSettings.of_text(sys.argv[2])
    try:
        worker = CellWorker(stream, settings, StateFolder(Path(sys.argv[3])))
    except WasmsrError as error:
        why = f"{error} ({error.hint})" if error.hint else str(error)
        stream.sendall(frame({"k": "failed", "n": 0, "why": why}))
        return
    worker.serve()


if __name__ == "__main__":
    main()
