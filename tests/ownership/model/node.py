"""What one node, its messages and the register can do next. The states are those of the product's
table (`wasmsr.ownership.transitions`); the rules around it have names, so that one can be left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.ownership.model.state import (
    CLAIM,
    CREATE,
    DONE,
    LEASE,
    MINE,
    MOVE,
    NOBODY,
    NOT_FRESH,
    NOT_FRESH_LATE,
    OFFERED,
    OTHER,
    RAN_ON,
    RELEASE,
    RENEW,
    WATCH,
    Fields,
    bits,
    node,
    world,
)
from wasmsr.ownership.transitions import (
    TRANSITIONS,
    OwnerEvent,
    OwnerState,
    claim_event,
    may_take,
    move_event,
    received_event,
    renewal_event,
)

S, E = OwnerState, OwnerEvent

NONE, CLAIMING, RUNNING, HELD, ASKING, OFFERING, HANDING, RECEIVED, ORPHAN, STRANDED = (
    int(state) for state in S
)
RENEWING = {RUNNING, HELD, ASKING, OFFERING}


@dataclass(frozen=True)
class Step:
    """One step: its name, what world and node become, and what it does to the others."""

    name: str
    world: int
    node: int
    swapped: bool = False
    message: tuple[int, int, int] | None = None
    """Node, mask and bits."""
    wrong: str = ""


@dataclass
class Bounds:
    """How far the model goes."""

    nodes: int = 3
    epochs: int = 4
    attempts: int = 5
    faults: int = 2
    moves: int = 1
    effects: bool = True
    idle: bool = False
    """Whether a node that has nothing can crash too. That changes nothing, so a search leaves it
    out; a trace has such crashes."""


@dataclass
class Rules:
    """The rules that are left out, and changed rows of the table (None: the row is missing)."""

    without: frozenset[str] = frozenset()
    rows: dict[tuple[OwnerState, OwnerEvent], OwnerState | None] = field(default_factory=dict)


class Node:
    """The steps of the node with number `me`."""

    def __init__(self, me: int, bounds: Bounds, rules: Rules) -> None:
        self.me = me
        self.bounds = bounds
        self.without = rules.without
        self.table = {**TRANSITIONS, **rules.rows}
        self.found: list[Step] = []
        compares = not self.without & {"compare", "whole record"}
        self.not_fresh = NOT_FRESH if compares else NOT_FRESH_LATE

    def id(self, n: Fields) -> int:
        return self.me * 2 + int(n.renamed)

    def go(self, n: Fields, event: OwnerEvent) -> bool:
        """Change the state by the table; False if a broken table lacks the row."""
        after = self.table[S(n.state), event]
        if after is None:
            return False
        n.state = int(after)
        return True

    def add(self, name: str, w: Fields, n: Fields, **more: object) -> None:
        if n.state == NONE:  # whoever has nothing remembers nothing of it, but for the journal
            n.left = n.pending = n.slow = n.slow_pending = 0
            if not n.journaled:
                n.epoch = n.attempt = n.to = n.to_renamed = 0
        elif n.state in (RUNNING, ORPHAN, HELD, ASKING, STRANDED, CLAIMING) and not n.journaled:
            n.to = n.to_renamed = 0
        if n.state not in (NONE, RECEIVED):
            n.watch = n.fast = 0
        if n.state != RECEIVED and not n.offered:
            n.source = 0
        if not n.left:
            n.slow = 0
        if not n.pending:
            n.slow_pending = 0
        self.found.append(Step(name, w.packed(), n.packed(), **more))  # type: ignore[arg-type]

    def steps(self, w_packed: int, n_packed: int) -> list[Step]:
        """All that this node and its messages can do next, but for the clock."""
        self.found = []
        self._network(w_packed, n_packed)
        n = node(n_packed)
        if n.frozen:
            n.frozen = 0
            if n.state in (RUNNING, ORPHAN) and n.left == 0 and "thaw" not in self.without:
                self.go(n, E.DEADLINE)
            self.add("thaw", world(w_packed), n)
            return self.found
        self._answers(w_packed, n_packed)
        self._questions(w_packed, n_packed)
        self._alone(w_packed, n_packed)
        self._moves(w_packed, n_packed)
        self._effects(w_packed, n_packed)
        self._faults(w_packed, n_packed)
        return self.found

    # ---- the register ----------------------------------------------------------------------------

    def _swap(
        self, w: Fields, n: Fields, kind: int, fresh: int, epoch: int, to: int, attempt: int
    ) -> tuple[bool, str]:
        """Carry a swap out: (whether the record changed, what is wrong with that)."""
        base = 0 if kind == CREATE else epoch - 1 if kind in (CLAIM, MOVE) else epoch
        if "compare" in self.without:
            fresh = int(w.epoch > 0 or kind == CREATE)
        elif "whole record" in self.without and base == w.epoch:
            fresh = 1
        if not fresh:
            return False, ""
        wrong = ""
        owner = {MOVE: to, RENEW: w.owner, RELEASE: w.owner}.get(kind, to)
        if kind in (RENEW, RELEASE) and (w.owner != to or w.epoch != epoch):
            wrong = "a renewal of an older epoch counted"
            owner = to
        if kind in (CLAIM, MOVE, CREATE) and epoch != w.epoch + 1:
            wrong = "a new owner without the next epoch"
        w.owner, w.epoch = owner, epoch
        if kind in (CLAIM, MOVE, CREATE):
            w.attempt = attempt
        w.released = int(kind == RELEASE)
        return True, wrong

    def _network(self, w_packed: int, n_packed: int) -> None:
        first = node(n_packed)
        if first.ask:
            for doubled in (False, True):
                w, n = world(w_packed), node(n_packed)
                if doubled and n.late:
                    continue
                epoch = n.epoch + (n.ask == MOVE)
                owner = self._target(n)
                done, wrong = self._swap(w, n, n.ask, n.ask_fresh, epoch, owner, n.attempt)
                if done and n.ask == MOVE and n.journaled == RAN_ON:
                    wrong = "an old state is handed over: the program has run since"
                if doubled and self.not_fresh == NOT_FRESH and not (done and n.ask == RENEW):
                    continue  # the second one finds another record, and changes nothing
                if doubled:
                    self._to_late(n, done)
                if done:
                    n = node(n.packed() & self.not_fresh)
                    # The answer to a renewal that comes twice can be that to the second one.
                    n.answer = MINE if doubled and n.ask == RENEW else DONE
                    n.answer_fresh = 1
                else:
                    named = w.epoch > 0 and w.owner == self.id(n) and not w.released
                    found = w.owner == owner and w.epoch == epoch and w.attempt == n.attempt
                    if n.ask in (CREATE, CLAIM, MOVE) and found:
                        n.answer = DONE  # the register's client reads the record and finds its own
                    else:
                        n.answer = MINE if named and w.epoch == n.epoch else OTHER
                    n.answer_fresh = 1
                n.ask = n.ask_fresh = 0
                name = "register answers" + (", and the question comes again" if doubled else "")
                self.add(name, w, n, swapped=done, wrong=wrong)
        if first.late:
            w, n = world(w_packed), node(n_packed)
            done, wrong = self._swap(
                w, n, n.late, n.late_fresh, n.late_epoch, n.late_to, n.late_attempt
            )
            if done:
                n = node(n.packed() & self.not_fresh)
            self._forget_late(n)
            self.add("a late question arrives", w, n, swapped=done, wrong=wrong)

    def _target(self, n: Fields) -> int:
        """The id of the owner that a question asks for."""
        return n.to * 2 + n.to_renamed if n.ask == MOVE else self.id(n)

    def _to_late(self, n: Fields, done: bool = False) -> None:
        fresh = 0 if done else n.ask_fresh
        if not fresh and self.not_fresh == NOT_FRESH:
            return
        n.late, n.late_fresh = n.ask, fresh
        n.late_epoch = n.epoch + (n.ask == MOVE)
        n.late_to = self._target(n)
        n.late_attempt = n.attempt if n.ask in (CREATE, CLAIM, MOVE) else 0

    def _forget_late(self, n: Fields) -> None:
        n.late = n.late_fresh = n.late_epoch = n.late_to = n.late_attempt = 0

    def _no_question(self, n: Fields, keep: bool = True) -> None:
        """Nobody waits for the answer any more; the question may still arrive."""
        if n.ask and keep and not n.late:
            self._to_late(n)
        n.ask = n.ask_fresh = n.answer = n.answer_fresh = n.pending = 0

    # ---- answers ---------------------------------------------------------------------------------

    def _answers(self, w_packed: int, n_packed: int) -> None:
        n, w = node(n_packed), world(w_packed)
        if n.answer:
            done, mine = n.answer == DONE, n.answer == MINE
            self._answer(w, n, done, mine)
        for keep in (True, False):
            n, w = node(n_packed), world(w_packed)
            if not (n.ask or n.answer) or (not keep and not n.ask):
                continue
            before = n.state
            self._no_question(n, keep)
            if before == NONE and n.journaled:
                n.fresh = n.ending = 0  # it reads the record again
            elif before == HANDING and "settle by read" in self.without:
                mine = w.owner == self.id(n) and w.epoch == n.epoch
                n.state = RUNNING if mine and n.left else ASKING if mine else NONE
                n.journaled = 0
            elif not self.go(n, E.SILENT):
                continue
            self.add("no answer", w, n)

    def _answer(self, w: Fields, n: Fields, done: bool, mine: bool) -> None:
        lasts, before, at = n.pending > 0, n.state, n.attempt
        message, wrong = None, ""
        if before == NONE and n.journaled:
            self._settled(w, n, done)
            return
        if before == CLAIMING:
            event = claim_event(done=done, lasts=lasts)
        elif before == HANDING:
            event = move_event(done=done, mine=mine)
        elif before in RENEWING:
            event = renewal_event(done=done, mine=mine, lasts=lasts)
        else:
            self._no_question(n)
            self.add("an answer that nobody waits for", w, n)
            return
        fresh, pending, slow, to = n.answer_fresh, n.pending, n.slow_pending, n.to
        self._no_question(n)
        n.fresh = fresh
        if not self.go(n, event):
            return
        if done and before != HANDING:
            n.left, n.slow = pending, slow
            whole = "before the claim" if before == CLAIMING else "before the renewal"
            if whole in self.without or not lasts:
                n.left = LEASE if n.state == RUNNING else 0
            if n.stray and n.state == RUNNING:
                wrong = "the old worker runs beside the new one"
        if event is E.MOVED and n.state == NONE:
            message = (to, *bits(commit=at))
        if n.state == NONE:
            n.watch, n.fast = (WATCH, 0) if n.fresh else (0, 0)
        if before == ASKING and n.state == RUNNING:
            self._runs_on(n)  # an attempt that was under way is over
        elif n.state in (NONE, RUNNING):
            n.journaled = 0
        if event is E.REFUSED and n.state == RUNNING:
            n.left = LEASE
        self.add(event.name, w, n, message=message, wrong=wrong)

    def _runs_on(self, n: Fields) -> None:
        """The program runs on: ABORTED is in the journal before it does."""
        if n.journaled and "aborted first" in self.without:
            n.journaled = RAN_ON
        else:
            n.journaled = n.attempt = 0

    # ---- questions -------------------------------------------------------------------------------

    def _questions(self, w_packed: int, n_packed: int) -> None:
        n, w = node(n_packed), world(w_packed)
        if n.ask or n.answer:
            return
        room = w.attempts < self.bounds.attempts
        if n.state == NONE and w.epoch == 0 and room:
            first = self.me == 0 and not n.renamed and w.attempts == 0
            if first or ("permanent" in self.without and w.attempts):
                w.attempts += 1
                n.attempt, n.epoch = w.attempts, 1
                n.ask, n.ask_fresh, n.pending, n.slow_pending = CREATE, 1, LEASE, 0
                self.go(n, E.CREATE)
                n.fresh = 1
                self.add("CREATE", w, n)
        n, w = node(n_packed), world(w_packed)
        if n.state in (NONE, RECEIVED) and n.fresh and w.epoch and room and not n.journaled:
            self._take(w, n)
        n, w = node(n_packed), world(w_packed)
        if n.state == CLAIMING:  # again, and the same
            n.ask = CREATE if n.epoch == 1 else CLAIM
            n.ask_fresh = n.fresh
            if "from the first claim" in self.without:  # else the lease counts as ended
                n.pending = LEASE
            self.add("claims again", w, n)
        due = {RUNNING: n.left < LEASE, OFFERING: n.left < LEASE, HELD: True, ASKING: True}
        if n.state == ASKING and "asking renews" in self.without:
            return
        if due.get(n.state):
            n.ask, n.ask_fresh, n.pending, n.slow_pending = RENEW, n.fresh, LEASE, 0
            self.add("renews", w, n)

    def _take(self, w: Fields, n: Fields) -> None:
        named = w.owner == self.id(n)
        if named and n.state == RECEIVED:
            return  # `received_event` says what to do
        expired = n.watch == 0 or "watch" in self.without
        if not may_take(owned=not w.released, named=named, expired=expired):
            return
        if w.epoch >= self.bounds.epochs:
            return
        if named and "claim after a crash" in self.without:
            n.state, n.left, n.epoch = RUNNING, LEASE, w.epoch
            self.add("runs on after a crash", w, n)
            return
        w.attempts += 1
        n.attempt, n.epoch = w.attempts, w.epoch + ("next epoch" not in self.without)
        n.ask, n.ask_fresh, n.pending, n.slow_pending = CLAIM, 1, LEASE, 0
        if self.go(n, E.TAKE):
            self.add("TAKE", w, n)

    # ---- without messages ------------------------------------------------------------------------

    def _alone(self, w_packed: int, n_packed: int) -> None:
        n, w = node(n_packed), world(w_packed)
        if n.state in (NONE, RECEIVED) and not n.fresh and w.epoch and not (n.ask or n.answer):
            n.fresh = 1
            if "watch restarts" not in self.without:
                n.watch, n.fast = WATCH, 0
            self.add("observes", w, n)
        n, w = node(n_packed), world(w_packed)
        if n.state in (RUNNING, ORPHAN) and n.left <= 1:
            watches = n.state == RUNNING or "worker watches" not in self.without
            if watches and self.go(n, E.TWO_THIRDS):
                self.add("TWO_THIRDS", w, n)
        n, w = node(n_packed), world(w_packed)
        if n.state in (HELD, OFFERING) and n.left == 0 and self.go(n, E.DEADLINE):
            self.add("DEADLINE", w, n)
        n, w = node(n_packed), world(w_packed)
        if n.state == HELD and "held renews" in self.without:
            n.state = RUNNING
            self.add("runs on without a renewal", w, n)
        n, w = node(n_packed), world(w_packed)
        mine = w.owner == self.id(n) and w.epoch == n.epoch and not w.released
        if n.state == ASKING and mine and "asking renews by a swap" in self.without:
            n.state, n.left, n.journaled = RUNNING, LEASE, 0
            self._no_question(n)
            self.add("runs on after a reading", w, n)
        n, w = node(n_packed), world(w_packed)
        if (
            n.state in (HELD, RUNNING)
            and not n.late
            and w.moves
            and (n.state == HELD or "release discards" in self.without)
        ):
            w.moves -= 1
            self._no_question(n)
            if not n.late:
                n.late, n.late_fresh, n.late_epoch, n.late_to = (
                    RELEASE,
                    n.fresh,
                    n.epoch,
                    self.id(n),
                )
                if n.state == HELD:
                    self.go(n, E.RELEASE)
                self.add("RELEASE", w, n)
        for state, event in ((ORPHAN, E.NOTICE), (STRANDED, E.ADOPT), (STRANDED, E.WORKER_ENDS)):
            n, w = node(n_packed), world(w_packed)
            if n.state == state and self.table[S(state), event] is not None:
                self.go(n, event)
                if n.state == NONE:
                    n.fresh = 0
                if n.state == RUNNING:
                    n.left = max(n.left, 1)
                self.add(event.name, w, n)
        n, w = node(n_packed), world(w_packed)
        named = w.owner == self.id(n) and w.epoch > 0
        if n.state in (ORPHAN, STRANDED) and named and "old workers first" in self.without:
            n.state, n.stray, n.fresh = NONE, int(n.state == ORPHAN), 1
            n.journaled = 0
            self.add("a new supervisor leaves the old worker alone", w, n)
        n, w = node(n_packed), world(w_packed)
        gone = "permanent" in self.without and w.epoch and n.state == NONE and n.watch == 0
        if gone and n.fresh:
            w.owner, w.epoch, w.attempt, w.released = NOBODY, 0, 0, 0
            self.add(
                "the record ends with its lease", w, node(n.packed() & self.not_fresh), swapped=True
            )

    # ---- moves -----------------------------------------------------------------------------------

    def _moves(self, w_packed: int, n_packed: int) -> None:
        n, w = node(n_packed), world(w_packed)
        room = w.attempts < self.bounds.attempts and n.epoch < self.bounds.epochs
        if n.state == RUNNING and w.moves and room and not (n.ask or n.answer):
            for other in range(self.bounds.nodes):
                if other == self.me:
                    continue
                n, w = node(n_packed), world(w_packed)
                w.moves -= 1
                w.attempts += 1
                n.attempt, n.to, n.journaled = w.attempts, other, OFFERED
                self.go(n, E.OFFER)
                state = bits(offered=n.attempt, offered_epoch=n.epoch + 1, source=self.me)
                self.add("OFFER", w, n, message=(other, *state))
        n, w = node(n_packed), world(w_packed)
        if n.ready:
            n.to_renamed, n.ready, n.ready_renamed = n.ready_renamed, 0, 0
            same = n.attempt == node(n_packed).ready
            if n.state == OFFERING and same and not (n.ask or n.answer):
                if self.go(n, E.READY):
                    n.ask, n.ask_fresh = MOVE, n.fresh
                    commit = None
                    if "the swap decides" in self.without:
                        commit = (n.to, *bits(commit=n.attempt))
                    self.add("READY", w, n, message=commit)
            else:
                n.to_renamed = node(n_packed).to_renamed
                self.add("READY of another attempt", w, n)
        n, w = node(n_packed), world(w_packed)
        if n.state == OFFERING and not (n.ask or n.answer) and self.go(n, E.GIVE_UP):
            self._runs_on(n)
            self.add("GIVE_UP", w, n)
        self._arriving(w_packed, n_packed)

    def _arriving(self, w_packed: int, n_packed: int) -> None:
        n, w = node(n_packed), world(w_packed)
        if n.offered:
            at, epoch, source = n.offered, n.offered_epoch, n.source
            n.offered = n.offered_epoch = 0
            if n.state == NONE and not (n.ask or n.answer or n.journaled):
                self.go(n, E.RECEIVE)
                n.attempt, n.epoch = at, epoch
                n.pending, n.slow_pending = LEASE, 0
                self.add(
                    "RECEIVE", w, n, message=(source, *bits(ready=at, ready_renamed=n.renamed))
                )
                n = node(n_packed)
                n.offered = n.offered_epoch = 0
            self.add("an offer is lost", w, n)
        n, w = node(n_packed), world(w_packed)
        heard = bool(n.commit)
        same = n.commit == n.attempt or "commit names the attempt" in self.without
        if heard and n.state == RECEIVED and same:
            n.commit = 0
            self._decided(w, n, True)
        elif heard:
            n.commit = 0
            self.add("Commit of another attempt", w, n)
        n, w = node(n_packed), world(w_packed)
        if n.state == RECEIVED and w.epoch:
            named = w.owner == self.id(n) and w.attempt == n.attempt
            self._decided(w, n, named)

    def _decided(self, w: Fields, n: Fields, named: bool) -> None:
        event = received_event(epoch=w.epoch, named=named, at_epoch=n.epoch, lasts=n.pending > 0)
        if event is None:
            return
        pending, slow = n.pending, n.slow_pending
        if not self.go(n, event):
            return
        n.left, n.slow, n.pending = pending, slow, 0
        if "before READY" in self.without or (n.state == RUNNING and not n.left):
            n.left = LEASE
        # The node has read the record for this (but for a variant that takes any Commit).
        n.fresh = int(n.state != NONE and named and w.owner == self.id(n))
        self.add(event.name, w, n)

    # ---- effects and faults ----------------------------------------------------------------------

    def _effects(self, w_packed: int, n_packed: int) -> None:
        n, w = node(n_packed), world(w_packed)
        if n.state == RUNNING and n.left and not n.armed and self.bounds.effects:
            n.armed = n.epoch
            self.add("an effect passes the check", w, n)
        n, w = node(n_packed), world(w_packed)
        if n.armed:
            accepted = n.armed >= w.seen or "the receiver refuses" in self.without
            wrong = ""
            if accepted and n.armed < w.seen:
                wrong = "an effect of an older epoch counted"
            owner = n.state == RUNNING and w.owner == self.id(n) and w.epoch == n.armed == n.epoch
            if not accepted and owner:
                wrong = "an effect of the owner did not count"
            if accepted:
                w.seen = n.armed
            n.armed = 0
            self.add("an effect arrives", w, n, wrong=wrong)

    def _faults(self, w_packed: int, n_packed: int) -> None:
        w = world(w_packed)
        if not w.faults:
            return
        w.faults -= 1
        left = w.packed()
        n = node(n_packed)
        if n.state in (RUNNING, ORPHAN) or n.armed:
            n.frozen = 1
            self.add("freezes", world(left), n)
        n = node(n_packed)
        if self.table.get((S(n.state), E.SUPERVISOR_LOST)) is not None:
            self._no_question(n)
            self.go(n, E.SUPERVISOR_LOST)
            self.add("SUPERVISOR_LOST", world(left), n)
        for journal in (True, False):
            n = node(n_packed)
            asks = n.journaled and (n.ask or n.answer)
            idle = n.state == NONE and not asks
            if idle and not (self.bounds.idle if journal else w.owner == self.id(n)):
                continue
            if not journal and n.renamed:
                continue
            self._no_question(n)
            if not journal:
                n.state, n.renamed, n.journaled = NONE, 1, 0
            else:
                self.go(n, E.CRASH)
            n.left, n.pending, n.armed, n.fresh, n.watch = 0, 0, 0, 0, 0
            n.ready = n.ready_renamed = n.ending = 0
            if n.state == RECEIVED and "a restarted destination asks" in self.without:
                n.pending = LEASE
            name = "CRASH" if journal else "CRASH, and the journal is lost"
            self.add(name, world(left), n)

    # ---- time ------------------------------------------------------------------------------------

    def tick(self, n_packed: int) -> list[int]:
        """The node a tick later: with a clock that is right, slow or fast. [] if no tick can be:
        the thread that pauses the program comes first."""
        n = node(n_packed)
        runs = n.state == RUNNING or (n.state == ORPHAN and "worker watches" not in self.without)
        if runs and not n.frozen and n.left <= 1 and "two thirds" not in self.without:
            return []
        if n.frozen and "boot time" in self.without:
            return [n_packed]
        found = []
        for change in ("right", "slow", "fast"):
            n = node(n_packed)
            slow, fast = change == "slow", change == "fast"
            if slow and (not (n.left or n.pending) or n.slow or n.slow_pending):
                continue
            if fast and (n.watch < 2 or (n.fast and "bounded drift" not in self.without)):
                continue
            if slow:
                n.slow, n.slow_pending = int(n.left > 0), int(n.pending > 0)
            else:
                n.left, n.pending = max(n.left - 1, 0), max(n.pending - 1, 0)
                n.slow, n.slow_pending = n.slow * (n.left > 0), n.slow_pending * (n.pending > 0)
            n.fast |= fast
            step = 2 if "margin" in self.without and n.watch == WATCH else 1
            n.watch = max(n.watch - step - fast, 0)
            packed = n.packed()
            if packed not in found:
                found.append(packed)
        return found

    def tries(self, n_packed: int, attempt: int) -> bool:
        """What a source answers when the destination asks: whether it still tries the attempt."""
        n = node(n_packed)
        offered = n.journaled and "offered until settled" not in self.without
        trying = n.state in (OFFERING, HANDING, ASKING, STRANDED)
        return n.attempt == attempt and bool(trying or offered)

    def dropped(self, w_packed: int, n_packed: int, source: int) -> Step | None:
        """The step of a node that has a state, and hears that the attempt is over.

        It reads the record after that: the source has given the attempt up, or the register has
        decided for it.
        """
        s = node(source)
        asked = s.ask == MOVE and s.ask_fresh and s.attempt == node(n_packed).attempt
        late = s.late == MOVE and s.late_fresh and s.late_attempt == node(n_packed).attempt
        self.found = []
        n, w = node(n_packed), world(w_packed)
        named = w.owner == self.id(n) and w.attempt == n.attempt
        if named and "a reading before the drop" not in self.without:
            return None
        if not self.go(n, E.DROPPED):
            return None
        n.fresh = 0
        wrong = "the state of a move that was decided is lost" if named else ""
        if (asked or late) and not s.renamed:
            wrong = "a state is dropped, and a swap that hands it over can still count"
        self.add("DROPPED", w, n, wrong=wrong)
        return self.found[0]

    # ---- a source that was killed while it moved the program -------------------------------------

    def settles(self, w_packed: int, n_packed: int, other: int) -> Step | None:
        """The step of a source that was started again: its journal offers an attempt to `other`."""
        self.found = []
        n, w = node(n_packed), world(w_packed)
        mine = w.owner == self.id(n) and w.epoch == n.epoch and not w.released
        if not mine and "a late swap is the owner's" not in self.without:
            named = w.attempt == n.attempt and w.epoch == n.epoch + 1
            commit = (n.to, *bits(commit=n.attempt)) if named else None
            n.journaled = 0
            self.add("reads what became of the attempt", w, n, message=commit)
            return self.found[0]
        o = node(other)
        if o.frozen:
            return None  # it may be READY
        if o.state == RECEIVED and o.attempt == n.attempt:
            n.ask, n.ask_fresh, n.to_renamed = MOVE, n.fresh, o.renamed
            self.add("asks for the swap late", w, n)
        else:
            n.ask, n.ask_fresh, n.ending = RENEW, n.fresh, 1
            self.add("ends what its journal offers", w, n)
        return self.found[0]

    def _settled(self, w: Fields, n: Fields, done: bool) -> None:
        """The answer to a question of `settles`."""
        fresh, ending = n.answer_fresh, n.ending
        commit = (n.to, *bits(commit=n.attempt)) if done and not ending else None
        self._no_question(n)
        n.ending, n.fresh = 0, fresh if done else 0
        if done:
            n.journaled = 0
            n.watch, n.fast = (WATCH, 0) if n.fresh else (0, 0)
        self.add("the late swap is answered", w, n, message=commit)

    def wrong(self, w_packed: int, n_packed: int) -> str:
        """What is wrong with this node, or ""."""
        w, n = world(w_packed), node(n_packed)
        runs = {RUNNING, ORPHAN} | ({HANDING} if "an offer pauses" in self.without else set())
        if n.frozen or n.state not in runs:
            return ""
        if w.owner == self.id(n) and w.epoch == n.epoch and not w.released:
            return ""
        return "a program runs on a node that does not own it"
