"""What people are told about a snapshot."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.snapshot.samples import full, small, to_bytes
from wasmsr import Paused, Snapshot, Store
from wasmsr.errors import FormatError
from wasmsr.interp.modules.custom_sections import Names
from wasmsr.interp.modules.module import Module
from wasmsr.snapshot.format import content_digest, save
from wasmsr.snapshot.inspect.describe import describe, describe_file, render, show
from wasmsr.snapshot.inspect.text_tables import lines
from wasmsr.snapshot.state import (
    FrameState,
    InstanceState,
    ModuleRef,
    SnapshotState,
    ThreadState,
)
from wasmsr.snapshot.tools.diff import compare
from wasmsr.snapshot.tools.diff_text import blocks
from wasmsr.snapshot.tools.opened import open_snapshot

# One function without parameters, exported as "spin": loop, branch to it.
SPIN = bytes.fromhex(
    "0061736d01000000 01040160 0000 03020100 0708 01 04 7370696e 00 00 0a090107 00 0340 0c00 0b 0b"
)


class Named:
    """Stands for a module that knows its functions' names."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.names = Names(None)

    def function_name(self, index: int) -> str:
        return f"named_{index}"

    def live_locals(self, function: int, offset: int, *, waiting: bool) -> bytes | None:
        return None


def test_a_state_that_is_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep: list[object] = []
    for _ in range(480):
        deep = [{"x": deep}] if len(deep) % 2 else [deep]
    snapshot = full()
    save(replace(snapshot, wasi={**(snapshot.wasi or {}), "deep": deep}), tmp_path / "deep.bin")
    found = describe_file(tmp_path / "deep.bin")
    assert "\u2026" in json.dumps(found, ensure_ascii=False)


def test_description(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    save(full(), path, handed=True)
    found = describe_file(path, [Named(full().modules[1].digest)])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    file = found["file"]
    assert file["bytes"] == path.stat().st_size
    assert file["handed_over"] is True
    assert file["content_digest"] == content_digest(full()).hex()
    assert [s["kind"] for s in file["sections"]][:3] == ["lineage", "limits", "store"]
    assert sum(s["stored"] for s in file["sections"]) + 64 + 48 == file["bytes"]
    stack = found["call_stack"]
    assert [frame["frame"] for frame in stack] == [2, 1, 0]
    assert stack[0] == {
        "frame": 2,
        "instance": 0,
        "function": 5,
        "name": "func[5]",
        "offset": 90,
        "locals": [],
        "operands": [
            {"type": "v128", "value": "0x80000000000000000000000000000000"},
            {"type": "i32", "value": 5},
            {"type": "externref", "value": None},
        ],
    }
    assert stack[2]["name"] == "named_2"
    assert stack[2]["locals"][1] == {"type": "i64", "value": 1 << 40}
    assert stack[2]["operands"] == [{"type": "f64", "value": 1.0}]
    assert [g["value"] for g in found["globals"]] == [
        -1,
        -(1 << 63),
        "nan:0x400001",
        "nan:0x1",
        "named_4",
        "0x0123456789abcdeffedcba9876543210",
    ]
    assert found["queue"][1]["function"] == "wasi_snapshot_preview1.fd_write"
    assert found["memories"][0]["nonzero_bytes"] == 4 * 4096
    assert found["tables"][0]["null"] == 10
    assert found["wasi"]["args"] == ["prog", "hex:ff"]
    assert found["host_objects"] == ["str", "dict"]
    assert found["lineage"]["created"] == "1970-01-01T00:00:00.000000001Z"


def test_names_from_an_embedded_module() -> None:
    module = Module(SPIN)
    snapshot = small()
    snapshot.modules = [ModuleRef(module.digest, len(SPIN), None, SPIN)]
    snapshot.instances = [InstanceState(0, 0, 1)]
    snapshot.thread = ThreadState([FrameState(0, 0, len(SPIN) - 4, 0, b"", [])])
    assert describe(snapshot)["call_stack"][0]["name"] == "spin"
    snapshot.modules[0].binary = None
    assert describe(snapshot)["call_stack"][0]["name"] == "func[0]"
    assert describe(snapshot, [module])["call_stack"][0]["name"] == "spin"


NAMED = """(module
  (memory $heap 1) (memory 1) (table $calls 3 funcref)
  (global $zero i32 (i32.const 0)) (global $depth (mut i32) (i32.const 4))
  (global i64 (i64.const 9))
  (tag $oops (param i32)) (global $caught (mut exnref) (ref.null exn))
  (func $down (export "down") (param $n i32) (result i32) (local i64) (local $half f64)
    (global.set $caught (block $h (result exnref)
      (try_table (catch_all_ref $h) (throw $oops (i32.const 5))) unreachable))
    (loop $more (br $more))
    (i32.const 3)))"""


def test_names_of_all_kinds() -> None:
    module = Module.from_text(NAMED)
    store = Store()
    store.enqueue(store.instantiate(module).function("down"), 7)
    assert store.run(fuel=50) == Paused("fuel")
    found = describe(Snapshot.of(store).state, [module])
    assert [memory["name"] for memory in found["memories"]] == ["heap", None]
    assert [table["name"] for table in found["tables"]] == ["calls"]
    assert [cell["name"] for cell in found["globals"]] == ["zero", "depth", None, "caught"]
    assert [exception["name"] for exception in found["exceptions"]] == ["oops"]
    (frame,) = found["call_stack"]
    assert frame["name"] == "down"
    assert [local.get("name") for local in frame["locals"]] == ["n", None, "half"]
    text = render(found, values=True)
    assert "locals n=i32:dead i64:dead half=f64:dead" in text, "saved as zero, and no value"
    assert [(local["value"], local["dead"]) for local in frame["locals"]] == [(None, True)] * 3
    assert "heap" in text and "calls" in text and "depth" in text
    without = describe(Snapshot.of(store).state)
    assert "locals i32:0-or-dead i64:0-or-dead f64:0.0-or-dead" in render(without, values=True)
    assert [cell["name"] for cell in without["globals"]] == [None] * 4


def test_a_live_zero_is_a_value() -> None:
    """The same local, with the same zero, before and after its last use; in a waiting frame too."""
    module = Module.from_text("""(module
      (func $g (param i32) (result i32) local.get 0)
      (func (export "f") (param $a i32) (param $b i32) (result i32)
        (i32.add (call $g (local.get $a)) (local.get $b))))""")
    store = Store()
    store.enqueue(store.instantiate(module).function("f"), 0, 0)
    seen = []
    while isinstance(store.run(fuel=1), Paused):
        for frame in describe(Snapshot.of(store).state, [module])["call_stack"]:
            seen.append([local.get("dead", False) for local in frame["locals"]])
        shown = [one.shown for one in store.frames()]
        assert [[value is None for value in frame] for frame in shown[::-1]] == seen[-len(shown) :]
    assert seen == [
        [True, False],  # the call's argument is on the stack
        [False],  # g, above f, which waits
        [True, False],
        [True, False],
        [True, True],
    ]


def test_a_difference_of_a_dead_local_is_no_zero(tmp_path: Path) -> None:
    module = Module.from_text("""(module (func (export "f") (param $a i32) (result i32)
      nop (local.get $a) (i32.const 1) (i32.add)))""")
    store = Store()
    store.enqueue(store.instantiate(module).function("f"), 7)
    files = []
    for name in ("a.bin", "b.bin"):
        assert isinstance(store.run(fuel=1), Paused)
        Snapshot.of(store, embed=True).save(tmp_path / name)
        files.append(open_snapshot(str(tmp_path / name)))
    found = compare(files[0], files[1])
    (frame,) = found["frames"]
    (change,) = [one for one in frame["changes"] if one["what"] == "locals[0]"]
    assert (change["a"]["value"], change["b"]["value"]) == (7, None)
    assert "i32:7  i32:dead" in "\n".join(lines(blocks(found)))


@pytest.mark.parametrize("make", [small, full])
def test_text(make: object, tmp_path: Path) -> None:
    snapshot = make()  # type: ignore[operator]
    path = tmp_path / "snapshot.bin"
    save(snapshot, path)
    description = describe_file(path)
    text = render(description, values=True)
    output = StringIO()
    show(description, Console(file=output, width=200), values=True)
    for shown in (text, output.getvalue()):
        assert "host.example" in shown or "h\u00f6st" in shown
        assert content_digest(snapshot).hex() in shown
        if isinstance(snapshot, SnapshotState) and snapshot.thread.frames:
            assert "Call stack, innermost first" in shown
            assert "i64:1099511627776" in shown


def test_names_cannot_write_to_the_terminal() -> None:
    snapshot = full()
    snapshot.lineage.host = "\x1b[2Jgone\n"
    snapshot.wasi = {"args": [b"\x1b]0;title\x07"], "descriptors": [{"fd": 3, "kind": "\x1b[1m"}]}
    description = describe(snapshot)
    output = StringIO()
    show(description, Console(file=output, force_terminal=False, width=200))
    for shown in (render(description), output.getvalue()):
        assert "\x1b" not in shown and "\x07" not in shown
        assert "\\x1b[2Jgone\\n" in shown


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    path.write_bytes(to_bytes(full())[:-1])
    with pytest.raises(FormatError):
        describe_file(path)
