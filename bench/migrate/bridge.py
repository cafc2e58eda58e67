"""A line in user space: carries packets between two TUN devices, late and at a limited rate.

    python -m bench.migrate.bridge SPACE SPACE DEVICE DELAY RATE

Makes DEVICE in each of two network namespaces, prints "ready", and carries packets until its
standard input ends. DELAY is in seconds each way, RATE in bits
a second each way. A packet that would wait for more than QUEUE seconds is lost, as in a router.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from pathlib import Path

from bench.migrate.child import end_with_parent

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
QUEUE = 0.1
"""Seconds of traffic that wait at most."""
HEADER = 24
"""Bytes beside each packet that Ethernet would send: the rate counts them, as `tc` does not."""
LARGEST = 65536
AT_ONCE = 64
"""Packets that are read from one device before the others get their turn."""


def enter(space: str) -> None:
    """Move this thread into a network namespace.

    Raises:
        OSError: There is none of that name, or this user may not.
    """
    file = os.open(f"/run/netns/{space}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), space)
    finally:
        os.close(file)


def device(space: str, name: str) -> int:
    """Return a descriptor of a new TUN device in a namespace. It lives as long as that."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(space)
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        ctypes.CDLL(None).setns(home, CLONE_NEWNET)
        return file
    finally:
        os.close(home)


class Way:
    """The packets of one direction, in the order in which they come.

    Args:
        source: Descriptor that gives packets.
        target: Descriptor that takes them.
        delay: Seconds from the end of a packet's sending to its arrival.
        rate: Bits a second.
    """

    def __init__(self, source: int, target: int, delay: float, rate: float) -> None:
        self.source = source
        self.target = target
        self._delay = delay
        self._rate = rate
        self._free = 0.0
        self._under_way: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float:
        """When the next packet arrives (`time.monotonic`); infinite if none is under way."""
        return self._under_way[0][0] if self._under_way else float("inf")

    def take(self) -> None:
        """Read what has come."""
        for _ in range(AT_ONCE):
            try:
                packet = os.read(self.source, LARGEST)
            except BlockingIOError:
                return
            now = time.monotonic()
            begin = max(now, self._free)
            if begin - now > QUEUE:
                continue
            self._free = begin + (len(packet) + HEADER) * 8 / self._rate
            self._under_way.append((self._free + self._delay, packet))

    def give(self) -> None:
        """Write what is due."""
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            try:
                os.write(self.target, self._under_way.popleft()[1])
            except OSError:
                continue  # the device takes no more: the packet is lost


def carry(ways: tuple[Way, Way], end: int) -> None:
    """Carry packets both ways until the descriptor `end` has come to its end."""
    poll = select.epoll()
    by_source = {way.source: way for way in ways}
    for file in (*by_source, end):
        poll.register(file, select.EPOLLIN)
    while True:
        wait = min(way.due for way in ways) - time.monotonic()
        # Rounded up to a millisecond by epoll; the last of it is spent asking.
        for file, _ in poll.poll(min(max(wait - 0.0005, 0.0), 1.0)):
            if file == end and not os.read(end, 1):
                return
            if file in by_source:
                by_source[file].take()
        for way in ways:
            way.give()


def main() -> int:
    """Run the command line and return the exit code."""
    end_with_parent()
    one, two, name, delay, rate = sys.argv[1:]
    if not Path("/dev/net/tun").exists():
        print("/dev/net/tun is not there")
        return 1
    try:
        first, second = device(one, name), device(two, name)
    except OSError as error:
        print(error)
        return 1
    print("ready", flush=True)
    line = float(delay), float(rate)
    carry((Way(first, second, *line), Way(second, first, *line)), sys.stdin.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
