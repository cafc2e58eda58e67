"""Two ends in one process and one thread, whose wire, disks and lives fail where a test says.

Every step that touches something outside a state machine is a *point*: a message before it is sent
and after it took effect, a record before and after it is on disk, a program before it stands or
starts. A `Fault` at a point loses the message or kills the end there, as kill -9 does: nothing
further happens on that end, and what is on its disk stays. The production code has no part in it;
the faults are in the ports and the journal that it is given.
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.migrate.counter import Counter, CounterArrival, CounterHost, LeavingCounter, World
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.ends.endpoint import Endpoint
from wasmsr.migrate.events import Event
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover.answers import Answers
from wasmsr.migrate.handover.arrivals import ArrivalState
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.journal.record_file import last_of
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import Buffer, MovableProgram
from wasmsr.migrate.protocol import (
    Answer,
    Committed,
    Ending,
    JournalError,
    KeptOutput,
    Move,
    Offer,
    OwnershipState,
    PackedFiles,
    PackedPages,
    PeerLost,
    Receipt,
    Report,
    RoundHead,
    RoundReceipt,
)
from wasmsr.migrate.rounds.convergence import MovePolicy

ROUNDS = MovePolicy(max_downtime=-math.inf, max_rounds=2)
"""Two rounds in every move: no prediction is low enough to stop the program in the first one. What
a prediction says depends on the load of the machine, and the points of a run must not."""


class Killed(BaseException):
    """An end was killed at a point."""

    def __init__(self, end: End) -> None:
        super().__init__(end.name)
        self.end = end


class Stuck(BaseException):
    """A state machine waits although nothing is wrong any more."""


@dataclass(frozen=True)
class Fault:
    """What fails: at the point's n-th time counted from the start of the test, on an end; `kind`
    is "kill", "lose" (a message) or "disk" (a record)."""

    end: str
    point: str
    kind: str
    time: int = 1


@dataclass
class Script:
    """The faults to come, and every point that was passed: (end, point)."""

    faults: list[Fault] = field(default_factory=list)
    passed: list[tuple[str, str]] = field(default_factory=list)
    quiet: bool = False

    def at(self, end: End, point: str) -> None:
        """Passes a point; raises what the script has for it."""
        if self.quiet:
            return
        if end.dead:
            raise Killed(end)
        self.passed.append((end.name, point))
        time = self.passed.count((end.name, point))
        for fault in self.faults:
            if (fault.end, fault.point, fault.time) == (end.name, point, time):
                if fault.kind == "kill":
                    end.kill()
                    raise Killed(end)
                if fault.kind == "lose":
                    raise PeerLost("lost")
                raise OSError(errno.ENOSPC, "No space left on device")


class FailingJournal(Journal):
    """A journal whose end may be killed, or whose disk may be full, around every record."""

    def __init__(self, end: End, folder: Path) -> None:
        self.end = end
        self.name = ""
        super().__init__(folder)

    def put(self, record: Record) -> None:
        self.name = "READY" if record.incoming else record.standing.name
        if record.confirmed:
            self.name = "CONFIRMED"
        super().put(record)

    def _replace(self, path: Path, data: bytes) -> None:
        name, self.name = self.name, ""
        if name:
            self.end.script.at(self.end, f"before {name} is on disk")
        super()._replace(path, data)
        if name:
            # A disk that fails here: the record was renamed, then syncing the folder failed.
            self.end.script.at(self.end, f"after {name} is on disk")

    def forget(self, program: bytes) -> None:
        self.end.script.at(self.end, "before the record is removed")
        super().forget(program)
        self.end.script.at(self.end, "after the record is removed")


class FailingCounter(Counter):
    """A counter whose end may be killed around what is done to it."""

    owner: End

    def start(self) -> None:
        self.owner.script.at(self.owner, "before start")
        super().start()
        self.owner.script.at(self.owner, "after start")

    def pause(self, timeout: float) -> bool:
        self.owner.script.at(self.owner, "before pause")
        stands = super().pause(timeout)
        self.owner.script.at(self.owner, "after pause")
        return stands

    def leave(self, held: Collection[bytes] = (), known: int = 0, files: int = 0) -> LeavingCounter:
        self.owner.script.at(self.owner, "before leaving")
        return FailingLeaving(self, files)

    def pieces(self) -> Iterator[Buffer]:
        for piece in super().pieces():
            self.owner.script.at(self.owner, "before a piece")
            yield piece


class FailingLeaving(LeavingCounter):
    """A counter that leaves, whose end may be killed before each round."""

    def round(self, stays: Callable[[int], bool], timeout: float) -> bool:
        assert isinstance(self.counter, FailingCounter)
        owner = self.counter.owner
        owner.script.at(owner, "before a round")
        return super().round(stays, timeout)


class FailingArrival(CounterArrival):
    """A counter on its way in, whose end may be killed, or its disk full, before its image is on
    the disk."""

    def sync(self) -> None:
        assert isinstance(self.host, FailingHost)
        if self.finished and self.image is not None:
            owner = self.host.owner
            owner.script.at(owner, "before the image is on disk")
        super().sync()


class FailingHost(CounterHost):
    """Makes counters of its end."""

    def __init__(self, end: End) -> None:
        super().__init__(end.world, end.name)
        self.owner = end

    def make(self, **values: object) -> Counter:
        counter = FailingCounter(self.world, self.end, **values)  # type: ignore[arg-type]
        counter.owner = self.owner
        return counter

    def arriving(self, image: int | None) -> CounterArrival:
        return FailingArrival(self, image)


class Direct:
    """A peer that is called directly (`ports.Peer`). Losing a message before it took effect and
    after it are different points; so is the death of the end at either side of the wire."""

    def __init__(self, here: End) -> None:
        self.here = here
        self.address = f"end-{here.other}"

    def _call(self, name: str, act: Callable[[Answers], Any]) -> Any:
        here, there = self.here, self.here.others[self.here.other]
        kills = here.kills
        here.script.at(here, f"before {name}")
        if there.node is None:
            raise PeerLost(f"{there.name} is dead")
        try:
            result = act(there.node.answers)
        except Killed as killed:
            if killed.end is there and here.kills == kills:
                raise PeerLost(f"{there.name} was killed") from killed
            raise Killed(here) from killed
        if here.kills != kills:
            raise Killed(here)
        here.script.at(here, f"after {name}")
        return result

    def prepare(self, offer: Offer) -> Answer:
        answer: Answer = self._call("Prepare", lambda end: end.prepare(offer))
        return answer

    def upload(self, module: Buffer, digest: bytes, move: Move | None = None) -> None:
        assert move

        def act(answers: Answers) -> None:
            arriving = answers._destination.arrivals.get(move.program)
            assert arriving and arriving.offer
            upload = answers.upload(arriving.offer.description.modules[0], move)
            upload.write(module)
            upload.finish()

        self._call("Upload", act)

    def transfer(
        self, move: Move, rest: int = 0, *, memory: bool = False, files: int = 0
    ) -> DirectSending:
        begun = self._call("Transfer", lambda end: end.begin(move, rest, memory, files))
        return DirectSending(self, begun)

    def commit(self, move: Move, stopped: float) -> Committed:
        standing: OwnershipState = self._call("Commit", lambda end: end.commit(move, stopped))
        return Committed(standing)

    def status(self, move: Move) -> Report:
        report: Report = self._call("Status", lambda end: end.status(move))
        return report

    def abort(self, move: Move) -> OwnershipState:
        standing: OwnershipState = self._call("Abort", lambda end: end.abort(move))
        return standing

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        self._call("Ended", lambda end: end.ended(program, epoch, ending))

    def output(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        unseen: int = self._call("Output", lambda end: end.output(move, stream, offset, data))
        return unseen

    def input(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        given: tuple[bytes, bool] = self._call("Input", lambda end: end.input(move, position, most))
        return given

    def interrupt(self) -> None:
        raise AssertionError("one thread only")


class DirectSending:
    """A transfer to an end that is called directly (`ports.Sending`)."""

    waited = 0.0

    def __init__(self, peer: Direct, reception: Any) -> None:
        self._peer = peer
        self._reception = reception
        self._receipt: Receipt | None = None

    def early(self, piece: Buffer, *, last: bool) -> None:
        data = bytes(piece)
        self._peer._call("an earlier rest", lambda end: self._reception.early(data, last=last))

    def repeat(self, offset: int, size: int) -> None:
        self._peer._call("a repeat", lambda end: self._reception.repeat(offset, size))

    def output(self, kept: KeptOutput) -> None:
        self._peer._call("kept output", lambda end: self._reception.output(kept))

    def called(self, called: CalledFunctions) -> None:
        self._peer._call("called functions", lambda end: self._reception.called(called))

    def begin(self, head: RoundHead) -> None:
        self._peer._call("a round", lambda end: self._reception.begin(head))

    def pages(self, batch: PackedPages) -> None:
        self._peer._call("pages", lambda end: self._reception.pages(batch))

    def files(self, batch: PackedFiles) -> None:
        self._peer._call("pieces of files", lambda end: self._reception.files(batch))

    def end(self, number: int) -> RoundReceipt:
        receipt: RoundReceipt = self._peer._call(
            "the end of a round", lambda end: self._reception.end(number)
        )
        return receipt

    def drain(self) -> None:
        pass

    def send(self, piece: Buffer) -> None:
        self._peer._call("a piece", lambda end: self._reception.write(bytes(piece)))

    def finish(self, receipt: Receipt) -> None:
        self._receipt = receipt

    def ready(self) -> Receipt:
        assert self._receipt
        receipt = self._receipt
        held: Receipt = self._peer._call("Ready", lambda end: self._reception.finish(receipt))
        return held

    def cancel(self) -> None:
        self._reception.cancel()


class Waiting:
    """In place of the event that ends all waits: while a state machine waits, the rest of the world
    goes on, which here means that dead ends are started again."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.waits = 0

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        self.waits += 1
        if self.waits > 50:
            raise Stuck(f"{self.end.name} waits for ever")
        kills = self.end.kills
        for end in self.end.others.values():
            end.revive()
        if self.end.kills != kills:
            raise Killed(self.end)
        return False


class End:
    """One end: a folder that outlives it, and a node while it is alive."""

    def __init__(self, name: str, other: str, folder: Path, world: World, script: Script) -> None:
        self.name = name
        self.other = other
        self.folder = folder
        self.world = world
        self.script = script
        self.others: dict[str, End] = {}
        self.dead = True
        self.node: Endpoint | None = None
        self.events: list[Event] = []
        self.kills = 0
        self.durable = "ready"

    def kill(self) -> None:
        """As kill -9: what ran here is gone, the lock on the folder is released."""
        assert self.node
        for path in self.node.journal.folder.glob("*.json"):
            if json.loads(last_of(path.read_bytes())[0])["standing"] in ("OWNED", "OFFERED"):
                # The only end that may run it is gone, and its memory with it.
                self.world.excused = True
        if self.durable == "none" and self._only_memory():
            self.world.excused = True
        self.dead = True
        self.kills += 1
        self.world.killed(self.name)
        self.node.journal.close()
        self.node = None
        for end in self.others.values():
            # Its transfers break off, as the server sees when a connection does.
            for one in end.node.destination.arrivals.all_in(*ArrivalState) if end.node else ():
                if one.reception:
                    one.reception.cancel()

    def _only_memory(self) -> bool:
        """Whether the decision is open, and no other end has the state in its memory either."""
        assert self.node
        if not (self.node.source.moving() or self.node.destination.ready):
            return False
        return not any(
            other.node and (other.node.source.moving() or other.node.destination.ready)
            for other in self.others.values()
            if other is not self
        )

    def open(self) -> Endpoint:
        """Starts the end, as a new process does before it serves."""
        assert self.node is None
        self.dead = False
        journal = FailingJournal(self, self.folder / "journal")
        node = Endpoint(
            journal,
            Modules(self.folder / "modules"),
            FailingHost(self),
            Peers(Direct(self)),
            self.events.append,
            every=1.0,
            policy=replace(ROUNDS, durable=self.durable),
            decisions=self.make_decisions(journal),
        )
        node.stop = node.source.stop = Waiting(self)  # type: ignore[assignment]
        self.node = node
        return node

    def make_decisions(self, journal: Journal) -> Decisions | None:
        return None

    def revive(self) -> None:
        """Starts the end again if it is dead, and lets it settle what it finds."""
        if self.dead:
            node = self.open()
            try:
                node.recover()
                node.away.settle(node.source)
            except Killed as killed:
                if killed.end is not self:
                    raise
            except JournalError:
                # It says so and exits; the user starts it again.
                self.kill()

    @property
    def arrived(self) -> MovableProgram | None:
        """The program that arrived here and has not been fetched."""
        return self.node.news.arrived if self.node else None
