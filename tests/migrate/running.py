"""One end as a process of its own, with a counter in place of an engine, for the tests that kill.

    python -m tests.migrate.running PORT PEER FOLDER [--send] [--fault POINT:WHEN:NUMBER]

The counter runs in a thread and holds a lock on a file of its id while it does: whoever cannot have
the lock has found a second running copy, and says so in FOLDER/log. POINT is what the journal
writes ("HANDED") or the wire does ("Commit"); WHEN is "before" or "after"; at its NUMBER-th time
this process kills itself as kill -9 does. The faults sit in the journal and the peer that the end
is given here; the code under test knows nothing of them.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tests.migrate.counter import CODE, Counter, CounterHost, World
from wasmsr.errors import WasmsrError
from wasmsr.migrate.events import Event
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.protocol import Ending
from wasmsr.rpc import end as assembly
from wasmsr.rpc.client import RemotePeer
from wasmsr.runspec.address import Address

TICK = 0.01


class Log:
    """Lines that several processes append to one file, whole."""

    def __init__(self, folder: Path, end: str) -> None:
        self.end = end
        self.file = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, text: str) -> None:
        os.write(self.file, f"{self.end} {text}\n".encode())


class RunningCounter(Counter):
    """A counter that counts by itself, ten milliseconds a step."""

    folder: Path
    log: Log
    thread: threading.Thread | None = None
    lock = -1

    def start(self) -> None:
        self.lock = os.open(self.folder / f"running-{self.id.hex()}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.log("VIOLATION: a second copy runs")
        last = self.folder / f"last-{self.id.hex()}"
        if last.exists() and int(last.read_text()) > self.number:
            self.log(f"VIOLATION: goes on from {self.number}, stood at {last.read_text()}")
        self.log(f"start {self.number}")
        self.running = True
        self.thread = threading.Thread(target=self._count, daemon=True)
        self.thread.start()

    def _count(self) -> None:
        stop = threading.Event()
        while self.running and self.number < self.limit:
            stop.wait(TICK)
            self.number += 1

    def pause(self, timeout: float) -> bool:
        self.running = False
        if self.thread:
            self.thread.join()
            self.thread = None
            (self.folder / f"last-{self.id.hex()}").write_text(str(self.number))
            self.log(f"stand {self.number}")
            os.close(self.lock)
        return True

    def wait(self, timeout: float | None) -> Ending | None:
        if self.thread:
            self.thread.join(timeout)
        if self.number < self.limit:
            return None
        self.pause(0)
        return Ending("exited", CODE)


class RunningHost(CounterHost):
    """Makes counters of this process."""

    folder: Path
    log: Log

    def make(self, **values: object) -> Counter:
        counter = RunningCounter(self.world, self.end, **values)  # type: ignore[arg-type]
        counter.folder = self.folder
        counter.log = self.log
        return counter


class Fault:
    """Kills this process at a point."""

    def __init__(self, text: str | None, log: Log) -> None:
        self.point, self.when, number = (text or "::0").split(":")
        self.left = int(number)
        self.log = log

    def at(self, point: str, when: str) -> None:
        if (point, when) == (self.point, self.when):
            self.left -= 1
            if self.left == 0:
                self.log(f"killed {when} {point}")
                os.kill(os.getpid(), signal.SIGKILL)


def failing(fault: Fault) -> tuple[type[Journal], type[RemotePeer]]:
    """A journal and a peer with the fault in them."""

    class FailingJournal(Journal):
        def put(self, record: Record) -> None:
            name = "READY" if record.incoming else record.standing.name
            fault.at(name, "before")
            super().put(record)
            fault.at(name, "after")

    class FailingPeer(RemotePeer):
        def _ask(self, name: str, request: Any, seconds: float) -> Any:
            fault.at(name, "before")
            reply = super()._ask(name, request, seconds)
            fault.at(name, "after")
            return reply

        def transfer(
            self, move: Any, rest: int = 0, *, memory: bool = False, files: int = 0
        ) -> Any:
            fault.at("Transfer", "before")
            sending = super().transfer(move, rest, memory=memory, files=files)
            fault.at("Transfer", "after")
            return sending

    return FailingJournal, FailingPeer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("peer", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--send", action="store_true")
    parser.add_argument("--every", type=float, default=0.1)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--size", type=int, default=3_000_000)
    parser.add_argument("--fault")
    options = parser.parse_args()

    name = f"{options.port}"
    log = Log(options.folder, name)
    host = RunningHost(World(), name)
    host.folder, host.log = options.folder, log
    journal, peer = failing(Fault(options.fault, log))
    # The only two places where this process differs from `wasmsr remote`, the program apart.
    assembly.Journal, assembly.RemotePeer = journal, peer  # type: ignore[misc]

    def announce(event: Event) -> None:
        if event.kind != "progress":
            log(f"event {event.kind}: {event.text}")

    try:
        end = assembly.ServedEndpoint(
            listen=Address("127.0.0.1", options.port),
            peer=Address("127.0.0.1", options.peer),
            state=options.folder / "state",
            host=host,
            announce=announce,
            every=options.every,
            software="test",
            key=b"the key of these tests",
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            ending = Ending("interrupted", 128 + number)
            signal.signal(number, lambda *_, ending=ending: end.endpoint.interrupt(ending))
        finish = end.endpoint.run(
            (lambda: host.make(limit=options.limit, size=options.size)) if options.send else None
        )
    except WasmsrError as error:
        log(f"error {error.exit_code}: {error}")
        return error.exit_code
    end.close()
    log(f"finish {finish.here} {finish.ending.code}")
    return finish.ending.code if finish.here else 0


if __name__ == "__main__":
    sys.exit(main())
