"""The functions of the module `env`, as modules of a fleet import them. All values are i32.

A module may import each with or without a result. What is refused gives -1.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable

from wasmsr.channels.failures import ChannelRefused, ChannelsNotGranted
from wasmsr.channels.grant import LONGEST, READ, WRITE
from wasmsr.channels.table import (
    CHANNELS,
    LARGEST,
    OWNER,
    WAITING,
    ChannelTable,
    PendingWait,
)
from wasmsr.errors import HostError, UnportableState, printable
from wasmsr.interp.store.externs import Caller, HostFunction, Retry
from wasmsr.interp.types import FuncType, ValType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from wasmsr.channels.grant import ChannelGrant
    from wasmsr.interp.modules.module import Module

MODULE: Final = "env"
FAILED: Final = -1
UUID_BYTES: Final = 37
"""Bytes of a UUID as text, with the zero byte at its end."""
MILLISECOND: Final = 1_000_000
LONGEST_WAIT: Final = 3_600_000
"""Milliseconds of one wait of the host."""

ARGUMENTS: dict[str, int] = {
    "ch_open": 3,
    "ch_close": 1,
    "ch_write_msg": 3,
    "ch_read_msg": 3,
    "ch_poll": 3,
    "runtime_get_uuid": 1,
    "module_get_uuid": 1,
    "period_start": 0,
    "period_end": 0,
    "period_yield": 0,
    "period_set_flags": 1,
}
"""Each function, with the number of its arguments."""


class Channels:
    """The channels of one program: its functions, and what snapshots save of them.

    Args:
        grant: What this host gives; None if that comes with `enter`.
    """

    def __init__(self, grant: ChannelGrant | None = None) -> None:
        self._grant = grant
        self.table = ChannelTable(os.urandom(16))
        self._cpu = 0

    @property
    def grant(self) -> ChannelGrant:
        """What this host gives."""
        if self._grant is None:
            raise HostError("the channels of the program have been closed")
        return self._grant

    # -- life --------------------------------------------------------------------------------------

    def imports(self, modules: Iterable[Module]) -> dict[str, HostFunction]:
        """Return the functions that modules import, each of the type that they ask for."""
        found = {}
        for name, type_ in wanted(modules).items():
            call = getattr(self, name)
            if not type_.results:
                call = _without_result(call)
            found[name] = HostFunction(type_, call, raw=True)
        return found

    def capture(self) -> dict[str, Any]:
        """Return the state, with all that has come; the program must be paused.

        What the program has written is with the host when this returns.

        Raises:
            UnportableState: The host takes no messages any more.
        """
        try:
            self.grant.port.flush()
        except OSError as error:
            raise UnportableState(f"the channels of the program are gone: {error}") from error
        self.table.take(self.grant.port.receive())
        state = self.table.capture()
        if self.table.period is not None:
            state["period"] = max(0, time.monotonic_ns() - self.table.period)
        return state

    def enter(self, state: Any, grant: ChannelGrant) -> None:
        """Take a saved state over, and open its channels here.

        Raises:
            FormatError: The state is none.
            ChannelRefused: A channel is not given here.
        """
        table = ChannelTable.restore(state)
        topics = []
        for fd, one in table.open.items():
            topic = grant.topic(one.path, one.flags)
            if topic is None:
                raise ChannelRefused(
                    f"the program has the channel {printable(one.path, 200)} open "
                    f"({_mode(one.flags)}), and this host does not give it",
                )
            topics.append((fd, one.flags, topic))
        if table.period is not None:
            table.period = time.monotonic_ns() - table.period
        self.table, self._grant = table, grant
        for fd, flags, topic in topics:
            grant.port.open(fd, flags, topic)

    def begin(self, grant: ChannelGrant) -> None:
        """Take what this host gives, without a saved state."""
        self._grant = grant

    def close(self) -> None:
        """Give the way to the host up. Calls fail from then on."""
        grant, self._grant = self._grant, None
        if grant is not None:
            grant.port.shut()

    # -- the functions -----------------------------------------------------------------------------

    def ch_open(self, caller: Caller, path: int, flags: int, mode: int) -> int:
        """Open a channel: 0 to read, 1 to write, 2 for both. Return its descriptor."""
        text = _path(caller, path)
        if text is None or flags > 2:
            return _bits(FAILED)
        bits = flags + 1
        known = self.table.find(text)
        if known is not None:
            bits |= self.table.open[known].flags
            if bits == self.table.open[known].flags:
                return known
        topic = self.grant.topic(text, bits)
        fd = None if topic is None else self.table.add(text, bits)
        if fd is None or topic is None:
            return _bits(FAILED)
        self.grant.port.open(fd, bits, topic)
        return fd

    def ch_close(self, caller: Caller, fd: int) -> int:
        """Close a channel."""
        if fd not in self.table.open:
            return _bits(FAILED)
        self.table.remove(fd)
        self.grant.port.close(fd)
        return 0

    def ch_write_msg(self, caller: Caller, fd: int, buffer: int, size: int) -> int:
        """Write a message, and return its size; waits while the host has no room for it."""
        channel = self.table.open.get(fd)
        data = _span(caller, buffer, size)
        if channel is None or not channel.flags & WRITE or data is None or size > LARGEST:
            return _bits(FAILED)
        port, content = self.grant.port, bytes(data)
        while not port.send(fd, self.table.life, self.table.written + 1, content):
            self._poll(caller, select.POLLOUT, None)
        self.table.written += 1
        return size

    def ch_read_msg(self, caller: Caller, fd: int, buffer: int, size: int) -> int:
        """Read a message, or as much of it as fits; 0 if none waits. The rest stays."""
        channel = self.table.open.get(fd)
        place = _span(caller, buffer, size)
        if channel is None or not channel.flags & READ or place is None:
            return _bits(FAILED)
        if not channel.waiting:
            self._take()
        data = self.table.read(fd, size)
        place[: len(data)] = data
        return len(data)

    def ch_poll(self, caller: Caller, fds: int, count: int, timeout: int) -> int:
        """Wait for messages for so many milliseconds, 0 for ever; return how many channels have
        some."""
        pending, self.table.pending = self.table.pending, None
        listed = None if count > CHANNELS else _span(caller, fds, 4 * count)
        if listed is None:
            return _bits(FAILED)
        watched = [int.from_bytes(listed[at : at + 4], "little") for at in range(0, 4 * count, 4)]
        for fd in watched:
            if fd not in self.table.open or not self.table.open[fd].flags & READ:
                return _bits(FAILED)

        def ready() -> int:
            self._take()
            return sum(bool(self.table.open[fd].waiting) for fd in watched)

        call = (fds, timeout, *watched)
        self._wait(caller, call, pending, timeout * MILLISECOND or None, ready)
        return ready()

    def runtime_get_uuid(self, caller: Caller, buffer: int) -> int:
        """Write the UUID of the runtime: 36 characters and a zero byte."""
        return _write_uuid(caller, buffer, self.grant.runtime)

    def module_get_uuid(self, caller: Caller, buffer: int) -> int:
        """Write the UUID of the module: 36 characters and a zero byte."""
        return _write_uuid(caller, buffer, self.grant.module)

    def period_start(self, caller: Caller) -> int:
        """Begin a period."""
        self.table.period, self._cpu = time.monotonic_ns(), time.thread_time_ns()
        return 0

    def period_end(self, caller: Caller) -> int:
        """End a period, and report how long it was."""
        began = self.table.period
        if began is None:
            return _bits(FAILED)
        self._report(caller, began)
        self.table.period = None
        return 0

    def period_yield(self, caller: Caller) -> int:
        """End a period, wait until the next one is due, and begin it."""
        began = self.table.period
        if began is None:
            return _bits(FAILED)
        pending, self.table.pending = self.table.pending, None
        if pending is None or pending.call != ():
            self._report(caller, began)
            spent = max(0, time.monotonic_ns() - began)
            pending = PendingWait((), spent)
        self._wait(caller, (), pending, self.grant.period or 1, lambda: 0)
        return self.period_start(caller)

    def period_set_flags(self, caller: Caller, flags: int) -> int:
        """Note the flags of periods."""
        self.table.flags = flags
        return 0

    # -- what they share ---------------------------------------------------------------------------

    def _take(self) -> None:
        """Take what has come, unless too much waits already."""
        if self.table.size < WAITING:
            self.table.take(self.grant.port.receive())

    def _wait(
        self,
        caller: Caller,
        call: tuple[int, ...],
        pending: PendingWait | None,
        limit: int | None,
        ready: Callable[[], int],
    ) -> None:
        """Wait until `ready` is true, or for `limit` ns in all; a pause keeps what has passed.

        Raises:
            Retry: A pause is wanted first.
        """
        before = pending.waited if pending is not None and pending.call == call else 0
        began = time.monotonic_ns()
        events = select.POLLIN if call else 0
        while not ready():
            waited = before + time.monotonic_ns() - began
            if limit is not None and waited >= limit:
                return
            try:
                self._poll(caller, events, None if limit is None else limit - waited)
            except Retry:
                waited = before + time.monotonic_ns() - began
                self.table.pending = PendingWait(call, waited)
                raise

    def _poll(self, caller: Caller, events: int, limit: int | None) -> None:
        """Wait for the port, or for so many ns; for a pause only, where the host is gone.

        A host that is gone takes this process with it, or comes back with another one.

        Raises:
            Retry: A pause is wanted.
        """
        poll = select.poll()
        poll.register(caller.wake_fd, select.POLLIN)
        port = self.grant.port
        if events and not port.gone:
            poll.register(port.fileno(), events)
        left = LONGEST_WAIT if limit is None else min(limit / MILLISECOND, LONGEST_WAIT)
        if any(found == caller.wake_fd for found, _ in poll.poll(left)):
            raise Retry

    def _report(self, caller: Caller, began: int) -> None:
        wall = max(0, time.monotonic_ns() - began)
        cpu = max(0, time.thread_time_ns() - self._cpu)
        start = time.time_ns() - wall
        self.grant.port.report(
            b"".join(
                min(max(0, one), (1 << 64) - 1).to_bytes(8, "little") for one in (start, wall, cpu)
            )
        )


def wanted(modules: Iterable[Module]) -> dict[str, FuncType]:
    """Return the functions of `env` that modules import and that are ours, with their types."""
    found = {}
    for module in modules:
        for item in module.imports:
            count = ARGUMENTS.get(item.name) if item.module == MODULE else None
            if count is None or not isinstance(item.type, FuncType):
                continue
            if item.type.params == (ValType.I32,) * count and item.type.results in (
                (),
                (ValType.I32,),
            ):
                found[item.name] = item.type
    return found


def check_granted(modules: Iterable[Module], grant: ChannelGrant | None) -> None:
    """Check that a host gives channels to a program that uses them.

    Raises:
        ChannelsNotGranted: It does not.
    """
    names = wanted(modules)
    if names and grant is None:
        raise ChannelsNotGranted(
            f"the program imports {next(iter(names))} from env, a function of channels, and this "
            "host gives it no channels",
            hint="a node of a fleet gives them: wasmsr node --mqtt HOST:PORT",
        )


def _without_result(call: Callable[..., int]) -> Callable[..., None]:
    def perform(*arguments: Any) -> None:
        call(*arguments)

    return perform


def _bits(value: int) -> int:
    return value & 0xFFFFFFFF


def _span(caller: Caller, start: int, size: int) -> memoryview | None:
    """Return a part of the caller's memory, or None if it is not all there."""
    memory = caller.memory
    return memory[start : start + size] if start + size <= len(memory) else None


def _path(caller: Caller, start: int) -> str | None:
    """Return the text up to a zero byte, or None if there is none that is a path."""
    raw = bytes(caller.memory[start : start + LONGEST + 1])
    end = raw.find(b"\0")
    if end <= 0:
        return None
    try:
        return raw[:end].decode()
    except UnicodeDecodeError:
        return None


def _write_uuid(caller: Caller, start: int, text: str) -> int:
    place = _span(caller, start, UUID_BYTES)
    if place is None:
        return _bits(FAILED)
    place[:] = text.encode()[: UUID_BYTES - 1].ljust(UUID_BYTES, b"\0")
    return 0


def _mode(flags: int) -> str:
    return {READ: "read", WRITE: "write"}.get(flags, "read and write")


__all__ = ["MODULE", "OWNER", "Channels", "check_granted", "wanted"]
