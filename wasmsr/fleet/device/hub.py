"""The hub of a device's channels: messages between its modules, and from and to the broker.

A message reaches each other module of the device that reads its topic, once, and not by way of the
broker. One thread reads what modules write; any thread may bring messages of the broker.

What a module under a lease writes is sent only while its lease lasts. Then it waits: it is sent
when the lease is renewed, and dropped when another device has the module.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from wasmsr.channels import conduit
from wasmsr.channels.conduit import (
    LONGEST_FRAME,
    ConduitFrame,
    FrameStream,
    arrived_frame,
    frame,
    written_message,
)
from wasmsr.channels.grant import READ, WRITE, is_topic
from wasmsr.errors import HostError
from wasmsr.fleet.device.matcher import TopicTable
from wasmsr.node.failures import NodeError
from wasmsr.ownership.lease import boot_clock

MOST_WAITING: Final = 64 << 20
"""Bytes that wait for one module; what comes beyond that is lost, and said."""
PIECE: Final = 1 << 18
FULL_SECONDS: Final = 0.02
"""How often the hub looks whether the broker has taken enough."""
LEASE_LOOK_SECONDS: Final = 0.1
"""How often the hub looks whether a lease that has ended is renewed."""
LAST_PIECES: Final = 256
"""How often the rest of what a module has said is read: more than fits into a socket."""
REPORT_BYTES: Final = 24
REPORTS: Final = 32_000
"""Records of periods that are kept of one module: they go in one message, of 1 MiB at most. Ours
take none that is longer than 2 MiB, and a broker drops it."""


@dataclass(frozen=True)
class MessageSender:
    """Who wrote a message: 16 bytes of its life, its epoch, and the number of the message."""

    life: bytes
    epoch: int
    number: int

    def encode(self) -> str:
        """Return it as text, for a property of the message."""
        return f"{self.life.hex()}:{self.epoch}:{self.number}"

    @classmethod
    def decode(cls, text: str) -> MessageSender | None:
        """Return what `encode` gave, or None for any other text."""
        try:
            life, epoch, number = text.split(":")
            found = cls(bytes.fromhex(life), int(epoch), int(number))
        except ValueError:
            return None
        fine = len(found.life) == 16 and 0 <= found.epoch < 1 << 32 and 0 < found.number < 1 << 63
        return found if fine else None


@dataclass(frozen=True)
class WrittenMessage:
    """A message that a module has written.

    Attributes:
        topic: Its topic.
        data: Its bytes.
        sender: Who wrote it.
    """

    topic: str
    data: bytes
    sender: MessageSender


@dataclass(frozen=True)
class HubEvents:
    """What a hub asks for; its thread calls, or the one that calls the hub.

    Attributes:
        publish: Send a message to the broker: topic, bytes and sender, and the name of the module
            if it may be called back.
        subscribe: Have the broker send what fits a filter.
        unsubscribe: No more.
        lost: Messages for a module were dropped: its name, and how many in all.
        full: Whether too much waits for the broker. Modules that write wait meanwhile.
        recall: Take back what a module has written and the broker does not have, in order.
        settle: Wait until the broker has what a module has written and was not called back; return
            whether it has.
    """

    publish: Callable[[str, bytes, MessageSender, str | None], object]
    subscribe: Callable[[str], None]
    unsubscribe: Callable[[str], None]
    lost: Callable[[str, int], None]
    full: Callable[[], bool] = lambda: False
    recall: Callable[[str], list[WrittenMessage]] = lambda name: []
    settle: Callable[[str], bool] = lambda name: True


@dataclass(eq=False)
class _Member:
    """One module at the hub."""

    name: str
    socket: socket.socket
    epoch: int
    frames: FrameStream = field(default_factory=FrameStream)
    topics: dict[int, tuple[int, str]] = field(default_factory=dict)
    out: bytearray = field(default_factory=bytearray)
    reports: list[bytes] = field(default_factory=list)
    lost: int = 0
    gone: bool = False
    ends: Callable[[], int] | None = None
    """Returns when its lease ends, by `boot_clock`; None without a lease."""
    until: int = 0
    """What `ends` has said last."""
    held: list[WrittenMessage] = field(default_factory=list)
    """What it wrote before its lease has ended, and the broker does not have."""
    silent: bool = False
    """Whether its lease has ended."""
    recalls: int = 0
    """How often what it wrote was called back."""

    def may_speak(self) -> bool:
        """Return whether what it writes counts now."""
        if self.ends is None:
            return True
        now = boot_clock()
        if now >= self.until:
            self.until = self.ends()
        return now < self.until


class ChannelHub:
    """See above. `close` ends it."""

    def __init__(self, events: HubEvents) -> None:
        self._events = events
        self._lock = threading.RLock()
        self._table: TopicTable[tuple[_Member, int]] = TopicTable()
        self._members: dict[str, _Member] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="wasmsr-channels", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and close all conduits."""
        self._ended = True
        self._stir()
        self._thread.join()
        for name in list(self._members):
            self.remove(name)
        for one in (self._wake, self._woken):
            one.close()
        self._selector.close()

    # -- modules -----------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        grant: Mapping[str, Any],
        epoch: int,
        ends: Callable[[], int] | None = None,
    ) -> socket.socket:
        """Take a module; return the end of its conduit that its worker gets.

        Args:
            name: Its UUID. An earlier stay of the same module ends.
            grant: What `ChannelGrant.about` gives.
            epoch: How often it was given to a device, or the number of its owner.
            ends: Returns when its lease ends, by `boot_clock`; None without a lease.
        """
        self.remove(name)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        member = _Member(name, ours, epoch, ends=ends)
        with self._lock:
            self._members[name] = member
            self._put(member, frame(conduit.GRANT, 0, json.dumps(grant).encode()))
        self._stir()
        return theirs

    def remove(self, name: str, *, ended: bool = False) -> list[bytes]:
        """Let a module go; return the records of its periods.

        Args:
            name: Its UUID.
            ended: Whether nobody will run it again. Then all that it wrote counts.
        """
        with self._lock:
            member = self._members.pop(name, None)
            if member is None:
                return []
            if ended:
                self._publish_held(member)
            if ended or self._look_at_lease(member):
                self._hear_last(member)
            for fd in list(member.topics):
                self._shut(member, fd)
            member.gone = True
            with suppress(KeyError, ValueError):
                self._selector.unregister(member.socket)
            member.socket.close()
        return member.reports

    def settle(self, name: str) -> None:
        """Send all that a module with a lease has written until now, and wait for the broker.

        Raises:
            NodeError: The broker does not take it, or the lease has ended.
        """
        if self._events.full():
            raise NodeError("the broker does not take what the module has written")
        with self._lock:
            member = self._members.get(name)
            if member is None:
                return
            if not self._look_at_lease(member):
                raise NodeError("the lease of the module has ended")
            self._hear_last(member)
            recalls = member.recalls
        has = self._events.settle(name)
        with self._lock:
            if not has or member.recalls != recalls:
                raise NodeError("the broker does not say that it has what the module has written")

    def _look_at_lease(self, member: _Member) -> bool:
        """Return whether what a module writes counts now; call back or send what that means."""
        speaks = member.may_speak()
        if member.ends is not None and speaks == member.silent:
            member.silent = not speaks
            if speaks:
                self._publish_held(member)
            else:
                member.held = self._events.recall(member.name)
                member.recalls += 1
        return speaks

    def _publish_held(self, member: _Member) -> None:
        """Send what was called back."""
        held, member.held = member.held, []
        for one in held:
            self._events.publish(one.topic, one.data, one.sender, member.name)

    def _hear_last(self, member: _Member) -> None:
        """Do what a module has said last: the thread may not have read it yet."""
        for _ in range(LAST_PIECES):
            try:
                data = member.socket.recv(PIECE)
                frames = member.frames.feed(data)
            except (OSError, HostError):
                return
            if not data:
                return
            self._obey_all(member, frames)

    # -- messages ----------------------------------------------------------------------------------

    def take(self, topic: str, data: bytes, sender: MessageSender | None) -> None:
        """Take a message that the broker has sent."""
        with self._lock:
            self._spread(topic, data, sender, None)

    def _spread(
        self, topic: str, data: bytes, sender: MessageSender | None, writer: _Member | None
    ) -> None:
        for member, fd in self._table.find(topic):
            if member is writer:
                continue
            known = sender or MessageSender(bytes(16), 0, 0)
            self._put(member, arrived_frame(fd, data, known.life, known.epoch, known.number))

    def _put(self, member: _Member, data: bytes) -> None:
        """Send a frame to a module, now or when it takes it.

        One that is too long would be none for the module, which would end by it.
        """
        if len(data) > LONGEST_FRAME or len(member.out) + len(data) > MOST_WAITING:
            member.lost += 1
            self._events.lost(member.name, member.lost)
            return
        waited = bool(member.out)
        member.out += data
        if not waited:
            self._send(member)
            if member.out:
                self._stir()

    def _send(self, member: _Member) -> None:
        with suppress(BlockingIOError, OSError):
            while member.out:
                del member.out[: member.socket.send(member.out)]

    # -- the thread --------------------------------------------------------------------------------

    def _stir(self) -> None:
        with suppress(OSError):
            self._wake.send(b"x")

    def _serve(self) -> None:
        while not self._ended:
            full = self._events.full()
            with self._lock:
                wait = self._watch(full)
            for key, mask in self._selector.select(wait):
                member = key.data
                if member is None:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                    continue
                with self._lock:
                    if member.gone:
                        continue
                    if mask & selectors.EVENT_WRITE:
                        self._send(member)
                    if mask & selectors.EVENT_READ and self._look_at_lease(member):
                        self._read(member)

    def _watch(self, full: bool) -> float | None:
        """Have the selector look at what modules write, and at those that take messages again.

        Returns:
            Seconds after which something else is to be looked at.
        """
        wait = FULL_SECONDS if full else float("inf")
        for member in self._members.values():
            speaks = member.ends is None or self._look_at_lease(member)
            if not speaks:
                wait = min(wait, LEASE_LOOK_SECONDS)
            elif member.ends is not None:
                wait = min(wait, max(0.0, (member.until - boot_clock()) / 1e9))
            if member.gone:
                continue
            events = 0 if full or not speaks else selectors.EVENT_READ
            events |= selectors.EVENT_WRITE if member.out else 0
            key = self._selector.get_map().get(member.socket.fileno())
            if not events:
                if key is not None:
                    self._selector.unregister(member.socket)
            elif key is None:
                self._selector.register(member.socket, events, member)
            elif key.events != events:
                self._selector.modify(member.socket, events, member)
        return None if wait == float("inf") else wait

    def _read(self, member: _Member) -> None:
        try:
            data = member.socket.recv(PIECE)
            frames = member.frames.feed(data) if data else []
        except BlockingIOError:
            return
        except (OSError, HostError):
            data, frames = b"", []
        self._obey_all(member, frames)
        if not data:
            self.remove_member(member)

    def remove_member(self, member: _Member) -> None:
        """Hear no more of a module whose worker has closed its end.

        What it has said stays until `remove`: the records of its periods, and what the broker does
        not have, which is called back when its lease ends.
        """
        for fd in list(member.topics):
            self._shut(member, fd)
        member.gone = True
        member.out.clear()
        with suppress(KeyError, ValueError):
            self._selector.unregister(member.socket)
        member.socket.close()

    def _obey_all(self, member: _Member, frames: list[ConduitFrame]) -> None:
        for one in frames:
            # The frames come from a worker, which may have been taken over by its module.
            with suppress(HostError, UnicodeDecodeError, IndexError):
                self._obey(member, one)

    def _obey(self, member: _Member, one: ConduitFrame) -> None:
        if one.kind == conduit.OPEN:
            flags, topic = one.payload[0] & 3, one.payload[1:].decode()
            if is_topic(topic, wild=not flags & WRITE):
                self._shut(member, one.fd)
                member.topics[one.fd] = flags, topic
                if flags & READ and self._table.add(topic, (member, one.fd)):
                    self._events.subscribe(topic)
        elif one.kind == conduit.CLOSE:
            self._shut(member, one.fd)
        elif one.kind == conduit.REPORT:
            if len(member.reports) < REPORTS and len(one.payload) == REPORT_BYTES:
                member.reports.append(one.payload)
        elif one.kind == conduit.MESSAGE:
            flags, topic = member.topics.get(one.fd, (0, ""))
            if flags & WRITE:
                life, number, data = written_message(one.payload)
                sender = MessageSender(life, member.epoch, number)
                self._spread(topic, data, sender, member)
                leased = None if member.ends is None else member.name
                self._events.publish(topic, data, sender, leased)

    def _shut(self, member: _Member, fd: int) -> None:
        flags, topic = member.topics.pop(fd, (0, ""))
        if flags & READ and self._table.remove(topic, (member, fd)):
            self._events.unsubscribe(topic)


__all__ = ["ChannelHub", "HubEvents", "MessageSender", "WrittenMessage"]
