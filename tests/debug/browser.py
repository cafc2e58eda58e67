"""The page of a snapshot in a headless Chromium."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

from wasmsr.snapshot.format import content_digest
from wasmsr.snapshot.runnable.incoming import read_plain

SECONDS = 60.0


class Opened:
    """A page in the browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, path: Path) -> None:
        self.browser.get("about:blank")
        self.browser.get(path.as_uri())
        self.until(lambda: self.said() == "" or "cannot show" in self.said())

    def until(self, condition: Any) -> Any:
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, SECONDS, 0.01).until(lambda _: condition())

    def text(self, name: str) -> str:
        return str(self.browser.find_element("id", name).text)

    def said(self) -> str:
        return self.text("said")

    def script(self, text: str, *values: Any) -> Any:
        return self.browser.execute_script(text, *values)

    def press(self, *keys: str) -> None:
        """Press keys, and wait for the end of each."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            before = self.done()
            ActionChains(self.browser).send_keys(key).perform()
            self.until(lambda before=before: self.done() > before)

    def took(self) -> float:
        """Milliseconds of the last thing that was done."""
        return float(self.script("return Number(document.body.dataset.took)"))

    def done(self) -> int:
        return int(self.script("return Number(document.body.dataset.done ?? 0)"))

    def count(self) -> int:
        return int(self.script("return String(wasmsr.machine.count)"))

    def fill(self, name: str, text: str) -> None:
        self.script("document.getElementById(arguments[0]).value = arguments[1]", name, text)

    def press_button(self, name: str) -> None:
        before = self.done()
        self.browser.find_element("css selector", f"[data-do={name}]").click()
        self.until(lambda: self.done() > before)

    def submit(self, name: str) -> None:
        before = self.done()
        self.browser.find_element("css selector", f"#{name} [type=submit]").click()
        self.until(lambda: self.done() > before)

    def digest(self) -> bytes:
        """The content digest of the state in the page."""
        found = self.script(
            """let text = "";
            for (const byte of wasmsr.machine.state()) text += String.fromCharCode(byte);
            return btoa(text)"""
        )
        return content_digest(read_plain(memoryview(b64decode(found))))
