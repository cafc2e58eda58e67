"""The nodes on which executions run: what each says of its programs, as it changes.

One thread for each node listens to its list, however many executions it has. So an execution is
found without a question to any node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Final

from wasmsr.errors import WasmsrError, printable
from wasmsr.jobs.servers.server_port import JobServer, ProgramOnServer
from wasmsr.node.failures import NodeAway

FIRST_SECONDS: Final = 20.0
"""How long a caller waits until each node has said what it has, or cannot be reached."""

AGAIN_SECONDS: Final = 0.3
"""How long a thread waits before it asks a node again that was away."""

Place = tuple[str, ProgramOnServer]
"""The address of a node, and what it says of a program."""


class JobServers:
    """The nodes, by their addresses. Any thread may use it."""

    def __init__(self, connect: Callable[[str], JobServer], addresses: Iterable[str]) -> None:
        """Take nodes; `connect` opens one by its address."""
        self._connect = connect
        self._lock = threading.Condition()
        self._open: dict[str, JobServer] = {}
        self._shown: dict[str, dict[str, list[ProgramOnServer]] | None] = {}
        """By address what the node has, by name; None as long as it is away."""
        self._replaced: dict[str, set[str]] = {}
        self._ending = set[str]()
        self._closed = False
        self.addresses = list(addresses)

    def at(self, address: str) -> JobServer:
        """Return a node; one that was not known is asked from now on too. Raises WasmsrError."""
        with self._lock:
            if address not in self.addresses:
                self.addresses.append(address)
            if address not in self._open:
                if self._closed:
                    raise NodeAway("the executor was ended")
                node = self._open[address] = self._connect(address)
                threading.Thread(
                    target=self._listen, args=(address, node), name="wasmsr-job-server", daemon=True
                ).start()
            return self._open[address]

    def _listen(self, address: str, node: JobServer) -> None:
        """Note what a node says of its programs, until the connections are closed."""
        while not self._closed:
            try:
                for programs in node.watch():
                    found: dict[str, list[ProgramOnServer]] = {}
                    for one in programs:
                        found.setdefault(one.name, []).append(one)
                    with self._lock:
                        self._shown[address] = found
                        self._lock.notify_all()
                    self._end_replaced(node, programs)
            except WasmsrError:
                pass
            except Exception:
                if not self._closed:
                    raise
            with self._lock:
                self._shown[address] = None
                self._lock.notify_all()
                self._lock.wait_for(lambda: self._closed, AGAIN_SECONDS)

    def away(self) -> frozenset[str]:
        """Return the addresses of nodes that cannot be reached now."""
        self._hear_all()
        with self._lock:
            return frozenset(one for one in self.addresses if self._shown.get(one) is None)

    def find(self, name: str, but: Collection[str] = ()) -> Place | None:
        """Return the node that has a program, and what it says; None if none has it.

        If several have it, the one with the latest epoch counts.

        Args:
            name: The program's name.
            but: Ids of programs with this name that do not count.

        Raises:
            NodeAway: None has it, but not all could be asked.
        """
        self._hear_all()
        found = self._known(name, but)
        if found is not None and found[1].standing == "moved" and found[1].went is not None:
            there = str(found[1].went["address"])
            if there and there not in self._open:
                self.at(there)
                self._hear_all()
                found = self._known(name, but)
        if found is not None:
            return found
        with self._lock:
            away = [one for one in self.addresses if self._shown.get(one) is None]
        for address in self.addresses:  # one that has just come is not in the lists yet
            try:
                mine = [
                    one
                    for one in self.at(address).ps()
                    if one.name == name and one.program not in but
                ]
            except NodeAway:
                away.append(address)  # its list, which has not the program, may be old
                continue
            if mine:
                return address, max(mine, key=_age)
        if away:
            raise NodeAway(f"the server {printable(away[0])} cannot be asked")
        return None

    def _hear_all(self) -> None:
        for address in list(self.addresses):
            self.at(address)
        with self._lock:
            self._lock.wait_for(
                lambda: all(one in self._shown for one in self.addresses) or self._closed,
                FIRST_SECONDS,
            )

    def _known(self, name: str, but: Collection[str]) -> Place | None:
        """Return what the lists say of a program; one that it has left counts last."""
        with self._lock:
            found = [
                (address, one)
                for address, shown in self._shown.items()
                for one in (shown or {}).get(name, ())
                if one.program not in but
            ]
        return max(found, key=lambda place: _age(place[1]), default=None)

    def replace(self, name: str, programs: Collection[str]) -> None:
        """End programs of this name wherever they are shown from now on, also again and again.

        They were begun anew when no node had them; a node can come back with a folder that was
        away. The ids come from a note in a folder that others may write. The name says whose they
        are.
        """
        with self._lock:
            self._replaced.setdefault(name, set()).update(programs)

    def _end_replaced(self, node: JobServer, programs: Iterable[ProgramOnServer]) -> None:
        with self._lock:
            found = {
                one.program
                for one in programs
                if not one.is_final and one.program in self._replaced.get(one.name, ())
            } - self._ending
            self._ending |= found
        for program in found:
            threading.Thread(
                target=self._end, args=(node, program), name="wasmsr-end-replaced", daemon=True
            ).start()

    def _end(self, node: JobServer, program: str) -> None:
        with suppress(WasmsrError):  # it is tried again with the next list
            node.kill(program)
        with self._lock:
            self._ending.discard(program)

    def wait(self, name: str, seen: Place | None, seconds: float) -> None:
        """Wait until the lists say something else of a program, at most so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._closed:
            with self._lock:
                if self._known(name, ()) != seen:
                    return
                self._lock.wait(left)

    def heard(self, name: str) -> Place | None:
        """Return what the lists say of a program now, without any question."""
        return self._known(name, ())

    def wake(self) -> None:
        """Wake whoever waits."""
        with self._lock:
            self._lock.notify_all()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._closed = True
            nodes, self._open = list(self._open.values()), {}
            self._lock.notify_all()
        for one in nodes:
            one.close()


def _age(program: ProgramOnServer) -> tuple[bool, int, float]:
    """Return what is larger for the one of several programs with one name that counts."""
    return program.standing != "moved", program.epoch, program.submitted


__all__ = ["JobServers", "Place"]
