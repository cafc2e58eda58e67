"""`Sandbox`: an interpreter for somebody's code, which can be saved, forked and rewound."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from wasmsr.sandbox.call import PendingCall, value_of
from wasmsr.sandbox.driving import CallDriver
from wasmsr.sandbox.guests import WORK, javascript_guest, python_guest
from wasmsr.sandbox.machine import Machine, store_limits
from wasmsr.sandbox.results import (
    Completions,
    SandboxError,
    SandboxLimits,
    SandboxResult,
    SandboxValue,
    ToolCall,
)
from wasmsr.sandbox.states.warm import warm_machine
from wasmsr.sandbox.tools import ToolBox, decode_value, encode_value
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.wasi.filesystem.mounts import Mount

if TYPE_CHECKING:
    from wasmsr.sandbox.states.parking import StoreName
    from wasmsr.snapshot.moments.images import MemoryImage
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.snapshot.store.increments import IncrementBase

Tools = Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]]
Answer = TypeVar("Answer")


class Sandbox(CallDriver):
    """An interpreter for somebody's code. `Sandbox.python` and `Sandbox.load` make one.

    One thread at a time uses it; any thread may call `interrupt` and `cancel`. What the code does
    wrong is a `SandboxResult` with an `error`, and no exception.

    Attributes:
        limits: What it may use.
    """

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

    @classmethod
    def javascript(
        cls,
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
        env: Mapping[str, str] | None = None,
        deterministic: bool = False,
        seed: int | None = None,
    ) -> Sandbox:
        """Return a JavaScript (QuickJS-NG), with its modules `std` and `os`.

        The arguments are those of `python`. Code can `await`. It has no interrupt: a call that is
        ended by its limits or by `cancel` is undone.

        Raises:
            MissingPackageError: The guest's package is not installed.
            SandboxError, WasiConfigError: An argument cannot be used.
        """
        limits = limits or SandboxLimits()
        box = ToolBox(tools)
        given = [Mount.parse(one) if isinstance(one, str) else one for one in mounts]
        machine = warm_machine(
            javascript_guest(), given, limits, deterministic=deterministic, seed=seed
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
            self._aside = None
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
            self._aside = None
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
    # An `interrupt` or a limit ends these with a SandboxError, and what they have done is undone.

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
            made: list[Sandbox] = []
            try:
                for _ in range(count):
                    in_call = self._call is not None
                    machine = self._machine.fork(moment, self.limits, in_call=in_call)
                    call = copy.deepcopy(self._call)
                    made.append(Sandbox(machine, tools=self._tools, limits=self.limits, call=call))
            except BaseException:
                for one in made:
                    one.close()
                raise
            finally:
                self._machine.history.drop(moment)
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
        most = None if limits is None else store_limits(limits)
        return cls._of_state(Snapshot.load(path, limits=most).state, mounts, tools, limits)

    def park(self, store: StoreName, name: str) -> None:
        """Put the sandbox into a store of snapshots, and close it; its snapshots are forgotten.

        A call that is interrupted or waits for `deliver` goes along. Pages that are as in the
        prepared set take no room (`wasmsr sandbox warm`), if the store is a folder; otherwise pages
        that others of the store have too.

        Args:
            store: The store, its folder or its address; a folder that is not there is made.
            name: Its name there, which must be free.

        Raises:
            SnapshotError: It cannot be stored; the sandbox is as before.
        """
        from wasmsr.sandbox.states.parking import put_away

        with self._used():  # until it is closed: no other thread may go on with what was stored
            put_away(self._machine, self._call, self.limits, store, name)
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
            SnapshotError: There is no such sandbox, somebody else has woken it, or it is larger
                than the limits.
            MissingPackageError: The guest's package is not installed.
        """
        from wasmsr.sandbox.states.parking import fetched, take_out

        found = fetched(store, name, None if limits is None else store_limits(limits))
        made = cls._of_state(found.state, mounts, tools, limits, found.base, found.images)
        try:
            take_out(store, name, found.root)
        except BaseException:
            made.close()
            raise
        return made

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
        base: IncrementBase | None = None,
        images: Sequence[MemoryImage] = (),
    ) -> Sandbox:
        given = [Mount.parse(one) if isinstance(one, str) else one for one in mounts]
        box = ToolBox(tools)
        machine, record = Machine.of_state(state, given, limits, base, images)
        return cls(machine, tools=box, limits=limits or record.limits, call=record.call)

    def _used(self) -> _Use:
        return _Use(self)

    def _forget(self, name: str) -> None:
        found = self._moments.pop(name, None)
        if found is not None:
            self._machine.history.drop(found[0])

    def _set_up(self, env: Mapping[str, str] | None) -> None:
        self._machine.mailbox.send(op="setup", tools=self._tools.about(), env=dict(env or {}))

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
            self._aside = self._limits_of(request["op"])
            self._machine.mailbox.send(**request)
            call = self._call = PendingCall()
            self._machine.reader.longest = self._longest(request["op"])
            result = self._drive(call, pause_after)
            keep(call)
            return result


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
        with self._sandbox._stopping:
            self._sandbox._wanted = None  # it was for this call, and must not stop the next one
            self._sandbox._busy.release()


def _inside(path: str) -> str:
    """Return an absolute name of a file in the sandbox."""
    return path if path.startswith("/") else f"{WORK}/{path}"


__all__ = ["Sandbox"]
