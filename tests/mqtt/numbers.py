"""Hears numbers that modules publish, and who owned each module then (MQTT 5, user properties)."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.mqtt.broker import SECONDS
from wasmsr.fleet.device.hub import MessageSender
from wasmsr.mqtt.device_service import SENDER

LATE_SECONDS = 2.0
"""How long after the first message of a new owner one of the owner before can be on its way."""


@dataclass
class Heard:
    """What one module has published.

    Attributes:
        count: Messages.
        number: The last number that a reader of ours takes.
        epoch: The newest owner's number.
        epochs: Owners that were heard, in order.
        gaps: Numbers that no reader of ours gets.
        late: Seconds after the first message of a newer owner, of messages of older ones.
    """

    count: int = 0
    number: int = 0
    epoch: int = 0
    epochs: list[int] = field(default_factory=list)
    gaps: int = 0
    late: list[float] = field(default_factory=list)
    since: float = 0.0
    last: int = 0

    @property
    def mixed(self) -> bool:
        """Whether two owners have run at the same time."""
        return any(one > LATE_SECONDS for one in self.late)


class Numbers:
    """Listens to `numbers/MODULE`. The payload is a count, which is the message's number too."""

    def __init__(self, port: int) -> None:
        self.modules: dict[str, Heard] = {}
        self._lock = threading.Lock()
        ready = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"numbers-{uuid.uuid4()}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_connect = self._listen
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(SECONDS)

    def _listen(self, *_: Any) -> None:
        self._client.subscribe("numbers/#", 1)

    def _take(self, client: Any, data: Any, message: Any) -> None:
        sender = None
        for name, value in getattr(message.properties, "UserProperty", ()):
            if name == SENDER:
                sender = MessageSender.decode(value)
        assert sender is not None
        number = int.from_bytes(message.payload, "little")
        with self._lock:
            one = self.modules.setdefault(message.topic.split("/")[1], Heard())
            one.count += 1
            one.last = number
            now = time.monotonic()
            if sender.epoch > one.epoch:
                one.epoch, one.since = sender.epoch, now
                one.epochs.append(sender.epoch)
            elif sender.epoch < one.epoch:
                one.late.append(now - one.since)
                return
            if number > one.number:
                one.gaps += number - one.number - 1
                one.number = number

    def of(self, name: str) -> Heard:
        """Return what a module has published."""
        with self._lock:
            return self.modules.get(name, Heard())

    def stop(self) -> None:
        """End listening."""
        self._client.disconnect()
        self._client.loop_stop()
