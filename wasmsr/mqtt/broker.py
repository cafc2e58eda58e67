"""Connections to a broker that come back. Source: OASIS, MQTT 5.0.

The client library keeps the state of a session in memory, so a process that is killed loses its
half. `BrokerLink` says what follows from that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wasmsr.errors import HostError, MissingPackageError
from wasmsr.fleet.settings import BrokerSettings

try:
    from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, MQTTMessage
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ImportError as missing:
    raise MissingPackageError("paho", "a fleet") from missing

SESSION_SECONDS: Final = 86_400
"""How long a broker keeps the session of a client that is away."""
ALIVE_SECONDS: Final = 20
"""How often a connection without messages says that it is there."""
FIRST_WAIT: Final = 1
LAST_WAIT: Final = 30
"""Seconds between two attempts to connect: 1, 2, 4 ... 30."""
LARGEST: Final = 2 << 20
"""Bytes of a packet that this end takes."""
REFUSED: Final = {134, 135}
"""Reason codes of MQTT 5 for a wrong name or password, and for a user without rights."""


@dataclass(frozen=True)
class BrokerEvents:
    """What a connection tells; a thread of the connection calls.

    Attributes:
        message: A message has come: its topic and payload. The broker keeps it until this returns,
            and may send it again.
        connected: The connection is there (again), and what this end listens to comes from now on.
        lost: It is not: the reason in words.
        confirmed: The broker has a message: what `publish` returned. The caller holds a lock that
            `publish` takes, so this must not wait for somebody who publishes.
    """

    message: Callable[[str, bytes], None]
    connected: Callable[[], None]
    lost: Callable[[str], None]
    confirmed: Callable[[int], None]


class BrokerLink:
    """One client of a broker. Any thread may call it.

    One that listens has a session that a new process takes over: the broker keeps what comes while
    nobody is there. It gets messages with QoS 1, and confirms one after it was used. With QoS 2 the
    broker would not send a message again that a killed process had taken and not used.

    One that speaks sends with QoS 2, so none comes twice when the connection is lost for a while.
    Its session begins anew with the process. Otherwise the broker could take the first message of
    a new process, by its number, for one that the killed process had sent.

    Args:
        settings: The broker.
        name: The client's id, which is the same after a restart.
        events: Whom it tells.
        filters: What it listens to; nothing for one that speaks.
        lasts: Whether the session outlives this process. It does not for a command that is soon
            over; then one connection may listen and speak.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        name: str,
        events: BrokerEvents,
        filters: Sequence[str] = (),
        *,
        lasts: bool = True,
    ) -> None:
        self.settings = settings
        self._lasts = lasts
        self._events = events
        self._filters = filters
        self._first = threading.Event()
        self._refusal: str | None = None
        client = self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )
        client.reconnect_delay_set(FIRST_WAIT, LAST_WAIT)
        client.max_queued_messages_set(0)
        if settings.user is not None or settings.password is not None:
            client.username_pw_set(settings.user, settings.password)
        if settings.tls:
            try:
                client.tls_set(None if settings.authority is None else str(settings.authority))
            except (OSError, ValueError) as error:
                raise HostError(f"the authorities of the broker cannot be read: {error}") from error
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_failure
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish

    def start(self) -> None:
        """Connect in the background, and subscribe whenever the connection is new."""
        session: Any = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = SESSION_SECONDS if self._lasts else 0
        session.MaximumPacketSize = LARGEST
        address = self.settings.address
        self._client.connect_async(
            address.host,
            address.port,
            ALIVE_SECONDS,
            clean_start=MQTT_CLEAN_START_FIRST_ONLY
            if not (self._filters and self._lasts)
            else False,
            properties=session,
        )
        self._client.loop_start()

    def wait(self, timeout: float) -> bool:
        """Return whether it has been connected, at the latest after so many seconds.

        Raises:
            HostError: The broker refuses this user.
        """
        found = self._first.wait(timeout)
        if self._refusal is not None:
            raise HostError(
                f"the broker at {self.settings.address} refuses us: {self._refusal}",
                hint="check the user's name and the password of the configuration",
            )
        return found

    @property
    def connected(self) -> bool:
        """Whether the connection is there now."""
        return bool(self._client.is_connected())

    def publish(self, topic: str, payload: bytes) -> int:
        """Send a message, exactly once (QoS 2); return the number that `confirmed` will give."""
        return int(self._client.publish(topic, payload, qos=2).mid)

    def deliver(self, topic: str, payload: bytes, timeout: float) -> bool:
        """Send a message, and return whether the broker has it after so many seconds at most."""
        sent = self._client.publish(topic, payload, qos=2)
        sent.wait_for_publish(timeout)
        return bool(sent.is_published())

    def stop(self) -> None:
        """End the connection; the broker keeps the session."""
        self._client.disconnect()
        self._client.loop_stop()

    # -- callbacks of the client -------------------------------------------------------------------

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._events.lost(str(reason))
            if reason.value in REFUSED and not self._first.is_set():
                self._refusal = str(reason)
                self._first.set()
            return
        if self._filters:
            options = SubscribeOptions(qos=1)
            client.subscribe([(one, options) for one in self._filters])
        else:
            self._ready()

    def _on_subscribe(self, client: Any, data: Any, number: int, reasons: Any, more: Any) -> None:
        refused = [str(one) for one in reasons if one.is_failure]
        if refused:
            self._events.lost(f"it refuses what we subscribe to: {refused[0]}")
        else:
            self._ready()

    def _ready(self) -> None:
        self._events.connected()
        self._first.set()

    def _on_failure(self, client: Any, data: Any) -> None:
        self._events.lost("nobody answers there")

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._events.lost(str(reason))

    def _on_message(self, client: Any, data: Any, message: MQTTMessage) -> None:
        self._events.message(message.topic, bytes(message.payload))

    def _on_publish(self, client: Any, data: Any, number: int, reason: Any, more: Any) -> None:
        self._events.confirmed(number)
