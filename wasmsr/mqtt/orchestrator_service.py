"""An orchestrator at a broker: messages come in, and what follows goes out.

A message can come twice, and one of ours can go out twice, if this process is killed between two
steps: before the broker knows that a message was used, or before the list knows that the broker has
ours. None is lost.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from wasmsr.errors import HostError
from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.orchestrator.orchestrating import FleetOrchestrator
from wasmsr.fleet.orchestrator.rows import Outgoing
from wasmsr.fleet.settings import BrokerSettings
from wasmsr.mqtt.broker import BrokerEvents, BrokerLink

TICK_SECONDS: Final = 5.0
"""How often silent runtimes are looked for."""
END_SECONDS: Final = 5.0
"""How long the end waits for the broker to confirm what it was sent."""
WINDOW: Final = 1000
"""Messages that are under way at the same time. The others wait in the list, not in memory."""

PRESENCE: Final = "orchestrator"
"""Below `REALM/proc`: where orchestrators hear of each other."""
REGISTER: Final = "register"
"""Below `REALM/proc`: where devices ask who owns a module."""
HELLO: Final = "hello"
HERE: Final = "here"
ANSWER_SECONDS: Final = 10.0
"""How long after its question an orchestrator believes that there is another one."""

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
        self._lock = threading.Condition()
        """Held to use the next five, and for nothing else. The client holds a lock of its own when
        it calls `_has`, and takes that lock to publish."""
        self._news = True
        """Whether the list may have messages that were not published yet."""
        self._speaks = True
        self._under_way: dict[int, int] = {}
        """The number of a message in the list, by the number that the connection gave it."""
        self._early: set[int] = set()
        """Messages that the broker had before `publish` has returned."""
        self._had: list[int] = []
        """Messages that the broker has, by their numbers in the list, which still has them."""
        self._ended = threading.Event()
        self._lost = ""
        self._asked = float("-inf")
        self.failure: BaseException | None = None
        # Two with one id would take the connection from each other for ever. The same list has the
        # same id, so the broker keeps what is said while nobody has it open.
        self._who = sha256(os.fsencode(Path(orchestrator.fleet.path).resolve())).hexdigest()[:16]
        name = f"wasmsr-orchestrator-{orchestrator.realm.name}-{self._who}"
        self._place = f"{orchestrator.realm.name}/proc/{PRESENCE}"
        self._register = f"{orchestrator.realm.name}/proc/{REGISTER}"
        hears = BrokerEvents(self._take, self._connected, self._gone, _nothing)
        self.link = BrokerLink(broker, name, hears, orchestrator.subscriptions() | {self._place: 0})
        says = BrokerEvents(_nothing, _nothing, _nothing, self._has)
        self._out = BrokerLink(broker, f"{name}-out", says)
        self._clock = threading.Thread(target=self._tick, name="wasmsr-fleet", daemon=True)
        self._voice = threading.Thread(target=self._speak, name="wasmsr-fleet-out", daemon=True)

    def start(self) -> None:
        """Connect, in the background."""
        self._out.start()
        self.link.start()
        self._clock.start()
        self._voice.start()

    def stop(self) -> None:
        """End the connection. What the broker does not have waits in the list."""
        self._ended.set()
        self._clock.join()
        self.link.stop()
        with self._lock:
            self._speaks = False
            self._lock.notify_all()
        self._voice.join()
        with self._lock:
            if self._out.connected:  # what the broker half has would come a second time
                self._lock.wait_for(lambda: not self._under_way, END_SECONDS)
        self._out.stop()
        with suppress(FleetError):  # `failure` has it
            self._orchestrator.fleet.sent(*self._had)

    # -- what happens ------------------------------------------------------------------------------

    def _take(self, topic: str, payload: bytes, again: bool) -> None:
        if topic == self._place:
            self._meet(payload)
            return
        if topic == self._register:
            self._do(lambda: self._answer(payload))
            return
        self._do(lambda: self._orchestrator.receive(topic, payload, again))

    def _answer(self, payload: bytes) -> None:
        """Answer a question to the register, when the answer is in the list."""
        found = self._orchestrator.answer(payload)
        if found is not None:
            self.link.tell(*found)

    def _tick(self) -> None:
        with suppress(Exception):  # `failure` has it
            while not self._ended.wait(TICK_SECONDS):
                if self.link.connected:
                    self._do(self._orchestrator.tick)

    def _do(self, work: Callable[[], Any]) -> None:
        """Change the list, and have what follows published.

        A failure of the list ends the service. It is raised, so the broker keeps the message.
        """
        if self.failure is not None:
            raise self.failure
        try:
            work()
        except Exception as error:
            self._fail(error)
            raise
        with self._lock:
            self._news = True
            self._lock.notify_all()

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
            self._note("failed", error=error)

    def _connected(self) -> None:
        self._lost = ""
        self._note("connected")
        self._orchestrator.listen()
        self._asked = time.monotonic()
        self.link.tell(self._place, f"{HELLO} {self._who}".encode())

    def _meet(self, payload: bytes) -> None:
        """Hear of an orchestrator of the same realm: the one that comes later ends.

        An answer counts only for a while: everybody at the broker, modules too, could say it.
        """
        word, _, who = payload.decode(errors="replace").partition(" ")
        if who == self._who:
            return
        if word == HELLO:
            self.link.tell(self._place, f"{HERE} {self._who}".encode())
        elif word == HERE and time.monotonic() - self._asked < ANSWER_SECONDS:
            self._fail(
                HostError(
                    f"the realm {self._orchestrator.realm.name} has an orchestrator at the broker "
                    f"{self.link.settings.address} already",
                    hint="end the other one, or give this one another --realm",
                )
            )

    def _gone(self, reason: str) -> None:
        if reason != self._lost and self.failure is None:
            self._lost = reason
            self._note("lost", reason=reason)

    # -- messages that go out ----------------------------------------------------------------------

    def _speak(self) -> None:
        """Publish what the list has, in its order, and forget what the broker has."""
        last = 0
        try:
            while True:
                with self._lock:
                    self._lock.wait_for(lambda: self._news or self._had or not self._speaks)
                    if not self._speaks:
                        return
                    had, self._had, self._news = self._had, [], False
                    room = max(0, WINDOW - len(self._under_way))
                if had:
                    self._orchestrator.fleet.sent(*had)
                for one in self._orchestrator.fleet.outgoing(last, room):
                    last = one.number
                    self._publish(one)
        except Exception as error:  # noqa: BLE001  the service ends, and says why
            self._fail(error)

    def _publish(self, one: Outgoing) -> None:
        number = self._out.publish(one.topic, one.payload)
        with self._lock:
            if number in self._early:
                self._early.discard(number)
                self._had.append(one.number)
            else:
                self._under_way[number] = one.number

    def _has(self, number: int) -> None:
        """Note that the broker has a message."""
        with self._lock:
            mine = self._under_way.pop(number, None)
            if mine is None:
                self._early.add(number)
            else:
                self._had.append(mine)
            self._lock.notify_all()


def _nothing(*_: object) -> None:
    pass
