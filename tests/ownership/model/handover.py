"""The hand-over of protocol 3 without a register: two ends, their journals, and the rounds.

The journals decide: HANDED on the source's disk is the decision. Messages of a transfer belong to
one stream, which ends with either process; Commit, Abort and READY can be lost, late or doubled.
The rules of docs/migration-protocol.md have names here, so that each can be left out.

With `durable` "none" a destination says READY without a file and a record. A source whose program
is still there takes it back, in a further epoch, if that journal has no record of the attempt.
The product asks it first, and takes nothing back that is still READY there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.ownership.model.state import Fields

UNKNOWN, OWNED, OFFERED, HANDED, LOST = range(5)
GONE, RUNS, STANDS = range(3)

END_FIELDS = {
    # The journal.
    "standing": 3,
    "epoch": 3,
    "attempt": 3,
    "confirmed": 1,
    "ready": 3,  # the attempt of a READY record
    "ready_epoch": 3,
    "renamed": 1,  # the journal was lost, so the end has another id
    # The process.
    "program": 2,
    "content": 4,  # which run of the program has made its state
    "sending": 3,  # the attempt that this end sends
    "rounds": 2,  # rounds that it has sent
    "peer_renamed": 1,  # which id of the peer said READY
    "begun": 3,  # the largest attempt whose stream began here
    "receiving": 3,
    "got": 2,  # rounds that came
    "got_content": 4,
    "held": 3,  # the attempt for which this process is READY
    "held_epoch": 3,
    "held_content": 4,
    # Messages that are on their way to it.
    "round": 2,  # the number of a round, or 3 for the rest
    "round_of": 3,
    "round_epoch": 3,
    "round_content": 4,
    "late": 3,  # the attempt of a last round of a stream that is over
    "late_content": 4,
    "told_ready": 3,
    "told_renamed": 1,
    "commit": 3,
    "commit_epoch": 3,
    "abort": 3,
}
WORLD_FIELDS = {
    "attempts": 3,
    "ran": 4,  # how often the program has begun to run
    "faults": 2,
    "excused": 1,  # a process was killed that had the only copy
}


def _places(fields: dict[str, int]) -> dict[str, tuple[int, int]]:
    at, found = 0, {}
    for name, bits in fields.items():
        found[name] = at, (1 << bits) - 1
        at += bits
    return found


END, WORLD = _places(END_FIELDS), _places(WORLD_FIELDS)
END_BITS, WORLD_BITS = sum(END_FIELDS.values()), sum(WORLD_FIELDS.values())

State = tuple[int, ...]
"""The world, and both ends."""
Found = tuple[str, str, State]
"""What happens, what is wrong with it, and the state after it."""


def end(value: int = 0) -> Fields:
    """Return the fields of an end."""
    return Fields(value, END)


def world(value: int = 0) -> Fields:
    """Return the fields of the world."""
    return Fields(value, WORLD)


@dataclass(frozen=True)
class HandoverBounds:
    """How far the model goes."""

    attempts: int = 3
    epochs: int = 6
    faults: int = 2
    durable: str = "ready"
    journals_lost: bool = True


VARIANTS: dict[str, tuple[str, str]] = {
    "Commit before HANDED is on disk": ("ready", "decision first"),
    "an attempt is given up after the decision": ("ready", "one decision"),
    "a source runs on before ABORTED is on disk": ("ready", "aborted first"),
    "a destination runs without Commit": ("ready", "commit first"),
    "a destination takes any Commit": ("ready", "commit names the attempt"),
    "a destination runs before OWNED is on disk": ("ready", "owned first"),
    "READY without a record is kept for ready": ("ready", "ready on disk"),
    "a restarted source whose program was handed runs it": ("ready", "handed for ever"),
    "a destination forgets READY when the source is silent": ("ready", "ready waits"),
    "a state without its last round is READY": ("ready", "all rounds"),
    "rounds of two attempts are mixed": ("ready", "rounds of one attempt"),
    "a source takes back what the peer has not forgotten": ("none", "ask to forget"),
    "a source takes back from a journal that was lost": ("none", "same journal"),
    "a source frees the program at the decision": ("none", "keep until confirmed"),
}
"""Variants: the mode, and the rule that each leaves out."""


class Handover:
    """All that can happen to one program that moves between two ends.

    Args:
        bounds: How far.
        without: The rule that is left out, or "".
    """

    def __init__(self, bounds: HandoverBounds, without: str = "") -> None:
        self.bounds = bounds
        self.without = without
        self.none = bounds.durable == "none"
        self.settled: set[int] = set()

    # ---- what `Search` asks ----------------------------------------------------------------------

    def first(self) -> State:
        """Return the state in which the program runs on the first end."""
        w, a = world(), end()
        w.faults, w.ran = self.bounds.faults, 1
        a.standing, a.epoch, a.program, a.content = OWNED, 1, RUNS, 1
        return w.packed(), a.packed(), 0

    def pack(self, state: State) -> int:
        """Return a state as one number."""
        return state[0] | state[1] << WORLD_BITS | state[2] << WORLD_BITS + END_BITS

    def unpack(self, packed: int) -> State:
        """Return the state of a number."""
        mask = (1 << END_BITS) - 1
        ends = packed >> WORLD_BITS
        return packed & ((1 << WORLD_BITS) - 1), ends & mask, ends >> END_BITS

    def show(self, state: State) -> list[str]:
        """Return a state as text."""
        return [f"    world {world(state[0])}", *(f"    end {end(n)}" for n in state[1:])]

    def wrong(self, state: State) -> str:
        """Return what is wrong with a state, or ""."""
        if all(end(value).program == RUNS for value in state[1:]):
            return "the program runs on both ends"
        return ""

    def successors(self, state: State) -> Iterator[Found]:
        """Yield everything that can happen next."""
        for me in (0, 1):
            self._found: list[Found] = []
            self._state, self._me = state, me
            for step in (
                self._offer, self._send, self._hear_round, self._hear_late, self._hear_ready,
                self._hear_commit, self._hear_abort, self._give_up, self._commit_again,
                self._confirmed, self._take, self._ask_source, self._ask_destination,
                self._restarted, self._fault,
            ):  # fmt: skip
                self._w, self._n, self._o = world(state[0]), end(state[1 + me]), end(state[2 - me])
                step()
            yield from self._found

    def settle(self, state: State) -> str:
        """Return what is wrong when everything works from this state on, or ""."""
        w = world(state[0])
        w.faults = 0
        state = (w.packed(), *state[1:])
        path = []
        for _ in range(60):
            packed = self.pack(state)
            if packed in self.settled:
                break
            path.append(packed)
            after = self._when_all_works(state)
            if after is None:
                wrong = self._in_doubt(state)
                if wrong:
                    return wrong
                break
            state = after
        else:
            return "somebody stays in doubt: it takes too long"
        self.settled.update(path)
        return ""

    # ---- helpers ---------------------------------------------------------------------------------

    def _has(self, rule: str) -> bool:
        return self.without != rule

    def _add(self, name: str, wrong: str = "") -> None:
        w, n, o = self._w.packed(), self._n.packed(), self._o.packed()
        state = (w, n, o) if self._me == 0 else (w, o, n)
        if state != self._state or wrong:
            self._found.append((name, wrong, state))

    def _run(self, content: int) -> str:
        """Let the program run here with a state; return what is wrong with that."""
        n, w = self._n, self._w
        n.program = RUNS
        old = content != w.ran
        w.ran += 1
        n.content = w.ran
        return "the program goes on from an old or torn state" if old else ""

    def _end_stream(self) -> None:
        """The transfer from this end to the other is over; its last round may still come."""
        self._n.sending = self._n.rounds = 0
        if self._o.round == 2:
            self._o.late, self._o.late_content = self._o.round_of, self._o.round_content
        self._o.round = self._o.round_of = self._o.round_epoch = self._o.round_content = 0
        self._o.receiving = self._o.got = self._o.got_content = 0

    # ---- the source ------------------------------------------------------------------------------

    def _offer(self) -> None:
        n, w = self._n, self._w
        room = w.attempts < self.bounds.attempts and n.epoch < self.bounds.epochs - 1
        free = not (self._o.held or self._o.ready)
        if n.standing == OWNED and n.program == RUNS and room and free:
            w.attempts += 1
            n.standing, n.attempt, n.sending, n.rounds = OFFERED, w.attempts, w.attempts, 0
            self._add("OFFERED is on disk")

    def _send(self) -> None:
        """The first round, the last one after the stop, and the rest; one after the other."""
        n, o = self._n, self._o
        if not n.sending or n.rounds > 2 or o.round or n.standing != OFFERED:
            return
        n.rounds += 1
        if n.rounds == 2:
            n.program = STANDS
        o.round, o.round_of, o.round_epoch = n.rounds, n.sending, n.epoch + 1
        o.round_content = n.content if n.rounds > 1 else 0
        self._add(("", "round 1", "stops; the last round", "the rest")[n.rounds])
        if n.rounds < 3:  # the round is lost, and the sender does not notice at once
            o.round = o.round_of = o.round_epoch = o.round_content = 0
            self._add("a round is lost")

    def _hear_ready(self) -> None:
        n = self._n
        attempt, n.told_ready = n.told_ready, 0
        n.peer_renamed, n.told_renamed = n.told_renamed, 0
        if not attempt:
            return
        decides = n.standing == OFFERED and n.attempt == n.sending == attempt
        if not decides:
            self._add("READY of another attempt")
            return
        if self._has("decision first"):
            self._decide()
        else:
            self._o.commit, self._o.commit_epoch = attempt, n.epoch + 1
            self._add("Commit, and HANDED is not on disk yet")

    def _decide(self) -> None:
        n, o = self._n, self._o
        n.standing, n.epoch, n.confirmed = HANDED, n.epoch + 1, 0
        n.sending = n.rounds = 0
        o.commit, o.commit_epoch = n.attempt, n.epoch
        if not self._has("keep until confirmed"):
            n.program = GONE
        self._add("HANDED is on disk")

    def _give_up(self) -> None:
        n = self._n
        decided = n.standing == HANDED and not n.confirmed and not self._has("one decision")
        if n.program == GONE or not (n.standing == OFFERED or decided):
            return
        if decided:
            n.epoch -= 1
        if self._has("aborted first"):
            n.standing = OWNED
        attempt, n.sending = n.attempt, 0
        self._end_stream()
        self._o.abort = attempt
        self._add("ABORTED is on disk", self._run(n.content) if n.program == STANDS else "")

    def _commit_again(self) -> None:
        n, o = self._n, self._o
        if n.standing == HANDED and not n.confirmed and not o.commit:
            o.commit, o.commit_epoch = n.attempt, n.epoch
            self._add("Commit again")

    def _confirmed(self) -> None:
        """The other end's answer to Commit, or its own messages."""
        n, o = self._n, self._o
        owned = o.standing in (OWNED, OFFERED, HANDED, LOST) and o.epoch >= n.epoch
        if n.standing == HANDED and not n.confirmed and owned and not o.renamed:
            n.confirmed, n.program, n.content = 1, GONE, 0
            self._add("confirmed is on disk")

    def _take(self) -> None:
        """A source with `durable` none hears that the destination has no record of the attempt."""
        n, o = self._n, self._o
        if not self.none or n.standing != HANDED or n.confirmed or n.epoch >= self.bounds.epochs:
            return
        nothing = not (o.standing and o.epoch >= n.epoch)
        same = o.renamed == n.peer_renamed or not self._has("same journal")
        if not nothing or not same:
            return
        if n.program == GONE:
            if o.held != n.attempt:
                n.standing = LOST
                self._add("LOST: nobody has it")
            return
        if self._has("ask to forget") and o.held == n.attempt:
            o.held = o.held_epoch = o.held_content = 0
        n.standing = OWNED
        n.epoch += 1
        self._add("takes the program back", self._run(n.content))

    # ---- the destination -------------------------------------------------------------------------

    def _hear_round(self) -> None:
        n, o = self._n, self._o
        number, attempt, epoch, content = n.round, n.round_of, n.round_epoch, n.round_content
        n.round = n.round_of = n.round_epoch = n.round_content = 0
        if not number:
            return
        if number == 1 and attempt > n.begun and not (n.held or n.ready):
            n.receiving, n.got, n.begun, n.got_content = attempt, 1, max(n.begun, attempt), 0
            self._add("a round comes")
            return
        same = n.receiving == attempt
        if number == 2 and same:
            n.got, n.got_content = 2, content
            self._add("the last round comes")
            return
        if number == 3 and same and (n.got == 2 or not self._has("all rounds")):
            # The root digest tells; a variant that mixes rounds has none.
            torn = n.got != 2 or n.got_content != content
            n.held, n.held_epoch = attempt, epoch
            n.held_content = 0 if torn else content
            n.receiving = n.got = n.got_content = 0
            if not self.none and self._has("ready on disk"):
                n.ready, n.ready_epoch = attempt, epoch
            o.told_ready, o.told_renamed = attempt, n.renamed
            self._add("READY")
            if not self._has("commit first"):
                self._own("runs at once")
            return
        self._add("a round of another attempt")

    def _hear_late(self) -> None:
        n = self._n
        attempt, content, n.late, n.late_content = n.late, n.late_content, 0, 0
        if not attempt:
            return
        if n.receiving and n.got == 1 and not self._has("rounds of one attempt"):
            n.got, n.got_content = 2, content
        self._add("a round of an attempt that is over")

    def _own(self, name: str) -> None:
        n = self._n
        content, epoch = n.held_content, n.ready_epoch or n.held_epoch
        n.attempt = n.ready or n.held
        n.held = n.held_epoch = n.ready = n.ready_epoch = n.held_content = 0
        before = n.standing, n.epoch
        n.standing, n.epoch, n.confirmed = OWNED, epoch, 0
        wrong = self._run(content)
        if not self._has("owned first"):
            n.standing, n.epoch = before
        self._add(name, wrong)

    def _hear_commit(self) -> None:
        n = self._n
        attempt, n.commit, n.commit_epoch = n.commit, 0, 0
        if not attempt:
            return
        held = n.ready or n.held
        if held and (held == attempt or not self._has("commit names the attempt")):
            self._own("OWNED is on disk")
        else:
            self._add("Commit of what is not READY")

    def _hear_abort(self) -> None:
        n = self._n
        attempt, n.abort = n.abort, 0
        if not attempt:
            return
        if attempt in (n.held, n.ready):
            self._forget(attempt)
        if n.receiving == attempt:
            n.receiving = n.got = n.got_content = 0
        self._add("Abort")

    def _forget(self, attempt: int) -> None:
        n = self._n
        n.held = n.held_epoch = n.ready = n.ready_epoch = n.held_content = 0

    def _ask_source(self) -> None:
        """A READY destination asks what the source has decided."""
        n, o = self._n, self._o
        attempt = n.ready or n.held
        if not attempt:
            return
        if not self._has("ready waits") and n.ready:
            self._forget(attempt)
            self._add("drops READY")
            return
        if o.standing in (HANDED, OFFERED) and o.attempt == attempt:
            if o.standing == HANDED:
                self._own("reads HANDED")
            return
        if o.standing == UNKNOWN:
            return
        self._forget(attempt)
        self._add("reads that the attempt was given up")

    # ---- after a kill ----------------------------------------------------------------------------

    def _ask_destination(self) -> None:
        """A restarted source whose offered program is gone asks the destination."""
        n, o = self._n, self._o
        if n.standing != OFFERED or n.program != GONE:
            return
        if n.attempt in (o.ready, o.held):
            n.peer_renamed = o.renamed
            self._decide()
        elif o.receiving == n.attempt:
            return
        else:
            n.standing = LOST
            self._add("LOST is on disk")

    def _restarted(self) -> None:
        n = self._n
        if n.program != GONE:
            return
        if n.standing == OWNED:
            n.standing = LOST
            self._add("LOST is on disk")
        elif n.standing == HANDED and not self._has("handed for ever"):
            n.standing, n.content = OWNED, 0
            self._add("runs again what it has handed", self._run(0))

    def _fault(self) -> None:
        w = self._w
        if not w.faults:
            return
        for journal in (True, False):
            w, n, o = world(self._state[0]), end(self._state[1 + self._me]), self._o
            o = end(self._state[2 - self._me])
            if not journal and (n.renamed or not self.bounds.journals_lost):
                continue
            w.faults -= 1
            self._w, self._n, self._o = w, n, o
            w.excused |= self._only_copy(n, o) or not journal
            n.program = n.sending = n.rounds = n.begun = n.held = n.held_epoch = 0
            n.content, n.held_content = 0, n.held_content if n.ready and journal else 0
            n.receiving = n.got = n.got_content = n.told_ready = n.told_renamed = 0
            n.round = n.round_of = n.round_epoch = n.round_content = 0
            n.late = n.late_content = o.late = o.late_content = 0
            o.round = o.round_of = o.round_epoch = o.round_content = 0
            o.receiving = o.got = o.got_content = 0
            if not journal:
                n.standing = n.epoch = n.attempt = n.confirmed = n.ready = n.ready_epoch = 0
                n.renamed = 1
            self._add("is killed" if journal else "is killed, and the journal is lost")

    def _only_copy(self, n: Fields, o: Fields) -> int:
        """Return whether a kill of an end can take the only copy of the program."""
        if n.program == RUNS or n.standing in (OWNED, OFFERED):
            return int(n.program != GONE)
        if n.program == STANDS:  # handed over, and kept
            return int(self.none and not o.held and o.standing != OWNED)
        return int(self.none and n.held > 0 and o.program == GONE)

    # ---- nobody stays in doubt -------------------------------------------------------------------

    ORDER = (
        "the rest", "the last round comes", "a round comes", "READY", "HANDED is on disk",
        "OWNED is on disk", "confirmed is on disk", "Abort", "READY of another attempt",
        "a round of another attempt", "a round of an attempt that is over",
        "Commit of what is not READY",
        "reads HANDED", "reads that the attempt was given up", "LOST is on disk",
        "takes the program back", "LOST: nobody has it", "ABORTED is on disk", "Commit again",
    )  # fmt: skip
    """Which step comes first when everything works. Others do not happen then."""

    def _when_all_works(self, state: State) -> State | None:
        best, after = len(self.ORDER), None
        for name, _, found in self.successors(state):
            if name in self.ORDER[:best]:
                best, after = self.ORDER.index(name), found
                if name == "Commit again" and self._hears_nothing(state):
                    best, after = len(self.ORDER), None
        return after

    def _hears_nothing(self, state: State) -> bool:
        """Return whether Commit would be said for ever: an end waits for one that forgot all."""
        return any(end(value).renamed for value in state[1:])

    def _in_doubt(self, state: State) -> str:
        w, ends = world(state[0]), [end(value) for value in state[1:]]
        if w.excused or any(one.renamed for one in ends):
            return ""
        if sum(one.program == RUNS for one in ends) != 1:
            return "nobody runs the program, and no kill took its only copy"
        if any(one.ready or one.held or one.standing == OFFERED for one in ends):
            return "somebody stays in doubt"
        if any(one.standing == HANDED and not one.confirmed for one in ends):
            return "a source never hears that the program is owned"
        return ""


__all__ = ["VARIANTS", "Handover", "HandoverBounds"]
