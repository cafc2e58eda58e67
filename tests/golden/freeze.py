"""Freezes the samples of a format version: `python -m tests.golden.freeze`, once for each version.

It refuses to touch a file that is there. What has been released must be read for ever, so a sample
is never made anew; a new version gets new samples beside the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from tests.golden.plain import plain
from tests.golden.running import EVERYTHING, alive, begun
from tests.snapshot.samples import carrying, full, lineage, small, thrown
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.encoding.container import VERSION
from wasmsr.snapshot.format import encode
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.space_pages import Base, Runs, Written
from wasmsr.snapshot.state import MemoryState, ModuleRef, SnapshotState, TableState

FOLDER = Path(__file__).parent


def running() -> SnapshotState:
    """A program in its run, with its modules: it must be possible to go on with it for ever."""
    store = begun()
    store.run(fuel=4200)
    snapshot = capture(store, embed=True)
    assert alive(snapshot) == EVERYTHING
    return replace(snapshot, lineage=lineage())


def samples() -> dict[str, tuple[SnapshotState, bool, bool]]:
    """Name: snapshot, compressed, handed over."""
    memory = bytearray(65536 * 8)
    for page in range(100):
        memory[page * 4096 : page * 4096 + 4] = (page * 2654435761 % 2**32).to_bytes(4, "little")
    batches = replace(small(), memories=[MemoryState(2, 8, memory)])
    binary = b"\0asm\1\0\0\0" + bytes(300_000)
    large = replace(
        small(), modules=[ModuleRef(sha256(binary).digest(), len(binary), None, binary)]
    )
    wide = replace(
        small(),
        memories=[
            MemoryState(1, 1 << 48, bytearray(memory), True),
            MemoryState(0, None, memory[:65536], True),
            MemoryState(1, 2, memory[65536 : 2 * 65536]),
        ],
        tables=[
            TableState(0x70, 1, (1 << 64) - 1, bytes(24), True),
            TableState(0x6F, 0, None, b"", True),
        ],
    )
    wide.limits.features = ["memory64", "multi-memory"]
    stdin = {"fd": 0, "kind": "stdin", "flags": 0, "rights": 2, "inheriting": 0, "file": None}
    relayed = {"unread": b"typed", "relayed": {"position": 1 << 40, "terminal": True}}
    wasi = {
        "args": [b"prog"],
        "environ": [],
        "deterministic": False,
        "clocks": {"monotonic": 7, "cpu": 5, "stopped_at": 3},
        "random": None,
        "pending": None,
        "mounts": [],
        "descriptors": [stdin | relayed],
        "unlinked": [],
    }
    return {
        "empty": (small(), True, False),
        "everything": (full(), True, False),
        "everything-raw": (full(), False, False),
        "handed": (full(), True, True),
        "batches": (batches, True, False),
        "module": (large, True, False),
        "exceptions": (thrown(), True, False),
        "files": (carrying(), True, False),
        "wide": (wide, True, False),
        "running": (running(), True, False),
        "relayed": (replace(small(), wasi=wasi), True, False),
    }


def increment() -> tuple[SnapshotState, Base]:
    """What is written against `everything`: pages that are new, changed and zeros."""
    state, got = full(), list[Written]()
    list(encode(state, version=2, written=got.append))
    old = bytes(state.memories[0].data)

    def find(name: SpaceName, runs: Runs) -> bytes:
        assert name == SpaceName(0, 0)
        parts = [old[first * 4096 : (first + count) * 4096] for first, count in runs]
        return b"".join(
            part.ljust(count * 4096, b"\0") for part, (_, count) in zip(parts, runs, strict=True)
        )

    base = Base(
        got[0].root,
        got[0].content,
        0,
        got[0].trees,
        modules={one.digest for one in state.modules if one.binary},
        old=find,
    )
    data = bytearray(old)
    data[4096:8192] = bytes(4096)
    data[20 * 4096 : 20 * 4096 + 4] = b"here"
    data[30 * 4096 : 31 * 4096] = b"new!" * 1024
    data += b"\1" + bytes(65535)
    memory = replace(state.memories[0], data=data)
    return replace(state, memories=[memory, *state.memories[1:]], executed=77), base


def main() -> None:
    """Write all samples of the current version that are not there yet."""
    for name, (snapshot, compress, handed) in samples().items():
        path = FOLDER / f"v{VERSION}-{name}.bin"
        if path.exists():
            print(f"{path.name} is frozen")
            continue
        _write(path, snapshot, encode(snapshot, compress=compress, handed=handed))
    path = FOLDER / f"v{VERSION}-increment.bin"
    if not path.exists():
        snapshot, base = increment()
        _write(path, snapshot, encode(snapshot, base=base))


def _write(path: Path, snapshot: SnapshotState, pieces: Iterator[bytes]) -> None:
    path.write_bytes(b"".join(pieces))
    text = json.dumps(plain(snapshot), indent=1, ensure_ascii=True)
    path.with_suffix(".json").write_text(text + "\n")
    print(f"{path.name} written, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
