"""`Sandbox`: an interpreter for somebody's code, which can be saved, forked and rewound."""

from __future__ import annotations

import copy
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from wasmsr.errors import HostError
from wasmsr.interp.outcomes import Paused, Trapped
from wasmsr.sandbox import interrupts
from wasmsr.sandbox.call import PendingCall, value_of
from wasmsr.sandbox.guests import WORK, python_guest
from wasmsr.sandbox.machine import GRACE, Machine
from wasmsr.sandbox.results import (
    Completions,
    SandboxError,
    SandboxFailure,
    SandboxLimits,
    SandboxResult,
    SandboxValue,
    ToolCall,
)
from wasmsr.sandbox.streams import LONGEST, TOO_LONG
from wasmsr.sandbox.tools import Deferred, ToolBox, decode_value, encode_value
from wasmsr.sandbox.warm import warm_machine
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.wasi.filesystem.mounts import Mount

if TYPE_CHECKING:
    from wasmsr.sandbox.parking import StoreName
    from wasmsr.snapshot.state import SnapshotState

Tools = Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]]
Answer = TypeVar("Answer")
_NO_LIMIT = 1 << 60
_GRACE_SECONDS = 2.0
"""How long a call that is to end has for it, before it is undone."""
_WAKE_SECONDS = 0.1
"""After how long a sleep is ended that began just when the call was to end."""


class Sandbox:
    """An interpreter for somebody's code. `Sandbox.python` and `Sandbox.load` make one.

    One thread at a time uses it; any thread may call `interrupt` and `cancel`. What the code does
    wrong is a `SandboxResult` with an `error`, and no exception.

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
        self._wanted: str | None = None
        self._raised: BaseException | None = None
        self._told: dict[str, Any] = {}
        self._timers: list[threading.Timer] = []
        self._count = 0
        machine.stdout.take = lambda data: self._take("stdout", data)
        machine.stderr.take = lambda data: self._take("stderr", data)

    @classmethod
    def python(
        cls,
        packages: str = "base",
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
        env: Mapping[str, str] | None = None,
        deterministic: bool = False,
        seed: int | None = None,
    ) -> Sandbox:
        """Return a Python with nothing in it but the packages.

        A set of packages that `wasmsr sandbox warm` has prepared is mapped. Without that, the first
        sandbox of a kind takes as long as Python and the packages take to start. Each further one
        in this process is a fork of it, and takes about a millisecond.

        Args:
            packages: "base", "numpy", "numpy+pandas" or "scientific": what is imported before.
                All packages of the guest can be imported by all sandboxes.
            mounts: Folders of the host that it sees, as `Mount` or "HOST::GUEST::MODE".
            tools: Functions of the host that code calls as `tools.NAME(…)`.
            limits: What it may use.
            env: Environment variables.
            deterministic: Whether clocks and random bytes are the same in every run.
            seed: Where random bytes come from, if it is deterministic.

        Raises:
            MissingPackageError: The guest's package is not installed.
            SandboxError, WasiConfigError: An argument cannot be used.
        """
        limits = limits or SandboxLimits()
        box = ToolBox(tools)
        given = [Mount.parse(one) if isinstance(one, str) else one for one in mounts]
        machine = warm_machine(
            python_guest(packages), given, limits, deterministic=deterministic, seed=seed
        )
        made = cls(machine, tools=box, limits=limits)
        made._set_up(env)
        return made

    # ---- calls -----------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """One of "idle", "running", "interrupted", "waiting" (for `deliver`) and "closed"."""
        if self._machine.closed:
            return "closed"
        if self._busy.locked():
            return "running"
        if self._call is None:
            return "idle"
        return "waiting" if self._call.tool is not None and self._call.begun else "interrupted"

    @property
    def pending(self) -> ToolCall | None:
        """The tool call that has no answer yet, or None."""
        return None if self._call is None else self._call.tool

    def run(
        self,
        code: str,
        *,
        filename: str | None = None,
        silent: bool = False,
        pause_after: int | None = None,
        on_output: Callable[[str, str], None] | None = None,
        on_display: Callable[[SandboxValue], None] | None = None,
        on_input: Callable[[str, bool], str] | None = None,
    ) -> SandboxResult:
        """Execute code; names stay for the next call.

        Args:
            code: The code. The value of a last expression is the result's `value`.
            filename: Its name in tracebacks.
            silent: Whether there is no `value`.
            pause_after: Interrupts the call after so many instructions.
            on_output: Gets "stdout" or "stderr" and text, as it comes.
            on_display: Gets what is shown, as it comes.
            on_input: Gets a prompt and whether it is for a password; returns the line. Without
                it, `input()` raises EOFError.

        Raises:
            SandboxError: It is closed, busy, or another call was interrupted.
        """
        told = {"on_output": on_output, "on_display": on_display, "on_input": on_input}
        return self._ask(told, pause_after, op="run", code=code, filename=filename, silent=silent)

    def resume(
        self,
        *,
        pause_after: int | None = None,
        on_output: Callable[[str, str], None] | None = None,
        on_display: Callable[[SandboxValue], None] | None = None,
        on_input: Callable[[str, bool], str] | None = None,
    ) -> SandboxResult:
        """Go on with a call that was interrupted, or that has got its answer.

        Returns:
            The result of the whole call.

        Raises:
            SandboxError: There is none, or its tool call has no answer yet.
        """
        with self._used():
            call = self._call
            if call is None:
                raise SandboxError("no call of the sandbox is interrupted")
            if call.question is not None and call.begun:
                raise SandboxError(
                    "a tool call has no answer yet",
                    hint="deliver(id, value) or fail(id, message), then resume()",
                )
            self._told = {"on_output": on_output, "on_display": on_display, "on_input": on_input}
            return self._drive(call, pause_after)

    def interrupt(self) -> None:
        """Stop the call that runs, in the middle: `run` returns, and `resume` goes on with it."""
        self._stop("interrupt")

    def cancel(self, *, gently: bool = False) -> SandboxResult | None:
        """End the call that runs or is interrupted, by a KeyboardInterrupt inside.

        Args:
            gently: Whether code may catch it and go on; otherwise a call that does not end soon is
                undone.

        Returns:
            What came of a call that was interrupted; of a call that runs, `run` returns it.
        """
        why = "raise" if gently else "cancel"
        if self._busy.locked():
            self._stop(why)
            return None
        with self._used():
            if self._call is None:
                return None
            self._wanted = why
            return self._drive(self._call, None)

    def deliver(self, id: str, value: Any) -> None:
        """Give a pending tool call its result, once; `resume` goes on.

        Raises:
            SandboxError: No call with this id waits.
            TypeError: The value cannot be carried.
        """
        with self._used():
            self._answer(id, value=encode_value(value))

    def fail(self, id: str, message: str) -> None:
        """Let a pending tool call fail with a ToolError. Raises SandboxError: as `deliver`."""
        with self._used():
            self._answer(id, failure=message)

    # ---- what the guest knows --------------------------------------------------------------------

    def complete(self, code: str, cursor: int) -> Completions:
        """Return what the name in front of the cursor can go on with."""
        return self._answered(
            lambda answer: Completions(
                tuple(map(str, answer["matches"])), int(answer["start"]), int(answer["end"])
            ),
            op="complete",
            code=code,
            cursor=cursor,
        )

    def inspect(self, code: str, cursor: int, detail: int = 0) -> SandboxValue | None:
        """Return what is known of the name at the cursor, or None."""
        return self._answered(
            lambda answer: value_of(answer.get("found")), op="inspect", code=code, cursor=cursor
        )

    def is_complete(self, code: str) -> tuple[str, str]:
        """Return "complete", "incomplete" or "invalid", and the indent of the next line."""
        return self._answered(
            lambda answer: (str(answer["answer"]), str(answer["indent"])),
            op="is_complete",
            code=code,
        )

    def put(self, path: str, data: bytes) -> None:
        """Write a file of the sandbox. Raises SandboxError: The sandbox refuses."""
        self._answered(bool, op="put", path=_inside(path), data=encode_value(data))

    def get(self, path: str) -> bytes:
        """Return the bytes of a file of the sandbox. Raises SandboxError: There is none."""

        def content(answer: dict[str, Any]) -> bytes:
            data = decode_value(answer["data"])
            if type(data) is not bytes:
                raise TypeError("a file is bytes")
            return data

        return self._answered(content, op="get", path=_inside(path))

    def files(self, path: str = WORK) -> tuple[str, ...]:
        """Return the names of the files below a folder of the sandbox."""
        return self._answered(
            lambda answer: tuple(map(str, answer["names"])), op="list", path=_inside(path)
        )

    # ---- states ----------------------------------------------------------------------------------

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The names of its snapshots in memory."""
        return tuple(self._moments)

    def snapshot(self, name: str | None = None) -> str:
        """Keep the present state in memory, under a name; return the name."""
        with self._used():
            self._count += 1
            name = name or str(self._count)
            moment = self._machine.history.take()
            self._forget(name)
            self._moments[name] = (moment, copy.deepcopy(self._call), self._machine.reader.rest)
            return name

    def rewind(self, name: str) -> None:
        """Go back to one of its snapshots. Raises SandboxError: There is none of this name."""
        with self._used():
            if name not in self._moments:
                raise SandboxError(f"the sandbox has no snapshot {name!r}")
            moment, call, rest = self._moments[name]
            self._machine.history.go_to(moment)
            self._call = copy.deepcopy(call)
            self._machine.reader.rest = rest

    def forget(self, name: str) -> None:
        """Give back the memory of a snapshot."""
        with self._used():
            self._forget(name)

    def fork(self, count: int = 1) -> list[Sandbox]:
        """Return copies of the sandbox, which go their own ways from here.

        Random numbers, UUIDs and the like differ between them; hashes of strings do not. A tool
        call that has begun is not made again in a copy: each copy waits for its own `deliver`.
        """
        with self._used():
            moment = self._machine.history.take()
            try:
                machines = [
                    self._machine.fork(moment, self.limits, in_call=self._call is not None)
                    for _ in range(count)
                ]
            finally:
                self._machine.history.drop(moment)
            made = []
            for machine in machines:
                call = copy.deepcopy(self._call)
                made.append(Sandbox(machine, tools=self._tools, limits=self.limits, call=call))
            return made

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the state to a file, also in the middle of a call; return its size in bytes.

        Raises:
            SnapshotError: It cannot be written.
        """
        return self.saver()(path)

    def saver(self) -> Callable[[str | os.PathLike[str]], int]:
        """Copy the state; return what `save` is for the copy, while the sandbox goes on."""
        with self._used():
            return Snapshot(self._machine.state(copy.deepcopy(self._call), self.limits)).save

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
    ) -> Sandbox:
        """Return the sandbox of a file that `save` has written.

        Args:
            path: The file.
            mounts: Its folders of the host, which a file does not grant.
            tools: Its tools.
            limits: What it may use; None takes what the file says.

        Raises:
            SnapshotError: It is no sandbox, or one of another version of the guest.
            MissingPackageError: The guest's package is not installed.
        """
        return cls._of_state(Snapshot.load(path).state, mounts, tools, limits)

    def park(self, store: StoreName, name: str) -> None:
        """Put the sandbox into a store of snapshots, and close it; its snapshots are forgotten.

        A call that is interrupted or waits for `deliver` goes along. Pages that other sandboxes of
        the store have too take no room.

        Args:
            store: The store, its folder or its address; a folder that is not there is made.
            name: Its name there, which must be free.

        Raises:
            SnapshotError: It cannot be stored; the sandbox is as before.
        """
        from wasmsr.sandbox.parking import put_away

        with self._used():
            put_away(self._machine.state(self._call, self.limits), store, name)
        self.close()

    @classmethod
    def wake(
        cls,
        store: StoreName,
        name: str,
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
    ) -> Sandbox:
        """Return a sandbox that was parked, and remove it from the store: it is woken once.

        Args:
            store: The store.
            name: Its name there.
            mounts: As for `load`, like the next two.
            tools: Its tools.
            limits: What it may use.

        Raises:
            SnapshotError: There is no such sandbox, or somebody else has woken it.
            MissingPackageError: The guest's package is not installed.
        """
        from wasmsr.sandbox.parking import fetched, take_out

        made = cls._of_state(fetched(store, name), mounts, tools, limits)
        try:
            take_out(store, name)
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Give back everything. Again does nothing."""
        while self._moments:
            self._moments.popitem()[1][0].close()
        self._machine.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- inside ----------------------------------------------------------------------------------

    @classmethod
    def _of_state(
        cls,
        state: SnapshotState,
        mounts: Sequence[Mount | str],
        tools: Tools,
        limits: SandboxLimits | None,
    ) -> Sandbox:
        given = [Mount.parse(one) if isinstance(one, str) else one for one in mounts]
        box = ToolBox(tools)
        machine, record = Machine.of_state(state, given, limits)
        return cls(machine, tools=box, limits=limits or record.limits, call=record.call)

    def _used(self) -> _Use:
        return _Use(self)

    def _longest(self, op: str) -> int:
        """Return how many bytes an answer may have: letters can take six bytes of JSON."""
        most = self.limits.files * 4 // 3 if op in ("get", "list") else self.limits.output
        return LONGEST if most is None else min(LONGEST, 6 * most + (1 << 20))

    def _forget(self, name: str) -> None:
        found = self._moments.pop(name, None)
        if found is not None:
            self._machine.history.drop(found[0])

    def _set_up(self, env: Mapping[str, str] | None) -> None:
        self._machine.mailbox.send(op="setup", tools=self._tools.about(), env=dict(env or {}))

    def _stop(self, why: str) -> None:
        if self._busy.locked():
            if why != "wake" or self._wanted is None:
                self._wanted = why
            self._machine.store.pause()

    def _stop_after(self, seconds: float, why: str) -> None:
        """Stop the call that runs now after so many seconds, unless it ends before."""
        call = self._call

        def stop() -> None:
            if self._call is call:
                self._stop(why)

        timer = threading.Timer(max(0.0, seconds), stop)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _answer(self, id: str, **answer: Any) -> None:
        call = self._call
        if call is None or call.question is None or call.question.get("id") != id:
            raise SandboxError(f"no tool call with the id {id!r} waits for an answer")
        call.question, call.begun = None, False
        self._machine.mailbox.send(op="answer", id=id, **answer)

    def _answered(self, read: Callable[[dict[str, Any]], Answer], **request: Any) -> Answer:
        """Return what `read` makes of the answer to a request that is not to run code."""
        result, answer = None, None

        def keep(call: PendingCall) -> None:
            nonlocal answer
            answer = call.answer

        result = self._ask({}, None, keep, **request)
        if result.error is not None or answer is None:
            said = result.error.message if result.error is not None else result.status
            raise SandboxError(f"the sandbox refuses: {said}")
        try:
            return read(answer)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            # Code may have changed whatever answers in the guest.
            said = f"the sandbox gives no usable answer to {request['op']!r}"
            raise SandboxError(said) from None

    def _ask(
        self,
        told: dict[str, Any],
        pause_after: int | None,
        keep: Callable[[PendingCall], None] = lambda call: None,
        **request: Any,
    ) -> SandboxResult:
        with self._used():
            if self._call is not None:
                raise SandboxError(
                    "another call is interrupted", hint="resume() goes on, cancel() ends it"
                )
            self._machine.guard()
            self._told = told
            self._machine.mailbox.send(**request)
            call = self._call = PendingCall()
            self._machine.reader.longest = self._longest(request["op"])
            result = self._drive(call, pause_after)
            keep(call)
            return result

    def _drive(self, call: PendingCall, pause_after: int | None) -> SandboxResult:
        """Run the guest until the call has an end, or is interrupted."""
        began = time.perf_counter()
        limit = self.limits.seconds
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
        most = self.limits.instructions or _NO_LIMIT
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
        if wanted == "interrupt":
            return call.result("interrupted")
        if wanted == "raise" and call.ending is None:
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
            self._answer(str(call.question.get("id")), failure="cancelled")
            return True
        # Code may be on its way into a sleep, which would not see the interrupt.
        self._stop_after(_WAKE_SECONDS, "wake")
        return interrupts.interrupt(self._machine.store, self._machine.about, "none")

    def _end(self, call: PendingCall, why: str) -> SandboxResult | None:
        """End a call: at first by an interrupt, and then by going back to where it began."""
        if call.ending is None:
            call.ending = why
            self._stop_after(_GRACE_SECONDS, why)
            if self._raise(call):
                return None
        if call.ending == "cancel":
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
        id = str(asked.get("id"))
        if asked.get("k") == "input":
            ask = self._told.get("on_input")
            if ask is None:
                self._answer(id, failure="nobody reads input for this sandbox")
            else:
                line = ask(str(asked.get("prompt")), bool(asked.get("password")))
                self._answer(id, value=line)
            return None
        try:
            tool = call.tool
        except ValueError as error:
            self._answer(id, failure=f"ValueError: {error}")
            return None
        assert tool is not None
        if call.begun:
            return call.result("waiting")
        call.begun = True
        try:
            value = self._tools.call(tool.name, tool.arguments)
        except Deferred:
            return call.result("waiting")
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
            call.question, call.begun = answer, False
        elif kind == "show":
            size, most = len(json.dumps(answer)), self.limits.output
            if most is not None and call.written + size > most:
                if call.ending is None:
                    self._stop("output")
                return
            value = value_of(answer.get("data"))
            if value is not None:
                call.displayed += size
                call.shown.append(answer["data"])
                self._tell("on_display", value)

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


class _Use:
    """One thread's use of a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __enter__(self) -> None:
        if self._sandbox._machine.closed:
            raise SandboxError("the sandbox is closed")
        if not self._sandbox._busy.acquire(blocking=False):
            raise SandboxError("the sandbox is busy with another call")

    def __exit__(self, *error: object) -> None:
        self._sandbox._busy.release()


def _inside(path: str) -> str:
    """Return an absolute name of a file in the sandbox."""
    return path if path.startswith("/") else f"{WORK}/{path}"


__all__ = ["Sandbox"]
