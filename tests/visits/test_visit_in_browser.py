"""A program of a real node visits a tab of a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.node.programs import counting, lines
from tests.visits.campaign import one_run
from tests.visits.tab import ServedNode, Tab, until
from wasmsr.node.supervision.program_record import ProgramStanding

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]


def test_there_and_back_and_a_tab_that_is_closed(browser: Any, tmp_path: Path) -> None:
    """Each line is there once, in order, and the program never runs twice."""
    total = 4000
    node = ServedNode(tmp_path, counting(total, 5))
    try:
        tab = Tab(browser, node)
        tab.begin()
        assert node.program.pid == 0
        tab.save()
        before = len(node.output())
        tab.save()
        assert len(node.output()) > before
        shown = tab.find("#visit-output").text
        assert shown.split("\n")[0].encode() + b"\n" in node.output()
        tab.end()
        assert node.program.standing is ProgramStanding.RUNNING
        tab.begin()
        tab.save()
        tab.kill()
        until(
            lambda: node.program.record.reason == "came home from a browser: the browser was gone"
        )
        assert node.program.standing is ProgramStanding.RUNNING
        until(lambda: node.program.standing is ProgramStanding.ENDED)
        assert node.program.record.code == 7
        assert node.output() == lines(0, total)
    finally:
        node.stop()


def test_a_short_campaign(browser: Any, tmp_path: Path) -> None:
    found = one_run(browser, tmp_path, moves=2, kills=1, seed=3)
    assert found["right"] and found["lines"] and not found["twice"] and found["lives"] == 3


def test_a_call_that_only_the_node_has_brings_it_home(browser: Any, tmp_path: Path) -> None:
    """The program ends by `proc_exit`, which no tab has: the node carries it out."""
    node = ServedNode(tmp_path, counting(1500, 5))
    try:
        tab = Tab(browser, node)
        tab.begin()
        until(lambda: tab.said().startswith("It went home: it calls"))
        assert "proc_exit" in tab.said()
        until(lambda: node.program.standing is ProgramStanding.ENDED)
        assert node.program.record.code == 7 and node.output() == lines(0, 1500)
        assert not [
            one for one in browser.get_log("browser") if "Content Security Policy" in one["message"]
        ]
    finally:
        node.stop()
