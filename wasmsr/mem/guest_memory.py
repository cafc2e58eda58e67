"""The functions of the module `env` by which a program reads and writes remote memory.

`mem_open(name, length) -> i32` gives a handle. `mem_size(handle) -> i64` is the length in bytes.
`mem_read(handle, addr: i64, buffer, count) -> i32` and `mem_write` give `count`, `mem_fence(handle)
-> i32` gives 0 when the memory has answered. All of them give -1 if they fail; then `mem_errno()`
says why. What a memory's answer had as its status is the number; the rest is in `ERRORS`.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable, Mapping

from wasmsr.errors import LinkError, SnapshotError, UnportableState, printable
from wasmsr.interp.store.externs import Caller, HostFunction, Retry
from wasmsr.interp.types import FuncType, ValType
from wasmsr.mem.failures import RemoteMemoryAway, RemoteMemoryError, TransportError
from wasmsr.mem.guest_state import LONGEST_NAME, MOST_MEMORIES, GuestMemory, OpenMemory
from wasmsr.mem.memory_link import MemoryLink, parse_url
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from wasmsr.interp.modules.module import Module

MODULE: Final = "env"
FAILED: Final = -1

NO_MEMORY, NO_HANDLE, NO_BUFFER, AWAY, TOO_MANY = 256, 257, 258, 259, 260
ERRORS = {
    NO_MEMORY: "the program was given no memory of this name",
    NO_HANDLE: "there is no such handle",
    NO_BUFFER: "the buffer is not all in the program's memory",
    AWAY: "the memory cannot be reached",
    TOO_MANY: "the program has too many memories open",
}
"""Numbers of `mem_errno` besides those of answers."""

AWAY_SECONDS = 30.0
"""How long a memory may be away before a command fails."""
PIECE_SECONDS = 0.25
"""How long one try may take; a pause waits so long at most."""

I32, I64 = ValType.I32, ValType.I64
TYPES: dict[str, FuncType] = {
    "mem_open": FuncType((I32, I32), (I32,)),
    "mem_size": FuncType((I32,), (I64,)),
    "mem_read": FuncType((I32, I64, I32, I32), (I32,)),
    "mem_write": FuncType((I32, I64, I32, I32), (I32,)),
    "mem_fence": FuncType((I32,), (I32,)),
    "mem_errno": FuncType((), (I32,)),
}
"""Each function with its type."""


class MemoryNotGranted(LinkError):
    """A program imports functions of remote memory, and this host gives it none."""


@record(frozen=True)
class MemoryGrant:
    """The memories that a host gives to a program.

    Attributes:
        urls: The address of each, by the name that the program has for it.
        epochs: For each the number by which it refuses who was replaced; 0 if it is not here.
        cut: The cut of a gang with which the program goes on; "" for a program alone.
    """

    urls: Mapping[str, str]
    epochs: Mapping[str, int] | None = None
    cut: str = ""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> MemoryGrant:
        """Read `NAME=tcp://HOST:PORT`, or `NAME=tcp://HOST:PORT;EPOCH`.

        Raises:
            TransportError: A text has another form.
        """
        urls, epochs = {}, {}
        for text in texts:
            name, equals, rest = text.partition("=")
            url, semicolon, number = rest.partition(";")
            if not equals or not name or len(name.encode()) > LONGEST_NAME:
                raise TransportError(f"{printable(text, 200)} is not NAME=tcp://HOST:PORT")
            parse_url(url)
            if semicolon:
                if not number.isascii() or not number.isdigit() or int(number) >= 1 << 64:
                    raise TransportError(f"{printable(text, 200)} has no epoch after its ;")
                epochs[name] = int(number)
            urls[name] = url
        return cls(urls, epochs)


class MemoryFunctions:
    """The remote memories of one program: its functions, and what snapshots save of them.

    Args:
        grant: What this host gives; None if that comes with `enter` or `begin`.
    """

    def __init__(self, grant: MemoryGrant | None = None) -> None:
        self._grant = grant
        self._state = GuestMemory()
        self._links: dict[int, MemoryLink] = {}
        self._began: float | None = None
        self._caller: Caller | None = None

    # -- life --------------------------------------------------------------------------------------

    def imports(self, modules: Iterable[Module]) -> dict[str, HostFunction]:
        """Return the functions that modules import."""
        return {
            name: HostFunction(type_, getattr(self, name), raw=True)
            for name, type_ in wanted_memory(modules).items()
        }

    def capture(self) -> dict[str, Any]:
        """Return the state: names, and who this is to each memory; the program must be paused.

        Raises:
            UnportableState: A memory of another kind was written, and has not answered.
        """
        for handle, link in self._links.items():
            one = self._state.open[handle]
            one.seq, one.begun = link.seq, one.begun or link.begun
            if link.fenced is False and self._state.retried:
                raise UnportableState(
                    f"memory {printable(one.name)} does not know who writes, and a command waits "
                    "for its answer"
                )
        return self._state.capture()

    def enter(self, state: Any, grant: MemoryGrant) -> None:
        """Take a saved state over.

        Raises:
            FormatError: The state is none.
            MemoryNotGranted: A memory that is open is not given here.
            SnapshotError: The state is of one of a gang, and the others are not here.
        """
        self._state = GuestMemory.restore(state)
        self._grant = grant
        if self._state.cut not in ("", grant.cut):
            raise SnapshotError(
                "the program was saved as one of a gang, and goes on only together with the others",
                hint=f"it is of cut {printable(self._state.cut, 60)}; `wasmsr dag resume` goes on "
                "with all of them",
            )
        self._state.cut = ""
        for one in self._state.open:
            if one.name not in grant.urls:
                raise MemoryNotGranted(
                    f"the program has memory {printable(one.name)} open, and this host does not "
                    "give it",
                    hint=f"--remote-memory {printable(one.name, 60)}=tcp://HOST:PORT",
                )

    def mark(self, cut: str) -> None:
        """Note in the states from now on of which cut of a gang they are; "" for none."""
        self._state.cut = cut

    def begin(self, grant: MemoryGrant) -> None:
        """Take what this host gives, without a saved state."""
        self._grant = grant

    def close(self) -> None:
        """Close the connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    # -- the functions -----------------------------------------------------------------------------

    def mem_open(self, caller: Caller, name: int, length: int) -> int:
        """Open a memory by its name and return its handle; the same name has the same handle."""
        place = _span(caller, name, length) if length <= LONGEST_NAME else None
        text = "" if place is None else bytes(place).decode("utf-8", "replace")
        if self._grant is None or text not in self._grant.urls:
            return self._failed(NO_MEMORY)
        for handle, one in enumerate(self._state.open):
            if one.name == text:
                return handle
        if len(self._state.open) == MOST_MEMORIES:
            return self._failed(TOO_MANY)
        self._state.open.append(OpenMemory(text, os.urandom(16)))
        return len(self._state.open) - 1

    def mem_size(self, caller: Caller, handle: int) -> int:
        """Return the length of a memory in bytes; 0 if it does not say it."""
        found = self._done(caller, handle, lambda link: link.size())
        return found & 0xFFFFFFFFFFFFFFFF

    def mem_read(self, caller: Caller, handle: int, addr: int, buffer: int, count: int) -> int:
        """Read bytes of a memory."""
        place = _span(caller, buffer, count)
        if place is None:
            return self._failed(NO_BUFFER)

        def read(link: MemoryLink) -> int:
            link.read(addr, place)
            return count

        return _bits(self._done(caller, handle, read))

    def mem_write(self, caller: Caller, handle: int, addr: int, buffer: int, count: int) -> int:
        """Write bytes to a memory."""
        place = _span(caller, buffer, count)
        if place is None:
            return self._failed(NO_BUFFER)

        def write(link: MemoryLink) -> int:
            link.write(addr, place)
            return count

        return _bits(self._done(caller, handle, write))

    def mem_fence(self, caller: Caller, handle: int) -> int:
        """Return when the memory has done all commands before."""

        def fence(link: MemoryLink) -> int:
            link.read(0, memoryview(b""))
            return 0

        return _bits(self._done(caller, handle, fence))

    def mem_errno(self, caller: Caller) -> int:
        """Return why the last function that failed has failed."""
        return self._state.errno

    # -- what they share ---------------------------------------------------------------------------

    def _failed(self, number: int) -> int:
        self._state.errno = number
        self._state.retried = False
        self._began = None
        return _bits(FAILED)

    def _done(self, caller: Caller, handle: int, work: Callable[[MemoryLink], int]) -> int:
        """Do a command on a memory, and return its result or -1.

        A try is short, so that a pause can come between two. The command keeps its number, so the
        memory does it once, also where this program goes on elsewhere.

        Raises:
            Retry: A pause is wanted first.
        """
        if handle >= len(self._state.open):
            self._failed(NO_HANDLE)
            return FAILED
        link = self._link(handle)
        self._caller = caller
        self._began = time.monotonic() if self._began is None else self._began
        while True:
            if self._state.retried:
                link.repeat()
            try:
                found = work(link)
            except Retry:
                link.interrupt()
                self._state.retried, self._began = link.sent, None
                raise
            except RemoteMemoryAway:
                if link.fenced is False or time.monotonic() - self._began > AWAY_SECONDS:
                    self._failed(AWAY)
                    return FAILED
                self._state.retried = link.sent
                if _pause_wanted(caller, -1):
                    self._began = None
                    raise Retry from None
                continue
            except RemoteMemoryError as error:
                self._failed(AWAY if error.status is None else error.status)
                return FAILED
            self._state.retried, self._began = False, None
            return found

    def _link(self, handle: int) -> MemoryLink:
        found = self._links.get(handle)
        if found is None:
            assert self._grant is not None
            one = self._state.open[handle]
            found = self._links[handle] = MemoryLink(
                one.name, self._grant.urls[one.name], client=one.client, seq=one.seq,
                epoch=(self._grant.epochs or {}).get(one.name, 0), patience=PIECE_SECONDS,
                begun=one.begun, waits=self._wait,
            )  # fmt: skip
        return found

    def _wait(self, link: MemoryLink, descriptor: int) -> None:
        """Wait for an answer, or for a pause where the command can be repeated.

        Raises:
            Retry: A pause is wanted.
        """
        caller = self._caller
        # Before it is known whether the memory understands HELLO, HELLO is all that can be lost.
        once = link.fenced is not False
        if once and caller is not None and _pause_wanted(caller, descriptor):
            raise Retry


def wanted_memory(modules: Iterable[Module]) -> dict[str, FuncType]:
    """Return the functions of remote memory that modules import, with their types."""
    return {
        item.name: TYPES[item.name]
        for module in modules
        for item in module.imports
        if item.module == MODULE and item.name in TYPES and item.type == TYPES[item.name]
    }


def check_memory_granted(modules: Iterable[Module], grant: MemoryGrant | None) -> None:
    """Check that a host gives remote memory to a program that uses it.

    Raises:
        MemoryNotGranted: It does not.
    """
    names = wanted_memory(modules)
    if names and grant is None:
        raise MemoryNotGranted(
            f"the program imports {next(iter(names))} from env, a function of remote memory, and "
            "this host gives it none",
            hint="--remote-memory NAME=tcp://HOST:PORT gives it",
        )


def _pause_wanted(caller: Caller, descriptor: int) -> bool:
    """Wait for a descriptor, as long as an answer may take; return whether a pause comes first.

    Args:
        caller: The call.
        descriptor: The descriptor; -1 for none: then this does not wait.
    """
    poll = select.poll()
    poll.register(caller.wake_fd, select.POLLIN)
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    ready = poll.poll(0 if descriptor < 0 else AWAY_SECONDS * 1000)
    return bool(ready) and all(found == caller.wake_fd for found, _ in ready)


def _bits(value: int) -> int:
    return value & 0xFFFFFFFF


def _span(caller: Caller, start: int, size: int) -> memoryview | None:
    """Return a part of the caller's memory, or None if it is not all there."""
    memory = caller.memory
    return memory[start : start + size] if start + size <= len(memory) else None
