"""The process that a Jupyter client knows: it owns the ports, and gives requests to its worker.

It computes nothing, so it answers heartbeats and interrupts while a cell runs. Requests of the
shell port are answered one after the other, in their order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq

from wasmsr.kernel.journal import SHOWN, Remembered, RequestJournal, cut, read_lines
from wasmsr.kernel.ports import PATIENCE, ClientMessage, ClientPorts
from wasmsr.kernel.replies import LONGEST_VALUE, Cell, forget_old, kernel_info, past_cells
from wasmsr.kernel.settings import KernelSettings
from wasmsr.kernel.showing import NOTHING, CellOutput
from wasmsr.kernel.wire import CellProcess

LOSSES = 10
"""Workers that may end one after the other without any progress."""
MOST_WAITING = 1000
"""Requests that wait for their turn; further ones stay in the port."""
_log = logging.getLogger(__name__)
_ASKED = ("execute", "complete", "inspect", "is_complete")


class KernelRelay:
    """Serves the clients of one kernel.

    Args:
        ports: Its ports.
        settings: What the worker gets.
        folder: Where the worker's states are.
        goes_on: Whether it takes over from a relay that was killed.
        note: What the first cell says before all else; empty for nothing.
    """

    def __init__(
        self,
        ports: ClientPorts,
        settings: KernelSettings,
        folder: Path,
        *,
        goes_on: bool = False,
        note: str = "",
    ) -> None:
        self.ports = ports
        self._settings = settings
        self._folder = folder
        self._waiting: deque[ClientMessage] = deque()
        self._now: ClientMessage | None = None
        self._number = 0
        self._count = 0
        self._asked_input = False
        self._history: list[Cell] = []
        self._request_now: dict[str, Any] = {}
        self._output = CellOutput(self._publish)
        self._note = note
        self._lines: list[str] = []
        self._cancelled = False
        self._executed = 0
        """The number of the last cell that has ended."""
        self._older = False
        self._state: dict[str, Any] = {}
        self._losses = 0
        self._lost_by: str | None = None
        self._ended = False
        self._why: str | None = None
        self._worker: CellProcess | None = None
        self._journal = RequestJournal(folder, keeps=goes_on)
        self._takes_over = self._remember(self._journal.remembered)
        self._poller = zmq.Poller()
        for one in ports.sockets.values():
            self._poller.register(one, zmq.POLLIN)

    def _remember(self, before: Remembered) -> bool:
        """Take over what an earlier relay has left; return whether a cell was running."""
        self._number, self._count, self._executed = before.number, before.count, before.executed
        self._history = list(before.history)
        waiting = dict(before.waiting)
        now = None if before.begun is None else waiting.pop(before.begun, None)
        self._waiting.extend(waiting.values())
        if now is None:
            return False
        with suppress(LookupError, TypeError):
            self._count -= 1  # the request counts once more
            self._request_now = {**(self._request(now) or {}), "count": before.count}
            self._now, self._lines, self._count = now, list(before.lines), before.count
        return self._now is not None

    def _take_over(self) -> None:
        """Wait until a client listens again, and begin."""
        end = time.monotonic() + PATIENCE
        while self.ports.subscribers <= 0 and time.monotonic() < end:
            events = dict(self._poller.poll(100))
            if self.ports.sockets["hb"] in events:
                self.ports.echo()
            if self.ports.sockets["iopub"] in events:
                self.ports.listened()

    def open_worker(self) -> None:
        """Start the worker, if there is none; a request does it too."""
        if self._worker is None:
            self._worker = CellProcess(self._settings.text(), self._folder)
            self._poller.register(self._worker.stream, zmq.POLLIN)

    def _close_worker(self) -> int:
        """End the worker, and return its exit code."""
        worker, self._worker = self._worker, None
        if worker is None:
            return 0
        self._poller.register(worker.stream, 0)  # no longer
        return worker.close()

    def _tell(self, **message: Any) -> None:
        """Tell the worker something, if there is one that listens."""
        if self._worker is not None and self._worker.ready:
            self._worker.send(**message)

    def serve(self) -> None:
        """Serve until a client ends the kernel."""
        if self._now is not None:
            self._take_over()
            self._status("busy", self._now)
            self.open_worker()
        else:
            self.ports.publish("status", {"execution_state": "starting"}, None)
        try:
            while not self._ended:
                self._turn()
        finally:
            self._output.flush()
            self._close_worker()
            self._journal.close()
            self.ports.close()

    def interrupt(self) -> None:
        """End the cell that runs."""
        if self._now is not None:
            self._cancelled = True
            self._tell(op="cancel", n=self._number)

    def _turn(self) -> None:
        """Wait for something, and do what follows."""
        soon = [self.ports.retry(), self.ports.tell()]
        crowded = self.ports.crowded
        if not crowded:
            soon += [self._output.wait(), 0 if self._now is None and self._waiting else None]
        wait = min((one for one in soon if one is not None), default=None)
        sockets = self.ports.sockets
        full = len(self._waiting) >= MOST_WAITING
        self._poller.register(sockets["shell"], 0 if full or crowded else zmq.POLLIN)
        if (
            self._worker is not None
        ):  # its code waits as long as clients have not seen what it shows
            self._poller.register(self._worker.stream, 0 if crowded else zmq.POLLIN)
        events = self._poller.poll(None if wait is None else int(1000 * wait) + 1)
        ready = {one for one, _ in events}
        if sockets["hb"] in ready:
            self.ports.echo()
        if sockets["iopub"] in ready:
            self.ports.listened()
        if sockets["control"] in ready:
            self._control(self.ports.receive("control"))
        if sockets["stdin"] in ready:
            self._typed(self.ports.receive("stdin"))
        if sockets["shell"] in ready:
            message = self.ports.receive("shell")
            if message is not None:
                self._received(message)
        worker = self._worker
        if worker is not None and (worker.stream in ready or worker.stream.fileno() in ready):
            self._heard(worker)
        if not crowded and self._output.wait() == 0:
            self._output.flush()
        while self._now is None and self._waiting and not self._ended and not self.ports.crowded:
            self._begin(self._waiting.popleft())

    def _received(self, message: ClientMessage) -> None:
        self._journal.got(message)
        self._waiting.append(message)

    def _over(self, message: ClientMessage) -> None:
        """Say, and note, that a request has ended."""
        self._status("idle", message)
        past = None
        if message.kind == "execute_request" and self._history:
            past = self._history[-1] if self._history[-1][0] == self._count else None
        known = self._journal.remembered.history
        if past is not None and known and known[-1][0] == past[0]:
            past = None
        self._journal.over(message, self._executed, past)

    # ---- what clients ask ------------------------------------------------------------------------

    def _control(self, message: ClientMessage | None) -> None:
        if message is None:
            return
        self._status("busy", message)
        if message.kind == "interrupt_request":
            self.interrupt()
            self._answer(message, {"status": "ok"}, "control")
        elif message.kind in ("shutdown_request", "kernel_info_request"):
            self._at_once(message, "control")
        else:
            _log.info("the control port does not know %.60s", message.kind)
        self._status("idle", message)

    def _begin(self, message: ClientMessage) -> None:
        """Answer a request of the shell port, or give it to the worker."""
        self._status("busy", message)
        try:
            request = self._request(message)
        except (LookupError, TypeError) as error:
            name = type(error).__name__
            said = {"status": "error", "ename": name, "evalue": str(error), "traceback": []}
            self._answer(message, said, "shell")
            self._over(message)
            return
        if request is None:
            self._at_once(message, "shell")
            self._over(message)
            return
        self._now, self._request_now = message, request
        self._number += 1
        self._lines, self._cancelled = [], False
        self._output.begin()
        self._journal.begun(message, self._number, self._count)
        failure = self._journal.failure()
        if failure is not None:
            why = f"wasmsr: If the kernel's own process ends now, requests are lost: {failure}."
            self._output.mark(why, {"unnoted": True})
        if message.kind == "execute_request" and not request["silent"]:
            said = {"code": request["code"], "execution_count": request["count"]}
            self.ports.publish("execute_input", said, message.header)
        if message.kind == "execute_request" and self._note and not request["silent"]:
            self._output.mark(self._note, {"kept": True})
            self._note = ""
        self._why = None  # what was missing may be there by now
        if self._worker is not None and self._worker.ready:
            self._say_older()
            self._tell(n=self._number, goes_on=False, **request)
        else:
            self.open_worker()

    def _request(self, message: ClientMessage) -> dict[str, Any] | None:
        """Return what the worker is to do, None if it has no part in it.

        Raises:
            LookupError, TypeError: The message lacks something, or has something wrong.
        """
        op, given = message.kind.removesuffix("_request"), message.content
        if op not in _ASKED:
            return None
        code = given["code"]
        if type(code) is not str:
            raise TypeError("the code must be a string")
        if op != "execute":
            cursor, detail = given.get("cursor_pos", len(code)), given.get("detail_level", 0)
            if type(cursor) is not int or type(detail) is not int:
                raise TypeError("cursor_pos and detail_level must be whole numbers")
            return {
                "op": op,
                "code": code,
                "cursor": max(0, min(cursor, len(code))),
                "detail": detail,
            }
        expressions = given.get("user_expressions") or {}
        if type(expressions) is not dict or any(
            type(one) is not str for one in expressions.values()
        ):
            raise TypeError("user_expressions must be code by name")
        silent = bool(given.get("silent"))
        if not silent and given.get("store_history", True):
            self._count += 1
            self._history.append((self._count, code, None))
            forget_old(self._history)
        return {
            "op": op,
            "code": code,
            "count": self._count,
            "silent": silent,
            "stdin": bool(given.get("allow_stdin", True)),
            "expressions": expressions,
        }

    def _at_once(self, message: ClientMessage, port: str) -> None:
        """Answer a request in which the worker has no part."""
        content = message.content
        if message.kind == "kernel_info_request":
            self._answer(message, kernel_info(), port)
        elif message.kind == "history_request":
            self._answer(
                message, {"status": "ok", "history": past_cells(self._history, content)}, port
            )
        elif message.kind == "comm_info_request":
            self._answer(message, {"status": "ok", "comms": {}}, port)
        elif message.kind == "comm_open":
            said: dict[str, Any] = {"comm_id": content.get("comm_id"), "data": {}}
            self.ports.publish("comm_close", said, message.header)
        elif message.kind == "shutdown_request":
            said = {"status": "ok", "restart": bool(content.get("restart"))}
            self._answer(message, said, port)
            self.ports.publish("shutdown_reply", said, message.header)
            self._ended = True
        else:
            _log.info("the kernel does not know %.60s", message.kind)

    def _typed(self, message: ClientMessage | None) -> None:
        """Give the worker a line that it has asked for."""
        if message is None or message.kind != "input_reply" or not self._asked_input:
            return
        now = self._now
        parent = message.content.get("value")
        if now is not None and type(parent) is str and message.idents == now.idents:
            self._asked_input = False
            self._lines.append(parent)
            self._journal.typed(parent)
            self._tell(op="input", value=parent)

    # ---- what the worker says --------------------------------------------------------------------

    def _heard(self, worker: CellProcess) -> None:
        found = worker.receive()
        if found is None:
            self._lost()
            return
        for message in found:
            kind = message["k"]
            if kind == "failed":
                self._why = message["why"]
            elif kind == "ready":
                worker.ready = True
                self._opened(message["record"])
            if self._now is None or message["n"] != self._number:
                continue
            if kind == "out":
                self._output.text(message["stream"], message["text"])
            elif kind == "show":
                self._output.show(message["data"])
            elif kind == "input":
                self._ask(message)
            elif kind == "done":
                self._done(message)

    def _ask(self, message: dict[str, Any]) -> None:
        """Ask for a line, unless it was typed before the worker was lost."""
        now = self._now
        assert now is not None
        if message["at"] < len(self._lines):
            self._tell(op="input", value=self._lines[message["at"]])
            return
        self._output.flush()
        self._asked_input = True
        said = {"prompt": message["prompt"], "password": message["password"]}
        self.ports.reply("stdin", "input_request", said, now)

    def _opened(self, record: dict[str, Any]) -> None:
        """Give a new worker what is to be done, from the state that it has."""
        if self._state.get("number") != record["number"]:
            self._losses = 0
        self._state = record
        self._older = self._older or record["done"] < self._executed
        now, number = self._now, self._number
        if now is not None and self._takes_over and now.kind == "execute_request":
            self._show_whole(record, number)
        self._takes_over = False
        self._number = max(number, record["done"])  # the journal may be older than the state
        if now is not None and record["done"] == number:
            self._done(record)
        elif now is not None and record["done"] > number:
            why = "the kernel has no notes of what came of this request; it is not made again"
            self._done({"reply": self._failed("KernelError", why), "value": None})
        elif now is not None:
            goes_on = record["now"] == number
            if self._lost_by is not None and now.kind == "execute_request":
                where = "where it was a moment ago" if goes_on else "from its beginning"
                why = f"{self._lost_by} The cell goes on {where}."
                self._output.resumed(record["shown"] if goes_on else {}, why)
            self._say_older()
            self._tell(n=number, goes_on=goes_on, **self._request_now)
            if self._cancelled:
                self._tell(op="cancel", n=number)
        self._lost_by = None

    def _show_whole(self, record: dict[str, Any], number: int) -> None:
        """Show all that a cell has shown: nobody knows what clients got of an earlier relay."""
        counts = record["shown"] if record["now"] == number else dict(NOTHING)
        if record["done"] == number:
            counts = None
        self._output.mark(
            "wasmsr: The kernel's process has ended. The whole output of the cell follows.",
            {"whole": True},
        )
        for one in cut(read_lines(self._folder / SHOWN), counts):
            if one["k"] == "out":
                self._output.text(one["stream"], one["text"])
            else:
                self._output.show(one["data"])

    def _say_older(self) -> None:
        """Say that the state is older than the notebook, if a state could not be written."""
        if self._older:
            self._older = False
            said = "wasmsr: The process has ended, and the state of the last cells was not kept."
            self._output.mark(said, {"older": True})

    def _lost(self) -> None:
        """Start a new worker in place of one that has ended by itself."""
        code = self._close_worker()
        self._losses += 1
        self._asked_input = False
        said = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._lost_by = f"The process of the sandbox has ended ({said})."
        if self._why is None and self._losses > LOSSES:
            if self._now is not None:
                why = f"{self._losses} processes one after the other have ended here ({said})"
                self._done({"reply": self._failed("KernelError", why), "value": None})
            else:
                self._why = f"the process of the sandbox ends again and again ({said})"
        if self._why is None:
            self.open_worker()
        elif self._now is not None:
            self._done({"reply": self._failed("KernelError", self._why), "value": None})

    def _done(self, message: dict[str, Any]) -> None:
        """Tell the client what came of its request."""
        now = self._now
        assert now is not None
        self._output.end()
        if message.get("parks"):
            self._close_worker()
        self._now, self._asked_input, self._losses = None, False, 0
        reply, value = message["reply"], message["value"]
        if now.kind == "execute_request":
            self._executed = self._number
            reply = {**reply, "execution_count": self._count}
            silent = bool(now.content.get("silent"))
            if value is not None:
                said = {"data": value, "metadata": {}, "execution_count": self._count}
                self.ports.publish("execute_result", said, now.header)
                if self._history and self._history[-1][0] == self._count:
                    text = value.get("text/plain", "")[:LONGEST_VALUE]
                    self._history[-1] = (*self._history[-1][:2], text)
            elif reply["status"] == "error" and not silent:
                said = {name: reply[name] for name in ("ename", "evalue", "traceback")}
                self.ports.publish("error", said, now.header)
        aborts = now.kind == "execute_request" and reply["status"] == "error"
        if aborts and now.content.get("stop_on_error", True):
            # What a client sends after it has seen the error is not refused.
            while len(self._waiting) < MOST_WAITING:
                other = self.ports.receive("shell")
                if other is None:
                    break
                self._received(other)
        else:
            aborts = False
        self._answer(now, reply, "shell")
        self._over(now)
        if aborts:
            self._abort()

    def _abort(self) -> None:
        """Refuse the cells that wait: one in front of them has failed."""
        kept = [one for one in self._waiting if one.kind != "execute_request"]
        for one in self._waiting:
            if one.kind == "execute_request":
                self._status("busy", one)
                self._answer(one, {"status": "aborted"}, "shell")
                self._over(one)
        self._waiting = deque(kept)

    # ---- what clients see ------------------------------------------------------------------------

    def _publish(self, kind: str, content: dict[str, Any]) -> None:
        if self._now is not None:
            self.ports.publish(kind, content, self._now.header)

    def _status(self, state: str, message: ClientMessage) -> None:
        self.ports.publish("status", {"execution_state": state}, message.header)

    def _answer(self, to: ClientMessage, content: dict[str, Any], port: str) -> None:
        kind = to.kind.removesuffix("_request") + "_reply"
        self.ports.reply(port, kind, content, to)

    @staticmethod
    def _failed(name: str, why: str) -> dict[str, Any]:
        return {"status": "error", "ename": name, "evalue": why, "traceback": [f"{name}: {why}"]}
