"""Snapshots made by hand, and snapshots with a defect made on purpose.

`small` and `full` are what the tests take apart; `parts` and `seal` open and close the container,
so that a test can change a payload and still have all checksums and digests right.
"""

from __future__ import annotations

import random
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FLAG_TRAILER,
    FULL,
    HEADER,
    SECTION,
    TRAILER_MAGIC,
    VERSION,
    Header,
    Rows,
    check_batch,
    open_batch,
    section_bytes,
    trailer_bytes,
    tree_digest,
)
from wasmsr.snapshot.encoding.registry import BY_KIND, SECTIONS
from wasmsr.snapshot.format import encode
from wasmsr.snapshot.state import (
    ExceptionState,
    FrameState,
    GlobalState,
    HostFunctionState,
    InstanceState,
    Lineage,
    MemoryState,
    ModuleRef,
    SavedLimits,
    SnapshotState,
    TableState,
    ThreadState,
)
from wasmsr.wasi.state.contents import CHUNK, PLACE, Contents, digest_of

Kind = SimpleNamespace(**{one.name.upper().replace(" ", "_"): one.kind for one in SECTIONS})
"""The kinds of sections by name."""

BINARY = b"\0asm\1\0\0\0" + bytes(range(92))
"""Stands for a module's binary, whose content the format does not look into."""


def lineage() -> Lineage:
    return Lineage(bytes(range(16)), None, 1_700_000_000_123_456_789, "host.example", "wasmsr 0.1")


def limits() -> SavedLimits:
    return SavedLimits(65536, 10_000_000, 1 << 20, 1 << 16)


def small() -> SnapshotState:
    """The least that a snapshot can be: a store with nothing in it."""
    return SnapshotState(
        modules=[],
        host_functions=[],
        instances=[],
        tables=[],
        memories=[],
        globals=[],
        thread=ThreadState(),
        limits=limits(),
        lineage=lineage(),
    )


def full() -> SnapshotState:
    """Something of everything: two instances, three frames, repeated pages, an embedded module."""
    source = random.Random(7)
    page = source.randbytes(600) + bytes(3496)
    memory = bytearray(3 * 65536)
    memory[4096:8192] = page
    memory[8192:8200] = b"\1\2\3\4\5\6\7\x80"
    memory[20 * 4096 : 21 * 4096] = page
    memory[47 * 4096 :] = source.randbytes(4096)
    other = bytearray(65536)
    other[:4096] = page
    table = bytearray(8 * 12)
    table[8:16] = (3).to_bytes(8, "little")
    table[24:32] = (9).to_bytes(8, "little")
    return SnapshotState(
        modules=[
            ModuleRef(sha256(BINARY).digest(), len(BINARY), "main", BINARY),
            ModuleRef(sha256(b"other").digest(), 5000, None),
        ],
        host_functions=[
            HostFunctionState(
                0, "wasi_snapshot_preview1", "fd_write", b"\x7f\x7f\x7f\x7f", b"\x7f"
            ),
            HostFunctionState(1, "env", "now", b"", b"\x7e"),
        ],
        instances=[
            InstanceState(0, 2, 4, [0, 1], [0], [0], [0, 1], [0, 2], [1], "lib"),
            InstanceState(1, 6, 3, [2, 0], [0, 1], [1], [1, 2, 3, 4, 5], [], [0, 1, 7]),
        ],
        tables=[
            TableState(0x70, 12, None, table),
            TableState(0x6F, 1, 20, (2).to_bytes(8, "little") + bytes(16)),
        ],
        memories=[MemoryState(1, 10, memory), MemoryState(1, None, other)],
        globals=[
            GlobalState(0x7F, True, 0xFFFFFFFF),
            GlobalState(0x7E, False, 1 << 63),
            GlobalState(0x7D, True, 0x7FC00001),
            GlobalState(0x7C, True, 0x7FF0000000000001),
            GlobalState(0x70, False, 9),
            GlobalState(0x7B, True, 0x0123456789ABCDEF_FEDCBA9876543210),
        ],
        thread=ThreadState(
            [
                FrameState(1, 2, 4000, 2, b"\x7f\x7e\x7c", [7, 1 << 40, 0x3FF0000000000000]),
                FrameState(0, 3, 77, 1, b"\x70", [3]),
                FrameState(0, 5, 90, 0, b"\x7b\x7f\x6f", [1 << 127, 5, 0]),
            ],
            [(6, [1, 2]), (0, [])],
        ),
        limits=SavedLimits(100, 1000, 5000, 500, 123456, True, ["bulk-memory", "tail-calls"]),
        lineage=Lineage(bytes(16), b"parent's 16 byte", 1, "h\u00f6st", "wasmsr 0.1"),
        externs=["text", {"key": [1, None, 2.5]}],
        wasi={"args": [b"prog", b"\xff"], "clocks": {"monotonic": 1 << 62}},
        executed=1_000_000_007,
    )


def large() -> SnapshotState:
    """More than one batch of everything that can have one."""
    source = random.Random(3)
    memory = bytearray(40 * 65536)
    for page in range(640):
        if page % 7:
            memory[page * 4096 : page * 4096 + 300] = source.randbytes(300)
    memory[300 * 4096 : 420 * 4096] = memory[100 * 4096 : 220 * 4096]
    memory[500 * 4096 : 600 * 4096] = source.randbytes(100 * 4096)
    binaries = [source.randbytes(200_000) + bytes(150_000), BINARY, source.randbytes(BATCH_SIZE)]
    snapshot = small()
    snapshot.memories = [MemoryState(0, None, memory)]
    snapshot.modules = [ModuleRef(sha256(b).digest(), len(b), None, b) for b in binaries]
    snapshot.externs = [source.randbytes(600_000)]
    elements = b"".join(source.choice((0, 1)).to_bytes(8, "little") for _ in range(50_000))
    snapshot.tables = [TableState(0x6F, 0, None, elements)]
    return snapshot


def thrown() -> SnapshotState:
    """A handler that holds an exception, which refers to another and to a host object."""
    snapshot = full()
    snapshot.limits.features = ["exceptions", "simd"]
    snapshot.tags = [b"", b"\x7f\x69\x7b\x6f"]
    snapshot.instances[0].tags = [0, 1]
    snapshot.instances[1].tags = [1]
    snapshot.exceptions = [
        ExceptionState(0, []),
        ExceptionState(1, [7, 1, 1 << 100, 2]),
        ExceptionState(1, [8, 0, 3, 0]),
    ]
    snapshot.globals.append(GlobalState(0x69, True, 3))
    snapshot.tables.append(TableState(0x69, 2, None, (2).to_bytes(8, "little") + bytes(8)))
    frame = snapshot.thread.frames[-1]
    frame.types += b"\x69"
    frame.values.append(2)
    return snapshot


written_version = VERSION
"""The version of the format that the functions below write; a fixture may change it."""


def to_bytes(snapshot: SnapshotState, compress: bool = True) -> bytes:
    return b"".join(encode(snapshot, compress=compress, version=written_version))


def parts(data: bytes) -> list[tuple[int, bytes]]:
    """The sections of a snapshot as kinds and plain payloads."""
    found = []
    position = HEADER.size
    while position < len(data) and not data.startswith(TRAILER_MAGIC, position):
        kind, _, _, plain = SECTION.unpack_from(data, position)
        position += SECTION.size
        payload = b""
        while len(payload) < plain:
            codec, stored, crc = BATCH.unpack_from(data, position)
            position += BATCH.size
            length = min(BATCH_SIZE, plain - len(payload))
            check_batch(str(kind), codec, stored, length, True)
            payload += open_batch(str(kind), codec, crc, data[position : position + stored], length)
            position += stored
        found.append((kind, payload))
    return found


def seal(sections: list[tuple[int, bytes]], form: int = FULL) -> bytes:
    """A snapshot of these payloads, raw, with the right checksums and digests."""
    rows = Rows(written_version)
    for kind, payload in sections:
        known = BY_KIND.get(kind)
        carrier = written_version > 1 and known is not None and known.carrier
        rows.add(kind, len(payload), tree_digest(payload), carrier=carrier)
    root = rows.digests()[0]
    if written_version > 1:
        header = Header(FLAG_TRAILER, len(rows), rows.plain, bytes(32), written_version, form)
        end = [trailer_bytes(root)]
    else:
        header, end = Header(0, len(rows), rows.plain, root), []
    pieces = [header.encode()]
    for kind, payload in sections:
        pieces += section_bytes(kind, payload)
    return b"".join(pieces + end)


def changed(snapshot: SnapshotState, kind: int, payload: bytes | None) -> bytes:
    """A snapshot with one section replaced, or left out."""
    sections = [item for item in parts(to_bytes(snapshot)) if item[0] != kind]
    if payload is not None:
        sections.append((kind, payload))
    return seal(sorted(sections))


def carrying() -> SnapshotState:
    """A program with files: a mount of each mode, trees with an entry of each kind, a file without
    a name."""
    source = random.Random(11)
    whole, tail, upper, lost = (source.randbytes(size) for size in (CHUNK, 1000, 70, 5))
    files = Contents()
    for piece in (whole, tail, upper, lost):
        files.add(digest_of(piece), piece, None)

    def chunks(*places: tuple[int, bytes]) -> bytes:
        return b"".join(PLACE.pack(number, digest_of(piece)) for number, piece in places)

    root = [b"", 0, 0o755, 10, 20, 0, b"", b""]
    tree = [
        root,
        [b"a", 1, 0o644, -5, 10**18, CHUNK * 3 + 1000, chunks((0, whole), (3, tail)), b""],
        [b"b", 3, 0o644, -5, 10**18, 0, b"", b"a"],
        [b"d", 0, 0o700, 1, 2, 0, b"", b""],
        [b"d/zeros", 1, 0o600, 5, 6, 10**12, b"", b""],
        [b"d/\xff", 2, 0o777, 3, 4, 0, b"", b"../a"],
    ]
    changed = [root, [b"new", 0, 0o755, 7, 8, 0, b"", b""]]
    changed += [[b"new/f", 1, 0o644, 9, 9, 70, chunks((0, upper)), b""]]
    mounts: list[dict[str, Any]] = [
        {"guest": b"/host", "mode": "host"},
        {"guest": b"/ro", "mode": "ro"},
        {"guest": b"/archive", "mode": "archive", "digest": bytes(range(32))},
        {"guest": b"/carry", "mode": "carry", "tree": tree},
        {"guest": b"/mem", "mode": "mem", "tree": tree},
        {
            "guest": b"/overlay",
            "mode": "overlay",
            "tree": changed,
            "layers": [[b"", b"", [b"old", b"removed"]], [b"new", b"old", []]],
        },
    ]
    common = {"flags": 0, "rights": 0, "inheriting": 0}
    descriptors: list[dict[str, Any]] = [
        {"fd": 3 + number, "kind": "directory", **common, "mount": mount["guest"], "path": b""}
        | {"preopen": True, "entries": None, "unlinked": None}
        for number, mount in enumerate(mounts)
    ]
    descriptors.append(
        {"fd": 20, "kind": "file", **common, "mount": b"/carry", "path": b"gone", "access": 2}
        | {"offset": 3, "size": CHUNK + 5, "unlinked": 0}
    )
    long = {"content": b"", "atim": 1, "mtim": 2, "size": CHUNK + 5, "chunks": chunks((1, lost))}
    wasi = {
        "args": [b"p"],
        "environ": [],
        "deterministic": False,
        "clocks": {"monotonic": 5, "cpu": 6, "stopped_at": 7},
        "random": None,
        "pending": None,
        "mounts": mounts,
        "descriptors": descriptors,
        "unlinked": [long],
    }
    return replace(small(), wasi=wasi, files=files)
