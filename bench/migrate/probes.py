"""What the machine and a line can do: round trip, rate, one sync, memcpy and zstd.

python -m bench.migrate.probes serve ADDRESS     answers on a port that it prints
python -m bench.migrate.probes ask ADDRESS PORT  prints round trip and rate as JSON
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import zstandard

from bench.migrate.child import end_with_parent
from bench.migrate.lines import Place
from wasmsr._ffi import ffi
from wasmsr.snapshot.memory import page_calls
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE

ASKED = 30
SECONDS = 1.0
"""How long the rate is measured, after as long a start."""
PIECE = 1 << 18
MIB = 1 << 20


@dataclass(frozen=True)
class Probe:
    """A line and the disks at its ends.

    Attributes:
        round_trip: Seconds of a byte there and back by TCP, the median.
        rate: Bytes a second by TCP.
        sync: Seconds of a small write and its sync on the disk of the journals, the median.
    """

    round_trip: float
    rate: float
    sync: float

    def limit(self, last: float) -> float:
        """Return the seconds that a move may take whose last set has `last` bytes on the wire."""
        return 1.5 * self.round_trip + last / self.rate + 3 * self.sync + 0.01

    def plain(self) -> dict[str, float]:
        """Return the figures for JSON."""
        return asdict(self)


def probe(places: tuple[Place, Place], folder: Path) -> Probe:
    """Measure a line, and the disk that has a folder."""
    one, two = places
    module = [sys.executable, "-m", "bench.migrate.probes"]
    server = subprocess.Popen(
        [*two.inside, *module, "serve", two.address], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        asked = [*one.inside, *module, "ask", two.address, port]
        found = json.loads(subprocess.run(asked, stdout=subprocess.PIPE, check=True).stdout)
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    return Probe(found["round_trip"], found["rate"], sync(folder))


def sync(folder: Path, times: int = 20) -> float:
    """Return the seconds of a small write to a file of a folder and of its sync, the median."""
    spans = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(times):
            begin = time.monotonic()
            file.write(b"x" * 300)
            os.fsync(file.fileno())
            spans.append(time.monotonic() - begin)
    return statistics.median(spans)


def scan_seconds(size: int, written: int = 160) -> float:
    """Return the seconds in which the kernel tells which pages of a full memory were written.

    Args:
        size: Bytes of the memory.
        written: How many of its pages are written before each of some tries, of which the fastest
            counts.

    Raises:
        OSError: The host cannot tell, or has no room.
    """
    pages, spans = size // PAGE_SIZE, []
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        start = int(ffi.cast("uintptr_t", ffi.from_buffer(area)))
        area[::PAGE_SIZE] = b"\1" * pages
        watch = page_calls.watch_writes(start, size)
        try:
            page_calls.scan(start, page_calls.WRITTEN, bytearray(pages), pages)
            for turn in range(5):
                for page in range(turn, pages, max(1, pages // written)):
                    area[page * PAGE_SIZE] = 2
                flags = bytearray(pages)
                begin = time.monotonic()
                page_calls.scan(start, page_calls.WRITTEN, flags, pages, at_once=pages)
                spans.append(time.monotonic() - begin)
        finally:
            os.close(watch)
    return min(spans)


def memcpy_seconds(size: int) -> float:
    """Return the seconds in which so many bytes are copied."""
    source, target = memoryview(b"\1" * size), memoryview(bytearray(b"\2" * size))
    begin = time.monotonic()
    target[:] = source
    return time.monotonic() - begin


def zstd_seconds(size: int, ratio: float) -> float:
    """Return the seconds in which so many bytes are compressed at level 1.

    Args:
        size: Bytes.
        ratio: What of them is left, about: so much of each page is random.
    """
    part = max(min(int(4096 * ratio), 4096), 1)
    page = b"".join(os.urandom(part) + bytes(4096 - part) for _ in range(256))
    packer = zstandard.ZstdCompressor(level=1)
    pieces = max(size // MIB, 1)
    begin = time.monotonic()
    for _ in range(min(pieces, 64)):
        packer.compress(page)
    return (time.monotonic() - begin) * size / (min(pieces, 64) * MIB)


def serve(address: str) -> None:
    """Answer one caller: a byte for a byte, then swallow the rest."""
    with socket.create_server((address, 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        connection, _ = listening.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(ASKED):
            connection.sendall(connection.recv(1))
        got, begin, before = 0, time.monotonic(), 0
        counted = begin
        while data := connection.recv(PIECE):
            got += len(data)
            if not before and time.monotonic() - begin > SECONDS:
                before, counted = got, time.monotonic()
        rate = (got - before) / (time.monotonic() - counted)
        connection.sendall(json.dumps(rate).encode())


def ask(address: str, port: int) -> dict[str, float]:
    """Return round trip and rate of the way to a server."""
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = []
        for _ in range(ASKED):
            begin = time.monotonic()
            connection.sendall(b"x")
            connection.recv(1)
            trips.append(time.monotonic() - begin)
        begin, piece = time.monotonic(), os.urandom(PIECE)
        while time.monotonic() - begin < 2 * SECONDS:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        rate = json.loads(connection.recv(100))
    return {"round_trip": statistics.median(trips), "rate": rate}


def main() -> int:
    """Run the command line and return the exit code."""
    end_with_parent()
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        print(json.dumps(ask(sys.argv[2], int(sys.argv[3]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
