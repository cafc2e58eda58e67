"""An end of many programs as a process: what the fuzzer of the migration service attacks.

    python -m tests.fuzz.service_end FOLDER PORT PEER

One program is its own: it counts in FOLDER/untouched. Programs that come are let run to their end.
The standard output has one line when the end listens, and what it announces goes to FOLDER/events.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.node.programs import counting
from wasmsr.interp.modules.module import Module
from wasmsr.migrate.events import Event
from wasmsr.migrate.handover.arrivals import EndLimits
from wasmsr.migrate.hosting.host import Hosting
from wasmsr.migrate.ports import MovableProgram
from wasmsr.program.program import Program
from wasmsr.rpc.end import ServedPrograms
from wasmsr.runspec.address import Address
from wasmsr.runspec.grants import HostGrants

KEY = b"the key of the fuzzer"
PROGRAMS = 8
"""Programs that an end takes."""
PAGES = 64
"""Pages of 64 KiB that each memory of a program that comes may have."""
LINES = 100_000_000
"""Lines of the program that nobody touches: it does not end."""


class FuzzedEnd:
    """An end with a journal, a server and its programs.

    Args:
        folder: Its files.
        port: Where it listens.
        peer: Where its peer listens.
    """

    def __init__(self, folder: Path, port: int, peer: int) -> None:
        self.events = open(folder / "events", "ab", buffering=0)  # noqa: SIM115 (till the end)
        self.output = os.open(folder / "untouched", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.host = Hosting(
            lambda: HostGrants(stdin=None, stdout=self.output, stderr=2),
            known={},
            files=folder / "files",
            max_pages=PAGES,
            programs=PROGRAMS,
        )
        self.pool = ThreadPoolExecutor(2 * PROGRAMS)
        self.served = ServedPrograms(
            listen=Address("127.0.0.1", port),
            peers=[Address("127.0.0.1", peer)],
            state=folder / "state",
            host=self.host,
            announce=self.announce,
            limits=EndLimits(PROGRAMS, PROGRAMS // 2),
            arrived=self.arrived,
            software="fuzz",
            key=KEY,
        )
        self.end = self.served.end
        self.host.node = self.end.journal.node

    def announce(self, event: Event) -> None:
        if event.kind not in ("progress", "prepared", "refused"):
            self.events.write(f"{event.kind}: {event.text}\n".encode())

    def arrived(self, program: MovableProgram) -> None:
        self.pool.submit(self.visit, program)

    def visit(self, program: MovableProgram) -> None:
        """Wait until a program ends, and release it."""
        ending = program.wait(None)
        if ending is not None:
            self.end.finish(program.id, ending)

    def begin(self, lines: int, milliseconds: int) -> MovableProgram:
        """Start a program that counts, and return it."""
        module = Module(counting(lines, milliseconds))
        program: MovableProgram = self.host.launch(
            lambda grants: Program.launch(module, argv=["count"], env={}, grants=grants)
        )
        self.end.start(program)
        return program

    def hide(self) -> None:
        """Let programs that begin or come from now on write to nothing."""
        self.output = os.open(os.devnull, os.O_WRONLY)


def main() -> int:
    """Serve until the standard input ends."""
    folder, port, peer = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    end = FuzzedEnd(folder, port, peer)
    program = end.begin(LINES, 5)
    end.hide()
    print(f"listening {program.id.hex()} {end.end.journal.node.hex()}", flush=True)
    threading.Thread(target=end.pool.submit, args=(program.wait, None), daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
