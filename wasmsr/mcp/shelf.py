"""The sandboxes of all clients: each under an id, with its owner, its limits and its idle time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from wasmsr.errors import WasmsrError, printable
from wasmsr.mcp.policy import McpPolicy

ID_BYTES = 9
"""Random bytes of an id: nobody guesses one of another client."""
FORKS = 16
"""Largest number of forks that one call makes."""
PAUSED = ("interrupted", "waiting")
"""What a sandbox in the middle of a call says of itself."""
NAME_LENGTH = 100
"""Largest length of the name of a sandbox or a snapshot, in characters."""


class ShelfError(WasmsrError):
    """A client asked for something that it cannot have. The message is for the client."""


class Sandboxed(Protocol):
    """What the server needs of a sandbox; `wasmsr.Sandbox` is one."""

    @property
    def status(self) -> str:
        """Return "idle", "running", "interrupted", "waiting" or "closed"."""

    def run(self, code: str) -> Any:
        """Run code, and return its result."""

    def resume(self) -> Any:
        """Go on with the call that was paused, and return its result."""

    def interrupt(self) -> None:
        """Pause the call that runs."""

    def snapshot(self, name: str | None = None) -> str:
        """Keep the state under a name, and return the name."""

    def rewind(self, name: str) -> None:
        """Go back to a kept state."""

    @property
    def snapshots(self) -> Sequence[str]:
        """The names of the states that it has in memory."""

    def fork(self, count: int = 1) -> Sequence[Any]:
        """Return copies."""

    def close(self) -> None:
        """End it, and forget its state."""

    def put(self, path: str, data: bytes) -> None:
        """Write a file of the sandbox."""

    def get(self, path: str) -> bytes:
        """Read a file of the sandbox."""

    def files(self, path: str = "/work") -> Sequence[str]:
        """Return the names in a folder of the sandbox."""


class SandboxSource(Protocol):
    """Where sandboxes come from, and where parked ones are."""

    def make(self, packages: str) -> Any:
        """Return a new sandbox."""

    def park(self, sandbox: Any, name: str) -> None:
        """Put a sandbox and its snapshots on disk under a name, and close it."""

    def wake(self, name: str, label: str = ...) -> Any:
        """Return the sandbox of a parked state: the present one, or a snapshot's."""

    def forget(self, name: str) -> None:
        """Remove what is on disk of a sandbox."""


@dataclass
class Shelved:
    """One sandbox of a client.

    Attributes:
        id: The random id by which the client names it.
        owner: The client's name; "" where clients have no names.
        packages: Its package set.
        label: What the client calls it.
        sandbox: The sandbox.
        snapshots: Names of the states that it can go back to.
        parked: Whether it is in the store, and not in memory.
        paused: Whether it is in the middle of a call.
        used: When it was used last, in seconds of the shelf's clock.
        lock: Held by the call that uses it.
        gone: Whether it was closed.
    """

    id: str
    owner: str
    packages: str
    label: str
    sandbox: Sandboxed
    snapshots: list[str] = field(default_factory=list)
    parked: bool = False
    paused: bool = False
    used: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    gone: bool = False

    def described(self) -> dict[str, Any]:
        """Return what a client hears of it."""
        state = "parked" if self.parked else "paused" if self.paused else "idle"
        return {
            "sandbox": self.id,
            "name": self.label,
            "packages": self.packages,
            "state": "running" if self.lock.locked() else state,
            "snapshots": list(self.snapshots),
        }


class SandboxShelf:
    """Keeps the sandboxes of all clients. Any thread may call it; calls may block."""

    def __init__(
        self,
        policy: McpPolicy,
        source: SandboxSource,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty shelf.

        Args:
            policy: What clients may have.
            source: Where sandboxes come from.
            clock: Gives seconds.
        """
        self._policy = policy
        self._source = source
        self._clock = clock
        self._guard = threading.Lock()
        self._items: dict[str, Shelved] = {}
        self._coming: dict[str, int] = {}

    # ---- what a client asks for

    def open(self, owner: str, packages: str | None, label: str) -> Shelved:
        """Open a new sandbox. Raises ShelfError, or what making one raises."""
        allowed = self._policy.sandbox.packages
        packages = allowed[0] if packages is None else packages
        if packages not in allowed:
            raise ShelfError(
                f"there are no sandboxes with {packages!r} here",
                hint=f"the package sets are: {', '.join(allowed)}",
            )
        _check_name(label)
        with self._reserved(owner, 1):
            self.make_room()
            sandbox = self._source.make(packages)
            return self._add(owner, packages, label, sandbox)

    def listed(self, owner: str) -> list[dict[str, Any]]:
        """Return what is said of all sandboxes of a client."""
        with self._guard:
            items = [one for one in self._items.values() if one.owner == owner]
        return [one.described() for one in items]

    def run(self, owner: str, name: str, code: str, seconds: float | None) -> Any:
        """Run code in a sandbox. Raises ShelfError, or what the sandbox raises."""
        with self._using(owner, name) as one:
            if one.paused:
                raise ShelfError(
                    f"sandbox {one.id} is in the middle of a call",
                    hint="continue_run goes on with it, rewind_sandbox gives it up",
                )
            return self._call(one, seconds, lambda: one.sandbox.run(code))

    def resume(self, owner: str, name: str, seconds: float | None) -> Any:
        """Go on with the paused call of a sandbox."""
        with self._using(owner, name) as one:
            if not one.paused:
                raise ShelfError(f"sandbox {one.id} has no paused call")
            return self._call(one, seconds, one.sandbox.resume)

    def interrupt(self, owner: str, name: str) -> None:
        """Pause the call that runs in a sandbox; nothing happens if none does."""
        self._stop(self._find(owner, name))

    def snapshot(self, owner: str, name: str, label: str | None) -> str:
        """Keep a state of a sandbox under a name, and return the name."""
        if label is not None:
            _check_name(label)
        with self._using(owner, name) as one:
            if len(one.snapshots) >= self._policy.service.sandboxes:
                raise ShelfError(f"sandbox {one.id} has {len(one.snapshots)} snapshots already")
            kept = one.sandbox.snapshot(label)
            if kept not in one.snapshots:
                one.snapshots.append(kept)
            return kept

    def rewind(self, owner: str, name: str, to: str | None) -> str:
        """Let a sandbox go back to a kept state, by default the last, and return its name."""
        with self._using(owner, name) as one:
            if to is None and one.snapshots:
                to = one.snapshots[-1]
            if to not in one.snapshots:
                known = ", ".join(one.snapshots) or "none"
                raise ShelfError(
                    f"sandbox {one.id} has no snapshot {to!r}", hint=f"its snapshots are: {known}"
                )
            if to in one.sandbox.snapshots:
                one.sandbox.rewind(to)
            else:  # it is on disk only, and there all others have to be before this one returns
                self._park(one)  # if the snapshot cannot be read, the next call wakes this state
                one.sandbox = self._source.wake(one.id, to)
                one.parked = False
            one.paused = one.sandbox.status in PAUSED
            return to

    def fork(self, owner: str, name: str, count: int) -> list[Shelved]:
        """Make copies of a sandbox, and return them."""
        if not 1 <= count <= FORKS:
            raise ShelfError(f"one call makes 1 to {FORKS} forks, not {count}")
        with self._using(owner, name) as one, self._reserved(owner, count):
            self.make_room(count)
            copies = one.sandbox.fork(count)
            return [self._add(owner, one.packages, one.label, copy) for copy in copies]

    def park(self, owner: str, name: str) -> None:
        """Put a sandbox into the store. The next call wakes it."""
        with self._using(owner, name, awake=False) as one:
            self._park(one)

    def close(self, owner: str, name: str) -> None:
        """End a sandbox, also one that runs."""
        one = self._find(owner, name)
        one.gone = True
        self._stop(one)
        with one.lock:
            self._forget(one)

    def put(self, owner: str, name: str, path: str, data: bytes) -> None:
        """Write a file of a sandbox."""
        limit = self._policy.service.file
        if len(data) > limit:
            raise ShelfError(f"a file of {len(data)} bytes is too large: the limit is {limit}")
        with self._using(owner, name) as one:
            one.sandbox.put(path, data)

    def get(self, owner: str, name: str, path: str) -> bytes:
        """Read a file of a sandbox."""
        with self._using(owner, name) as one:
            data = one.sandbox.get(path)
        limit = self._policy.service.file
        if len(data) > limit:
            raise ShelfError(f"{path} has {len(data)} bytes: the limit is {limit}")
        return data

    def files(self, owner: str, name: str, path: str) -> list[str]:
        """Return the names in a folder of a sandbox."""
        with self._using(owner, name) as one:
            return list(one.sandbox.files(path))

    # ---- housekeeping

    def sweep(self) -> int:
        """Park what nobody has used for long, and return how many that were."""
        before = self._clock() - self._policy.service.idle
        return sum(self._park_idle(one) for one in self._open_ones() if one.used < before)

    def make_room(self, count: int = 1) -> None:
        """Park what was used longest ago, so that new ones have a place in memory.

        Raises:
            ShelfError: All of them run at the moment.
        """
        found = sorted(self._open_ones(), key=lambda one: one.used)
        excess = len(found) + count - self._policy.service.open
        for one in found:
            if excess <= 0:
                return
            excess -= self._park_idle(one)
        if excess > 0:
            raise ShelfError("all sandboxes of this server are at work", hint="try again later")

    def close_all(self) -> None:
        """End all sandboxes."""
        with self._guard:
            items = list(self._items.values())
        for one in items:
            one.gone = True
            self._stop(one)
        for one in items:
            with one.lock:
                self._forget(one)

    # ---- inside

    def _stop(self, one: Shelved) -> None:
        if one.lock.locked() and not one.parked:
            one.sandbox.interrupt()

    def _call(self, one: Shelved, seconds: float | None, call: Callable[[], Any]) -> Any:
        """Make a call, which is paused when its time is over. Returns its result."""
        seconds = self._seconds(seconds)
        guard = threading.Lock()
        active = True

        def stop() -> None:
            with guard:
                if active:
                    one.sandbox.interrupt()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            result = call()
        finally:
            with guard:
                active = False
            timer.cancel()
            one.paused = one.sandbox.status in PAUSED
        return result

    def _seconds(self, asked: float | None) -> float:
        most = self._policy.sandbox.seconds
        if asked is None:
            return most
        if not 0 < asked <= most:
            raise ShelfError(f"a call may take more than 0 and at most {most:g} seconds")
        return asked

    def _find(self, owner: str, name: str) -> Shelved:
        with self._guard:
            one = self._items.get(name)
        # One of another client is treated as one that is not there: its id tells nothing.
        if one is None or one.owner != owner or one.gone:
            raise ShelfError(
                f"there is no sandbox {printable(name, 40)!r}", hint="list_sandboxes names yours"
            )
        return one

    @contextmanager
    def _using(self, owner: str, name: str, *, awake: bool = True) -> Iterator[Shelved]:
        """Hold a sandbox for one call, which is the only one."""
        one = self._find(owner, name)
        if not one.lock.acquire(blocking=False):
            raise ShelfError(f"sandbox {one.id} is at work with another call")
        try:
            if one.gone:
                raise ShelfError(f"sandbox {one.id} was closed")
            if awake and one.parked:
                self.make_room()
                one.sandbox = self._source.wake(one.id)
                one.parked = False
            yield one
        finally:
            one.used = self._clock()
            one.lock.release()

    @contextmanager
    def _reserved(self, owner: str, count: int) -> Iterator[None]:
        """Count sandboxes that are being made, so that a client cannot race past its limit."""
        limit = self._policy.service.sandboxes
        with self._guard:
            has = sum(1 for one in self._items.values() if one.owner == owner)
            coming = self._coming.get(owner, 0)
            if has + coming + count > limit:
                raise ShelfError(
                    f"you have {has} sandboxes, and the limit is {limit}",
                    hint="close_sandbox ends one",
                )
            self._coming[owner] = coming + count
        try:
            yield
        finally:
            with self._guard:
                left = self._coming[owner] - count
                if left:
                    self._coming[owner] = left
                else:
                    del self._coming[owner]

    def _add(self, owner: str, packages: str, label: str, sandbox: Sandboxed) -> Shelved:
        name = secrets.token_urlsafe(ID_BYTES)
        one = Shelved(name, owner, packages, label, sandbox, used=self._clock())
        one.paused = sandbox.status in PAUSED
        with self._guard:
            self._items[name] = one
        return one

    def _forget(self, one: Shelved) -> None:
        with self._guard:
            known = self._items.pop(one.id, None)
        if known is not None:
            one.sandbox.close()
            self._source.forget(one.id)

    def _open_ones(self) -> list[Shelved]:
        with self._guard:
            return [one for one in self._items.values() if not (one.parked or one.gone)]

    def _park_idle(self, one: Shelved) -> bool:
        """Park a sandbox that no call uses, and return whether that was so."""
        if not one.lock.acquire(blocking=False):
            return False
        try:
            return not one.gone and self._park(one)
        finally:
            one.lock.release()

    def _park(self, one: Shelved) -> bool:
        if one.parked:
            return False
        self._source.park(one.sandbox, one.id)
        one.parked = True
        return True


def _check_name(name: str) -> None:
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise ShelfError(f"a name has at most {NAME_LENGTH} printable characters")
