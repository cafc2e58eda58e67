"""What the page asks, answered by the supervisor of a node."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.output.rings import read_ring, ring_bounds
from wasmsr.http.page.program_view import one_at_a_time, page_of
from wasmsr.node.failures import SubmissionRefused, WrongState
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.visits.visit import BrowserVisit
from wasmsr.runspec.address import Address


class SupervisorSource:
    """A node as the page sees it. Any thread may call it."""

    def __init__(self, node: NodeSupervisor, software: str) -> None:
        """Make the source of a node; `software` is the version of wasmsr."""
        self._node = node
        self._software = software
        self._visits: dict[str, BrowserVisit] = {}

    def about(self) -> Mapping[str, Any]:
        """Return what is known of the node."""
        return {**self._node.shown(), "software": self._software}

    def programs(self) -> list[Mapping[str, Any]]:
        """Return all programs, oldest first."""
        return [program.shown() for program in self._node.programs()]

    def inspect(self, program: str) -> Mapping[str, Any]:
        """Return everything about a program, with its call stack. Raises WasmsrError."""
        return self._node.find(program).inspect()

    def output(self, program: str, stream: str, offset: int, most: int) -> tuple[int, bytes]:
        """Return kept output, and where it begins.

        Args:
            program: Its id.
            stream: "stdout" or "stderr".
            offset: Where to begin; a negative one counts from the end. An offset after the end
                gives the end: the stream was cut since.
            most: Bytes at most.

        Raises:
            WasmsrError: There is no such program.
            OSError: The output cannot be read.
        """
        found = self._node.find(program)
        folder, shown = found.folder.output, found.shown_end(stream)
        begin, end = ring_bounds(folder, stream)
        end = end if shown is None else max(begin, min(end, shown))
        place = max(begin, end + offset) if offset < 0 else min(offset, end)
        start, data = read_ring(folder, stream, place, most)
        return start, data[: max(0, end - start)]

    def migrate(self, program: str, address: str) -> Mapping[str, Any]:
        """Begin to move a program to another node, and return the program: its "move" goes on.

        Raises:
            WasmsrError: There is no such program, it cannot be moved now, or the address is none.
        """
        found = self._node.find(program)
        try:
            to = str(Address.parse(address))
        except ValueError as error:
            raise SubmissionRefused(str(error)) from None
        found.check_movable()
        mover = threading.Thread(target=self._move, args=(found, to), name="wasmsr-page-move")
        mover.daemon = True
        mover.start()
        return found.shown()

    def _move(self, program: NodeProgram, address: str) -> None:
        moves = self._node.moves
        try:
            moves.migrate(program, address)
        except WrongState as error:  # somebody else was first
            moves.seen.failed(program.record.program, address, error.message)
        except WasmsrError:
            pass  # the page shows it: `moves.seen` has it

    def view(self, program: str) -> bytes:
        """Return the page of a program as it is now; it is paused for a moment to be saved.

        Raises:
            WasmsrError: There is no such program, it cannot be saved, or no page can be made of it.
            OSError: The disk has no room.
        """
        found = self._node.find(program)
        with one_at_a_time(), found.snapshot() as (file, _):
            return page_of(file, found.folder.path)

    def lend(self, program: str) -> BrowserVisit:
        """Let a browser run a program for a while; it has no worker here meanwhile.

        Raises:
            WasmsrError: There is no such program, or it cannot be lent.
            OSError: The disk has no room.
        """
        found = self._node.find(program)
        name = found.record.program

        def note(text: str) -> None:
            self._node.rules.note("trouble", program=name[:8], error=text)

        with one_at_a_time():
            for other in [key for key, visit in self._visits.items() if visit.over]:
                del self._visits[other]
            visit = self._visits[name] = BrowserVisit(found, note, self._node.ring)
        return visit

    def visit(self, program: str) -> BrowserVisit | None:
        """Return the visit of a program by its whole id, or None."""
        return self._visits.get(program)

    def act(self, program: str, verb: str) -> Mapping[str, Any]:
        """Do what a person asks for, and return the program. Raises WasmsrError."""
        found = self._node.find(program)
        if verb == "pause":
            found.pause()
        elif verb == "resume":
            found.resume()
        elif verb == "checkpoint":
            found.checkpoint()
        else:
            found.kill("killed from the page")
        return found.shown()
