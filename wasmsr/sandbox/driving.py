"""How a call of a sandbox is driven: what stops it, what it asks, what it says, how it is ended."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import Any

from wasmsr.errors import HostError
from wasmsr.interp.outcomes import Paused, Trapped
from wasmsr.sandbox import interrupts
from wasmsr.sandbox.call import PendingCall, question_of, shown_of, value_of
from wasmsr.sandbox.machine import GRACE, Machine
from wasmsr.sandbox.results import SandboxError, SandboxFailure, SandboxLimits, SandboxResult
from wasmsr.sandbox.streams import LONGEST, TOO_LONG
from wasmsr.sandbox.tools import Deferred, ToolBox

_NO_LIMIT = 1 << 60
_GRACE_SECONDS = 2.0
"""How long a call that is to end has for it, before it is undone."""
ASIDE_SECONDS = 30.0
"""How long a question about code may take: to inspect a value executes its `__repr__`."""
ASIDE_INSTRUCTIONS = 5_000_000_000
"""How many instructions it may take: about ten seconds."""
_WAKE_SECONDS = 0.1
"""After how long a sleep is ended that began just when the call was to end."""


class CallDriver:
    """The part of a sandbox that runs its guest until a call has an end, or is interrupted.

    Attributes:
        limits: What it may use.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        tools: ToolBox,
        limits: SandboxLimits,
        call: PendingCall | None = None,
    ) -> None:
        self.limits = limits
        self._machine = machine
        self._tools = tools
        self._call = call
        self._moments: dict[str, Any] = {}
        self._busy = threading.Lock()
        self._stopping = threading.RLock()
        """Held to stop a call, and to end one; handlers of signals may come in between."""
        self._wanted: str | None = None
        self._raised: BaseException | None = None
        self._told: dict[str, Any] = {}
        self._aside: SandboxLimits | None = None
        """The limits of a request that is no code to run: it is undone when it is stopped."""
        self._timers: list[threading.Timer] = []
        self._count = 0
        machine.stdout.take = lambda data: self._take("stdout", data)
        machine.stderr.take = lambda data: self._take("stderr", data)

    def close(self) -> None:
        """Give back everything. Again does nothing."""
        while self._moments:
            self._moments.popitem()[1][0].close()
        self._machine.close()

    def _longest(self, op: str) -> int:
        """Return how many bytes an answer may have: letters can take six bytes of JSON."""
        most = self.limits.files * 4 // 3 if op in ("get", "list") else self.limits.output
        return LONGEST if most is None else min(LONGEST, 6 * most + (1 << 20))

    def _limits_of(self, op: str) -> SandboxLimits | None:
        """Return the limits of a request that is no code to run; None for code."""
        if op == "run":
            return None
        if op not in ("complete", "inspect", "is_complete"):  # files can be large
            return self.limits
        seconds, instructions = self.limits.seconds, self.limits.instructions
        return replace(
            self.limits,
            seconds=min(ASIDE_SECONDS, ASIDE_SECONDS if seconds is None else seconds),
            instructions=min(ASIDE_INSTRUCTIONS, instructions or ASIDE_INSTRUCTIONS),
        )

    def _stop(self, why: str, call: PendingCall | None = None) -> None:
        """Stop what runs, if it is `call`, or whatever it is; do nothing if that has ended."""
        with self._stopping:
            if self._busy.locked() and (call is None or self._call is call):
                if why != "wake" or self._wanted is None:
                    self._wanted = why
                self._machine.store.pause()

    def _stop_after(self, seconds: float, why: str) -> None:
        """Stop the call that runs now after so many seconds, unless it ends before."""
        call = self._call

        wait = min(max(0.0, seconds), threading.TIMEOUT_MAX)
        timer = threading.Timer(wait, self._stop, (why, call))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _answer(self, id: str, **answer: Any) -> None:
        call = self._call
        if call is None or call.question is None or call.question.get("id") != id:
            raise SandboxError(f"no tool call with the id {id!r} waits for an answer")
        call.question, call.begun = None, False
        self._machine.mailbox.send(op="answer", id=id, **answer)

    def _drive(self, call: PendingCall, pause_after: int | None) -> SandboxResult:
        """Run the guest until the call has an end, or is interrupted."""
        began = time.perf_counter()
        limit = (self._aside or self.limits).seconds
        if limit is not None:
            self._stop_after(limit - call.seconds, "seconds")
        if call.ending is not None:
            self._stop_after(_GRACE_SECONDS, call.ending)
        stop_at = None if pause_after is None else call.instructions + pause_after
        try:
            while True:
                result = self._step(call, stop_at)
                call.seconds += time.perf_counter() - began
                began = time.perf_counter()
                if result is not None:
                    if result.status == "finished":
                        self._call = None
                    return replace(result, seconds=call.seconds)
        finally:
            # A timer of this call must not stop the next one.
            while self._timers:
                self._timers.pop().cancel()
            self._wanted = None

    def _step(self, call: PendingCall, stop_at: int | None) -> SandboxResult | None:
        """Run the guest until it stops, and do what it stopped for."""
        store = self._machine.store
        most = min((self._aside or self.limits).instructions or _NO_LIMIT, _NO_LIMIT)
        if call.ending is not None:
            most = max(most, call.instructions) + GRACE if most < _NO_LIMIT else _NO_LIMIT
        end = most if stop_at is None else min(most, stop_at)
        before = store.executed or 0
        outcome = None
        if self._wanted is None:
            try:
                outcome = store.run(fuel=max(0, end - call.instructions))
            except HostError as error:
                return self._roll_back(call, SandboxFailure("Trapped", str(error)))
            call.instructions += (store.executed or 0) - before
            if self._raised is not None:
                raised, self._raised = self._raised, None
                raise raised
            if isinstance(outcome, Trapped):
                return self._roll_back(call, SandboxFailure("Trapped", str(outcome.trap)))
            if not isinstance(outcome, Paused):
                said = f"the interpreter ended itself: {outcome!r}"
                return self._roll_back(call, SandboxFailure("Exited", said))
        if call.answer is not None and self._machine.mailbox.hungry:
            return call.result("finished")
        wanted, self._wanted = self._wanted, None
        if wanted == "interrupt" and self._aside is None:
            return call.result("interrupted")
        if wanted == "raise" and call.ending is None and self._aside is None:
            return None if self._raise(call) else self._end(call, "cancel")
        if wanted == "wake":
            assert store.wasi is not None
            store.wasi.end_wait()
            return None
        if wanted is not None:
            return self._end(call, wanted)
        if isinstance(outcome, Paused) and outcome.reason == "fuel":
            if stop_at is not None and call.instructions >= stop_at and stop_at < most:
                return call.result("interrupted")
            return self._end(call, "instructions")
        if self._machine.mailbox.hungry and not self._machine.mailbox.unread:
            if call.question is not None:
                return self._serve(call)
            self._machine.mailbox.hung_up = True  # the code itself reads standard input
        return None

    def _raise(self, call: PendingCall) -> bool:
        """Raise a KeyboardInterrupt in the guest; return whether it was told."""
        if call.question is not None and self._machine.mailbox.hungry:
            self._answer(call.question["id"], failure="cancelled")
            return True
        # Code may be on its way into a sleep, which would not see the interrupt.
        self._stop_after(_WAKE_SECONDS, "wake")
        return interrupts.interrupt(self._machine.store, self._machine.about, "none")

    def _end(self, call: PendingCall, why: str) -> SandboxResult | None:
        """End a call: at first by an interrupt, and then by going back to where it began.

        What only asks is undone at once: nobody needs what it has done so far.
        """
        if call.ending is None:
            call.ending = why
            if self._aside is None:
                self._stop_after(_GRACE_SECONDS, why)
                if self._raise(call):
                    return None
        if call.ending in ("cancel", "raise", "interrupt"):
            failure = SandboxFailure("KeyboardInterrupt", "the call did not end, and was undone")
        else:
            said = f"the call was ended by its limit: {call.ending}"
            failure = SandboxFailure("LimitExceeded", said, limit=call.ending)
        return self._roll_back(call, failure)

    def _roll_back(self, call: PendingCall, failure: SandboxFailure) -> SandboxResult:
        self._call = None
        if not self._machine.go_back():
            self.close()
            said = failure.message + "; no earlier state is known, so the sandbox is closed"
            return call.result("finished", replace(failure, message=said))
        return call.result("finished", replace(failure, rolled_back=True))

    def _serve(self, call: PendingCall) -> SandboxResult | None:
        """Answer what the guest asks."""
        asked = call.question
        assert asked is not None
        id = asked["id"]
        if asked["k"] == "input":
            ask = self._told.get("on_input")
            if ask is None:
                self._answer(id, failure="nobody reads input for this sandbox")
            else:
                line = ask(asked["prompt"], asked["password"])
                self._answer(id, value=line)
            return None
        if "wrong" in asked:
            self._answer(id, failure=f"ValueError: {asked['wrong']}")
            return None
        tool = call.tool
        assert tool is not None
        if call.begun:
            return call.result("waiting")
        call.begun = True
        try:
            value = self._tools.call(tool.name, tool.arguments)
        except Deferred:
            if self._aside is None:
                return call.result("waiting")
            self._answer(id, failure="a tool that waits for an answer can only be called by code")
        except Exception as error:  # noqa: BLE001 (the code gets to know of it)
            self._answer(id, failure=f"{type(error).__name__}: {error}")
        else:
            self._answer(id, value=value)
        return None

    def _take(self, stream: str, data: bytes) -> None:
        """Take what the guest has written."""
        found = self._machine.reader.feed(data) if stream == "stdout" else [data]
        for one in found:
            if isinstance(one, dict):
                self._heard(one)
            elif self._call is not None:
                self._wrote(self._call, stream, one)

    def _heard(self, answer: dict[str, Any]) -> None:
        call, kind = self._call, answer["k"]
        if call is None:
            return
        if kind == TOO_LONG["k"]:
            call.answer = {"error": {"type": "LimitExceeded", "limit": "output"}}
            if call.ending is None:
                self._stop("output")
        elif kind == "done":
            call.answer = answer
        elif kind in ("tool", "input"):
            call.question, call.begun = question_of(answer), False
        elif kind == "show":
            size, most = len(json.dumps(answer)), self.limits.output
            if most is not None and call.written + size > most:
                if call.ending is None:
                    self._stop("output")
                return
            shown = shown_of(answer.get("data"))
            if shown is not None:
                call.displayed += size
                call.shown.append(shown)
                self._tell("on_display", value_of(shown))

    def _wrote(self, call: PendingCall, stream: str, data: bytes) -> None:
        most = self.limits.output
        if most is not None:
            data = data[: max(0, most - call.written)] if call.written + len(data) > most else data
        if stream == "stdout":
            call.stdout += data
        else:
            call.stderr += data
        if data:
            self._tell("on_output", stream, data.decode("utf-8", "replace"))
        if most is not None and call.written >= most and call.ending is None:
            self._stop("output")

    def _tell(self, name: str, *arguments: Any) -> None:
        """Call a function of the user; what it raises is raised by `run`, after a pause."""
        function = self._told.get(name)
        if function is None or self._raised is not None:
            return
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001 (it goes to the caller of `run`)
            self._raised = error
            self._machine.store.pause()


__all__ = ["CallDriver"]
