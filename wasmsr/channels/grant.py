"""What a host gives to a program with channels: who it is, its topics, and the way outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Protocol

    class ChannelPort(Protocol):
        """The way of a program's messages to its host; the program's thread calls it."""

        @property
        def gone(self) -> bool:
            """Whether the host is gone: nothing comes or goes any more."""

        def fileno(self) -> int:
            """Return a descriptor: readable when something comes, writable when `send` may work."""

        def open(self, fd: int, flags: int, topic: str) -> None:
            """Tell that a channel is open, or is open in another way."""

        def close(self, fd: int) -> None:
            """Tell that a channel is closed."""

        def send(self, fd: int, life: bytes, number: int, data: bytes) -> bool:
            """Take a message that the program writes; False if it waits for room first."""

        def report(self, record: bytes) -> None:
            """Take the record of a period."""

        def receive(self) -> list[Arrived]:
            """Return what has come, in order, without waiting."""

        def flush(self) -> None:
            """Return when the host has all that was told and sent. Raises OSError."""

        def shut(self) -> None:
            """Give the way up."""


READ: Final = 1
WRITE: Final = 2
"""Bits of the flags of a channel; on the wire, and with 1 more than in `ch_open`."""

OWN: Final = "$SL/"
"""Begins the path of a channel that belongs to one module."""

LONGEST: Final = 4096
"""Bytes of a path."""

DEEPEST: Final = 200
"""Parts of a topic."""


@record(frozen=True)
class Arrived:
    """A message that has come.

    Attributes:
        fd: The descriptor of its channel.
        data: Its content.
        life: 16 bytes that name the life of the module that wrote it; zeros: nobody of ours.
        epoch: How often that module was given to a node.
        number: The message's number in that life, from 1 on; 0 without one.
    """

    fd: int
    data: bytes
    life: bytes = bytes(16)
    epoch: int = 0
    number: int = 0


@record(frozen=True)
class ChannelRule:
    """What a module may open, and what it gets.

    Attributes:
        path: How the path begins.
        flags: `READ`, `WRITE`, or both.
        topic: What takes the place of `path` at the beginning of the topic.
    """

    path: str
    flags: int
    topic: str


@record(frozen=True)
class ChannelGrant:
    """What a host gives to a program with channels, for each start and resume anew.

    Attributes:
        port: Takes and brings messages.
        module, runtime: UUIDs, as text.
        realm: The realm, which begins topics of the module's own; "" if the host makes topics of
            such paths itself.
        rules: What the module may open; without a rule it may open all that has no wildcard where
            it writes.
        period: ns between the beginnings of two periods; 0 for none.
    """

    port: ChannelPort
    module: str
    runtime: str
    realm: str = "realm"
    rules: Sequence[ChannelRule] = ()
    period: int = 0

    def topic(self, path: str, flags: int) -> str | None:
        """Return the topic of a path, or None if the module may not open it so."""
        rule = None
        if self.rules:
            fitting = [one for one in self.rules if begins(path, one.path)]
            rule = max(fitting, key=lambda one: len(one.path), default=None)
            if rule is None or flags & ~rule.flags:
                return None
            path = rule.topic + path[len(rule.path) :]
        if path.startswith(OWN) and self.realm:
            path = f"{self.realm}/{path[len(OWN) :]}/{self.module}"
        return path if is_topic(path, wild=not flags & WRITE) else None

    def about(self) -> dict[str, Any]:
        """Return all but the port as plain data, for `of`."""
        return {
            "module": self.module,
            "runtime": self.runtime,
            "realm": self.realm,
            "rules": [[one.path, one.flags, one.topic] for one in self.rules],
            "period": self.period,
        }

    @classmethod
    def of(cls, port: ChannelPort, about: Mapping[str, Any]) -> ChannelGrant:
        """Return what `about` gave, with a port."""
        rules = [ChannelRule(*one) for one in about["rules"]]
        return cls(port, about["module"], about["runtime"], about["realm"], rules, about["period"])


def begins(path: str, start: str) -> bool:
    """Return whether a path begins with whole parts of another one."""
    return path == start or path.startswith(start if start.endswith("/") else f"{start}/")


def is_topic(text: str, *, wild: bool) -> bool:
    """Return whether text is a topic, or with `wild` one with `+` and `#` as whole parts.

    Shared subscriptions are none: they do not go together with "no local" (MQTT 5, section
    3.8.3.1). Topics of the broker itself are none to write to.
    """
    if not text or not is_topic_text(text) or len(text.encode()) > LONGEST:
        return False
    own = not text.startswith("$") or text.startswith(OWN)
    if not own and (not wild or text.partition("/")[0] == "$share"):
        return False
    parts = text.split("/")
    for number, part in enumerate(parts):
        if "+" not in part and "#" not in part:
            continue
        if not wild or len(part) > 1 or (part == "#" and number != len(parts) - 1):
            return False
    return True


def is_topic_text(text: str) -> bool:
    """Return whether brokers take a text as a topic, and do not end the connection for it.

    They may do that for control characters and for what is no character (MQTT 5, section 1.5.4);
    mosquitto does it for too many parts, too. The whole device would lose its connection, for ever.
    """
    return text.count("/") < DEEPEST and all(map(_is_character, text))


def _is_character(one: str) -> bool:
    number = ord(one)
    if number < 0x20 or 0x7F <= number < 0xA0 or 0xD800 <= number < 0xE000:
        return False
    return not (0xFDD0 <= number < 0xFDF0 or number & 0xFFFE == 0xFFFE)


__all__ = [
    "READ", "WRITE", "Arrived", "ChannelGrant", "ChannelRule", "begins", "is_topic",
    "is_topic_text",
]  # fmt: skip
