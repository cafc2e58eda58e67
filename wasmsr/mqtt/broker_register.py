"""The register of a fleet, asked over the broker: the orchestrator has the records.

A question and its answer are messages with the same `object_id`, sent at most once. A question that
is lost, or whose answer is, gets none, and `ownership.register` finds out what became of it. So the
broker keeps no old question for an orchestrator that is away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.messages import FleetMessage, decode
from wasmsr.fleet.wire.topics import FleetRealm
from wasmsr.ownership.failures import RegisterAway, RegisterDamaged
from wasmsr.ownership.register import Unanswered

ANSWER_SECONDS: Final = 2.0
"""How long a question waits for its answer."""

Tell = Callable[[str, bytes], bool]
"""Sends a message at most once; returns whether it was sent."""


class BrokerRegister:
    """A backend of a register; see `RegisterBackend`. Any thread but the connection's may call it.

    Args:
        wanted: Returns the ids of the programs that this node may own. It is told of them by the
            orchestrator, and looks at no others.
        patience: As `ANSWER_SECONDS`.
    """

    def __init__(self, wanted: Callable[[], list[bytes]], patience: float = ANSWER_SECONDS) -> None:
        self._wanted, self._patience = wanted, patience
        self._news = threading.Condition()
        self._answers: dict[str, FleetMessage | None] = {}
        """Of each question that waits, its answer."""
        self._tell: Tell | None = None
        self._topic = self._runtime = ""

    def attach(self, tell: Tell, realm: FleetRealm, runtime: str) -> None:
        """Begin to ask.

        Args:
            tell: Sends questions.
            realm: The topics.
            runtime: The UUID of this device's runtime, to which answers go.
        """
        with self._news:
            self._tell, self._runtime = tell, runtime
            self._topic = realm.topic("register")

    def hear(self, payload: bytes) -> None:
        """Take an answer; the connection's thread calls it."""
        try:
            message = decode(payload)
            if message.kind("register") != "verdict" or message.object_id is None:
                return
        except WireError:
            return  # it is no answer of an orchestrator
        with self._news:
            if message.object_id in self._answers:
                self._answers[message.object_id] = message
                self._news.notify_all()

    def close(self) -> None:
        """Ask no more; questions that wait get no answer."""
        with self._news:
            self._tell = None
            self._answers.clear()
            self._news.notify_all()

    # -- what a register needs ---------------------------------------------------------------------

    def get(self, program: bytes) -> bytes | None:
        """Return the newest bytes of a program; see `RegisterBackend.get`."""
        try:
            said = self._ask("read", {"program": program.hex()})
        except Unanswered as error:
            raise RegisterAway(str(error)) from error  # to ask changes nothing
        if "record" not in said:
            raise RegisterDamaged("the orchestrator answers without a record")
        record = said["record"]
        return None if record is None else str(record).encode()

    def compare_and_swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        """Replace the bytes if they are `old`; see `RegisterBackend.compare_and_swap`."""
        said = self._ask(
            "swap",
            {
                "program": program.hex(),
                "old": None if old is None else old.decode(),
                "new": new.decode(),
            },
        )
        if "done" not in said:
            raise Unanswered("the orchestrator does not say whether it swapped the record")
        return bool(said["done"])

    def programs(self) -> list[bytes]:
        """Return the ids of the programs that this node may own."""
        return sorted(self._wanted())

    def _ask(self, action: str, data: dict[str, Any]) -> Any:
        """Return the data of the answer to a question.

        Raises:
            RegisterAway: Nothing has happened, and will not.
            Unanswered: No answer came.
        """
        message = FleetMessage(action, {"runtime": self._runtime, **data})
        number, payload = str(message.object_id), message.encode()
        with self._news:
            tell = self._tell
            self._answers[number] = None
        try:
            if tell is None or not tell(self._topic, payload):
                raise RegisterAway("the register of the fleet: there is no connection to a broker")
            answer = self._wait(number)
        finally:
            with self._news:
                self._answers.pop(number, None)
        if answer is None:
            raise Unanswered("the register of the fleet: its orchestrator does not answer")
        if answer.data["result"] != "ok":
            said = answer.data.get("message", "")
            raise RegisterAway(f"the register of the fleet refuses the question: {said}")
        return answer.data

    def _wait(self, number: str) -> FleetMessage | None:
        end = time.monotonic() + self._patience
        with self._news:
            self._news.wait_for(
                lambda: self._answers.get(number, self) is not None, end - time.monotonic()
            )
            return self._answers.get(number)


__all__ = ["BrokerRegister"]
