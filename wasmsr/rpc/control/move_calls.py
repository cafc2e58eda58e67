"""The calls of the control service that move programs."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from wasmsr.migrate.events import Event
from wasmsr.migrate.protocol import MOST_ROUNDS
from wasmsr.migrate.rounds.convergence import MovePolicy
from wasmsr.node.failures import NodeError, SubmissionRefused
from wasmsr.node.moving.drain import AT_ONCE, Drain
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.rpc.control import control_messages as messages
from wasmsr.rpc.control.program_info import program_out
from wasmsr.rpc.control.standard_services import ControlCall, first_of
from wasmsr.runspec.address import Address

MOST_DOWNTIME = 3600.0
"""Seconds of predicted downtime that a caller may allow."""

LOOK_SECONDS = 1.0
"""Seconds between two looks whether a caller still waits."""


class MoveCalls:
    """Methods that move programs, under their names in the service."""

    def __init__(self, node: NodeSupervisor, stopped: threading.Event) -> None:
        self._node, self._stopped = node, stopped

    def migrate(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        """Move one program; yield events, and last the program."""
        request = first_of(requests)
        program = self._node.find(request.program)
        address, policy = _address(request.to), _policy(request.policy)
        moves = self._node.moves

        def work(tell: Callable[[Event], None]) -> None:
            moves.migrate(program, address, policy, tell)

        for event in self._events(work, call):
            yield messages.MigrateReply(event=event)
        yield messages.MigrateReply(program=program_out(program.shown()))

    def drain(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        """Move all programs; yield events, and last what was moved and what is left."""
        request = first_of(requests)
        if not (request.deadline == 0 or 0 < request.deadline <= 86_400):
            raise SubmissionRefused("a drain has up to 86,400 seconds")
        drain_policy, to = _policy(request.policy), [_address(one) for one in request.to]
        results = []

        def work(tell: Callable[[Event], None]) -> None:
            drain = Drain(
                self._node.moves, self._node.programs, to,
                at_once=request.at_once or AT_ONCE, deadline=request.deadline or None,
                policy=drain_policy, tell=tell,
            )  # fmt: skip
            results.append(drain.run())

        for event in self._events(work, call):
            yield messages.DrainReply(event=event)
        left = [messages.DrainResult.Left(program=id, reason=why) for id, why in results[0].left]
        yield messages.DrainReply(result=messages.DrainResult(moved=results[0].moved, left=left))

    def _events(
        self, work: Callable[[Callable[[Event], None]], None], call: ControlCall
    ) -> Iterator[Any]:
        """Yield the events of moves that a thread makes; it goes on if the caller leaves."""
        told: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                work(told.put)
            except BaseException as error:  # noqa: BLE001 (raised in the thread of the call)
                failed.append(error)
            told.put(None)

        threading.Thread(target=run, name="wasmsr-move", daemon=True).start()
        while True:
            try:
                event = told.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if not call.is_active() or self._stopped.is_set():
                    raise NodeError("the node is being stopped") from None
                continue
            if event is None:
                break
            values = json.dumps(event.values, default=str)
            yield messages.MoveEventMessage(kind=event.kind, text=event.text, values=values)
        if failed:
            raise failed[0]


def _address(text: str) -> str:
    try:
        return str(Address.parse(text))
    except ValueError as error:
        raise SubmissionRefused(str(error)) from None


def _policy(message: Any) -> MovePolicy:
    """Return the policy of a message. Raises SubmissionRefused."""
    plain = MovePolicy()
    if not 0 <= message.max_downtime <= MOST_DOWNTIME:
        raise SubmissionRefused(f"a downtime is at most {MOST_DOWNTIME:.0f} seconds")
    if message.max_rounds > MOST_ROUNDS:
        raise SubmissionRefused(f"a move has at most {MOST_ROUNDS} rounds")
    return MovePolicy(
        message.max_downtime or plain.max_downtime,
        message.max_rounds or plain.max_rounds,
        message.stop_and_copy,
        message.auto_converge,
    )


__all__ = ["MoveCalls"]
