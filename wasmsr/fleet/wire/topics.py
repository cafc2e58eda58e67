"""Topics of a fleet, and of the channels of its modules (MQTT 5, section 4.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wasmsr.channels.grant import is_topic_text
from wasmsr.fleet.wire.failures import WireError

LONGEST: Final = 65_535
"""Bytes of a topic in UTF-8 (MQTT 5, section 1.5.4)."""
OWN: Final = "$SL/"
"""Begins the topic of a channel that belongs to one module."""
PROCESSES: Final = "proc"
"""Below `REALM/proc` are all topics of the protocol."""

IDS = {
    "reg": 1, "control": 1, "keepalive": 1, "stdio": 1, "profile": 3, "log": 1, "register": 1,
}  # fmt: skip
"""For each kind of topic, how many parts follow it."""
ASKED = ("control", "register")
"""Kinds of topics that also have one without parts, where others ask the orchestrator."""


@dataclass(frozen=True)
class FleetTopic:
    """A topic of the protocol.

    Attributes:
        kind: `reg`, `control`, `keepalive`, `stdio`, `profile`, `log` or `register`.
        ids: What follows: the UUID of a manager, runtime or module; for `profile` its kind and the
            UUIDs of runtime and module; for `log` who writes. Empty where clients ask.
    """

    kind: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class FleetRealm:
    """The topics of one realm.

    Attributes:
        name: The realm, one or more parts of a topic.
    """

    name: str = "realm"

    def __post_init__(self) -> None:
        check_topic(self.name)

    def topic(self, kind: str, *ids: str) -> str:
        """Return the text of a topic.

        Raises:
            WireError: A part is empty, or would be more than one part or a wildcard.
        """
        for part in ids:
            if not part or any(char in part for char in "/+#\0"):
                raise WireError("invalid part of a topic", part)
        return check_topic("/".join((self.name, PROCESSES, kind, *ids)))

    def find(self, topic: str) -> FleetTopic | None:
        """Return what a topic of the protocol is, or None for any other."""
        begin = f"{self.name}/{PROCESSES}/"
        if not topic.startswith(begin):
            return None
        kind, *ids = topic[len(begin) :].split("/")
        most = IDS.get(kind)
        counts = (most, 0) if kind in ASKED else (most,)
        if most is None or not all(ids) or len(ids) not in counts:
            return None
        return FleetTopic(kind, tuple(ids))

    def channel(self, path: str, module: str) -> str:
        """Return the topic of a path that a module opens: `$SL/x` means `REALM/x/MODULE`.

        Raises:
            WireError: The path is no topic.
        """
        if path.startswith(OWN):
            path = f"{self.name}/{path[len(OWN) :]}/{module}"
        return check_filter(path)


def is_register(topic: str) -> bool:
    """Return whether a topic is one of the register of a realm, of which modules get nothing.

    One that reads questions and writes answers could make two owners of a module.
    """
    return f"/{PROCESSES}/register/" in f"{topic}/"


def check_filter(text: str) -> str:
    """Return the filter of a subscription, if it is one: `+` and `#` are whole parts.

    Raises:
        WireError: It is not.
    """
    _check_text(text)
    parts = text.split("/")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if ("+" in part and part != "+") or ("#" in part and not (part == "#" and last)):
            raise WireError("invalid topic", text, hint="`+` is a part, and `#` is the last one")
    return text


def check_topic(text: str) -> str:
    """Return the topic of a message, if it is one: without wildcards.

    Raises:
        WireError: It is not.
    """
    _check_text(text)
    if "+" in text or "#" in text:
        raise WireError("invalid topic", text, hint="messages have topics without `+` and `#`")
    return text


def _check_text(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise WireError("invalid topic", ascii(text), hint="a topic is text in UTF-8") from None
    if not text or "\0" in text or size > LONGEST:
        raise WireError(
            "invalid topic", text[:200], hint=f"a topic has 1 to {LONGEST} bytes and no zero byte"
        )
    if not is_topic_text(text):
        raise WireError(
            "invalid topic", ascii(text[:200]),
            hint="a topic has no control characters, and 200 parts at most",
        )  # fmt: skip
