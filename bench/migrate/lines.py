"""The lines between two ends: loopback, two namespaces with a cable, two with a user-space bridge.

All that is made has a name with the number of this process. What an earlier run has left, whose
process is gone, is found by these names and removed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "wasmsr-bench"
SPACES = Path("/run/netns")
NAME = re.compile(rf"{PREFIX}-(\d+)-")
GIGABIT, HUNDRED = 1e9, 1e8
"""Bits a second."""
DELAY = 0.02
"""Seconds each way on the slow line."""


class NotHere(Exception):
    """A line cannot be had here; the message says why."""


@dataclass(frozen=True)
class Place:
    """One end of a line.

    Attributes:
        address: Where the end there listens.
        inside: The words before a command that make it run there.
    """

    address: str
    inside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line that can be made.

    Attributes:
        name: What options and tables call it.
        rate: Bits a second; 0 for no limit of its own.
        delay: Seconds each way; 0 for none of its own.
    """

    name: str
    rate: float = 0.0
    delay: float = 0.0

    @contextmanager
    def made(self) -> Iterator[tuple[Place, Place]]:
        """Make the line, give its two ends, and remove it.

        Raises:
            NotHere: It cannot be made.
        """
        if not self.rate:
            yield Place("127.0.0.1"), Place("127.0.0.1")
            return
        with _spaces() as names:
            if self.delay:
                with _bridge(names, self.delay, self.rate):
                    yield _places(names)
            else:
                _cable(names, self.rate)
                yield _places(names)


LINES = (
    Line("loopback"),
    Line("1 Gbit/s", GIGABIT),
    Line("100 Mbit/s", HUNDRED),
    Line("100 Mbit/s, 20 ms", HUNDRED, DELAY),
)


def sweep(folder: Path) -> list[str]:
    """Remove what runs have left whose processes are gone: namespaces, and folders in a folder.

    Returns their names.
    """
    removed = []
    for path in sorted([*SPACES.glob(f"{PREFIX}-*"), *folder.glob(f"{PREFIX}-*")]):
        found = NAME.match(path.name)
        if not found or Path(f"/proc/{found[1]}").exists():
            continue
        with suppress(NotHere, OSError):
            if path.parent == SPACES:
                _ip("netns", "delete", path.name)
            else:
                shutil.rmtree(path)
            removed.append(path.name)
    return removed


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Give an empty folder in a folder, by a name that `sweep` knows."""
    with tempfile.TemporaryDirectory(
        prefix=f"{PREFIX}-{os.getpid()}-", dir=folder.resolve()
    ) as place:
        yield Path(place)


@contextmanager
def _spaces() -> Iterator[tuple[str, str]]:
    if os.geteuid() != 0:
        raise NotHere("network namespaces need root")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise NotHere(f"there is no `{tool}` (package iproute2)")
    names = f"{PREFIX}-{os.getpid()}-a", f"{PREFIX}-{os.getpid()}-b"
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            if (SPACES / name).exists():
                with suppress(NotHere):
                    _ip("netns", "delete", name)


def _cable(names: tuple[str, str], rate: float) -> None:
    """Join two namespaces by a veth pair, each side of which sends at a limited rate."""
    one, two = names
    _ip("-n", one, "link", "add", "line", "type", "veth", "peer", "name", "line", "netns", two)
    for name, address in zip(names, _addresses(), strict=True):
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "line")
        _ip("-n", name, "link", "set", "line", "up")
        # A burst of 2 ms, as the kernel's timer needs, and at least one large packet.
        burst = max(int(rate * 0.002 / 8), 131072)
        limit = burst + int(rate * 0.05 / 8)
        shape = ["root", "tbf", "rate", f"{rate:.0f}bit", "burst", str(burst), "limit", str(limit)]
        _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "line", *shape)


@contextmanager
def _bridge(names: tuple[str, str], delay: float, rate: float) -> Iterator[None]:
    """Join two namespaces by two TUN devices and a process that carries their packets."""
    command = [sys.executable, "-m", "bench.migrate.bridge", *names, "line", str(delay), str(rate)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if said != "ready":
            raise NotHere(f"no bridge with TUN devices: {said or 'it ended'}")
        for name, here, there in zip(names, _addresses(), reversed(_addresses()), strict=True):
            _ip("-n", name, "address", "add", here, "peer", there, "dev", "line")
            _ip("-n", name, "link", "set", "line", "txqueuelen", "1000", "up")
        yield
    finally:
        process.kill()
        process.communicate()


def _addresses() -> list[str]:
    return ["10.213.7.1", "10.213.7.2"]


def _places(names: tuple[str, str]) -> tuple[Place, Place]:
    one, two = (
        Place(address, ("ip", "netns", "exec", name))
        for name, address in zip(names, _addresses(), strict=True)
    )
    return one, two


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotHere(f"`{' '.join(words[:6])}`: {said[-1]}")
