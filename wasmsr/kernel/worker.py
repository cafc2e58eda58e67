"""The process behind a kernel's ports: it has the sandbox, and executes one request at a time.

The relay starts it as `python -m wasmsr.kernel.worker DESCRIPTOR SETTINGS`. It ends with its relay.
"""

from __future__ import annotations

import base64
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.kernel.settings import KernelSettings
from wasmsr.kernel.wire import MessageReader, frame, receive
from wasmsr.sandbox.results import SandboxLimits, SandboxResult, SandboxValue
from wasmsr.sandbox.sandbox import Sandbox

NUDGE = 0.02
"""Seconds after which a wish is told again: a call that begins just then does not hear it."""
INTERRUPTS = 3
"""From so many interrupts on, a cell that goes on is undone."""


class _InputAwaited(Exception):
    """Takes a call out of the sandbox while somebody types: it can be saved meanwhile."""

    def __init__(self, prompt: str, password: bool) -> None:
        super().__init__()
        self.prompt, self.password = prompt, password


class CellWorker:
    """Executes requests in a sandbox.

    Args:
        stream: The connection with the relay.
        sandbox: The sandbox.
    """

    def __init__(self, stream: socket.socket, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._stream = stream
        self._requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._number = 0
        self._running = False
        self._told = threading.Event()
        self._cancel = 0
        """The number of the request that is to end."""
        self._cancels = 0

    def serve(self) -> None:
        """Answer requests until the relay ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._nudge, daemon=True).start()
        self.tell("ready")
        while True:
            request = self._requests.get()
            self._number = request["n"]
            try:
                value, reply = getattr(self, f"do_{request['op']}")(request)
            except WasmsrError as error:
                value, reply = None, failed(type(error).__name__, str(error))
            self.tell("done", reply=reply, value=value)

    def tell(self, kind: str, **what: Any) -> None:
        """Tell the relay something about the present request."""
        self._stream.sendall(frame({"k": kind, "n": self._number, **what}))

    # ---- what clients ask ------------------------------------------------------------------------

    def do_execute(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Execute a cell; return its value as data, and the content of the reply."""
        self._cancels = 0
        ask = self._ask_later if request["stdin"] else None
        self._running = True
        self._told.set()  # it may be that this request is to end already
        try:
            name = f"<cell {request['count']}>"
            result = self._finish(
                lambda: self.sandbox.run(
                    request["code"],
                    filename=name,
                    silent=request["silent"],
                    on_output=self._wrote,
                    on_display=self._shown,
                    on_input=ask,
                )
            )
        finally:
            self._running = False
        if result.error is not None:
            error = result.error
            text = error.traceback or f"{error.type}: {error.message}"
            if error.rolled_back:
                text += "\nThe state is that before the cell."
            return None, failed(error.type, error.message, text)
        reply: dict[str, Any] = {"status": "ok", "payload": []}
        reply["user_expressions"] = {
            name: self._expression(code) for name, code in request["expressions"].items()
        }
        return None if result.value is None else as_data(result.value), reply

    def do_complete(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what a name can go on with."""
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
        found = self.sandbox.inspect(request["code"], request["cursor"], request["detail"])
        return None, {
            "status": "ok",
            "found": found is not None,
            "data": {} if found is None else as_data(found),
            "metadata": {},
        }

    def do_is_complete(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Say whether code can be executed as it is."""
        status, indent = self.sandbox.is_complete(request["code"])
        return None, {"status": status, **({"indent": indent} if status == "incomplete" else {})}

    # ---- a call that runs ------------------------------------------------------------------------

    def _finish(self, begin: Callable[[], SandboxResult]) -> SandboxResult:
        """Begin a call, or go on with it, until it has an end."""
        go_on = begin
        while True:
            try:
                result = go_on()
            except _InputAwaited as asked:
                line = self._line(asked)
                if line is None:
                    result = self._cancelled()
                else:
                    go_on = self._resumed(line)
                    continue
            if result.status == "finished":
                return result
            if self._cancel == self._number:
                result = self._cancelled()
                if result.status == "finished":
                    return result
            go_on = self._resumed(None)

    def _resumed(self, line: str | None) -> Callable[[], SandboxResult]:
        """Return what goes on with the call; a line is the answer to what it has asked."""
        given = [] if line is None else [line]

        def ask(prompt: str, password: bool) -> str:
            return given.pop() if given else self._ask_later(prompt, password)

        return lambda: self.sandbox.resume(
            on_output=self._wrote, on_display=self._shown, on_input=ask
        )

    def _cancelled(self) -> SandboxResult:
        """End the call by a KeyboardInterrupt; it may go on if the code catches this."""
        self._cancel = 0
        self._cancels += 1
        result = self.sandbox.cancel(gently=self._cancels < INTERRUPTS)
        assert result is not None
        return result

    def _ask_later(self, prompt: str, password: bool) -> str:
        raise _InputAwaited(prompt, password)

    def _line(self, asked: _InputAwaited) -> str | None:
        """Return what somebody types; None if the cell is to end."""
        while not self._lines.empty():
            self._lines.get()
        if self._cancel == self._number:
            return None
        self.tell("input", prompt=asked.prompt, password=asked.password)
        return self._lines.get()

    def _expression(self, code: str) -> dict[str, Any]:
        """Return the value of an expression of the client's, which no notebook shows."""
        result = self.sandbox.run(code)
        if result.error is not None:
            return failed(result.error.type, result.error.message, result.error.traceback)
        data = {"text/plain": "None"} if result.value is None else as_data(result.value)
        return {"status": "ok", "data": data, "metadata": {}}

    def _wrote(self, stream: str, text: str) -> None:
        self.tell("out", stream=stream, text=text)

    def _shown(self, value: SandboxValue) -> None:
        self.tell("show", data=as_data(value))

    # ---- threads ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take what the relay sends; end the process with it."""
        reader = MessageReader()
        while (found := receive(self._stream, reader)) is not None:
            for message in found:
                op = message["op"]
                if op == "cancel":
                    self._cancel = message["n"]
                    self._told.set()
                    self._lines.put(None)
                elif op == "input":
                    self._lines.put(message["value"])
                elif op == "end":
                    os._exit(0)
                else:
                    self._requests.put(message)
        os._exit(0)

    def _nudge(self) -> None:
        """Stop the call as long as somebody has a wish that it does not know of."""
        idle = threading.Event()
        while True:
            self._told.wait()
            self._told.clear()
            while self._running and self._cancel == self._number:
                self.sandbox.interrupt()
                idle.wait(NUDGE)


def as_data(value: SandboxValue) -> dict[str, str]:
    """Return a value as a client shows it."""
    return {
        mime: one if isinstance(one, str) else base64.b64encode(one).decode()
        for mime, one in value.data.items()
    }


def failed(name: str, message: str, text: str = "") -> dict[str, Any]:
    """Return the content of a reply that says what went wrong."""
    lines = (text or f"{name}: {message}").rstrip("\n").split("\n")
    return {"status": "error", "ename": name, "evalue": message, "traceback": lines}


def main() -> None:
    """Serve the relay that has started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the relay gets it, and says what it means
    stream = socket.socket(fileno=int(sys.argv[1]))
    settings = KernelSettings.of_text(sys.argv[2])
    limits = SandboxLimits(memory=settings.memory, output=settings.output)
    try:
        sandbox = Sandbox.python(settings.packages, mounts=settings.mounts, limits=limits)
    except WasmsrError as error:
        stream.sendall(frame({"k": "failed", "n": 0, "why": str(error)}))
        return
    CellWorker(stream, sandbox).serve()


if __name__ == "__main__":
    main()
