"""An orchestrator at a broker: messages come in, and what follows goes out.

A message can come twice, and one of ours can go out twice, if this process is killed between two
steps: before the broker knows that a message was used, or before the list knows that the broker has
ours. None is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from wasmsr.fleet.orchestrator.orchestrating import FleetOrchestrator
from wasmsr.fleet.settings import BrokerSettings
from wasmsr.mqtt.broker import BrokerEvents, BrokerLink

TICK_SECONDS: Final = 5.0
"""How often silent runtimes are looked for."""

Note = Callable[..., None]
"""Takes an event: its name, and values by name."""


class OrchestratorService:
    """Serves an orchestrator until `stop`.

    Args:
        orchestrator: The orchestrator.
        broker: The broker.
        note: Takes the events `connected`, `lost` (with `reason`) and `failed` (with `error`).
    """

    def __init__(self, orchestrator: FleetOrchestrator, broker: BrokerSettings, note: Note) -> None:
        self._orchestrator = orchestrator
        self._note = note
        self._turn = threading.Lock()
        """Held by the thread that publishes, so messages keep their order."""
        self._lock = threading.Lock()
        """Held to use the next two, and for nothing else."""
        self._under_way: dict[int, int] = {}
        """The number of a message in the list, by the number that the connection gave it."""
        self._early: set[int] = set()
        self._last = 0
        self._ended = threading.Event()
        self._lost = ""
        self.failure: BaseException | None = None
        name = f"wasmsr-orchestrator-{orchestrator.realm.name}"
        hears = BrokerEvents(self._take, self._connected, self._gone, _nothing)
        self.link = BrokerLink(broker, name, hears, orchestrator.subscriptions())
        says = BrokerEvents(_nothing, _nothing, _nothing, self._has)
        self._out = BrokerLink(broker, f"{name}-out", says)
        self._clock = threading.Thread(target=self._tick, name="wasmsr-fleet", daemon=True)

    def start(self) -> None:
        """Connect, in the background."""
        self._out.start()
        self.link.start()
        self._clock.start()

    def stop(self) -> None:
        """End the connection. What the broker does not have waits in the list."""
        self._ended.set()
        self._clock.join()
        self.link.stop()
        self._out.stop()

    # -- what happens ------------------------------------------------------------------------------

    def _take(self, topic: str, payload: bytes) -> None:
        self._do(lambda: self._orchestrator.receive(topic, payload))

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            if self.link.connected:
                self._do(self._orchestrator.tick)

    def _do(self, work: Callable[[], Any]) -> None:
        """Change the list and publish what follows; a failure of the list ends the service."""
        if self.failure is not None:
            raise self.failure
        try:
            work()
            self._publish()
        except Exception as error:
            self.failure = error
            self._note("failed", error=error)
            raise  # so the broker keeps the message

    def _connected(self) -> None:
        self._lost = ""
        self._note("connected")
        self._do(lambda: None)

    def _gone(self, reason: str) -> None:
        if reason != self._lost:
            self._lost = reason
            self._note("lost", reason=reason)

    def _publish(self) -> None:
        with self._turn:
            for one in self._orchestrator.fleet.outgoing(self._last):
                self._last = one.number
                # The client calls `_has` under a lock that `publish` takes: no lock of `_has` here.
                number = self._out.publish(one.topic, one.payload)
                with self._lock:
                    early = number in self._early
                    self._early.discard(number)
                    if not early:
                        self._under_way[number] = one.number
                if early:
                    self._orchestrator.fleet.sent(one.number)

    def _has(self, number: int) -> None:
        """Forget a message that the broker has; it can say so before `publish` has returned."""
        with self._lock:
            mine = self._under_way.pop(number, None)
            if mine is None:
                self._early.add(number)
        if mine is not None:
            self._orchestrator.fleet.sent(mine)


def _nothing(*_: object) -> None:
    pass
