"""What a node takes: rules on callers, modules, sizes, mounts and rates.

A rule that is not given allows everything of its kind, except mounts and listening sockets: those
reach outside the program, so a node gives only what a rule names. `Policy` is a value.
`ProgramAdmission` counts what the node has, so that a limit holds for calls at the same time too.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from wasmsr.errors import printable
from wasmsr.node.security.certificates import Identity
from wasmsr.node.security.failures import AccessRefused

CALLERS = 1024
"""Callers whose programs are counted for the rate."""
MINUTE = 60.0


@dataclass(frozen=True)
class MountWish:
    """A directory that a program wants.

    Attributes:
        host: The host's folder; "" if the program has its files itself.
        mode: Its mode, as in docs/files.md.
    """

    host: str
    mode: str


@dataclass(frozen=True)
class ProgramWish:
    """What a program wants of a node, as a policy sees it.

    Attributes:
        modules: SHA-256 of each module.
        memory: The most bytes that its memories may have.
        mounts: Directories.
        listen: Addresses on which it accepts connections, each `ADDR:PORT`.
        carried: The most bytes of files that it may carry.
    """

    modules: tuple[bytes, ...]
    memory: int = 0
    mounts: tuple[MountWish, ...] = ()
    listen: tuple[str, ...] = ()
    carried: int = 0


@dataclass(frozen=True)
class Policy:
    """The rules. None, or an empty tuple where this says so, allows everything of a kind.

    Attributes:
        peers: Node ids from which programs come, or all nodes if empty.
        clients: Names of clients that may give orders, or all clients if empty.
        modules: SHA-256 of modules that may run, or all if empty.
        programs: Programs at once.
        memory: Bytes that the memories of one program may have.
        total_memory: Bytes that the memories of all programs may have.
        per_minute: Programs a minute from one caller.
        mounts: Host folders that programs may have, each `FOLDER` or `FOLDER:ro`, with everything
            below them; none if empty.
        listen: Addresses on which programs may accept connections, each `ADDR:PORT` or `ADDR:*`;
            none if empty.
        carried: Bytes of files that one program may carry.
    """

    peers: tuple[bytes, ...] = ()
    clients: tuple[str, ...] = ()
    modules: tuple[bytes, ...] = ()
    programs: int | None = None
    memory: int | None = None
    total_memory: int | None = None
    per_minute: int | None = None
    mounts: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    carried: int | None = None

    def check_caller(self, caller: Identity | None) -> None:
        """Check who calls; None is a caller without a certificate, which other rules admit.

        Raises:
            AccessRefused: The policy does not have it.
        """
        if caller is None:
            return
        if caller.node and self.peers and caller.node not in self.peers:
            raise AccessRefused("peers", f"this node takes nothing from {caller}")
        if caller.client and self.clients and caller.client not in self.clients:
            raise AccessRefused("clients", f"this node takes no orders from {caller}")

    def check(self, wish: ProgramWish) -> None:
        """Check what does not depend on the other programs. Raises AccessRefused."""
        self._check_modules(wish)
        if self.memory is not None and wish.memory > self.memory:
            raise AccessRefused(
                "memory",
                f"a program may have {self.memory} bytes of memory here, and this one may use "
                f"{wish.memory}",
                hint="give it a lower --max-memory",
            )
        if self.carried is not None and wish.carried > self.carried:
            raise AccessRefused(
                "carried",
                f"a program may carry {self.carried} bytes of files here, and this one may carry "
                f"{wish.carried}",
                hint="give it a lower --carry-limit",
            )
        for mount in wish.mounts:
            self._check_mount(mount)
        for address in wish.listen:
            if not any(_covers(rule, address) for rule in self.listen):
                raise AccessRefused(
                    "listen", f"programs may not accept connections on {printable(address)} here"
                )

    def _check_modules(self, wish: ProgramWish) -> None:
        strangers = [one for one in wish.modules if one not in self.modules]
        if self.modules and strangers:
            raise AccessRefused(
                "modules", f"the module {strangers[0].hex()[:12]} is none of those that run here"
            )

    def _check_mount(self, mount: MountWish) -> None:
        if not mount.host:
            return
        wanted = os.path.realpath(mount.host)
        for rule in self.mounts:
            folder, read_only = (rule[:-3], True) if rule.endswith(":ro") else (rule, False)
            root = os.path.realpath(folder)
            below = wanted == root or wanted.startswith(root.rstrip("/") + "/")
            if below and (not read_only or mount.mode in READS):
                return
        raise AccessRefused(
            "mounts",
            f"programs may not have the folder {printable(mount.host)} with mode "
            f"{printable(mount.mode)} here",
        )


def _covers(rule: str, address: str) -> bool:
    host, _, port = rule.rpartition(":")
    other, _, number = address.rpartition(":")
    return host == other and port in ("*", number)


READS = ("ro", "input")
"""Modes of mounts in which a program changes nothing."""


class ProgramAdmission:
    """Admits programs by a policy, and counts those that are here. Any thread may call it."""

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the admission of one node; `clock` gives seconds."""
        self.policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._here: dict[bytes, int] = {}
        self._recent: OrderedDict[str, list[float]] = OrderedDict()

    def admit(self, program: bytes, caller: str, wish: ProgramWish) -> None:
        """Count a program that comes, until `leave`. A second call for it changes its memory.

        Args:
            program: Its id.
            caller: Who brings it: a node, a client or a host.
            wish: What it wants.

        Raises:
            AccessRefused: A rule forbids it; nothing is counted.
        """
        policy = self.policy
        policy.check(wish)
        with self._lock:
            others = sum(size for id, size in self._here.items() if id != program)
            new = program not in self._here
            if policy.programs is not None and new and len(self._here) >= policy.programs:
                raise AccessRefused(
                    "programs", f"this node has {policy.programs} programs, which is its limit"
                )
            if policy.total_memory is not None and others + wish.memory > policy.total_memory:
                raise AccessRefused(
                    "total-memory",
                    f"the programs of this node may have {policy.total_memory} bytes of memory "
                    f"in all, {others} are taken, and this one may use {wish.memory}",
                )
            if new:
                self._count_rate(caller)
            self._here[program] = wish.memory

    def _count_rate(self, caller: str) -> None:
        most = self.policy.per_minute
        if most is None:
            return
        now = self._clock()
        times = [one for one in self._recent.get(caller, []) if one > now - MINUTE]
        if len(times) >= most:
            raise AccessRefused(
                "per-minute",
                f"{caller} has brought {most} programs within a minute, which is the limit",
                hint=f"try again in {times[0] + MINUTE - now:.0f} s",
            )
        self._recent[caller] = [*times, now]
        self._recent.move_to_end(caller)
        while len(self._recent) > CALLERS:
            self._recent.popitem(last=False)

    def leave(self, program: bytes) -> None:
        """Count a program no more."""
        with self._lock:
            self._here.pop(program, None)

    def counts(self) -> tuple[int, int]:
        """Return the programs here, and the bytes of their memories."""
        with self._lock:
            return len(self._here), sum(self._here.values())
