"""The page of a snapshot as people use it: keys, the focus, wrong fields, and limits."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.debug.browser import Opened
from tests.debug.test_program_page import make_page, save
from wasmsr import Module, Paused, Snapshot, Store


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Opened:
    make_page(save(tmp_path), "-o", tmp_path / "page.html")
    made = Opened(browser)
    made.open(tmp_path / "page.html")
    return made


@pytest.mark.full
def test_a_server_that_names_another_encoding_is_told_of(browser: Any, tmp_path: Path) -> None:
    """Many servers say that each page is in UTF-8, which counts more than what the page says."""
    make_page(save(tmp_path), "-o", tmp_path / "page.html")

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (tmp_path / "page.html").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            page = Opened(browser)
            browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
            page.until(lambda: "a server says that it is in UTF-8" in page.said())
        finally:
            server.shutdown()


@pytest.mark.full
def test_steps_are_said_and_the_focus_stays(page: Opened) -> None:
    """For people who use no mouse, or hear the page."""
    from selenium.webdriver.common.keys import Keys

    where = page.browser.find_element("id", "where")
    assert where.get_attribute("role") == "status"
    page.press("s")
    assert "2001 instructions" in where.text
    focus = "document.querySelectorAll(arguments[0])[arguments[1]].focus()"
    at = """const at = document.activeElement;
        return [at.dataset.offset ?? '', !!at.closest('#code')]"""
    page.script(focus, "#code [data-offset]", 3)
    wanted = page.script(at)[0]
    page.press(Keys.ENTER)  # runs to that instruction
    assert page.script(at) == [wanted, True]
    page.script(focus, "#frames [data-frame]", 0)
    page.press("s", "b")
    assert page.script("return !!document.activeElement.closest('#frames')")


@pytest.mark.full
def test_fields_that_cannot_be_have_sentences(page: Opened) -> None:
    """They say what would be right."""

    def said(field: str, value: str, button: str) -> str:
        page.fill(field, value)
        page.browser.find_element("css selector", button).click()
        found = page.said()
        page.fill(field, "1")
        return found

    show = "#look [type=submit]"
    assert said("address", "here", show) == ('"here" is no whole number; write 4096 or 0x1000.')
    assert "the memory has 196608 bytes" in said("address", "0x30000", show)
    assert "the memory has 196608 bytes" in said("address", "-1", show)
    watch = "[data-do=watch]"
    for wrong in ("0", "65537", "1.5", "many"):
        assert said("size", wrong, watch) and page.text("breaks") == ""
    page.fill("address", "0x2fff0")
    page.browser.find_element("css selector", show).click()
    assert "these are not in it" in said("size", "17", watch)


@pytest.mark.full
def test_the_break_moves_and_goes(page: Opened) -> None:
    """A count is no place for one: its number was that of a function."""

    def pressed(kind: str, target: str) -> str:
        page.fill("kind", kind)
        page.fill("target", target)
        page.browser.find_element("css selector", "[data-do=setBreak]").click()
        return page.text("breaks")

    assert pressed("count", "2") == "" and "not at a count" in page.said()
    mix, turn = pressed("function", "mix"), pressed("function", "turn")
    assert mix.startswith("Breaks: at byte") and turn.startswith("Breaks: at byte") and mix != turn
    assert pressed("function", "turn") == ""
    assert pressed("function", "mix") == mix and pressed("function", "") == ""


@pytest.mark.full
def test_answers_of_the_page_have_a_limit(page: Opened) -> None:
    page.browser.find_element("css selector", "[data-kind=output]").click()
    page.script("wasmsr.given = 2 ** 30")
    page.press("c")
    assert page.said().startswith("The page keeps no more answers.")
    assert "fd_write" in page.text("host-name")
    page.fill("result", "-1")
    there = page.count()
    page.submit("answer")
    assert page.count() == there + 1


@pytest.mark.full
def test_a_program_without_memory(browser: Any, tmp_path: Path) -> None:
    module = Module.from_text('(module $bare (func (export "run") (loop (nop) (br 0))))')
    with Store() as store:
        store.enqueue(store.instantiate(module).function("run"))
        assert store.run(fuel=1) == Paused("fuel")
        Snapshot.of(store, embed=True).save(tmp_path / "s.bin")
    make_page(tmp_path / "s.bin", "-o", tmp_path / "page.html")
    page = Opened(browser)
    page.open(tmp_path / "page.html")
    page.press("s", "l")
    assert "the memory has 0 bytes" in page.said() and page.text("hex") == "no memory"
    page.press("s", "b")
    assert page.count() == 1
