"""How fast remote memory is: beside pynng, and beside a copy within one process.

    python -m bench.memory                     all of it, about a minute
    python -m bench.memory --json FOUND.json   also as one object
    python -m bench.memory --megabytes 64 --commands 500     less of it

A served memory is another process of this machine. Ratios hold between machines, times do not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wasmsr.mem.buffered import BufferedMemory
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.transports import TcpTransport, remove_shared, shm
from wasmsr.mem.wire.commands import OP_READ, OP_WRITE, Command, whole

SMALL, LARGE = 4096, 1 << 20
ROUNDS = 5
ELEMENTS = 1000


def per_call(work: Callable[[], object], times: int) -> float:
    """Return the seconds of one call: the median of a few rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - began) / times)
    return statistics.median(found)


def over_tcp(url: str, commands: int) -> dict[str, float]:
    """Measure our link."""
    link = MemoryLink("bench", url)
    small, large = memoryview(bytearray(SMALL)), memoryview(bytearray(LARGE))
    found = {
        "read of 4 KiB, µs": per_call(lambda: link.read(0, small), commands) * 1e6,
        "write of 4 KiB, µs": per_call(lambda: link.write(0, small), commands) * 1e6,
        "reads of 1 MiB, MB/s": LARGE / 1e6 / per_call(lambda: link.read(0, large), commands // 20),
        "writes of 1 MiB, MB/s": LARGE
        / 1e6
        / per_call(lambda: link.write(0, large), commands // 20),
    }
    link.close()
    return found


def over_pynng(url: str, commands: int) -> dict[str, float]:
    """Measure pynng as the client of the same memory; nothing where it is not installed."""
    try:
        import pynng  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return {}
    read_small, read_large = (
        Command(OP_READ, 0, size).alone() for size in (SMALL, LARGE)
    )  # fmt: skip
    write_large = whole(Command(OP_WRITE, 0, LARGE), bytes(LARGE))
    with pynng.Req0(dial=url) as peer:

        def ask(words: bytes) -> None:
            peer.send(words)
            peer.recv()

        return {
            "read of 4 KiB, µs": per_call(lambda: ask(read_small), commands) * 1e6,
            "reads of 1 MiB, MB/s": LARGE / 1e6 / per_call(lambda: ask(read_large), commands // 20),
            "writes of 1 MiB, MB/s": LARGE
            / 1e6
            / per_call(lambda: ask(write_large), commands // 20),
        }


def shared(commands: int) -> dict[str, float]:
    """Measure memory that is shared on one machine."""
    name = f"wasmsr-bench-{os.getpid()}"
    transport = shm(LARGE, name)
    try:
        small = memoryview(bytearray(SMALL))
        return {
            "read of 4 KiB, µs": per_call(lambda: transport.read_into(0, small), commands) * 1e6
        }
    finally:
        transport.close()
        remove_shared(name)


def scan(url: str, megabytes: int) -> dict[str, float]:
    """Measure a scan in pieces of 4 KiB through a buffer, beside plain reads of a page."""
    transport = TcpTransport("bench", MemoryLink("bench", url))
    buffer = BufferedMemory(transport, page=1 << 16, buffer=64 << 20)
    piece, page = memoryview(bytearray(SMALL)), memoryview(bytearray(1 << 16))
    size = megabytes << 20

    def plain() -> None:
        for at in range(0, size, 1 << 16):
            transport.read_into(at, page)

    def buffered() -> None:
        for at in range(0, size, SMALL):
            buffer.read(at, piece)

    raw, through = (min(_seconds(work) for _ in range(2)) for work in (plain, buffered))
    transport.close()
    return {"plain, MB/s": size / 1e6 / raw, "buffered, MB/s": size / 1e6 / through,
            "buffered ÷ plain": raw / through}  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def elements(count: int) -> dict[str, float]:
    """Measure a run of so many steps that do nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for at in range(count):
            Path(folder, f"e{at}.o.py").write_text(
                "#@ type: compute\n\ndef main(params, action):\n    return {}\n"
            )
        words = [sys.executable, "-m", "wasmsr", "-q", "dag", "run", folder]
        variables = {**os.environ, "XDG_STATE_HOME": folder + "-state"}
        began = time.perf_counter()
        subprocess.run(words, env=variables, stdout=subprocess.DEVNULL, check=True)
        return {"seconds": time.perf_counter() - began}


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--commands", type=int, default=5000)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--elements", type=int, default=ELEMENTS)
    given = parser.parse_args()
    words = [sys.executable, "-m", "wasmsr", "memory", "0", "--size", f"{given.megabytes}M"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = "tcp://" + server.stdout.readline().partition("tcp://")[2].strip()
            found: dict[str, Any] = {
                "tcp": over_tcp(url, given.commands),
                "pynng": over_pynng(url, given.commands),
                "shm": shared(given.commands * 10),
                "scan": scan(url, given.megabytes),
            }
        finally:
            server.terminate()
    found[f"{given.elements} empty elements"] = elements(given.elements)
    found["load"] = os.getloadavg()[0]
    for part, values in found.items():
        if isinstance(values, dict):
            for name, value in values.items():
                print(f"{part:<22} {name:<24} {value:10.2f}")
    print(f"load of this machine: {found['load']:.1f}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
