"""The scripts of the page in Node: nothing that programs and their debug data hold stops them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.anywhere.engines import NODE, needed
from tests.debug.hostile_dwarf import leb
from wasmsr import Module
from wasmsr.interp.instruction_set.instructions import BY_CODE
from wasmsr.snapshot.page import page_file

SCRIPTS = ("disassembler.js", "sources.js", "hostcalls.js", "view.js")
SECONDS = 60.0
UINT, UCHAR, TEXT, WIDE, FLOAT = range(5)
TYPES: list[dict[str, Any]] = [
    {"kind": "uint", "name": "u64", "size": 8},
    {"kind": "uchar", "name": "u8", "size": 1},
    {"kind": "pointer", "name": "u8 *", "size": 4, "of": UCHAR},
    {"kind": "uint", "name": "huge", "size": 1 << 26},
    {"kind": "float", "name": "long double", "size": 16},
]


def asked(folder: Path, asks: list[dict[str, Any]]) -> Any:
    """The answers of the scripts."""
    room = Path(page_file.__file__).parent
    script = "\n".join((room / name).read_text() for name in SCRIPTS)
    (folder / "scripts.js").write_text(script)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "asks.json").write_text(json.dumps(asks))
    driver = Path(__file__).parent / "scripts_driver.mjs"
    words = [*needed(NODE).command[:-1], str(driver), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def variables(
    *places: tuple[Any, Any], types: list[dict[str, Any]] = TYPES, memory: bytes = bytes(64)
) -> dict[str, Any]:
    """A question for variables: the type and the place of each."""
    found = [[f"v{number}", kind, place] for number, (kind, place) in enumerate(places)]
    scope = {
        "kind": "function", "name": "f", "ranges": [[10, 20]], "variables": found, "inside": [],
    }  # fmt: skip
    data = {
        "files": [], "at": [], "file": [], "line": [],
        "scopes": [scope], "variables": [], "types": types,
    }  # fmt: skip
    return {
        "way": "variables", "data": data, "memory": memory.hex(), "locals": [], "offset": 12,
    }  # fmt: skip


def test_expressions_that_lie_have_no_value(tmp_path: Path) -> None:
    """They are cut off, or take more than there is; the others beside them have values."""
    lying = ["10ff", "117f80", "22", "06", "0301", "2301", "9f", "ed00ff", "91", "ee"]
    good = {"constant": str((1 << 64) - 2)}
    ask = variables(*((UINT, one) for one in lying), (UINT, good), (UINT, "03ffffffff06"))
    found = asked(tmp_path, [ask])[0]
    assert found == [None] * len(lying) + ["18446744073709551614", "outside the memory"]


def test_values_are_exact(tmp_path: Path) -> None:
    """Numbers of JavaScript have 53 bits, and bytes without a sign are not negative."""
    number = (1 << 63) + 1
    memory = bytes([200]) + bytes(15) + b"\1" + bytes(15) + b"a" * 32
    places = (
        (UINT, "10" + leb(number).hex() + "9f"),
        (UCHAR, "0300000000"),
        (WIDE, "117f9f"),
        (FLOAT, "0310000000"),
        (TEXT, "0800" + "9f"),
        (TEXT, "0820" + "9f"),
    )
    found = asked(tmp_path, [variables(*places, memory=memory)])[0]
    assert found[:2] == [str(number), "200"]
    assert found[2] == str((1 << 128) - 1), "a number has 16 bytes at most"
    assert found[3] == "0x1"
    assert found[4] == "0x0"
    assert found[5] == '0x20 "' + "a" * 32 + '"...'


def test_what_is_not_seen_is_written_out(tmp_path: Path) -> None:
    memory = bytes(16) + "a\u202eb\u2028\t".encode() + bytes(16)
    found = asked(tmp_path, [variables((TEXT, "08109f"), memory=memory)])[0]
    assert found == ['0x10 "a\\u{202e}b\\u{2028}\\t"']


def test_fields_of_bits(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [
        {"kind": "int", "name": "int", "size": 4},
        {"kind": "uint", "name": "uint", "size": 4},
        {"kind": "struct", "name": "s", "size": 4,
         "members": [["a", 0, 0, [0, 3]], ["b", 0, 1, [3, 5]], ["c", 1, 1, [1, 9]]]},
    ]  # fmt: skip
    memory = (0b111 | 0b10110 << 3 | 0b1_0000_0001 << 9).to_bytes(4, "little")
    found = asked(tmp_path, [variables((2, "0300000000"), types=kinds, memory=memory)])[0]
    assert found == ["{a: -1, b: 22, c: 257}"]


def test_structures_of_structures_are_cut(tmp_path: Path) -> None:
    """1,000 variables of 64 * 64 * 64 numbers take no longer than a few thousand."""
    kinds: list[dict[str, Any]] = [{"kind": "uint", "name": "byte", "size": 1}]
    for below in range(3):
        members = [[f"m{number}", 0, below] for number in range(64)]
        kinds.append({"kind": "struct", "name": "s", "size": 1, "members": members})
    found = asked(tmp_path, [variables(*[(3, "0300000000")] * 1_000, types=kinds)])[0]
    assert len(found) < 1_000 and sum(map(len, found)) < 1_000_000


def test_host_calls_take_no_more_than_there_is(tmp_path: Path) -> None:
    size = 1 << 20
    vectors = [(16 + 4 * n, (0, size)[n % 2]) for n in range(8_000)]
    base = {"way": "call", "size": size, "words": vectors, "monotonic": 5 * 10**12}
    found = asked(
        tmp_path,
        [
            base | {"name": "fd_write", "params": [1, 16, 4_000, 8]},
            base | {"name": "fd_write", "params": [1, 16, 1 << 31, 8]},
            base | {"name": "fd_write", "params": [1, 16, 1, size - 3]},
            base | {"name": "clock_time_get", "params": [1, 0, 8]},
            base | {"name": "random_get", "params": [0, 1 << 31]},
        ],
    )
    for one in found[:2]:
        assert one["result"] == "0" and one["output"] == size
        assert one["writes"] == [[8, 4, [0, 0, 16, 0]]]
    assert found[2]["result"] == "21" and found[4]["result"] == "21"
    monotonic = int.from_bytes(bytes(found[3]["writes"][0][2]), "little")
    assert monotonic >= 5 * 10**12, "the clock goes on where it was"


def test_code_and_values_as_text(tmp_path: Path) -> None:
    labels = " ".join(["0"] * 2_000)
    module = Module.from_text(
        f"""(module (memory i64 1) (func (result i32)
            (i32.load offset=0xfffffffffffffff1 (i64.const 0))
            (block (br_table {labels} (i32.const 0)))))"""
    )
    table = {code: (row.name.removesuffix(" t"), row.immediates) for code, row in BY_CODE.items()}
    asks: list[dict[str, Any]] = [
        {"way": "code", "module": bytes(module.binary).hex(), "table": table},
        {"way": "value", "type": 0x7C, "bits": str(1 << 63)},
    ]
    code, zero = asked(tmp_path, asks)
    assert ["i32.load", "offset=18446744073709551601 align=4"] in code
    (table_text,) = [text for name, text in code if name == "br_table"]
    assert len(table_text) < 300 and table_text.endswith("...")
    assert zero == "-0"
