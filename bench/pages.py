"""What pages of memory cost: the core's functions, and dirty pages by each method.

    python -m bench.pages [--mib N] [--dirty SHARE] [--rounds N] [--json]

A store has a memory of N MiB with content that compresses as a program's does. Each line gives the
median and the worst of the rounds, in ms of wall-clock time, and the median as a multiple of a
memcpy of the same bytes, which is measured in the same run. For each method a round writes to
random pages; then the pause of a checkpoint is measured in its parts: the scan, the copy of the
dirty pages, and what is needed to begin anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import time
from collections.abc import Callable

import zstandard

from wasmsr import Bounds, Memory, MemoryType, Store
from wasmsr.snapshot.encoding.pages import scan
from wasmsr.snapshot.memory.dirty_pages import METHODS, DirtyMethod, DirtyTracker
from wasmsr.snapshot.memory.page_engine import DIGEST, PAGE_SIZE, copy_pages, page_digests, page_map
from wasmsr.snapshot.memory.parts import cores

_BLOCK = 1 << 20

Rows = dict[str, list[float]]


def content(pages: int) -> Memory:
    """Return a memory of which a tenth of the pages is zero, and a twentieth equal."""
    source = random.Random(1)
    words = [source.randbytes(8) for _ in range(4096)]
    block = b"".join(source.choice(words) + bytes(8) for _ in range(_BLOCK // 16))
    store = Store()
    memory = Memory.new(store, MemoryType(Bounds(pages // 16, None)))
    view = memory.data
    for page in range(pages):
        start = page * PAGE_SIZE
        if page % 10 != 5:
            part = start % _BLOCK
            view[start : start + PAGE_SIZE] = block[part : part + PAGE_SIZE]
        if page % 10 != 5 and page % 20 != 7:
            view[start : start + 8] = page.to_bytes(8, "little")
    return memory


def timed(rows: Rows, name: str, call: Callable[[], object]) -> None:
    """Call, and add the time in ms to a row."""
    begin = time.perf_counter()
    call()
    rows.setdefault(name, []).append((time.perf_counter() - begin) * 1000)


def engine(rows: Rows, memory: Memory) -> None:
    """One round of the functions over a whole memory."""
    view = memory.data
    target = bytearray(len(view))
    copy_pages(view, target)  # its pages exist now
    timed(rows, "memcpy", lambda: memoryview(target).__setitem__(slice(None), view))
    timed(rows, "SHA-256 (hashlib)", lambda: hashlib.sha256(view).digest())
    timed(rows, "zero pages", lambda: page_map(view))
    timed(rows, "digests of pages", lambda: page_digests(view, bytes(DIGEST)))
    timed(rows, "format 1: equal pages", lambda: scan([view]))
    found = scan([view])
    timed(rows, "format 1: digest", found.digest)
    compressor = zstandard.ZstdCompressor(level=1)
    timed(rows, "zstd 1", lambda: [compressor.compress(batch) for batch in found.batches()])


def checkpoint(rows: Rows, memory: Memory, method: type[DirtyMethod], share: float) -> None:
    """Let one method find random pages that are written, once a round."""
    pages = len(memory.data) // PAGE_SIZE
    name = method.name
    made: list[DirtyTracker] = []
    timed(rows, f"{name}: begin", lambda: made.append(DirtyTracker(memory.store, method=method)))
    tracker = made[0]
    consumer = tracker.consumer()
    for round_ in range(len(rows["memcpy"])):
        wanted = sorted(random.Random(round_).sample(range(pages), int(pages * share)))
        view = memory.data
        for page in wanted:
            view[page * PAGE_SIZE + 100] ^= 0xFF
        times = [time.perf_counter()]
        with tracker.changes(consumer) as changes:
            times.append(time.perf_counter())
            for space in changes:
                changes.now(space)
            times.append(time.perf_counter())
        times.append(time.perf_counter())
        if changes.pages != len(wanted):
            raise SystemExit(f"{name}: {changes.pages} pages in place of {len(wanted)}")
        for part, begin, end in zip(("scan", "copy", "settle"), times, times[1:], strict=False):
            rows.setdefault(f"{name}: {part}", []).append((end - begin) * 1000)
        rows.setdefault(f"{name}: pause", []).append((times[-1] - times[0]) * 1000)
    tracker.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--dirty", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows: Rows = {}
    memory = content(given.mib * 256)
    for _ in range(given.rounds):
        engine(rows, memory)
    for method in METHODS:
        refusal = method.refusal()
        if refusal is None:
            checkpoint(rows, memory, method, given.dirty)
        elif not given.json:
            print(f"{method.name}: {refusal}")
    if given.json:
        print(json.dumps(rows))
        return
    unit = statistics.median(rows["memcpy"])
    print(f"{given.mib} MiB, {given.dirty:.1%} dirty, {cores()} cores")
    for name, times in rows.items():
        middle = statistics.median(times)
        print(f"{name:24} {middle:9.1f} {max(times):9.1f} ms {middle / unit:8.2f}")


if __name__ == "__main__":
    main()
