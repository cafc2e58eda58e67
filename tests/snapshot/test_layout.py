"""The bytes, laid out by hand with `struct`, as docs/snapshot-format.md says and nothing else.

Nothing of the package's own layout is used here, so that a slip in it (a host's byte order, a
swapped field) cannot hide in a round trip.
"""

from __future__ import annotations

import re
import struct
import zlib
from hashlib import sha256
from pathlib import Path

import msgpack
import zstandard

from wasmsr.snapshot.encoding.registry import SECTIONS
from wasmsr.snapshot.encoding.section import Section
from wasmsr.snapshot.format import content_digest, decode, encode
from wasmsr.snapshot.state import (
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

BINARY = b"\0asm\1\0\0\0not looked into"
PAGE = b"page of memory 0" + bytes(4080)


def _snapshot() -> SnapshotState:
    memory = bytearray(65536)
    memory[2 * 4096 : 3 * 4096] = PAGE
    memory[15 * 4096 :] = PAGE
    return SnapshotState(
        modules=[ModuleRef(sha256(BINARY).digest(), len(BINARY), "m", BINARY)],
        host_functions=[HostFunctionState(0, "env", "f", b"\x7f", b"")],
        instances=[InstanceState(0, 1, 2, [0], [0], [0], [0, 1], [3], [0, 4], None)],
        tables=[TableState(0x70, 2, 5, struct.pack("<QQQ", 0, 2, 0))],
        memories=[MemoryState(1, None, memory)],
        globals=[GlobalState(0x7F, True, 0x01020304), GlobalState(0x7B, False, 1 << 64 | 2)],
        thread=ThreadState(
            [
                FrameState(0, 1, 9, 1, b"\x7f\x7e", [0x11223344, 0x1122334455667788]),
                FrameState(0, 2, 10, 1, b"\x7b", [3 << 64 | 4]),
            ],
            [(2, [6])],
        ),
        limits=SavedLimits(16, 17, 18, 19, None, True, ["a"]),
        lineage=Lineage(b"0123456789abcdef", None, 77, "host", "engine"),
        externs=["object"],
        wasi={"x": b"y"},
        executed=99,
    )


def _payloads() -> list[tuple[int, bytes]]:
    pack = msgpack.packb
    lineage = {
        "id": b"0123456789abcdef",
        "parent": None,
        "created": 77,
        "host": "host",
        "engine": "engine",
    }
    limits = {
        "memory_pages": 16,
        "table_elements": 17,
        "stack_slots": 18,
        "stack_frames": 19,
        "fuel": None,
        "deterministic": True,
        "features": ["a"],
    }
    store = {
        "modules": [
            {
                "digest": sha256(BINARY).digest(),
                "size": len(BINARY),
                "name": "m",
                "embedded": True,
            }
        ],
        "host_functions": [
            {"address": 0, "module": "env", "name": "f", "params": b"\x7f", "results": b""}
        ],
        "instances": [
            {
                "module": 0,
                "function_base": 1,
                "defined": 2,
                "functions": [0],
                "tables": [0],
                "memories": [0],
                "globals": [0, 1],
                "name": None,
            }
        ],
    }
    thread = (
        struct.pack("<QQ", 2, 1)
        + struct.pack("<IIIIII", 0, 1, 9, 1, 2, 0)
        + struct.pack("<IIIIII", 0, 2, 10, 1, 1, 0)
        + struct.pack("<II", 2, 1)
        + b"\x7f\x7e"
        + b"\x7b"
        + struct.pack("<QQ", 0x11223344, 0x1122334455667788)
        + struct.pack("<QQ", 4, 3)
        + struct.pack("<Q", 6)
    )
    cells = struct.pack("<IIQQ", 0x7F, 1, 0x01020304, 0) + struct.pack("<IIQQ", 0x7B, 0, 2, 1)
    tables = struct.pack("<Q", 1) + struct.pack("<QQQQQQ", 1, 0x70, 2, 5, 3, 2)
    return [
        (1, pack(lineage)),
        (2, pack(limits)),
        (3, pack(store)),
        (4, pack([[[3], [0, 4]]])),
        (5, thread),
        (6, cells),
        (7, tables + struct.pack("<QQ", 0, 2)),
        (8, pack(["object"])),
        (9, pack({"executed": 99})),
        (10, pack({"x": b"y"})),
        (11, BINARY),
        (12, struct.pack("<QQQQ", 0, 1, 0, 1)),
        (13, struct.pack("<IIII", 0, 2, 1, 0) + struct.pack("<IIII", 0, 15, 1, 0)),
        (14, PAGE),
    ]


def _content() -> bytes:
    rows = [
        struct.pack("<HHIQ", kind, 0, 0, len(payload)) + sha256(b"\0" + payload).digest()
        for kind, payload in _payloads()
        if kind != 1
    ]
    return sha256(b"\xfe\1\0\1\0" + b"".join(rows)).digest()


def _file(compress: bool) -> bytes:
    payloads = _payloads()
    lineage = payloads[0][1]
    row = struct.pack("<HHIQ", 1, 0, 0, len(lineage)) + sha256(b"\0" + lineage).digest()
    root = sha256(b"\xff" + _content() + row).digest()
    plain = sum(len(payload) for _, payload in payloads)
    header = struct.pack(
        "<8sHHHHQ32sI", b"\x89WSR\r\n\x1a\n", 1, 1, 0, len(payloads), plain, root, 0
    )
    data = header + struct.pack("<I", zlib.crc32(header))
    for kind, payload in payloads:
        stored, codec = payload, 0
        if compress and kind in (11, 14):
            small = zstandard.ZstdCompressor(level=1).compress(payload)
            if len(small) < len(payload):
                stored, codec = small, 1
        data += struct.pack("<HHIQ", kind, 0, 0, len(payload))
        data += struct.pack("<III", codec, len(stored), zlib.crc32(stored)) + stored
    return data


def test_encode_writes_these_bytes() -> None:
    for compress in (True, False):
        assert b"".join(encode(_snapshot(), compress=compress, version=1)) == _file(compress)


def test_decode_reads_these_bytes() -> None:
    for compress in (True, False):
        assert decode(_file(compress)) == _snapshot()


def test_content_digest() -> None:
    assert content_digest(_snapshot(), version=1) == _content()


def test_digest_tree_of_more_than_one_leaf() -> None:
    from wasmsr.snapshot.encoding.container import tree_digest

    data = bytes(range(256)) * 600
    leaves = [
        sha256(b"\0" + data[:65536]).digest(),
        sha256(b"\0" + data[65536:131072]).digest(),
        sha256(b"\0" + data[131072:]).digest(),
    ]
    assert tree_digest(data) == sha256(b"\1" + b"".join(leaves)).digest()


def test_digest_tree_of_three_levels() -> None:
    """More than 2,048 leaves, 128 MiB: digests of digests of digests."""
    from wasmsr.snapshot.encoding.container import LEAF, Tree

    count = 2049
    tree = Tree()
    leaf = bytes(LEAF)
    for _ in range(count):
        tree.update(leaf)
    leaves = sha256(b"\0" + leaf).digest() * count
    level = sha256(b"\1" + leaves[:65536]).digest() + sha256(b"\1" + leaves[65536:]).digest()
    assert tree.digest() == sha256(b"\2" + level).digest()


def test_nothing_depends_on_the_byte_order_of_the_host() -> None:
    """Every `struct` format in the package says little-endian; none is native."""
    import wasmsr.snapshot as package

    formats = []
    (folder,) = package.__path__
    paths = [*Path(folder, "encoding").rglob("*.py"), *Path(folder, "sections").rglob("*.py")]
    for path in [*paths, Path(folder, "rules.py")]:
        text = path.read_text()
        formats += re.findall(r"(?:Struct|pack|unpack|unpack_from)\(f?\"([^\"]*)\"", text)
        assert not re.findall(r"byteorder|\"big\"|\barray\(|\.cast\(\"[^B]\"\)", text), path
    assert len(formats) > 12
    assert all(text.startswith("<") for text in formats if text != "segments")


def test_the_specification_lists_these_sections(root: Path) -> None:
    """The document's table is what the sections declare, row for row."""
    text = (root / "docs" / "snapshot-format.md").read_text()
    for version, begin, end in ((1, "## 5 Sections", "### 5.1"), (2, "### 13.2", "### 13.3")):
        table = text.split(begin)[1].split(end)[0]
        rows = [line.lower() for line in table.splitlines() if re.match(r"\| \d", line)]
        assert rows == [
            f"| {one.kind} | {one.name} | {one.payload} | {one.present} "
            f"| {one.feature or ''} |".lower()
            for one in SECTIONS
            if version in one.versions and (version == 1 or 1 not in one.versions)
        ]


def test_every_section_has_words_in_the_specification(root: Path) -> None:
    text = (root / "docs" / "snapshot-format.md").read_text()
    words = text.split("### 5.1 ")[1].split("\n## 6 ")[0].lower()
    words += text.split("### 13.3 ")[1].lower()
    for section in SECTIONS:
        assert section.name in words, section.name
        assert section.__doc__ and section.__doc__ != Section.__doc__
