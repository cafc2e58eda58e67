"""The page of a snapshot in a real browser without a window, from a file and without a network."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.debug.browser import SECONDS, Opened
from wasmsr import Module, Paused, Snapshot, Store
from wasmsr.snapshot.format import content_digest
from wasmsr.snapshot.inspect.describe import describe
from wasmsr.snapshot.page.page_file import escaped, page_file
from wasmsr.wasi.facade import Wasi

WORK = """(module $work
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_tell" (func $tell (param i32 i32) (result i32)))
  (memory (export "memory") 3)
  (global $turns (mut i64) (i64.const 0))
  (data (i32.const 64) "a turn\\0a")
  (func $mix (param $seed i32) (result i32)
    (i32.mul (i32.xor (local.get $seed) (i32.const 77)) (i32.const 16777619)))
  (func $turn (param $n i32) (result i32) (local $x i32)
    (loop
      (local.set $x (call $mix (i32.add (local.get $x) (local.get $n))))
      (i32.store (i32.and (local.get $x) (i32.const 0x1fffc)) (local.get $x))
      (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $x))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 7))
    (loop
      (global.set $turns (i64.add (global.get $turns) (i64.const 1)))
      (i32.store8 (i32.const 0x20010) (call $turn (i32.const 1000)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if 0 (i64.lt_u (global.get $turns) (i64.const 5))))
    (drop (call $tell (i32.const 9) (i32.const 16)))
    (br_if 0 (i32.const 1))))"""
SAVED_AT = 2_000


def save(folder: Path, after: int = SAVED_AT) -> Path:
    """A snapshot of the program above, with its module."""
    module = Module.from_text(WORK)
    with Wasi(deterministic=True) as wasi, Store() as store:
        store.enqueue(store.instantiate(module, wasi.imports).function("_start"))
        assert store.run(fuel=after) == Paused("fuel")
        path = folder / f"{after}.bin"
        Snapshot.of(store, wasi=wasi, embed=True).save(path)
    return path


def make_page(*words: str | Path) -> None:
    """Run `wasmsr inspect --html` with these words."""
    command = [sys.executable, "-m", "wasmsr", "inspect", "--html", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Opened:
    make_page(save(tmp_path), "-o", tmp_path / "page.html")
    made = Opened(browser)
    made.open(tmp_path / "page.html")
    return made


def test_escaped_bytes_survive_a_reader_of_html() -> None:
    text = escaped(bytes(range(256)))
    assert not set(text) & set(b"\0\r<")
    assert len(text) == 260 and text.count(b"=") == 4
    back = bytearray()
    at = iter(text)
    for byte in at:
        back.append(next(at) ^ 0x40 if byte == ord("=") else byte)
    assert bytes(back) == bytes(range(256))


def test_names_do_not_leave_their_places() -> None:
    """Names of a module are text of one line, and the file has the scripts that it has."""

    def sized(data: bytes) -> bytes:
        return bytes([len(data)]) + data

    name = "a\u202e</script><!--\u2028\x00".encode()
    function = b"\x01" + sized(b"\x01\x00" + sized(name))
    local = b"\x02" + sized(b"\x01\x00\x01\x00" + sized(name))
    memory = b"\x06" + sized(b"\x01\x00" + sized(name))
    module_name = b"\x00" + sized(sized(name))
    section = sized(b"name") + module_name + function + local + memory
    text = Module.from_text('(module (memory 1) (func (export "run") (local i32) (nop) (nop)))')
    module = Module(bytes(text.binary) + b"\x00" + sized(section))
    assert module.names.locals == {0: {0: name.decode()}}, "the names are there"
    with Store() as store:
        store.enqueue(store.instantiate(module).function("run"))
        assert store.run(fuel=1) == Paused("fuel")
        snapshot = Snapshot.of(store, embed=True)
    difference = {"title": name.decode(), "tables": [("t", (), [(name.decode(),)])]}
    page = page_file(
        snapshot.state,
        [module],
        title=name.decode(),
        description=describe(snapshot.state, [module]),
        difference=difference,
    )
    parts = dict(re.findall(rb'id="part-(\w+)" data-size="\d+">([^<]*)</script>', page))
    assert set(parts) == {b"about", b"machine", b"head", b"pages"}
    assert page.count(b"</script") == 5 and page.count(b"<!--") == 0
    packed = re.sub(rb"=([\s\S])", lambda one: bytes([one[1][0] ^ 0x40]), parts[b"about"])
    about = json.loads(gzip.decompress(packed))
    shown = "a\\u202e</script><!--\\u2028\\x00"
    assert about["title"] == shown and about["memories"] == {"0": shown}
    assert about["modules"][0]["functions"] == [shown]
    assert about["modules"][0]["locals"] == {"0": {"0": shown}}
    assert about["difference"] == {"title": shown, "tables": [["t", [], [[shown]]]]}


def test_a_page_needs_a_place_and_its_module(tmp_path: Path) -> None:
    """The failing ways have one sentence and their exit codes."""

    def failed(*words: str | Path) -> tuple[int, str]:
        command = [sys.executable, "-m", "wasmsr", "inspect", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        return done.returncode, done.stderr

    path = save(tmp_path)
    code, text = failed(path, "--html")
    assert code == 2 and "-o FILE" in text
    code, text = failed(path, "-o", tmp_path / "x")
    assert code == 2 and "for --html" in text
    (tmp_path / "cut.bin").write_bytes(path.read_bytes()[:-100])
    code, text = failed(tmp_path / "cut.bin", "--html", "-o", tmp_path / "x")
    assert code == 123 and not (tmp_path / "x").exists(), text
    (tmp_path / "mine").write_text("mine")
    code, text = failed(path, "--html", "-o", tmp_path / "mine")
    assert code == 123 and (tmp_path / "mine").read_text() == "mine", text


@pytest.mark.full
def test_the_page_shows_what_was_saved(page: Opened) -> None:
    assert page.text("title") == "work"
    assert page.text("where").startswith("After 2000 instructions, as it was saved: paused, in mix")
    rows = [one.text for one in page.browser.find_elements("css selector", "#frames tr")]
    assert [one.split()[1] for one in rows] == ["mix", "turn", "_start"]
    assert page.text("values").startswith("seed i32 ")
    assert page.text("globals") == "turns i64 1 0x1"
    current = page.browser.find_element("css selector", "#code [aria-current]").text
    offset = int(current.split()[0], 16)
    assert hex(offset) in page.text("where")
    page.browser.find_element("css selector", "#frames [data-frame='1']").click()
    values = page.text("values")
    assert "n i32 " in values and "x i32 " in values and "call 2 <mix>" in page.text("code")
    assert "00000040  61 20 74 75 72 6e 0a 00" in page.text("hex")
    page.until(lambda: "48 pages of 4 KiB" in page.text("map-said"))
    assert "Descriptors" in page.text("saved")


@pytest.mark.full
def test_steps_forwards_and_backwards_by_keys(page: Opened) -> None:
    """Each ends where our engine is after as many instructions."""
    states: dict[int, bytes] = {}
    module = Module.from_text(WORK)
    with Wasi(deterministic=True) as wasi, Store() as store:
        store.enqueue(store.instantiate(module, wasi.imports).function("_start"))
        store.run(fuel=SAVED_AT)
        for count in range(60):
            state = Snapshot.of(store, wasi=wasi, embed=True).state
            states[count] = content_digest(replace(state, wasi=None))
            store.run(fuel=1)
    chosen = random.Random(3)
    for _ in range(12):
        page.press(chosen.choice("ssnb"))
        assert page.digest() == states[page.count()]
    page.press("n", "n")
    here = page.count()
    page.press("p", "p")
    assert page.count() < here
    page.press("o")  # of `turn`: its caller has the result
    assert "_start" in page.text("where")
    page.press("u" if "turn" in page.text("where") else "b", "r")
    assert page.count() == 0


@pytest.mark.full
def test_200_random_steps_to_and_fro(page: Opened) -> None:
    """Far and near, forwards and backwards: each ends in the state of our engine at that count."""
    chosen, at, walk = random.Random(5), 0, []
    for _ in range(200):
        far = chosen.random() < 0.3
        at = chosen.randrange(17_000) if far else max(0, at + chosen.choice((1, -1, 40, -40)))
        walk.append(at)
    states: dict[int, bytes] = {}
    module = Module.from_text(WORK)
    with Wasi(deterministic=True) as wasi, Store() as store:
        store.enqueue(store.instantiate(module, wasi.imports).function("_start"))
        store.run(fuel=SAVED_AT)
        done = 0
        for count in sorted(set(walk)):
            store.run(fuel=count - done)
            done = count
            state = Snapshot.of(store, wasi=wasi, embed=True).state
            states[count] = content_digest(replace(state, wasi=None))
    for count in walk:
        before = page.done()
        page.script("wasmsr.perform(wasmsr.to(BigInt(arguments[0])))", count)
        page.until(lambda before=before: page.done() > before)
        assert page.count() == count and page.digest() == states[count]


@pytest.mark.full
def test_runs_to_breaks_and_back_to_a_change(page: Opened) -> None:
    from selenium.webdriver.common.keys import Keys

    page.browser.find_element("id", "target").send_keys("mix" + Keys.ENTER)
    page.until(lambda: "in mix" in page.text("where"))
    page.press_button("toBack")
    assert "was not there before" in page.said() or "in mix" in page.text("where")
    page.fill("address", "0x20010")
    page.browser.find_element("css selector", "#look [type=submit]").click()
    page.browser.find_element("css selector", "[data-do=watch]").click()
    assert page.text("breaks") == "Breaks: on writes to 0x20010-0x20010."
    page.browser.find_element("id", "main").click()
    page.press("c")
    assert page.said() == "The bytes were written." and "in _start" in page.text("where")
    written = page.count()
    page.press("l")
    assert page.count() == written - 1
    byte = page.script("return wasmsr.machine.memory(0)[0x20010]")
    page.press("s")
    assert page.script("return wasmsr.machine.memory(0)[0x20010]") != byte == 0
    page.press("l", "l")
    assert "No byte of these has changed" in page.said()


@pytest.mark.full
def test_host_calls_stop_are_shown_and_answered(page: Opened) -> None:
    page.press("c")
    assert page.text("host-name") == "The program calls wasi_snapshot_preview1.fd_write."
    assert "fd" in page.text("host-params")
    page.browser.find_element("css selector", "[data-kind=output]").click()
    page.press("c")
    page.until(lambda: page.text("output") == "\n".join(["a turn"] * 5))
    assert "fd_tell" in page.text("host-name")
    there = page.count()
    page.fill("result", "8")
    page.fill("writes", "0x10: 01 02\n 0x20010 : ff")
    page.submit("answer")
    assert page.count() == there + 1
    memory = page.script("return [...wasmsr.machine.memory(0).slice(16, 18)]")
    assert memory == [1, 2]
    page.press("b", "s")
    assert page.script("return wasmsr.machine.memory(0)[0x20010]") == 255  # it is kept
    page.press("c")
    assert "finished" in page.text("where")
    page.press("b")
    assert "paused" in page.text("where")


@pytest.mark.full
def test_a_damaged_page_says_so(page: Opened, tmp_path: Path) -> None:
    data = (tmp_path / "page.html").read_bytes()
    for name in ("about", "machine", "head", "pages"):
        at = data.index(f'id="part-{name}"'.encode())
        start = data.index(b">", at) + 30
        damaged = tmp_path / f"{name}.html"
        turned = b"A" if data[start : start + 1] != b"A" else b"B"
        damaged.write_bytes(data[:start] + turned + data[start + 1 :])
        page.open(damaged)
        assert page.said() == f"This page cannot show its program: the part {name} is damaged."
    for size in (len(data) // 2, len(data) - 2000):
        cut = tmp_path / f"{size}.html"
        cut.write_bytes(data[:size])
        page.browser.get(cut.as_uri())
        assert "its file is damaged" in page.said().replace("\n", " ")
    changed = tmp_path / "script.html"
    changed.write_bytes(data.replace(b"forwards", b"sideways"))
    page.browser.get(changed.as_uri())
    assert "has not started" in page.said()


@pytest.mark.full
def test_the_page_keeps_its_policy_and_names_everything(page: Opened) -> None:
    page.browser.get_log("browser")
    page.press("s", "c", "b")
    said = [one["message"] for one in page.browser.get_log("browser")]
    assert not [one for one in said if "Content Security Policy" in one or "Uncaught" in one], said
    unnamed = page.script(
        """return [...document.querySelectorAll(
            "button, input, select, textarea, section, table, canvas, [tabindex='0']")].filter(
            (one) => !(one.textContent.trim() || one.getAttribute("aria-label")
                || one.getAttribute("aria-labelledby") || (one.labels && one.labels.length))
        ).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    ran = page.script(
        """const made = document.createElement("script");
        made.textContent = "window.ran = true";
        document.head.append(made);
        return window.ran ?? false"""
    )
    assert ran is False


@pytest.mark.full
def test_a_long_run_is_stopped_by_a_key(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    module = Module.from_text("""(module $endless (memory 1)
      (func (export "run") (i32.store (i32.const 0) (i32.const 7)) (loop (br 0))))""")
    with Store() as store:
        store.enqueue(store.instantiate(module).function("run"))
        assert store.run(fuel=1) == Paused("fuel")
        Snapshot.of(store, embed=True).save(tmp_path / "s.bin")
    make_page(tmp_path / "s.bin", "-o", tmp_path / "page.html")
    page = Opened(browser)
    page.open(tmp_path / "page.html")
    busy = "return document.getElementById('main').getAttribute('aria-busy') === 'true'"
    before = page.done()
    ActionChains(browser).send_keys("c").perform()
    page.until(lambda: page.script(busy))
    assert page.said() == "Running."
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    page.until(lambda: page.done() > before)
    assert page.said() == "Stopped." and page.count() > 0
    page.script("wasmsr.view.address = 64")
    there = page.count()
    page.press("l")  # nothing has ever been written there
    assert page.count() == there and "No byte of these has changed" in page.said()
    page.script("wasmsr.view.address = 0")
    page.press("l")
    assert page.count() == 1
    browser.find_element("id", "keys").click()
    ActionChains(browser).send_keys("s").perform()
    assert page.count() == 1 and not page.script("return wasmsr.running")


@pytest.mark.full
def test_light_and_dark(page: Opened) -> None:
    """Both have enough contrast (WCAG 2.1, 1.4.3: 4.5 to 1)."""
    for scheme in ("light", "dark"):
        wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
        pairs = page.script(
            """const style = getComputedStyle(document.documentElement);
            const colour = (name) => style.getPropertyValue(name).trim();
            const grounds = ["--paper", "--fill", "--here"];
            return ["--ink", "--soft", "--changed"].flatMap((ink) =>
                grounds.map((ground) => [colour(ink), colour(ground), `${ink} on ${ground}`]))"""
        )
        assert len(pairs) == 9
        for ink, ground, name in pairs:
            if name != "--soft on --here":  # that is where the program stands: always in ink
                assert contrast(ink, ground) >= 4.5, (scheme, name)
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(one: str, other: str) -> float:
    """The contrast of two colours `#rrggbb`, from 1 to 21. Source: WCAG 2.1."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.full
def test_two_snapshots_are_compared(browser: Any, tmp_path: Path) -> None:
    first, second = save(tmp_path), save(tmp_path, 2_100)
    make_page(second, "--against", first, "-o", tmp_path / "page.html")
    opened = Opened(browser)
    opened.open(tmp_path / "page.html")
    assert opened.text("difference").startswith("What differs from 2000.bin")
