"""Two processes, each an end of many programs; end a starts them, and both move them to and fro.

    python -m tests.migrate.many FOLDER a PORT PEER --programs 8 --seconds 3 [--memory PAGES]

Each program checks its memory at its end, and counts in lines of its own. Both ends append to one
file. What happens is in one line of JSON for each event on standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.migrate.subjects import writer
from wasmsr.errors import MigrationError
from wasmsr.interp.modules.module import Module
from wasmsr.migrate.decisions.journal_decision import JournalDecisions
from wasmsr.migrate.decisions.register_decision import RegisterDecisions
from wasmsr.migrate.events import Event
from wasmsr.migrate.handover.arrivals import EndLimits
from wasmsr.migrate.hosting.host import Hosting
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.ports import MovableProgram
from wasmsr.ownership.register import Register
from wasmsr.ownership.sqlite_backend import SqliteBackend
from wasmsr.program.program import Program
from wasmsr.rpc.end import ServedPrograms
from wasmsr.runspec.address import Address
from wasmsr.runspec.grants import HostGrants

KEY = b"the key of these tests"
PATIENCE = 120.0


def text_of(number: int, memory: int, rate: float, seconds: float) -> str:
    """A program that says "p003  N" in place of "count N": each has a module of its own."""
    return writer(memory, rate, seconds).replace('"count "', f'"p{number:03d}  "')


class ManyPrograms:
    """One of the two ends."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder
        self.output = os.open(self.folder / "output", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.host = Hosting(
            lambda: HostGrants(stdin=None, stdout=self.output, stderr=2),
            known={},
            files=self.folder / f"files-{options.end}",
            programs=options.programs,
        )
        self.served = ServedPrograms(
            listen=Address("127.0.0.1", options.port),
            peers=[Address("127.0.0.1", options.peer)],
            state=self.folder / f"state-{options.end}",
            host=self.host,
            announce=self.announce,
            limits=EndLimits(options.programs, options.programs),
            arrived=self.arrived,
            ended=lambda program, ending: self.over(program),
            software="test",
            key=KEY,
            decisions=self.decisions if options.lease else JournalDecisions,
        )
        self.end = self.served.end
        self.host.node = self.end.journal.node
        self.pool = ThreadPoolExecutor(options.programs)
        self.ended: set[bytes] = set()
        self.lock = threading.Lock()

    def decisions(self, journal: Journal) -> RegisterDecisions:
        path = self.folder / "register.db"
        return RegisterDecisions(journal, lambda: Register(SqliteBackend(path)), self.announce)

    def announce(self, event: Event) -> None:
        if event.kind not in ("progress", "prepared"):
            self.say(event.kind, text=event.text, **event.values)

    def say(self, kind: str, **values: object) -> None:
        line = json.dumps({"event": kind, "when": time.time(), **values})
        os.write(1, line.encode() + b"\n")  # one write: several threads say something

    def arrived(self, program: MovableProgram) -> None:
        self.pool.submit(self.visit, program)

    def visit(self, program: MovableProgram) -> None:
        """Lets a program run for a while, then sends it on, until it has ended."""
        try:
            self._visit(program)
        except Exception as error:
            self.say("failed", text=repr(error))
            raise

    def _visit(self, program: MovableProgram) -> None:
        if self.options.together:
            self.wait_for_all()
        while True:
            ending = program.wait(self.options.every)
            if ending is not None:
                self.end.finish(program.id, ending)
                self.say("ended", code=ending.code, program=program.id.hex())
                self.over(program.id)
                return
            if self.end.move(program.id) is not None:
                return

    def wait_for_all(self) -> None:
        """Lets all programs begin their moves at the same moment."""
        deadline = time.monotonic() + PATIENCE
        while len(self.end.programs()) < self.options.programs - self.ends:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)

    @property
    def ends(self) -> int:
        """How many programs have ended, here or at the other end."""
        with self.lock:
            return len(self.ended)

    def over(self, program: bytes) -> None:
        with self.lock:
            self.ended.add(program)

    def begin(self) -> None:
        """Starts all programs here."""
        options, wait = self.options, threading.Event()
        while not wait.wait(0.1):
            try:
                next(iter(self.end.peers)).status(self.end.source.next_move(bytes(16)))
                break
            except MigrationError:
                continue
        programs = [self.make(number) for number in range(options.programs)]
        for program in programs:
            self.end.start(program)
        for program in programs:
            self.pool.submit(self.visit, program)

    def make(self, number: int) -> MovableProgram:
        options = self.options
        path = self.folder / f"p{number}.wat"
        path.write_text(text_of(number, options.memory, options.rate, options.seconds))
        module = Module.from_file(path)
        program: MovableProgram = self.host.launch(
            lambda grants: Program.launch(module, argv=[path.name], env={}, grants=grants)
        )
        if options.lease:
            program = self.end.source.decisions.leased(program, options.lease)
        return program

    def run(self) -> int:
        self.say("listening")
        if self.options.end == "a":
            self.begin()
        deadline = time.monotonic() + PATIENCE + self.options.seconds
        while self.ends < self.options.programs and time.monotonic() < deadline:
            time.sleep(0.02)
        done = self.ends == self.options.programs
        self.pool.shutdown(cancel_futures=True, wait=done)
        time.sleep(0.3)  # the other end may still ask
        records = [record.standing.name for record in self.end.journal.records()]
        self.served.close()
        self.say("closed", programs=len(self.end.programs()), records=records)
        return 0 if done else 1


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("end", choices=("a", "b"))
    parser.add_argument("port", type=int)
    parser.add_argument("peer", type=int)
    parser.add_argument("--programs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--every", type=float, default=0.3)
    parser.add_argument("--memory", type=int, default=16)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--lease", type=float, help="seconds; without it there are no leases")
    parser.add_argument("--together", action="store_true")
    options: Any = parser.parse_args(argv)
    return ManyPrograms(options).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
