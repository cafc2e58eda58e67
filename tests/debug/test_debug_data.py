"""Source lines and variables: what the page shows of a program in C is what the source says."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.debug.browser import Opened
from tests.debug.test_program_page import make_page
from wasmsr import Module, Paused, Snapshot, Store
from wasmsr.debug.debug_data import debug_data
from wasmsr.debug.sections import code_space

SOURCE = """struct point { int x; double y; };
enum colour { RED, GREEN = 7 };
static struct point points[4];
static int calls;
static inline __attribute__((always_inline)) int twice(int v) {
  int doubled = v * 2;
  return doubled + calls;
}
__attribute__((noinline)) int work(int n, const char *text) {
  int sum = 0;
  enum colour colour = GREEN;
  for (int i = 0; i < n; i++) {
    unsigned char c = text[i % 3];
    points[i & 3].x += i;
    points[1].y = -0.5;
    sum += twice(c) + points[i & 3].x + (int)colour;
    calls++;
  }
  return sum;
}
__attribute__((export_name("run"))) int run(int n) { return work(n, "abc"); }
__attribute__((noinline)) int never(int n) { return n + 1; }
"""
LINES = SOURCE.splitlines()


def compiled(folder: Path, *options: str) -> Path:
    """The source as a module with debug data."""
    pytest.importorskip("elftools", reason="pyelftools reads debug data")
    names = ["clang", *(f"clang-{version}" for version in range(30, 13, -1))]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None or not any(map(shutil.which, ("wasm-ld", "wasm-ld-19", "wasm-ld-14"))):
        pytest.skip("needs clang and lld")
    (folder / "prog.c").write_text(SOURCE)
    words = [found, "--target=wasm32", "-g", "-nostdlib", "-mcpu=mvp", *options]
    words += [
        "-Wl,--no-entry",
        "-Wl,--gc-sections",
        "-ffunction-sections",
        "prog.c",
        "-o",
        "p.wasm",
    ]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / "p.wasm"


def read(path: Path) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    found = debug_data(Module.from_file(path), said.append)
    assert found is not None
    return found, said


@pytest.mark.parametrize("options", [("-O0",), ("-O1",), ("-O1", "-gdwarf-5")], ids=" ".join)
def test_lines_scopes_and_types(options: tuple[str, ...], tmp_path: Path) -> None:
    found, said = read(compiled(tmp_path, *options))
    assert not said
    json.dumps(found)
    assert found["at"] == sorted(set(found["at"])) and found["files"] == ["prog.c"]
    names = {one["name"]: one for one in found["scopes"]}
    assert set(names) == {"work", "run"}, "a function that the linker dropped has no place"
    begin, end = names["work"]["ranges"][0]
    inside = [
        line
        for at, line in zip(found["at"], found["line"], strict=True)
        if begin <= at < end and line
    ]
    body = set(range(9, 21)) | {6, 7}
    assert inside and set(inside) <= body

    def scopes(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield one
        for below in one["inside"]:
            yield from scopes(below)

    inlined = [one for one in scopes(names["work"]) if one["kind"] == "inlined"]
    assert inlined and {one["name"] for one in inlined} == {"twice"}
    assert inlined[0]["called"] == "prog.c:16"
    kinds = {name: found["types"][kind] for name, kind, _ in found["variables"] if name != "?"}
    assert kinds["points"]["count"] == 4 and kinds["points"]["size"] == 64
    point = found["types"][kinds["points"]["of"]]
    assert [(name, at) for name, at, _ in point["members"]] == [("x", 0), ("y", 8)]


def test_a_module_without_debug_data_has_none(tmp_path: Path) -> None:
    assert debug_data(Module.from_text("(module)"), lambda text: None) is None


def custom(name: str, data: bytes) -> bytes:
    """A custom section."""

    def number(value: int) -> bytes:
        return bytes([value & 127 | 128, value >> 7 & 127 | 128, value >> 14])

    content = number(len(name)) + name.encode() + data
    return b"\0" + number(len(content)) + content


def with_sections(binary: bytes, change: Any) -> bytes:
    """The module with each section `.debug_*` replaced by what `change(name, data)` returns."""
    from wasmsr.interp.modules.custom_sections import read_unsigned

    pieces, at = [binary[:8]], 8
    while at < len(binary):
        size, content = read_unsigned(binary, at + 1)
        whole, end = binary[at : content + size], content + size
        if binary[at] == 0:
            length, start = read_unsigned(binary, content)
            name = binary[start : start + length].decode()
            if name.startswith(".debug_"):
                whole = custom(name, change(name, binary[start + length : end]))
        pieces.append(whole)
        at = end
    return b"".join(pieces)


def test_an_emptied_line_table_gets_a_warning(tmp_path: Path) -> None:
    """As an old wasm-opt leaves it: the tables are there, and have no rows."""
    binary = compiled(tmp_path, "-O1").read_bytes()

    def emptied(name: str, data: bytes) -> bytes:
        if name != ".debug_line":
            return data
        header = 10 + int.from_bytes(data[6:10], "little")  # DWARF 4, section 6.2.4
        return (header - 4).to_bytes(4, "little") + data[4:header]

    said: list[str] = []
    found = debug_data(Module(with_sections(binary, emptied)), said.append)
    assert found is not None and not found["at"] and len(found["scopes"]) == 2
    assert said == ["the line table of the module is empty; an old wasm-opt empties it"]


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.full)])
def test_damaged_debug_data_is_left_out(count: int, tmp_path: Path) -> None:
    """Whatever the bytes are, there is an answer, and its offsets are in the code."""
    binary = compiled(tmp_path, "-O1").read_bytes()
    space, chosen = code_space(binary), random.Random(count)

    def damaged(name: str, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(chosen.choice((0, 1, 5))):
            if changed:
                changed[chosen.randrange(len(changed))] = chosen.randrange(256)
        return bytes(
            changed[: chosen.randrange(len(changed) + 1)] if chosen.random() < 0.1 else changed
        )

    seen = set()
    for _ in range(count):
        said: list[str] = []
        found = debug_data(Module(with_sections(binary, damaged)), said.append)
        seen.update(said)
        if found is not None:
            json.dumps(found)
            assert all(space.base <= at <= space.base + space.size for at in found["at"])
    assert any("damaged" in one for one in seen)


@pytest.mark.full
def test_the_page_shows_lines_inlined_calls_and_variables(browser: Any, tmp_path: Path) -> None:
    module = Module.from_file(compiled(tmp_path, "-O0"))
    with Store() as store:
        store.enqueue(store.instantiate(module).function("run"), 1000)
        assert store.run(fuel=5_000) == Paused("fuel")
        Snapshot.of(store, embed=True).save(tmp_path / "s.bin")
    make_page(tmp_path / "s.bin", "-o", tmp_path / "page.html")
    page = Opened(browser)
    page.open(tmp_path / "page.html")
    lines = []
    for _ in range(30):
        page.press("i")
        lines.append(int(page.text("frames").splitlines()[0].rsplit(":")[-1]))
    turn = [13, 14, 15, 16, 6, 7, 16, 17, 12]  # of the loop, with the call that was inlined
    first = lines.index(13)
    assert lines[first : first + 18] == turn * 2
    seen: set[str] = set()
    for _ in range(400):
        page.press("s")
        rows = [one.text for one in browser.find_elements("css selector", "#frames tr")]
        seen.update(rows)
        if len(rows) == 3 and "doubled + calls" in LINES[int(rows[0].rsplit(":")[-1]) - 1]:
            break
    else:
        pytest.fail(f"the inlined call was not met: {seen}")
    assert rows[0].startswith("twice (inlined)") and rows[1].split()[1] == "work"
    assert rows[1].endswith("prog.c:16") and rows[2].endswith("prog.c:21")
    values = dict(
        one.text.split(" ", 1) for one in browser.find_elements("css selector", "#variable-rows tr")
    )
    assert "calls" not in values
    browser.find_element("id", "outside-title").click()

    def outside() -> list[str]:
        return [one.text for one in browser.find_elements("css selector", "#outside-rows tr")]

    page.until(lambda: len(outside()) == 2)
    values |= dict(one.split(" ", 1) for one in outside())
    browser.find_element("id", "outside-name").send_keys("oint")
    page.until(lambda: [one.split()[0] for one in outside()] == ["points"])
    i, c = int(values["i"].split()[-1]), int(values["c"].split()[2])
    assert values["text"] == 'const char * 0x400 "abc"' and c == b"abc"[i % 3]
    assert values["c"] == f"unsigned char {c} '{chr(c)}'"
    assert values["v"] == f"int {c}" and values["doubled"] == f"int {2 * c}"
    assert values["colour"] == "colour GREEN" and values["calls"] == f"int {i}"
    assert values["n"] == "int 1000"
    xs = [sum(range(k, i + 1, 4)) for k in range(4)]
    ys = ["0", "-0.5", "0", "0"]
    parts = ", ".join(f"{{x: {x}, y: {y}}}" for x, y in zip(xs, ys, strict=True))
    assert values["points"] == f"point[4] [{parts}]"
