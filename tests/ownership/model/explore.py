"""The search: every state that can be reached, breadth first, and what must hold in each.

1. A program runs on a node only if the register names this node and its epoch at that moment. So
   there are never two.
2. No effect of an older epoch counts after one of a newer epoch; every effect of the owner counts.
3. An epoch has one owner, and the record never goes back.
4. No state of a move is dropped while a swap that hands it over can still count, and no late swap
   hands a state over from which the program has gone on.
5. From every state, when all are up and all messages arrive, exactly one node runs the program, and
   nobody is in doubt. (This is tried for a part of the states, chosen by their hash.)
"""

from __future__ import annotations

import marshal
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from tests.ownership.model.node import (
    NONE,
    RECEIVED,
    RUNNING,
    Bounds,
    Node,
    Rules,
    Step,
)
from tests.ownership.model.state import (
    NODE,
    NODE_BITS,
    WORLD_BITS,
    node,
    world,
)

State = tuple[int, ...]
"""The world, and each node."""

MIX = 0x9E3779B97F4A7C15
"""Spreads the states that are settled over all of them (the golden ratio)."""

STATE = NODE["state"][1]
JOURNALED = NODE["journaled"][1] << NODE["journaled"][0]
FROZEN = NODE["frozen"][1] << NODE["frozen"][0]

SETTLE_STEPS = 300
"""Steps in which everything must be settled."""

ORDER = (
    "thaw", "an effect arrives", "NOTICE", "ADOPT", "a late question arrives", "register answers",
    "DONE", "GRANTED", "GRANTED_LATE", "RENEWED", "RENEWED_LATE", "REFUSED", "STALE", "MOVED",
    "an answer that nobody waits for", "the late swap is answered",
    "reads what became of the attempt", "asks for the swap late", "ends what its journal offers",
    "DECIDED", "DECIDED_LATE", "DROPPED", "READY",
    "READY of another attempt", "Commit of another attempt", "an offer is lost", "GIVE_UP",
    "TWO_THIRDS", "DEADLINE", "no answer", "claims again", "renews", "observes", "TAKE", "CREATE",
)  # fmt: skip
"""Which step comes first when everything works again. Others do not happen then."""

RANK = {name: rank for rank, name in enumerate(ORDER)}


class Violation(Exception):
    """A property does not hold."""


class Model:
    """The states of all nodes together."""

    def __init__(self, bounds: Bounds, rules: Rules | None = None) -> None:
        self.bounds = bounds
        self.rules = rules or Rules()
        self.nodes = [Node(me, bounds, self.rules) for me in range(bounds.nodes)]
        self.not_fresh = self.nodes[0].not_fresh
        self._steps: list[dict[tuple[int, int], list[Step]]] = [{} for _ in self.nodes]
        self._ticks: list[dict[int, list[int]]] = [{} for _ in self.nodes]
        self._wrong: list[dict[tuple[int, int], str]] = [{} for _ in self.nodes]
        self.settled: set[int] = set()
        self._far: Model | None = None

    def first(self) -> State:
        w = world()
        w.owner, w.faults, w.moves = 7, self.bounds.faults, self.bounds.moves
        return (w.packed(), *[0] * self.bounds.nodes)

    def pack(self, state: State) -> int:
        packed = state[0]
        at = WORLD_BITS
        for value in state[1:]:
            packed |= value << at
            at += NODE_BITS
        return packed

    def unpack(self, packed: int) -> State:
        mask = (1 << NODE_BITS) - 1
        found = [packed & ((1 << WORLD_BITS) - 1)]
        packed >>= WORLD_BITS
        for _ in self.nodes:
            found.append(packed & mask)
            packed >>= NODE_BITS
        return tuple(found)

    def steps_of(self, me: int, state: State) -> list[Step]:
        """All steps of a node but for the clock."""
        found = self._alone(me, state)
        value = state[me + 1]
        if value & FROZEN:
            return found
        if value & JOURNALED and value & STATE == NONE:
            n = node(value)
            if n.ask or n.answer or not n.fresh:
                return found
            step = self.nodes[me].settles(state[0], value, state[n.to + 1])
            return found if step is None else [*found, step]
        if value & STATE != RECEIVED:
            return found
        n = node(value)
        source = state[n.source + 1]
        if source & FROZEN or self.nodes[n.source].tries(source, n.attempt):
            return found
        step = self.nodes[me].dropped(state[0], value, source)
        return found if step is None else [*found, step]

    def _alone(self, me: int, state: State) -> list[Step]:
        key = state[0], state[me + 1]
        cache = self._steps[me]
        found = cache.get(key)
        if found is None:
            if len(cache) > 2_000_000:
                cache.clear()
            found = cache[key] = self.nodes[me].steps(*key)
        return found

    def apply(self, me: int, state: State, step: Step) -> State:
        after = [value & self.not_fresh for value in state] if step.swapped else list(state)
        after[0] = step.world
        after[me + 1] = step.node
        if step.message is not None:
            other, room, bits = step.message
            after[other + 1] = after[other + 1] & room | bits
        return tuple(after)

    def ticks(self, state: State) -> list[State]:
        """One tick: at most one clock is not right."""
        choices = []
        for me, cache in enumerate(self._ticks):
            n = state[me + 1]
            found = cache.get(n)
            if found is None:
                found = cache[n] = self.nodes[me].tick(n)
            if not found:
                return []
            choices.append(found)
        right = [found[0] for found in choices]
        after = [(state[0], *right)]
        for me, found in enumerate(choices):
            for other in found[1:]:
                changed = list(right)
                changed[me] = other
                after.append((state[0], *changed))
        return after

    def show(self, state: State) -> list[str]:
        """Return a state as text."""
        return [f"    world {world(state[0])}", *(f"    node {node(n)}" for n in state[1:])]

    def successors(self, state: State) -> Iterator[tuple[str, str, State]]:
        """Yield (name, what is wrong, state) for everything that can happen next."""
        for me in range(len(self.nodes)):
            for step in self.steps_of(me, state):
                yield step.name, step.wrong, self.apply(me, state, step)
        for after in self.ticks(state):
            yield "tick", "", after

    def wrong(self, state: State) -> str:
        """What is wrong with a state, or ""."""
        w = state[0]
        for me, cache in enumerate(self._wrong):
            key = w, state[me + 1]
            found = cache.get(key)
            if found is None:
                if len(cache) > 2_000_000:
                    cache.clear()
                found = cache[key] = self.nodes[me].wrong(*key)
            if found:
                return found
        return ""

    # ---- nobody stays in doubt -------------------------------------------------------------------

    def settle(self, state: State) -> str:
        """What is wrong when everything works again from this state on, or ""."""
        if self._far is None:
            wide = Bounds(self.bounds.nodes, epochs=7, attempts=7, faults=0, moves=0)
            self._far = Model(wide, self.rules)
        far = self._far
        w = world(state[0])
        w.faults = w.moves = 0
        state = (w.packed(), *state[1:])
        path = []
        for _ in range(SETTLE_STEPS):
            packed = far.pack(state)
            if packed in self.settled:
                break
            path.append(packed)
            if far.quiet(state):
                break
            after = far.next_when_all_works(state)
            if after is None:
                w = world(state[0])
                if w.attempts >= 7 or w.epoch >= 7 or w.epoch == 0:
                    return ""  # the bounds of the model end here
                return "somebody stays in doubt: nothing can happen any more"
            state = after
        else:
            return "somebody stays in doubt: it takes too long"
        self.settled.update(path)
        return ""

    def quiet(self, state: State) -> bool:
        """Return whether one node runs the program and all others have nothing of it."""
        w = world(state[0])
        running = 0
        for me, value in enumerate(state[1:]):
            n = node(value)
            if n.late or n.ask or n.answer or n.offered or n.ready or n.commit or n.frozen:
                return False
            if n.state == RUNNING and w.owner == self.nodes[me].id(n) and w.epoch == n.epoch:
                running += 1
            elif n.state != NONE or n.journaled:
                return False
        return bool(running == (w.epoch > 0))  # without a record the program never began

    def next_when_all_works(self, state: State) -> State | None:
        best, after = len(ORDER), None
        for me in range(len(self.nodes)):
            for step in self.steps_of(me, state):
                rank = RANK.get(step.name, best)
                if rank < best:
                    best, after = rank, self.apply(me, state, step)
        ticks = self.ticks(state)
        # Time passes only if nothing else is due; what watches may wait.
        return after if after is not None else ticks[0] if ticks else None


class Explored(Protocol):
    """What a search needs of a model."""

    bounds: Any

    def first(self) -> State:
        """Return the first state."""

    def pack(self, state: State) -> int:
        """Return a state as one number."""

    def unpack(self, packed: int) -> State:
        """Return the state of a number."""

    def show(self, state: State) -> list[str]:
        """Return a state as text."""

    def successors(self, state: State) -> Iterator[tuple[str, str, State]]:
        """Yield (name, what is wrong, state) for everything that can happen next."""

    def wrong(self, state: State) -> str:
        """Return what is wrong with a state, or ""."""

    def settle(self, state: State) -> str:
        """Return what is wrong when everything works again from this state on, or ""."""


class Search:
    """A breadth-first search that can be stopped and continued."""

    def __init__(self, model: Explored, *, sample: int = 64, parents: bool = False) -> None:
        """Search all states of `model`; `sample`: every how many states are settled."""
        self.model = model
        self.sample = sample
        self.seen: set[int] = set()
        self.front: list[int] = []
        self.next: list[int] = []
        self.depth = 0
        self.steps = 0
        self.sampled = 0
        self.parents: dict[int, tuple[int, str]] | None = {} if parents else None
        start = model.pack(model.first())
        self.seen.add(start)
        self.front.append(start)

    def run(self, states: int, seconds: float = 1e9) -> bool:
        """Search until there are so many states; True if all were seen.

        Raises:
            Violation: A property does not hold.
        """
        end = time.monotonic() + seconds
        model, seen = self.model, self.seen
        while self.front:
            while self.front:
                if len(seen) >= states or (not self.steps & 255 and time.monotonic() > end):
                    return False
                packed = self.front.pop()
                self.steps += 1
                state = model.unpack(packed)
                if (packed * MIX >> 50) % self.sample == 0:
                    self.sampled += 1
                    wrong = model.settle(state)
                    if wrong:
                        raise self._violation(packed, "settling", wrong, state)
                for name, wrong, after in model.successors(state):
                    key = model.pack(after)
                    if wrong:
                        raise self._violation(packed, name, wrong, after)
                    if key in seen:
                        continue
                    seen.add(key)
                    self.next.append(key)
                    if self.parents is not None:
                        self.parents[key] = packed, name
                    wrong = model.wrong(after)
                    if wrong:
                        raise self._violation(packed, name, wrong, after)
            self.front, self.next = self.next, []
            self.depth += 1
        return True

    def walk(self, steps: int, seed: int, length: int = 120) -> None:
        """Take random walks of so many steps together: they go deeper than the search.

        Raises:
            Violation: A property does not hold.
        """
        chance = random.Random(seed)
        model, done = self.model, 0
        while done < steps:
            state, path = model.first(), list[tuple[str, State]]()
            for _ in range(length):
                by_name: dict[str, list[tuple[str, State]]] = {}
                for name, wrong, after in model.successors(state):
                    by_name.setdefault(name, []).append((wrong, after))
                if not by_name:
                    break
                name = chance.choice(list(by_name))
                wrong, state = chance.choice(by_name[name])
                done += 1
                path.append((name, state))
                wrong = wrong or model.wrong(state)
                if wrong:
                    raise Violation(self._told(wrong, path))
            wrong = model.settle(state)
            if wrong:
                raise Violation(self._told(f"settling: {wrong}", path))

    def _told(self, wrong: str, path: list[tuple[str, State]]) -> str:
        lines = [wrong]
        for name, state in reversed(path):
            lines += [name, *self.model.show(state)]
        return "\n".join(lines)

    def _violation(self, packed: int, name: str, wrong: str, after: State) -> Violation:
        lines = [f"{name}: {wrong}", *self.model.show(after)]
        if self.parents is not None:
            while packed in self.parents:
                lines.append("  after:")
                lines += self.model.show(self.model.unpack(packed))
                packed, name = self.parents[packed]
                lines.append(name)
        return Violation("\n".join(lines))

    def save(self, path: Path) -> None:
        """Write the search to a file, so that `load` continues it."""
        values: Any = (
            asdict(self.model.bounds), self.sample, self.depth, self.steps, self.sampled,
            list(self.seen), self.front, self.next,
        )  # fmt: skip
        part = path.with_name(path.name + ".part")
        part.write_bytes(marshal.dumps(values))
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Search:
        """The search that `save` wrote: a file of our own."""
        bounds, sample, depth, steps, sampled, seen, front, after = marshal.loads(path.read_bytes())
        search = cls(Model(Bounds(**bounds)), sample=sample)
        search.seen, search.front, search.next = set(seen), front, after
        search.depth, search.steps, search.sampled = depth, steps, sampled
        return search
