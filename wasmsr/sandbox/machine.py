"""The machine of a sandbox: a store with a guest in it, its history, and its two streams."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from wasmsr.errors import FormatError, SnapshotError, WasmsrError
from wasmsr.interp.outcomes import Limits
from wasmsr.interp.store.externs import HostFunction
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import FuncType, ValType
from wasmsr.sandbox import interrupts
from wasmsr.sandbox.call import PendingCall
from wasmsr.sandbox.guests import WORK, Guest, python_guest
from wasmsr.sandbox.results import SandboxError, SandboxLimits
from wasmsr.sandbox.streams import AnswerReader, Mailbox
from wasmsr.snapshot.moments.history import History
from wasmsr.snapshot.sections.host.hosts import SANDBOX
from wasmsr.snapshot.sections.host.wasi import HOST_STATE
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount

if TYPE_CHECKING:
    from wasmsr.snapshot.moments.moment import Moment

GRACE = 1_000_000_000
"""Instructions in which code may end after it was told to."""
KINDS = 8
"""Kinds of sandboxes that one process keeps prepared; each holds the memory of one."""
_I32 = ValType.I32
_NO_HOST = HostFunction(FuncType((_I32,) * 4, (_I32,)), lambda caller, *given: -1)
_numbers = itertools.count(1)
_warm: dict[Any, tuple[Moment, dict[str, Any]]] = {}
_warming = threading.Lock()


class OutputSink:
    """An output stream of a guest; `take` gets what is written."""

    def __init__(self) -> None:
        self.take: Callable[[bytes], None] = lambda data: None

    def write(self, data: memoryview) -> None:
        """Take bytes."""
        self.take(bytes(data))


class Machine:
    """A guest that runs in a store.

    Attributes:
        store: The store.
        about: Addresses that the driver has told.
        reader: Finds the guest's answers in its output.
        history: The moments of the store.
    """

    def __init__(
        self,
        guest: Guest,
        store: Store,
        streams: tuple[Mailbox, OutputSink, OutputSink],
        about: Mapping[str, Any],
        mounts: Sequence[Mount],
        *,
        begun: Moment | None = None,
    ) -> None:
        self.guest = guest
        self.store = store
        self.mailbox, self.stdout, self.stderr = streams
        self.about = dict(about)
        self.mounts = tuple(mounts)
        self.reader = AnswerReader()
        self.history = History(store, begun=begun)
        self.closed = False
        self._guard: Moment | None = None

    @classmethod
    def start(
        cls, guest: Guest, mounts: Sequence[Mount], limits: SandboxLimits, **wasi: Any
    ) -> Machine:
        """Return a machine whose guest has started and waits for its first request.

        Raises:
            SandboxError: The guest has not started.
        """
        streams = (Mailbox(), OutputSink(), OutputSink())
        own = (Mount.memory(WORK), Mount.memory("/tmp"))
        served = Wasi(
            args=guest.arguments,
            env=guest.env,
            mounts=(*guest.mounts, *own, *mounts),
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            carry_limit=limits.files,
            **wasi,
        )
        store = Store(
            limits=Limits(memory_pages=min(65536, limits.memory >> 16)),
            deterministic=bool(wasi.get("deterministic")),
            features=guest.module.allowed_features,
        )
        store.wasi = served
        instance = store.instantiate(guest.module, {**served.imports, **_imports()})
        store.enqueue(instance.function("_initialize"))
        store.enqueue(instance.function(guest.entry))
        heard: list[Any] = []
        reader = AnswerReader()
        said: list[bytes] = []
        streams[1].take = lambda data: heard.extend(reader.feed(data))
        streams[2].take = said.append
        store.run()
        ready = next((one for one in heard if type(one) is dict and one["k"] == "ready"), None)
        if ready is None:
            store.close()
            raise SandboxError(
                "the guest has not started: " + b"".join(said).decode("utf-8", "replace")[-500:]
            )
        streams[0].send(op="run", code=guest.warm, silent=True)
        store.run()
        done = heard[-1] if type(heard[-1]) is dict else {}
        if done.get("k") != "done" or done.get("error") is not None:
            store.close()
            raise SandboxError(f"the packages cannot be prepared: {done.get('error')}")
        store.executed = None
        return cls(guest, store, streams, ready.get("about") or {}, mounts)

    def fork(self, moment: Moment, limits: SandboxLimits, *, in_call: bool) -> Machine:
        """Return a machine in a state of this one, with random numbers of its own.

        Args:
            moment: The state.
            limits: What it may use.
            in_call: Whether code stands in the middle of a call.
        """
        made = forked(self.guest, moment, self.about, self.mounts, limits)
        made.reader.rest = self.reader.rest
        if in_call:  # it may be long until it reads the request that `forked` has sent
            interrupts.interrupt(made.store, made.about, "forked")
        return made

    def guard(self) -> None:
        """Keep the present state, to go back to if the next call cannot be ended."""
        before, self._guard = self._guard, self.history.take()
        if before is not None:
            self.history.drop(before)

    def go_back(self) -> bool:
        """Go back to what `guard` kept; return whether there is such a state."""
        if self._guard is None:
            return False
        try:
            self.history.go_to(self._guard)
        except (WasmsrError, MemoryError):
            return False
        self.reader.rest = b""
        return True

    def save(
        self, path: str | os.PathLike[str], call: PendingCall | None, limits: SandboxLimits
    ) -> int:
        """Write a snapshot, with what the host knows of the call. Raises SnapshotError."""
        taken = Snapshot.of(self.store)
        record = {
            "guest": self.guest.name,
            "about": self.about,
            "rest": self.reader.rest,
            "limits": asdict(limits),
            "call": None if call is None else call.record(),
        }
        extra = {**taken.state.extra, HOST_STATE: {SANDBOX: record}}
        return Snapshot(replace(taken.state, extra=extra)).save(path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        mounts: Sequence[Mount],
        limits: SandboxLimits | None,
    ) -> tuple[Machine, PendingCall | None, SandboxLimits]:
        """Return what `save` has written. Raises SnapshotError."""
        state = Snapshot.load(path).state
        extra = dict(state.extra)
        record = extra.pop(HOST_STATE, {}).get(SANDBOX)
        if record is None:
            raise SnapshotError("the snapshot is not that of a sandbox")
        if record.get("guest") != "python":
            raise FormatError("the sandbox has a guest that is not known")
        try:
            saved = SandboxLimits(**record["limits"])
            rest, about = record["rest"], record["about"]
            if type(rest) is not bytes or type(about) is not dict:
                raise TypeError("it has no rest of output or no addresses")
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"the record of the sandbox is damaged: {error}") from error
        call = None if record.get("call") is None else PendingCall.of_record(record["call"])
        guest = python_guest()
        limits = limits or saved
        streams = (Mailbox(), OutputSink(), OutputSink())
        store = Snapshot(replace(state, extra=extra)).restore(
            modules=[guest.module],
            **_outside(guest, streams, mounts, limits),
            limits=Limits(memory_pages=min(65536, limits.memory >> 16)),
        )
        made = cls(guest, store, streams, about, mounts)
        made.reader.rest = rest
        return made, call, limits

    def close(self) -> None:
        """Give back everything."""
        if not self.closed:
            self.closed = True
            if self._guard is not None:
                self._guard.close()
            self.history.close()
            self.store.close()


def warm_machine(
    guest: Guest,
    mounts: Sequence[Mount],
    limits: SandboxLimits,
    *,
    deterministic: bool,
    seed: int | None,
) -> Machine:
    """Return a fork of a machine that was prepared in this process, or is prepared now.

    The preparation sees none of the sandbox's own things: its mounts are those of the first
    sandbox of the kind, but no code has looked into them.
    """
    kind = (
        guest.module.digest,
        guest.arguments,
        guest.warm,
        tuple((one.guest, one.mode, str(one.host)) for one in mounts),
        limits.memory >> 16,
        deterministic,
        seed,
    )
    with _warming:
        if kind not in _warm:
            machine = Machine.start(guest, mounts, limits, deterministic=deterministic, seed=seed)
            _warm[kind] = (machine.history.take(), machine.about)
            machine.close()
            if len(_warm) > KINDS:
                _warm.pop(next(iter(_warm)))[0].close()
        moment, about = _warm[kind] = _warm.pop(kind)  # the last one is the one used last
        number = 1 if deterministic else None
        return forked(guest, moment, about, mounts, limits, number)


def forked(
    guest: Guest,
    moment: Moment,
    about: Mapping[str, Any],
    mounts: Sequence[Mount],
    limits: SandboxLimits,
    number: int | None = None,
) -> Machine:
    """Return a new machine in the state of a moment, whose random numbers are its own."""
    streams = (Mailbox(), OutputSink(), OutputSink())
    (store,) = moment.fork(
        1,
        first=number or next(_numbers),
        **_outside(guest, streams, mounts, limits),
    )
    made = Machine(guest, store, streams, about, mounts, begun=moment)
    before = streams[0].unread
    streams[0].unread = b""
    streams[0].send(op="forked")
    streams[0].unread += before
    return made


def _outside(
    guest: Guest,
    streams: tuple[Mailbox, OutputSink, OutputSink],
    mounts: Sequence[Mount],
    limits: SandboxLimits,
) -> dict[str, Any]:
    """Return what a state that was kept gets of this process."""
    return {
        "imports": _imports(),
        "mounts": (*guest.mounts, *mounts),
        "stdin": streams[0],
        "stdout": streams[1],
        "stderr": streams[2],
        "carry_limit": limits.files,
    }


def _imports() -> Any:
    return {"host": {"call": _NO_HOST}}
