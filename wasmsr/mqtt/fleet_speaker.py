"""A client that tells an orchestrator what to do, and hears what it or a module says."""

from __future__ import annotations

import queue
import secrets
from collections.abc import Sequence
from typing import Any, Final

from wasmsr.errors import HostError
from wasmsr.fleet.settings import BrokerSettings
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.messages import FleetMessage, decode
from wasmsr.fleet.wire.topics import FleetRealm
from wasmsr.mqtt.broker import BrokerEvents, BrokerLink

SECONDS: Final = 10.0
"""How long a command waits for the broker."""


class FleetSpeaker:
    """One connection for one command; use it as a context manager.

    Args:
        broker: The broker.
        realm: The topics.
        filters: What it hears beside errors of the orchestrator.
    """

    def __init__(
        self, broker: BrokerSettings, realm: FleetRealm, filters: Sequence[str] = ()
    ) -> None:
        self._realm = realm
        self._log = realm.topic("log", "orchestrator")
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._errors: queue.Queue[FleetMessage] = queue.Queue()
        self._why = "it does not answer"
        events = BrokerEvents(self._take, lambda: None, self._lost, lambda number: None)
        name = f"wasmsr-{secrets.token_hex(6)}"
        heard = dict.fromkeys((self._log, *filters), 1)
        self._link = BrokerLink(broker, name, events, heard, lasts=False)

    def __enter__(self) -> FleetSpeaker:
        self._link.start()
        try:
            if not self._link.wait(SECONDS):
                raise self._away()
        except BaseException:
            self._link.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop()

    def ask(self, action: str, data: dict[str, Any]) -> None:
        """Send a request to the orchestrator; return when the broker has it.

        Raises:
            WireError: It is no request that an orchestrator takes.
            HostError: The broker is away.
        """
        payload = FleetMessage(action, data).encode()
        decode(payload).kind("control")
        if not self._link.deliver(self._realm.topic("control"), payload, SECONDS):
            raise self._away()

    def refusal(self, words: Sequence[str]) -> str | None:
        """Return the first error of the orchestrator that names one of these, if it said any.

        Errors have no id of the request, so one is known by what it names.
        """
        while True:
            try:
                message = self._errors.get_nowait()
            except queue.Empty:
                return None
            value = message.data.get("data")
            named = value if isinstance(value, str) else ""
            if named in words or any(word in named for word in words):
                return f"{message.data.get('desc')}: {named}"

    def _away(self) -> HostError:
        return HostError(
            f"no broker at {self._link.settings.address}: {self._why}",
            hint="say with --mqtt where it is",
        )

    def _take(self, topic: str, payload: bytes, again: bool) -> None:
        if topic != self._log:
            self.heard.put((topic, payload))
            return
        try:
            message = decode(payload)
        except WireError:
            return  # nobody knows what it means
        self._errors.put(message)

    def _lost(self, reason: str) -> None:
        self._why = reason
