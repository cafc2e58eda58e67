"""A node with its page, and a tab of a browser in which its program runs."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wasmsr.http.bounded_server import BoundedServer
from wasmsr.http.page.node_page import NodePage
from wasmsr.http.page.supervisor_source import SupervisorSource
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.runspec.address import Address

TOKEN = "right-token-of-this-node"
SECONDS = 90.0


class ServedNode:
    """A node with one program and the page."""

    def __init__(self, folder: Path, module: bytes) -> None:
        self.node = NodeSupervisor(folder / "state", NodeRules())
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = Address("127.0.0.1", free.getsockname()[1])
        page = NodePage(SupervisorSource(self.node, "0.1.0"), TOKEN.encode(), address)
        self.server = BoundedServer(page, address, "--http")
        self.url = f"http://localhost:{self.server.port}/#token={TOKEN}"
        self.id = self.node.submit([module], {}, name="primes")

    @property
    def program(self) -> NodeProgram:
        """The program."""
        return self.node.find(self.id)

    def output(self) -> bytes:
        """Return all that the program has written."""
        from wasmsr.executor.output.rings import read_ring

        data, piece = b"", b"?"
        while piece:
            _, piece = read_ring(self.program.folder.output, "stdout", len(data))
            data += piece
        return data

    def stop(self) -> None:
        """End it all."""
        self.server.stop()
        self.node.stop(save=False, seconds=5)


class Tab:
    """A tab with the page of the node."""

    def __init__(self, browser: Any, node: ServedNode) -> None:
        self.browser, self.node = browser, node
        browser.switch_to.new_window("tab")
        browser.get(node.url)
        until(lambda: self.find(f'[data-program="{node.id}"]')).click()
        until(lambda: self.find("#visit-begin").is_enabled())

    def find(self, selector: str) -> Any:
        """Return an element, or None."""
        found = self.browser.find_elements("css selector", selector)
        return found[0] if found else None

    def said(self) -> str:
        """Return what the page says of the visit."""
        return str(self.find("#visit-state").text)

    def begin(self) -> None:
        """Take the program in, and wait until it runs here."""
        until(lambda: self.find("#visit-begin").is_enabled())
        self.find("#visit-begin").click()
        until(lambda: "runs in this tab" in self.said() or "home" in self.said())
        assert "runs in this tab" in self.said(), self.said()

    def save(self) -> None:
        """Wait until the node has another state."""
        before = self.said()
        until(lambda: "has state" in self.said() and self.said() != before)

    def end(self) -> None:
        """Send the program home."""
        self.find("#visit-end").click()
        until(lambda: self.said().startswith("It went home"))

    def kill(self) -> None:
        """Close the tab without a word."""
        self.browser.execute_cdp_cmd("Page.disable", {})
        target = self.browser.current_window_handle
        self.browser.execute_cdp_cmd("Target.closeTarget", {"targetId": target})
        self.browser.switch_to.window(self.browser.window_handles[0])


def until(holds: Callable[[], Any]) -> Any:
    """Wait for a condition, and return what it gives."""
    end = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)
    return found
