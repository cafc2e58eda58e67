"""Connections to a broker that come back. Source: OASIS, MQTT 5.0.

The client library keeps the state of a session in memory, so a process that is killed loses its
half. `BrokerLink` says what follows from that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wasmsr.errors import HostError, MissingPackageError
from wasmsr.fleet.settings import BrokerSettings

try:
    from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, MQTTMessage
    from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ImportError as missing:
    raise MissingPackageError("paho", "a fleet", extra="fleet") from missing

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
        message: A message has come: its topic, its payload, and whether the broker may have sent
            it before. The broker keeps it until this returns. If this raises an error, the
            connection ends, and the message comes again on the next one.
        connected: The connection is there (again), and what this end listens to comes from now on.
        lost: It is not: the reason in words.
        confirmed: The broker has a message: what `publish` returned. The caller holds a lock that
            `publish` takes, so this must not wait for somebody who publishes.
    """

    message: Callable[[str, bytes, bool], None]
    connected: Callable[[], None]
    lost: Callable[[str], None]
    confirmed: Callable[[int], None]


class _LastingClient(Client):
    """A client whose thread ends only when it is told to.

    The library connects again after an error of the network. Any other one, as for a packet that is
    not of the protocol, would end its thread, and nobody would hear of it.
    """

    def __init__(self, name: str, failed: Callable[[str], None]) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._failed = failed
        self.ended = threading.Event()

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """Serve the connection, and the next one, until `ended`."""
        pause = FIRST_WAIT
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except Exception as error:  # noqa: BLE001  whatever it is, there is a next connection
                self._failed(f"{type(error).__name__}: {error}")
            while not self.ended.wait(pause):
                pause = min(2 * pause, LAST_WAIT)
                try:
                    self.reconnect()
                    break
                except Exception as error:  # noqa: BLE001  as above
                    self._failed(f"{type(error).__name__}: {error}")
            if self.ended.is_set():
                return MQTTErrorCode.MQTT_ERR_SUCCESS


class BrokerLink:
    """One client of a broker. Any thread may call it.

    One that listens has a session that a new process takes over: the broker keeps what comes while
    nobody is there. It gets messages with QoS 1, and confirms one after it was used. With QoS 2 the
    broker would not send a message again that a killed process had taken and not used. What the
    broker retains does not come: it was said before.

    One that speaks sends with QoS 2, so none comes twice when the connection is lost for a while.
    Its session begins anew with the process. Otherwise the broker could take the first message of
    a new process, by its number, for one that the killed process had sent.

    Args:
        settings: The broker.
        name: The client's id, which is the same after a restart.
        events: Whom it tells.
        filters: What it listens to, with the QoS of each; nothing for one that speaks.
        lasts: Whether the session outlives this process. It does not for a command that is soon
            over; then one connection may listen and speak.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        name: str,
        events: BrokerEvents,
        filters: Mapping[str, int] | None = None,
        *,
        lasts: bool = True,
    ) -> None:
        self.settings = settings
        self._lasts = lasts
        self._events = events
        self._filters = dict(filters or {})
        self._first = threading.Event()
        self._news = threading.Condition()
        self._delivered: set[int] = set()
        """What the broker has, of a command that is soon over."""
        self._refusal: str | None = None
        client = self._client = _LastingClient(name, events.lost)
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
        session: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
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
        """Send a message, exactly once (QoS 2); return the number that `confirmed` will give.

        At most 65,535 messages can be under way.
        """
        while True:
            sent = self._client.publish(topic, payload, qos=2)
            if sent.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                return int(sent.mid)
            # A message that is still under way has this number. The next one may be free.

    def tell(self, topic: str, payload: bytes) -> bool:
        """Send a message to whoever listens now, at most once (QoS 0).

        Returns:
            Whether it was sent. False if there is no connection.
        """
        return self._client.publish(topic, payload, qos=0).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def deliver(self, topic: str, payload: bytes, timeout: float) -> bool:
        """Send a message, and return whether the broker has it after so many seconds at most.

        Only a link that does not last can wait so.
        """
        number = self.publish(topic, payload)
        with self._news:
            return self._news.wait_for(lambda: number in self._delivered, timeout)

    def stop(self) -> None:
        """End the connection; the broker keeps the session."""
        self._client.ended.set()
        self._client.disconnect()
        self._leave()

    def _leave(self) -> None:
        """End the client's thread, and close its socket."""
        self._client.loop_stop()
        self._client._sock_close()  # paho leaves it open where the broker had not let us in yet

    # -- callbacks of the client -------------------------------------------------------------------

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._events.lost(str(reason))
            if reason.value in REFUSED and not self._first.is_set():
                self._refusal = str(reason)
                self._first.set()
            return
        if self._filters:
            never = SubscribeOptions.RETAIN_DO_NOT_SEND
            client.subscribe(
                [
                    (one, SubscribeOptions(qos=qos, retainHandling=never))
                    for one, qos in self._filters.items()
                ]
            )
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
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of anybody
        self._events.message(topic, bytes(message.payload), message.dup)

    def _on_publish(self, client: Any, data: Any, number: int, reason: Any, more: Any) -> None:
        if not self._lasts:
            with self._news:
                self._delivered.add(number)
                self._news.notify_all()
        self._events.confirmed(number)
