"""The machine of a sandbox: a store with a guest in it, its history, and its two streams."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wasmsr.errors import WasmsrError
from wasmsr.interp.outcomes import Finished, Limits
from wasmsr.interp.store.externs import HostFunction
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import FuncType, ValType
from wasmsr.sandbox import interrupts
from wasmsr.sandbox.call import PendingCall
from wasmsr.sandbox.guests import WORK, Guest, guest_named
from wasmsr.sandbox.results import SandboxError, SandboxLimits
from wasmsr.sandbox.states.records import SandboxRecord, read_record, with_record
from wasmsr.sandbox.streams import AnswerReader, Mailbox
from wasmsr.snapshot.memory.bases import MemoryBases
from wasmsr.snapshot.moments.history import History
from wasmsr.snapshot.restore import StoreTemplate
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount

if TYPE_CHECKING:
    from wasmsr.interp.store.instance import Instance
    from wasmsr.snapshot.memory.page_engine import Runs
    from wasmsr.snapshot.moments.images import MemoryImage
    from wasmsr.snapshot.moments.moment import Moment
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.snapshot.store.increments import IncrementBase

TEMPLATES = 8
"""Templates that a prepared state keeps: one for each limit of memory that sandboxes have."""
GRACE = 1_000_000_000
"""Instructions in which code may end after it was told to."""
_I32 = ValType.I32
_NO_HOST = HostFunction(FuncType((_I32,) * 4, (_I32,)), lambda caller, *given: -1)


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
        forks: How many forks it has had; from their numbers follows what is random in those of a
            deterministic sandbox.
        base: The prepared state from which it comes, if that is a file.
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
        over: Sequence[MemoryImage] = (),
        base: IncrementBase | None = None,
    ) -> None:
        self.guest = guest
        self.store = store
        self.mailbox, self.stdout, self.stderr = streams
        self.about = dict(about)
        self.mounts = tuple(mounts)
        self.reader = AnswerReader()
        self.history = History(store, begun=begun, over=over)
        self.base = base
        self.closed = False
        self.forks = 0
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
            limits=store_limits(limits),
            deterministic=bool(wasi.get("deterministic")),
            features=guest.module.allowed_features,
        )
        store.wasi = served
        instance = store.instantiate(guest.module, {**served.imports, **guest_imports()})
        store.enqueue(instance.function("_initialize"))
        store.run()
        store.enqueue(instance.function(guest.entry), *_given(instance, store, guest.argv))
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
        self.forks += 1
        made = forked(self.guest, moment, self.about, self.mounts, limits, self.forks)
        made.reader.rest, made.base = self.reader.rest, self.base
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

    def changed(self) -> list[Runs] | None:
        """Return the pages of each memory that may differ from `base`; None if nobody knows."""
        return None if self.base is None else self.history.changed()

    def state(
        self, call: PendingCall | None, limits: SandboxLimits, *, views: bool = False
    ) -> SnapshotState:
        """Return the state of the guest, with what the host knows of the call.

        Args:
            call: The call.
            limits: What the machine may use.
            views: As for `Snapshot.of`.
        """
        record = SandboxRecord(
            self.guest.name, self.about, self.reader.rest, limits, self.forks, call
        )
        return with_record(Snapshot.of(self.store, views=views).state, record)

    @classmethod
    def of_state(
        cls,
        state: SnapshotState,
        mounts: Sequence[Mount],
        limits: SandboxLimits | None,
        base: IncrementBase | None = None,
        images: Sequence[MemoryImage] = (),
    ) -> tuple[Machine, SandboxRecord]:
        """Return the machine of a state that `state` gave, and its record.

        Args:
            state: The state.
            mounts: Folders of the host.
            limits: What it may use; None takes what the record says.
            base: The prepared state of which `state` has no pages.
            images: With a base, the memories, which are mapped.

        Raises:
            SnapshotError: It is no sandbox, or one of another version of the guest.
            MissingPackageError: The guest's package is not installed.
        """

        def lay(store: Store, address: int) -> bool:
            store.bases = store.bases or MemoryBases(store)
            images[address].lay(store, address, store.bases)
            return True

        state, record = read_record(state)
        guest = guest_named(record.guest)
        limits = limits or record.limits
        streams = (Mailbox(), OutputSink(), OutputSink())
        store = Snapshot(state).restore(
            modules=[guest.module],
            **_outside(guest, streams, mounts, limits),
            limits=store_limits(limits),
            lay=lay if images else None,
            template=None if base is None else template_of(base, guest, store_limits(limits)),
        )
        made = cls(guest, store, streams, record.about, mounts, over=images, base=base)
        made.reader.rest, made.forks = record.rest, record.forks
        return made, record

    def close(self) -> None:
        """Give back everything."""
        if not self.closed:
            self.closed = True
            if self._guard is not None:
                self._guard.close()
            self.history.close()
            self.store.close()


def forked(
    guest: Guest,
    moment: Moment,
    about: Mapping[str, Any],
    mounts: Sequence[Mount],
    limits: SandboxLimits,
    number: int,
    base: IncrementBase | None = None,
) -> Machine:
    """Return a new machine in the state of a moment, whose random numbers are its own.

    Args:
        guest: The guest.
        moment: The state.
        about: Addresses that the driver has told.
        mounts: Folders of the host.
        limits: What the machine may use.
        number: Which fork of the state it is, from 1.
        base: The prepared state that the moment is, if that is a file.
    """
    streams = (Mailbox(), OutputSink(), OutputSink())
    (store,) = moment.fork(
        1,
        first=number,
        **_outside(guest, streams, mounts, limits),
    )
    made = Machine(guest, store, streams, about, mounts, begun=moment, base=base)
    # Behind what is unread, of which the beginning may be the rest of a request.
    streams[0].send(op="forked", seed=moment.fresh(number).hex())
    return made


def _outside(
    guest: Guest,
    streams: tuple[Mailbox, OutputSink, OutputSink],
    mounts: Sequence[Mount],
    limits: SandboxLimits,
) -> dict[str, Any]:
    """Return what a state that was kept gets of this process."""
    return {
        "imports": guest_imports(),
        "mounts": (*guest.mounts, *mounts),
        "stdin": streams[0],
        "stdout": streams[1],
        "stderr": streams[2],
        "carry_limit": limits.files,
    }


def template_of(base: IncrementBase, guest: Guest, limits: Limits) -> StoreTemplate:
    """Return what makes stores for states over a prepared one; it is made once for some limits.

    Raises:
        SnapshotError: The prepared state is one of another version of the guest.
    """
    key = guest.module.digest, limits.memory_pages  # a record can lie about its guest
    found: StoreTemplate | None = base.templates.get(key)
    if found is None:
        state = replace(base.state, limits=replace(base.state.limits, **vars(limits)), extra={})
        found = StoreTemplate(state, [guest.module], {**Wasi().imports, **guest_imports()})
        if len(base.templates) >= TEMPLATES:
            base.templates.clear()
        base.templates[key] = found
    return found


def _given(instance: Instance, store: Store, argv: Sequence[str]) -> tuple[int, ...]:
    """Put the arguments of a guest's entry into its memory; return their number and address."""
    if not argv:
        return ()

    def put(data: bytes) -> int:
        store.enqueue(instance.function("malloc"), len(data))
        outcome = store.run()
        assert isinstance(outcome, Finished), outcome
        instance.memory().write(outcome.results[0], data)
        return int(outcome.results[0])

    places = [put(one.encode() + b"\0") for one in argv]
    return len(places), put(struct.pack(f"<{len(places) + 1}I", *places, 0))


def guest_imports() -> Any:
    """Return the host functions that guests import besides those of WASI."""
    return {"host": {"call": _NO_HOST}}


def store_limits(limits: SandboxLimits) -> Limits:
    """Return the limits of the store of a sandbox."""
    return Limits(memory_pages=min(65536, limits.memory >> 16))
