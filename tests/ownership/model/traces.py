"""Whether the model accepts what the code did: a sequence of events, each on a node.

Between two events the model may take any of its steps that the code does not tell, but no tick: in
these tests no lease ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.ownership.model.explore import Model, State
from tests.ownership.model.node import Bounds
from tests.ownership.model.state import world
from wasmsr.ownership.transitions import OwnerEvent

TOLD = {event.name for event in OwnerEvent}
"""The names of steps that the code tells."""

SILENT = {"no answer": "SILENT"}
"""Steps of the model that have another name in the table."""

DEPTH = 12
"""Steps between two events at most."""


def accepts(events: Sequence[tuple[int, str]]) -> str:
    """Return what the model does not accept, or "" if it accepts all of it."""
    model = Model(Bounds(2, 7, 7, 3, 3, effects=False, idle=True))
    states: set[State] = {model.first()}
    for number, (me, name) in enumerate(events):
        found: set[State] = set()
        for state in _quiet(model, states):
            for step in model.steps_of(me, state):
                if SILENT.get(step.name, step.name) == name:
                    found.add(_endless(model.apply(me, state, step)))
        if not found:
            return f"event {number} of {events}"
        states = found
    return ""


def _endless(state: State) -> State:
    """Return a state in which as many moves and faults may follow as at the beginning."""
    w = world(state[0])
    w.moves = w.faults = 3
    return (w.packed(), *state[1:])


def _quiet(model: Model, states: set[State]) -> set[State]:
    """Return all states that follow without an event that is told."""
    seen, last = set(states), set(states)
    for _ in range(DEPTH):
        fresh: set[State] = set()
        for state in last:
            for me in range(model.bounds.nodes):
                for step in model.steps_of(me, state):
                    name = SILENT.get(step.name, step.name)
                    if name in TOLD or name.startswith(("CRASH", "freezes")):
                        continue
                    after = model.apply(me, state, step)
                    if after not in seen:
                        seen.add(after)
                        fresh.add(after)
        if not fresh:
            break
        last = fresh
    return seen
