"""The code beside the model: both take the same random steps, and must come to the same states.

So every trace of the code is one that the model accepts, and the code can do all that the model
does. Clocks, messages and the register are those of the model.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.ownership.model.explore import Model, State
from tests.ownership.model.node import Bounds, Step
from tests.ownership.model.state import NODE, Fields, node, world
from wasmsr.ownership.lease import Lease, RecordWatch
from wasmsr.ownership.leased_program import LeasedProgram, Question
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.transitions import TRANSITIONS, OwnerEvent, OwnerState

TICK = 1_000_000_000
PROGRAM = bytes(16)


class Guest:
    """A program that does nothing, and notes whether it runs."""

    def __init__(self) -> None:
        self.runs = False
        self.epoch = 0

    def resume(self, record: OwnerRecord) -> None:
        self.runs, self.epoch = True, record.epoch

    def extend(self, pause_at: int, end_at: int) -> None:
        assert pause_at < end_at

    def pause(self) -> None:
        self.runs = False

    def discard(self) -> None:
        self.runs = False


class End:
    """One node: the code, its clocks, and its messages."""

    def __init__(self, me: int, all_ids: tuple[bytes, ...]) -> None:
        self.me = me
        self.all_ids = all_ids
        self.renamed = 0
        self.lease_clock = self.watch_clock = 0
        self.start()

    def start(self) -> None:
        """A new process."""
        self.guest = Guest()
        self.lease = Lease(3, lambda: self.lease_clock)
        self.watch = RecordWatch(margin=2 / 3, clock=lambda: self.watch_clock)
        self.code = LeasedProgram(PROGRAM, self.id, self.guest, self.lease, told=self.told)
        self.answer: tuple[bool, OwnerRecord] | None = None
        self.claim: Question | None = None
        self.settling: Question | None = None
        """What a source asks for that was killed while it moved the program."""

    @property
    def id(self) -> bytes:
        return bytes([self.me * 2 + self.renamed]) * 16

    @property
    def question(self) -> Question | None:
        return self.code.question or self.settling

    def told(self, before: OwnerState, event: OwnerEvent, after: OwnerState) -> None:
        assert TRANSITIONS[before, event] is after


class Beside:
    """The model's nodes and the code's, side by side."""

    def __init__(self, model: Model, count: Counter[str]) -> None:
        self.model = model
        self.count = count
        ids = tuple(bytes([n]) * 16 for n in range(2 * model.bounds.nodes))
        self.ends = [End(me, ids) for me in range(model.bounds.nodes)]
        self.record: OwnerRecord | None = None
        self.attempts: dict[int, bytes] = {}
        self.late: dict[int, Question] = {}

    # ---- the register ----------------------------------------------------------------------------

    def swap(self, question: Question) -> bool:
        if self.record != question.old:
            return False
        self.record = question.new
        return True

    def look_up(self, question: Question, done: bool) -> tuple[bool, OwnerRecord]:
        """What `Register.swap` makes of it: a claim or a move is found by its attempt."""
        assert self.record is not None
        new, found = question.new, self.record
        same = (new.owner, new.epoch, new.attempt) == (found.owner, found.epoch, found.attempt)
        return done or (question.kind != "renew" and same), found

    # ---- one step --------------------------------------------------------------------------------

    def take(self, me: int, step: Step, before: State, after: State) -> None:
        end, name = self.ends[me], step.name
        was, now = node(before[me + 1]), node(after[me + 1])
        self.count[name.partition(",")[0]] += 1
        self.swapped = step.swapped
        if was.late and not now.late:
            self.late.pop(me, None)
        getattr(self, "_" + name.partition(",")[0].replace(" ", "_"), self._nothing)(end, was, now)
        if not was.late and now.late and name != "RELEASE":
            self.late[me] = self.asked
        if step.swapped:
            self.late.clear()

    def _nothing(self, end: End, was: Fields, now: Fields) -> None:
        """Messages that the code has not: they decide nothing."""

    def _late(self, me: int) -> None:
        self.late.pop(me, None)

    def _CREATE(self, end: End, was: Fields, now: Fields) -> None:
        end.claim = end.code.create(failover=end.all_ids)

    def _observes(self, end: End, was: Fields, now: Fields) -> None:
        end.watch.see(self.record)

    def _TAKE(self, end: End, was: Fields, now: Fields) -> None:
        assert self.record is not None
        end.watch.see(self.record)  # the code reads once more; nothing has changed
        assert end.code.may_take(self.record, end.watch.expired())
        end.claim = end.code.take(self.record)

    def _claims_again(self, end: End, was: Fields, now: Fields) -> None:
        assert end.claim is not None
        end.code.again(end.claim)

    def _renews(self, end: End, was: Fields, now: Fields) -> None:
        end.code.renewal()

    def _register_answers(self, end: End, was: Fields, now: Fields) -> None:
        question = end.question
        assert question is not None
        done = self.swap(question)
        assert done == self.swapped
        if now.answer == 2 and done:  # the answer is that to the second copy of a renewal
            assert self.record is not None
            end.answer = False, self.record
        else:
            end.answer = self.look_up(question, done)

    def _a_late_question_arrives(self, end: End, was: Fields, now: Fields) -> None:
        assert self.swap(self.lates[end.me]) == self.swapped

    def _answered(self, end: End, was: Fields, now: Fields, name: str) -> None:
        assert end.answer is not None
        event = end.code.answered(*end.answer)
        end.answer = None
        assert event is not None and event.name == name
        if end.code.state is OwnerState.NONE:
            end.watch.see(self.record if now.fresh else None)

    def _no_answer(self, end: End, was: Fields, now: Fields) -> None:
        end.answer = end.settling = None
        if was.state != OwnerState.NONE:
            end.code.silent()

    # The next four do what `RegisterDecision.settle` does, which needs a journal and a peer.

    def _asks_for_the_swap_late(self, end: End, was: Fields, now: Fields) -> None:
        old = self.record
        assert old is not None and old.owner == end.id and old.epoch == now.epoch
        owner = bytes([now.to * 2 + now.to_renamed]) * 16
        attempt = self.attempts[now.attempt]
        new = old.next(owner=owner, epoch=old.epoch + 1, attempt=attempt)
        end.settling = Question("move", old, new, None)

    def _ends_what_its_journal_offers(self, end: End, was: Fields, now: Fields) -> None:
        assert self.record is not None
        end.settling = Question("renew", self.record, self.record.next(), None)

    def _the_late_swap_is_answered(self, end: End, was: Fields, now: Fields) -> None:
        assert end.answer is not None
        assert end.answer[0] == (not now.journaled)
        end.answer = end.settling = None
        if not now.journaled:
            end.watch.see(self.record if now.fresh else None)

    def _reads_what_became_of_the_attempt(self, end: End, was: Fields, now: Fields) -> None:
        found = self.record
        assert found is not None
        assert (found.owner, found.epoch) != (end.id, now.epoch) or found.standing != Standing.OWNED

    def _TWO_THIRDS(self, end: End, was: Fields, now: Fields) -> None:
        if was.state == OwnerState.RUNNING:
            end.code.tick()
        else:
            end.code.apply(OwnerEvent.TWO_THIRDS)

    def _DEADLINE(self, end: End, was: Fields, now: Fields) -> None:
        end.code.tick()

    def _thaw(self, end: End, was: Fields, now: Fields) -> None:
        if was.state == OwnerState.RUNNING and was.left == 0:
            end.code.tick()
        elif was.state == OwnerState.ORPHAN and was.left == 0:
            end.code.apply(OwnerEvent.DEADLINE)

    def _OFFER(self, end: End, was: Fields, now: Fields) -> None:
        self.attempts[now.attempt] = end.code.offer()

    def _RECEIVE(self, end: End, was: Fields, now: Fields) -> None:
        end.code.receive(self.attempts[now.attempt], now.epoch)

    def _READY(self, end: End, was: Fields, now: Fields) -> None:
        end.code.ready(bytes([now.to * 2 + now.to_renamed]) * 16)

    def _GIVE_UP(self, end: End, was: Fields, now: Fields) -> None:
        end.code.apply(OwnerEvent.GIVE_UP)

    def _decided(self, end: End, was: Fields, now: Fields, name: str) -> None:
        assert self.record is not None
        event = end.code.decide(self.record, over=name == "DROPPED")
        assert event is not None and event.name == name
        if end.code.state is OwnerState.NONE:
            end.watch.see(None)

    def _RELEASE(self, end: End, was: Fields, now: Fields) -> None:
        end.code.question = None
        self.late[end.me] = end.code.release()
        end.code.question = None
        end.watch.see(None)

    def _restart(self, end: End, was: Fields, now: Fields) -> None:
        attempt, epoch = end.code._attempt, end.code._epoch
        end.renamed = now.renamed
        end.start()
        if now.state == OwnerState.RECEIVED:
            end.code.received_before(attempt, epoch)

    _CRASH = _restart

    def _event(self, end: End, was: Fields, now: Fields, name: str) -> None:
        end.code.question = None
        end.answer = None
        end.code.apply(OwnerEvent[name])
        if end.code.state is OwnerState.NONE:
            end.watch.see(None)

    # ---- after each step -------------------------------------------------------------------------

    def compare(self, state: State) -> None:
        w = world(state[0])
        record = self.record
        assert (record.epoch if record else 0) == w.epoch
        if record is not None:
            assert record.owner == bytes([w.owner]) * 16
            assert (record.standing is Standing.RELEASED) == bool(w.released)
        running = 0
        for end, value in zip(self.ends, state[1:], strict=True):
            n = node(value)
            assert end.code.state == n.state, f"node {end.me}: {n} and {end.code.state.name}"
            assert end.guest.runs == (n.state == OwnerState.RUNNING) or n.state == OwnerState.ORPHAN
            running += end.code.state is OwnerState.RUNNING and not n.frozen
            if n.state == OwnerState.RUNNING and not n.frozen:
                assert record is not None and record.owner == end.id
                assert end.guest.epoch == record.epoch
        assert running <= 1

    lates: dict[int, Question]
    asked: Question
    swapped: bool


for _name in ("GRANTED", "GRANTED_LATE", "RENEWED", "RENEWED_LATE", "REFUSED", "STALE", "MOVED"):
    setattr(
        Beside, f"_{_name}", lambda self, end, was, now, n=_name: self._answered(end, was, now, n)
    )
for _name in ("DECIDED", "DECIDED_LATE", "DROPPED"):
    setattr(
        Beside, f"_{_name}", lambda self, end, was, now, n=_name: self._decided(end, was, now, n)
    )
for _name in ("SUPERVISOR_LOST", "NOTICE", "ADOPT", "WORKER_ENDS"):
    setattr(Beside, f"_{_name}", lambda self, end, was, now, n=_name: self._event(end, was, now, n))


def tick(beside: Beside, before: State, right: State, after: State) -> None:
    """Advance the clocks: all are right, or one is slow or fast."""
    for end, old, one, other in zip(beside.ends, before[1:], right[1:], after[1:], strict=True):
        n, r, o = node(old), node(one), node(other)
        slow = (r.left, r.pending) != (o.left, o.pending)
        fast = r.watch != o.watch
        del n
        end.lease_clock += 0 if slow else TICK
        end.watch_clock += 2 * TICK if fast else TICK
    beside.count["tick"] += 1


def walk(model: Model, seed: int, length: int, count: Counter[str]) -> None:
    chance = random.Random(seed)
    state, beside = model.first(), Beside(model, count)
    for _ in range(length):
        steps: dict[str, list[tuple[int, Step]]] = {}
        for me in range(model.bounds.nodes):
            for step in model.steps_of(me, state):
                steps.setdefault(step.name, []).append((me, step))
        ticks = model.ticks(state)
        names = list(steps) + (["tick"] if ticks else [])
        if not names:
            break
        name = chance.choice(names)
        if name == "tick":
            after = chance.choice(ticks)
            tick(beside, state, ticks[0], after)
        else:
            me, step = chance.choice(steps[name])
            after = model.apply(me, state, step)
            beside.lates = dict(beside.late)
            under_way = beside.ends[me].question
            if under_way is not None:
                beside.asked = under_way
            beside.take(me, step, state, after)
        state = after
        beside.compare(state)


SEEN = (
    "CREATE", "TAKE", "GRANTED", "GRANTED_LATE", "RENEWED", "RENEWED_LATE", "REFUSED", "STALE",
    "TWO_THIRDS", "DEADLINE", "OFFER", "READY", "GIVE_UP", "MOVED", "RECEIVE", "DECIDED",
    "DECIDED_LATE", "DROPPED", "RELEASE", "SUPERVISOR_LOST", "NOTICE", "ADOPT", "WORKER_ENDS",
    "CRASH", "observes", "renews", "tick", "freezes", "thaw", "no answer", "claims again",
    "register answers", "a late question arrives", "asks for the swap late",
    "ends what its journal offers", "the late swap is answered",
    "reads what became of the attempt",
)  # fmt: skip


@pytest.mark.parametrize("walks", [400, pytest.param(1_500, marks=pytest.mark.full)])
def test_the_code_does_what_the_model_does(walks: int) -> None:
    count: Counter[str] = Counter()
    models = [
        Model(Bounds(3, 4, 6, 2, 2, effects=False)),
        Model(Bounds(2, 4, 6, 0, 3, effects=False)),
        Model(Bounds(2, 4, 5, 1, 1, effects=False)),
    ]
    for seed in range(walks):
        walk(models[seed % 3], seed, 80, count)
    missing = [name for name in SEEN if not count[name]]
    assert not missing, f"never happened: {missing}"


def test_the_fields_are_those_of_the_model() -> None:
    assert {"state", "left", "pending", "watch", "late", "answer"} <= set(NODE)
