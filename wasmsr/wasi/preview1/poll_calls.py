"""`poll_oneoff`: waiting for descriptors and clocks, and sleeping.

A pause may end the call, and it is made again later, perhaps on another host. It must keep the time
at which it began: `Process.pending` has that time on the program's monotonic clock. So the call
made again waits only for the rest of its time-outs.
"""

from __future__ import annotations

import select
from struct import Struct

from wasmsr.record import record
from wasmsr.wasi import syscalls
from wasmsr.wasi.clocks import LAST_INSTANT
from wasmsr.wasi.engine import Caller, Retry
from wasmsr.wasi.preview1.abi import (
    EVENT,
    EVENT_HANGUP,
    SIZE,
    SUBSCRIPTION,
    SUBSCRIPTION_CLOCK,
    SUBSCRIPTION_CLOCK_ABSTIME,
    SUBSCRIPTION_FD,
    U32,
    ClockId,
    Errno,
    EventType,
    Failure,
    Right,
    span,
)
from wasmsr.wasi.process import PendingPoll, Process
from wasmsr.wasi.streams.descriptor import Descriptor
from wasmsr.wasi.streams.sockets import Listener
from wasmsr.wasi.streams.waiting import IN, OUT, poll_until


@record(frozen=True)
class PollLayout:
    """How an ABI lays out subscriptions: the whole, and its two contents."""

    subscription: Struct
    clock: Struct
    fd: Struct


PREVIEW1 = PollLayout(SUBSCRIPTION, SUBSCRIPTION_CLOCK, SUBSCRIPTION_FD)


class _Poll:
    """One call of `poll_oneoff`: what it waits for, and the events so far."""

    def __init__(self, process: Process, started: int) -> None:
        self.process = process
        self.started = started
        self.events: list[bytes] = []
        self.deadlines: list[tuple[int, int]] = []
        """(deadline on the monotonic clock, userdata)"""
        self.waited: dict[int, list[tuple[int, int, int, Descriptor]]] = {}
        """Host descriptor to the (userdata, eventtype, poll event, descriptor) that wait for it."""

    def event(
        self, userdata: int, kind: int, errno: int = 0, nbytes: int = 0, flags: int = 0
    ) -> None:
        """Note an event."""
        self.events.append(EVENT.pack(userdata, errno, kind, nbytes, flags))

    def add_clock(self, userdata: int, clock: int, timeout: int, flags: int) -> None:
        """Wait for a clock too."""
        clocks = self.process.clocks
        if flags & ~SUBSCRIPTION_CLOCK_ABSTIME or clock not in (
            ClockId.REALTIME,
            ClockId.MONOTONIC,
        ):
            # Waiting for CPU time that nobody uses while waiting would never end.
            known = 0 <= clock <= max(ClockId) and not flags & ~SUBSCRIPTION_CLOCK_ABSTIME
            self.event(userdata, EventType.CLOCK, Errno.NOTSUP if known else Errno.INVAL)
        elif not flags:
            self.deadlines.append((min(self.started + timeout, LAST_INSTANT), userdata))
        elif clock == ClockId.MONOTONIC:
            self.deadlines.append((min(timeout, LAST_INSTANT), userdata))
        else:
            left = timeout - clocks.realtime()
            self.deadlines.append((min(clocks.monotonic() + left, LAST_INSTANT), userdata))

    def add_fd(self, userdata: int, kind: int, fd: int) -> None:
        """Wait for a descriptor too."""
        descriptor = self.process.descriptors.get(fd)
        if descriptor is None:
            self.event(userdata, kind, Errno.BADF)
            return
        reading = kind == EventType.FD_READ
        needed = (Right.FD_READ if reading else Right.FD_WRITE) | Right.POLL_FD_READWRITE
        if isinstance(descriptor, Listener):
            needed = Right.POLL_FD_READWRITE
        if needed & ~descriptor.rights:
            self.event(userdata, kind, Errno.NOTCAPABLE)
            return
        event = IN if reading else OUT
        nbytes = descriptor.available(event)
        if nbytes is None:
            self.waited.setdefault(descriptor.host, []).append((userdata, kind, event, descriptor))
        else:
            self.event(userdata, kind, 0, nbytes)

    def wait(self, caller: Caller) -> None:
        """Wait until there is an event.

        Raises:
            Retry: A pause is wanted first.
        """
        clocks = self.process.clocks
        waited = [(host, self._union(waiters)) for host, waiters in self.waited.items()]
        while True:
            now = clocks.monotonic()
            remaining = min((end for end, _ in self.deadlines), default=None)
            if remaining is not None:
                remaining = max(0, remaining - now)
            if self.events:
                remaining = 0
            elif clocks.deterministic and remaining is not None:
                # In virtual time, nothing more can happen than what is ready now.
                if not syscalls.wait_many(waited, 0):
                    clocks.skip_to(now + remaining)
                remaining = 0
            if remaining == 0:
                found = syscalls.wait_many(waited, 0) if waited else []
            else:
                found = poll_until(caller, waited, remaining)
            for host, state in found:
                self._ready(host, state)
            now = clocks.monotonic()
            for end, userdata in self.deadlines:
                if end <= now:
                    self.event(userdata, EventType.CLOCK)
            if self.events:
                return

    @staticmethod
    def _union(waiters: list[tuple[int, int, int, Descriptor]]) -> int:
        events = 0
        for _, _, event, _ in waiters:
            events |= event
        return events

    def _ready(self, host: int, state: int) -> None:
        hangup = EVENT_HANGUP if state & (select.POLLHUP | select.POLLERR) else 0
        for userdata, kind, event, descriptor in self.waited[host]:
            if state & select.POLLNVAL:
                self.event(userdata, kind, Errno.BADF)
            elif state & event or hangup:
                nbytes = descriptor.pending() if event == IN else 0
                self.event(userdata, kind, 0, nbytes, hangup)


def poll_oneoff(
    process: Process,
    caller: Caller,
    subscriptions: int,
    events: int,
    nsubscriptions: int,
    nevents: int,
    layout: PollLayout = PREVIEW1,
) -> None:
    """Wait until a descriptor is ready or a time has come, and write the events."""
    pending, process.pending = process.pending, None
    memory = caller.memory
    count = nsubscriptions & U32
    if not count:
        raise Failure(Errno.INVAL)
    size = layout.subscription.size * count
    subscriptions = span(memory, subscriptions, size)
    events = span(memory, events, EVENT.size * count)
    nevents = span(memory, nevents, 4)
    described = memory[subscriptions : subscriptions + size]
    call = _digest(described, subscriptions, events, nevents)
    if pending is None or pending.call != call:
        pending = PendingPoll(call, process.clocks.monotonic())
    poll = _Poll(process, pending.started)
    for userdata, kind, content in layout.subscription.iter_unpack(described):
        if kind == EventType.CLOCK:
            clock, timeout, _, flags = layout.clock.unpack(content)
            poll.add_clock(userdata, clock, timeout, flags)
        elif kind in (EventType.FD_READ, EventType.FD_WRITE):
            poll.add_fd(userdata, kind, layout.fd.unpack(content)[0])
        else:
            raise Failure(Errno.INVAL)
    if pending.over:
        now = process.clocks.monotonic()
        poll.deadlines = [(now, userdata) for _, userdata in poll.deadlines]
    try:
        poll.wait(caller)
    except Retry:
        process.pending = pending
        raise
    found = b"".join(poll.events)
    memory[events : events + len(found)] = found
    SIZE.pack_into(memory, nevents, len(poll.events))


def _digest(described: memoryview, *pointers: int) -> bytes:
    from hashlib import blake2b  # only where it is used: it brings OpenSSL

    digest = blake2b(described, digest_size=16)
    for pointer in pointers:
        digest.update(SIZE.pack(pointer))
    return digest.digest()
