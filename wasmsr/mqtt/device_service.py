"""A device of a fleet at a broker: it registers, says that it is there, and hears requests.

One connection does all. It says with QoS 1, so what it has said comes in order, and once more after
a lost connection; modules of ours drop what comes twice. What this device sends does not come back
to it (MQTT 5, no local).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.enums import MessageState, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from wasmsr.errors import WasmsrError
from wasmsr.fleet.device.device import ModuleDevice
from wasmsr.fleet.device.hub import MessageSender, WrittenMessage
from wasmsr.fleet.settings import BrokerSettings
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.messages import FleetMessage, decode
from wasmsr.mqtt.broker import ALIVE_SECONDS, LARGEST, SESSION_SECONDS, BrokerEvents, BrokerLink
from wasmsr.mqtt.broker_register import BrokerRegister

SENDER: Final = "wasmsr"
"""The user property that names who wrote a message."""
LAST_WAIT: Final = 30.0
"""Seconds between two attempts to register: 1, 2, 4 ... 30."""
KEEPALIVE_SECONDS: Final = 60.0
"""How often it says that it is there, until an orchestrator says how often it wants that."""
AWAY_SECONDS: Final = 1.0
"""How often it looks whether the broker is there again, which that tells anyway."""
END_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 5.0
"""How long a snapshot waits for the broker to have what was written before it."""
MOST_BYTES: Final = 32 << 20
MOST_MESSAGES: Final = 16_384
"""What may wait for the broker before modules that write wait, too."""


class DeviceLink(BrokerLink):
    """The connection of a device; `DeviceLine` of `wasmsr.fleet.device.device`.

    Args:
        settings: The broker.
        name: The client's id.
        events: Whom it tells; messages go to `heard` instead.
        heard: Takes topic, payload and sender of each message.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        name: str,
        events: BrokerEvents,
        heard: Callable[[str, bytes, MessageSender | None], None],
    ) -> None:
        super().__init__(settings, name, events)
        self._heard = heard
        self._subscribing = threading.Lock()
        self._wanted: dict[str, int] = {}
        """How often each filter is wanted: by the device, and by its modules."""
        self._counting = threading.Condition()
        self._sizes: dict[int, int] = {}
        """Bytes of each message that the broker does not have yet, by its number."""
        self._early: set[int] = set()
        self._told: set[int] = set()
        """Messages that are sent once and not counted."""
        self._leased: dict[int, tuple[str, WrittenMessage]] = {}
        """Messages that can be called back, by their numbers: who wrote them, and what they are."""
        self._waiting = 0

    def will(self, topic: str, payload: bytes) -> None:
        """Say what the broker publishes when the connection is lost; before `start`."""
        self._client.will_set(topic, payload, qos=2)

    def start(self) -> None:
        """Connect in the background. What an earlier process has missed does not come."""
        session: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = SESSION_SECONDS
        session.MaximumPacketSize = LARGEST
        address = self.settings.address
        self._client.connect_async(
            address.host, address.port, ALIVE_SECONDS, clean_start=MQTT_CLEAN_START_FIRST_ONLY,
            properties=session,
        )  # fmt: skip
        self._client.loop_start()

    def publish(
        self,
        topic: str,
        payload: bytes,
        sender: MessageSender | None = None,
        leased: str | None = None,
    ) -> int:
        """Send a message, at least once, unless it is called back.

        Args:
            topic: Its topic.
            payload: Its bytes.
            sender: The module that wrote it, or None.
            leased: The name by which `recall` finds it, or None.
        """
        more: Any = None
        if sender is not None:
            more = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            more.UserProperty = [(SENDER, sender.encode())]
        while True:
            sent = self._client.publish(topic, payload, qos=1, properties=more)
            if sent.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                break
            # A message that waits has this number, so this one was not taken. The next may be free.
        number = int(sent.mid)
        with self._counting:
            if number in self._early:  # the broker was faster than this thread
                self._early.discard(number)
            else:
                self._sizes[number] = len(payload)
                self._waiting += len(payload)
                if leased is not None and sender is not None:
                    self._leased[number] = leased, WrittenMessage(topic, payload, sender)
        return number

    def recall(self, name: str) -> list[WrittenMessage]:
        """Take back what a module has written and the broker has not said that it has, in order.

        The client library would send it again, however late, when the connection is there again.
        What is on its way may be at the broker already.
        """
        client, found = self._client, []
        with client._out_message_mutex:
            with self._counting:
                numbers = [one for one, (who, _) in self._leased.items() if who == name]
            for number in numbers:
                kept = client._out_messages.pop(number, None)
                if kept is None:
                    continue
                if kept.state == MessageState.MQTT_MS_WAIT_FOR_PUBACK:
                    client._inflight_messages -= 1
                with self._counting:
                    self._waiting -= self._sizes.pop(number, 0)
                    found.append(self._leased.pop(number)[1])
                    self._counting.notify_all()
            if client.is_connected():
                client._update_inflight()  # others have waited for the room
        return found

    def settle(self, name: str) -> bool:
        """Wait until the broker has what a module under a lease has written until now.

        Returns:
            Whether it has, after `SETTLE_SECONDS` at most; or nothing of it is to be sent any more,
            because it was called back.
        """
        with self._counting:
            numbers = {number for number, (who, _) in self._leased.items() if who == name}
            return self._counting.wait_for(
                lambda: not numbers & self._leased.keys(), SETTLE_SECONDS
            )

    def tell(self, topic: str, payload: bytes) -> bool:
        """Send a message at most once; return whether it was sent."""
        if not self._client.is_connected():
            return False  # the library would give it a number, of which it has 65,535
        sent = self._client.publish(topic, payload, qos=0)
        with self._counting:
            if sent.mid in self._early:
                self._early.discard(sent.mid)
            else:
                self._told.add(sent.mid)
        return sent.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def full(self) -> bool:
        """Return whether so much waits for the broker that whoever sends more should wait.

        The client library keeps what waits in memory, and gives each message one of 65,535 numbers.
        """
        return self._waiting > MOST_BYTES or len(self._sizes) > MOST_MESSAGES

    def _on_publish(self, client: Any, data: Any, number: int, reason: Any, more: Any) -> None:
        with self._counting:
            size = self._sizes.pop(number, None)
            if self._leased.pop(number, None) is not None:
                self._counting.notify_all()
            if size is not None:
                self._waiting -= size
            elif number in self._told:
                self._told.discard(number)
            else:
                self._early.add(number)
        super()._on_publish(client, data, number, reason, more)

    def subscribe(self, text: str) -> None:
        """Have the broker send what fits a filter, now and after each new connection.

        It does not wait for the broker's answer. The hub calls this with its lock, which the
        connection's thread needs for the next message: the answer would not come. What is
        published after this comes to the broker after it.
        """
        with self._subscribing:
            self._wanted[text] = self._wanted.get(text, 0) + 1
            if self._wanted[text] == 1 and self._client.is_connected():
                self._client.subscribe(text, options=_options())

    def unsubscribe(self, text: str) -> None:
        """Have it send that no more, if nobody else wants it.

        A module may read what the device listens to itself, and must not end that.
        """
        with self._subscribing:
            left = self._wanted.pop(text, 1) - 1
            if left:
                self._wanted[text] = left
            elif self._client.is_connected():
                self._client.unsubscribe(text)

    def stop(self) -> None:
        """Say the rest, and end the connection and its session."""
        until = time.monotonic() + END_SECONDS
        while self._client.is_connected() and self._client._out_messages:
            if time.monotonic() >= until:
                break
            time.sleep(0.01)
        self._client.ended.set()
        gone: Any = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        gone.SessionExpiryInterval = 0
        self._client.disconnect(properties=gone)
        self._leave()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if not reason.is_failure:
            for text in list(self._wanted):
                client.subscribe(text, options=_options())
        super()._on_connect(client, data, flags, reason, more)

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        with self._counting:
            self._told.clear()  # what was not sent by now is not sent any more
        super()._on_disconnect(client, data, flags, reason, more)

    def _on_subscribe(self, client: Any, data: Any, number: int, reasons: Any, more: Any) -> None:
        refused = [str(one) for one in reasons if one.is_failure]
        if refused:
            self._events.lost(f"it refuses what we subscribe to: {refused[0]}")

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of anybody
        sender = None
        for name, value in getattr(message.properties, "UserProperty", ()):
            if name == SENDER:
                sender = MessageSender.decode(value)
        self._heard(topic, bytes(message.payload), sender)


def _options() -> SubscribeOptions:
    return SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)


class DeviceService:
    """Serves a device until `stop`.

    Args:
        broker: The broker.
        name: The client's id, which is the same after a restart.
        note: Takes the events `connected`, `registered` and `lost` (with `reason`).
        register: Where the node asks who owns a program; None if it asks nobody here.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        name: str,
        note: Callable[..., None],
        register: BrokerRegister | None = None,
    ) -> None:
        self._note, self._owners = note, register
        self._lost = ""
        self._lock = threading.Condition()
        self._connections = 0
        self._pending: set[str] = set()
        """Ids of registrations that are not answered."""
        self._every = KEEPALIVE_SECONDS
        self._ended = False
        self._device: ModuleDevice | None = None
        events = BrokerEvents(_nothing, self._connected, self._gone, _nothing)
        self.link = DeviceLink(broker, name, events, self._heard)
        self._thread = threading.Thread(target=self._serve, name="wasmsr-device", daemon=True)

    def start(self, device: ModuleDevice, *, again: bool) -> None:
        """Connect, in the background, and register.

        Args:
            device: The device.
            again: Whether an earlier process of it may be registered: its modules are gone.
        """
        self._device = device
        topic, will = device.departure()
        self.link.will(topic, will.encode())
        for text in device.subscriptions():
            self.link.subscribe(text)
        self._again = again
        if self._owners is not None:
            self._owners.attach(self.link.tell, device.realm, device.identity.runtime)
        self.link.start()
        self._thread.start()

    def stop(self) -> None:
        """Say that the device is gone, and end the connection."""
        with self._lock:
            self._ended = True
            self._lock.notify_all()
        self._thread.join()
        device = self._of()
        topic, message = device.departure()
        if self.link.connected:
            self.link.publish(topic, message.encode())
        self.link.stop()

    def _of(self) -> ModuleDevice:
        assert self._device is not None
        return self._device

    # -- what happens ------------------------------------------------------------------------------

    def _connected(self) -> None:
        self._lost = ""
        self._note("connected", broker=self.link.settings.address)
        with self._lock:
            self._connections += 1
            self._lock.notify_all()

    def _gone(self, reason: str) -> None:
        if reason != self._lost:
            self._lost = reason
            self._note("lost", broker=self.link.settings.address, reason=reason)

    def _heard(self, topic: str, payload: bytes, sender: MessageSender | None) -> None:
        device = self._of()
        found = device.realm.find(topic)
        kind = None if found is None else found.kind
        try:
            ours = found is not None and found.ids == (device.identity.runtime,)
            if kind == "control" and ours:
                device.control(payload)
            elif kind == "reg":
                self._answered(payload)
            elif kind == "register" and ours:
                if self._owners is not None:
                    self._owners.hear(payload)
            else:
                device.hear(topic, payload, sender)
        except (WasmsrError, OSError) as error:
            self._note("trouble", error=str(error))
        except Exception as error:  # noqa: BLE001  the broker would send it again for ever
            self._note("trouble", error=f"{type(error).__name__}: {error}")

    def _answered(self, payload: bytes) -> None:
        try:
            message = decode(payload)
        except WireError:
            return
        if message.type != "resp" or message.data.get("result") != "ok":
            return
        details = message.data.get("details")
        every = details.get("ka_interval_sec") if isinstance(details, dict) else None
        with self._lock:
            if message.object_id not in self._pending:
                return
            self._pending.discard(message.object_id)
            if type(every) is int and every > 0:
                self._every = float(every)
            done = not self._pending
            self._lock.notify_all()
        if done:
            self._note("registered", runtime=self._of().identity.runtime)

    # -- the thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Register on each connection until that is answered, and say from time to time that the
        device is there."""
        known, wait = 0, 1.0
        next_try = next_word = float("inf")
        while True:
            with self._lock:
                now = time.monotonic()
                if not self._ended and self._connections == known:
                    # While the broker is away nothing is due: a word that is late would not wait.
                    due = min(next_try, next_word) if self.link.connected else now + AWAY_SECONDS
                    self._lock.wait(max(0.0, min(due, now + LAST_WAIT) - now))
                if self._ended:
                    return
                fresh, known = self._connections != known, self._connections
                pending = bool(self._pending)
            if not self.link.connected:
                continue
            now = time.monotonic()
            if fresh:
                self._greet(known == 1)
                wait = 1.0
                next_try, next_word = now + wait, now + self._every
            elif pending and now >= next_try:
                self._register()
                wait = min(2 * wait, LAST_WAIT)
                next_try = now + wait
            if not self._pending:
                next_try = float("inf")
            if now >= next_word:
                self._say(*self._of().keepalive())
                next_word = now + self._every

    def _greet(self, first: bool) -> None:
        """Say on a new connection what an orchestrator must know, in this order."""
        device = self._of()
        if first and self._again:
            self._say(*device.departure())
        elif not first:
            self._say(*device.keepalive())  # what runs here has run on
        self._register()

    def _register(self) -> None:
        messages = self._of().registrations()
        with self._lock:
            self._pending = {str(one.object_id) for _, one in messages}
        for topic, message in messages:
            self._say(topic, message)

    def _say(self, topic: str, message: FleetMessage) -> None:
        self.link.publish(topic, message.encode())


def _nothing(*_: object) -> None:
    pass


__all__ = ["DeviceLink", "DeviceService"]
