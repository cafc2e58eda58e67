"""The page in a real browser without a window: Debian's chromium, driven by Selenium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.fake_node import FIRST, NASTY, SECOND, FakeNode
from wasmsr.http.bounded_server import BoundedServer
from wasmsr.http.page.node_page import NodePage
from wasmsr.runspec.address import Address

TOKEN = "right-token-of-this-node"
SECONDS = 20.0


class Opened:
    """The page of a fake node in the browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        browser.set_window_size(1100, 900)
        self.node = FakeNode()
        address = Address("127.0.0.1", _free_port())
        self.server = BoundedServer(NodePage(self.node, TOKEN.encode(), address), address, "--http")
        self.url = f"http://localhost:{self.server.port}/"

    def open(self, words: str = f"#token={TOKEN}") -> None:
        self.browser.get("about:blank")
        self.browser.get(self.url + words)

    def by_id(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def until(self, condition: Any) -> Any:
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, SECONDS, 0.05).until(lambda _: condition())

    def row(self, program: str) -> Any:
        return self.browser.find_element("css selector", f'[data-program="{program}"]')

    def keys(self, *words: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*words).perform()

    def focused(self) -> Any:
        return self.browser.switch_to.active_element


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    made = Opened(browser)
    made.browser.get(made.url)
    made.browser.execute_script("sessionStorage.clear()")
    yield made
    made.server.stop()


def test_the_token_opens_the_page_and_leaves_the_address(opened):
    opened.open("")
    opened.until(lambda: opened.by_id("enter").is_displayed())
    assert not opened.by_id("programs").is_displayed()
    opened.by_id("token").send_keys("wrong\n")
    opened.until(lambda: "wrong" in opened.by_id("said").text)
    opened.by_id("token").send_keys(TOKEN + "\n")
    opened.until(lambda: opened.by_id("programs").is_displayed())
    opened.browser.execute_script("sessionStorage.clear()")
    opened.open()
    opened.until(lambda: opened.by_id("programs").is_displayed())
    assert TOKEN not in opened.browser.current_url


def test_names_and_output_of_programs_are_text_and_never_html(opened):
    opened.open()
    opened.until(lambda: opened.row(SECOND)).click()
    opened.until(lambda: NASTY in opened.by_id("output").text)
    opened.by_id("look").click()
    opened.until(lambda: NASTY in opened.by_id("stack").text)
    assert NASTY in opened.by_id("one-title").text
    assert opened.browser.title == "wasmsr node"
    assert not opened.browser.find_elements("css selector", "main img")


def test_everything_works_from_the_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    opened.open()
    opened.until(lambda: opened.row(FIRST))
    for _ in range(20):
        opened.keys(Keys.TAB)
        if opened.focused().get_attribute("data-program") == FIRST:
            break
    opened.keys(Keys.ENTER)
    opened.until(lambda: "line 2" in opened.by_id("output").text)
    opened.until(lambda: opened.focused().get_attribute("id") == "one")
    opened.keys(Keys.TAB)
    assert opened.focused().get_attribute("data-verb") == "pause"
    opened.keys(Keys.ENTER)
    opened.until(lambda: "now paused" in opened.by_id("said").text)
    assert opened.node.acts == [(FIRST, "pause")]
    opened.until(lambda: opened.by_id("one-state").text == "paused")


def test_a_selected_row_keeps_the_focus_while_the_table_is_new_each_second(opened):
    opened.open()
    opened.until(lambda: opened.row(FIRST))
    opened.browser.execute_script("arguments[0].focus()", opened.row(FIRST))
    before = opened.row(FIRST)
    from selenium.webdriver.support.expected_conditions import staleness_of

    opened.until(lambda: staleness_of(before)(opened.browser))
    assert opened.focused().get_attribute("data-program") == FIRST


def test_output_goes_on_and_errors_are_said(opened):
    opened.open()
    opened.until(lambda: opened.row(FIRST)).click()
    opened.until(lambda: "line 2" in opened.by_id("output").text)
    opened.node.written[FIRST] += b"line 3\n"
    opened.until(lambda: "line 3" in opened.by_id("output").text)
    assert opened.by_id("output").text.count("line 1") == 1
    opened.browser.find_element("css selector", '[data-verb="checkpoint"]').click()
    opened.until(lambda: opened.by_id("said").text == "the disk is full. make room")
    opened.server.stop()
    opened.until(lambda: opened.by_id("said").text == "The node does not answer.")
    opened.server.stop = lambda: None


def test_answers_that_overtake_each_other_show_output_once(opened):
    opened.open()
    opened.until(lambda: opened.row(FIRST)).click()
    opened.until(lambda: "line 2" in opened.by_id("output").text)
    opened.node.written[FIRST] += b"line 3\n"
    opened.browser.execute_async_script(
        "Promise.all([readOutput(), readOutput(), readOutput()]).then(arguments[0])"
    )
    assert opened.by_id("output").text.split("\n") == ["line 1", "line 2", "line 3"]


def test_a_move_is_ordered_and_seen(opened):
    opened.open()
    opened.until(lambda: opened.row(SECOND)).click()
    opened.until(lambda: not opened.by_id("to").is_enabled())  # it has ended
    opened.row(FIRST).click()
    opened.until(lambda: opened.by_id("to").is_enabled())
    assert not opened.by_id("move").is_displayed()
    opened.by_id("to").send_keys("nowhere\n")
    opened.until(lambda: opened.by_id("said").text == "'nowhere' is no address. give HOST:PORT")
    opened.by_id("to").clear()
    opened.by_id("to").send_keys("b.example:50051\n")
    opened.until(lambda: opened.by_id("move").is_displayed())
    assert opened.by_id("move-title").text == "Move to b.example:50051"
    assert opened.by_id("move-state").text.endswith("1.0 MiB left in this round.")
    cells = [one.text for one in opened.by_id("round-rows").find_elements("css selector", "th,td")]
    assert cells == [
        "1", "4.0 MiB", "", "250.0 ms", "500.0 ms", "2", "1.0 MiB", "", "60.0 ms", "20.0 ms",
    ]  # fmt: skip
    assert float(opened.by_id("move-bar").get_attribute("value")) == 3 << 20
    done = {"standing": "moved", "downtime": 0.021, "bytes": 5 << 20, "seconds": 1.5}
    opened.node.moves[FIRST].update(done)
    opened.until(lambda: opened.by_id("move-state").text.startswith("Moved: downtime 21.0 ms"))
    assert not opened.by_id("move-bar").is_displayed()


@pytest.mark.full
def test_a_copy_of_a_program_is_stepped_through(opened, tmp_path):
    """It has an origin of its own, so it cannot reach the token of the page of the node."""
    from tests.debug.test_program_page import make_page, save

    make_page(save(tmp_path), "-o", tmp_path / "page.html")
    opened.node.view = lambda program: (tmp_path / "page.html").read_bytes()
    opened.open()
    opened.until(lambda: opened.row(FIRST)).click()
    opened.until(lambda: opened.by_id("one").is_displayed())
    opened.by_id("view").click()
    opened.until(lambda: opened.by_id("said").text == "The page is ready.")
    first = opened.browser.current_window_handle
    opened.by_id("view-link").click()
    opened.until(lambda: len(opened.browser.window_handles) == 2)
    opened.browser.switch_to.window(
        next(one for one in opened.browser.window_handles if one != first)
    )
    try:
        opened.until(lambda: opened.by_id("main").is_displayed())
        opened.keys("s")
        opened.until(lambda: "2001 instructions, 1 after" in opened.by_id("where").text)
        reached = opened.browser.execute_script(
            "try { return sessionStorage.length } catch (error) { return error.name }"
        )
        assert reached == "SecurityError"
        opened.browser.refresh()
        opened.until(lambda: "fetched before" in opened.browser.page_source)
    finally:
        opened.browser.close()
        opened.browser.switch_to.window(first)


def test_a_lease_is_shown(opened):
    opened.node.leases[FIRST] = {
        "epoch": 2, "owner": "5f" * 16, "state": "running", "register": "away",
        "deadline": 1_790_000_000, "checkpoint": {"epoch": 1},
    }  # fmt: skip
    opened.open()
    opened.until(lambda: opened.row(SECOND)).click()
    opened.until(lambda: opened.by_id("one").is_displayed())
    assert not opened.by_id("one-lease").is_displayed()
    opened.row(FIRST).click()
    opened.until(lambda: opened.by_id("one-lease").is_displayed())
    said = opened.by_id("one-lease").text
    assert said.startswith("Lease: epoch 2, owner 5f5f5f5f, state running, ends ")
    assert said.endswith("the register is away, the checkpoint that counts is of epoch 1.")
    opened.node.leases[FIRST] = {"epoch": 3, "owner": ""}
    opened.until(lambda: opened.by_id("one-lease").text == "Lease: epoch 3, owner not known here.")


def test_the_page_breaks_no_rule_of_its_own_policy_and_labels_everything(opened):
    opened.open()
    opened.until(lambda: opened.row(FIRST)).click()
    opened.until(lambda: "line 2" in opened.by_id("output").text)
    opened.by_id("to").send_keys("b.example:50051\n")
    opened.until(lambda: opened.by_id("move").is_displayed())
    said = [one["message"] for one in opened.browser.get_log("browser")]
    assert not [one for one in said if "Content Security Policy" in one or "Uncaught" in one]
    unnamed = opened.browser.execute_script(
        """return [...document.querySelectorAll("button, input, select, [tabindex='0']")].filter(
            (one) => !(one.textContent.trim() || one.getAttribute("aria-label")
                || one.getAttribute("aria-labelledby") || (one.labels && one.labels.length))
        ).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    shot = Path(__file__).parents[2] / "build"
    shot.mkdir(exist_ok=True)
    opened.browser.save_screenshot(str(shot / "node-page.png"))
