"""A program that a node has lent: every state counts with its output, or not at all."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.programs import counting, lines
from tests.visits.played_browser import PlayedBrowser
from wasmsr.errors import FormatError, WasmsrError
from wasmsr.http.page.supervisor_source import SupervisorSource
from wasmsr.node.failures import WrongState
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.program_record import ProgramStanding
from wasmsr.node.visits import visit as visits
from wasmsr.node.visits.visit import BrowserVisit, VisitEnded, states

pytestmark = pytest.mark.full

TOTAL = 3000
MODULE = counting(TOTAL, 1)
STEPS = 20_000


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


class Home:
    """A node with one program, which counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.start()
        self.id = self.node.submit([MODULE], {}, name="count")
        until(lambda: self.output())

    def start(self) -> None:
        rules = NodeRules(note=lambda event, **values: self.notes.append((event, values)))
        self.node = NodeSupervisor(self.folder / "state", rules)
        self.source = SupervisorSource(self.node, "0.1.0")

    @property
    def program(self) -> NodeProgram:
        return self.node.find(self.id)

    def output(self) -> bytes:
        return self.source.output(self.id, "stdout", 0, 1 << 20)[1]

    def lend(self) -> tuple[BrowserVisit, PlayedBrowser]:
        visit = self.source.lend(self.id)
        assert {path.name for path in visit.parts.iterdir()} == set(visits.PARTS)
        parked = self.program.folder.parked()
        assert parked is not None
        visit.renew()
        return visit, PlayedBrowser(visit, parked[3], MODULE, self.folder)

    def ends_right(self) -> None:
        """The program ends here, and each line is there once."""
        until(lambda: self.program.standing is ProgramStanding.ENDED)
        assert self.program.record.code == 7
        assert self.output() == lines(0, TOTAL)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.node.stop(save=False, seconds=5)


def test_there_and_back(home: Home) -> None:
    visit, browser = home.lend()
    assert home.program.shown()["standing"] == "visiting" and home.program.pid == 0
    for refused in (home.program.resume, home.program.pause, home.program.checkpoint):
        with pytest.raises(WrongState):
            refused()
    for number in range(1, 4):
        browser.run(STEPS)
        before, written = home.output(), browser.written()
        assert written
        answer = browser.send()
        assert (answer["number"], answer["home"]) == (number, False)
        assert home.output() == before + written
    assert len(states(home.program.folder.path)) == visits.KEPT
    visit.ask_home()
    assert visit.renew()["home"]
    browser.run(100)  # nobody hears of that
    visit.end("it was asked home")
    assert home.program.standing is ProgramStanding.RUNNING and home.program.pid
    with pytest.raises(VisitEnded):
        visit.renew()
    home.ends_right()
    assert not [one for one in home.program.folder.path.iterdir() if "visit" in one.name]


def test_a_second_visit_after_the_first(home: Home) -> None:
    for _ in range(2):
        visit, browser = home.lend()
        browser.run(STEPS)
        browser.send()
        visit.end("it was asked home")
    home.ends_right()


def test_the_lease_ends(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the browser did after its last state happens again at home, and its next one is late."""
    monkeypatch.setattr(visits, "LEASE", 0.5)
    monkeypatch.setattr(visits, "MARGIN", 0.1)
    _, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    browser.run(STEPS)
    late = browser.body()
    until(lambda: home.program.standing is ProgramStanding.RUNNING)
    with pytest.raises(VisitEnded):
        browser.send(late)
    home.ends_right()
    assert "the browser was gone" in str([values for _, values in home.notes])


def test_a_state_is_taken_once(home: Home) -> None:
    visit, browser = home.lend()
    browser.run(STEPS)
    body, before = browser.body(), home.output()
    written = browser.written()
    browser.send(body)
    # The answer was lost, so it is sent again.
    assert visit.take(1, io.BytesIO(body), len(body))["number"] == 1
    assert home.output() == before + written
    with pytest.raises(FormatError):
        visit.take(3, io.BytesIO(body), len(body))
    visit.end("done")
    home.ends_right()


def test_damaged_states_are_passed_over(home: Home) -> None:
    """The program goes on from the last sound one, and what was written after it is cut off."""
    visit, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    browser.run(STEPS)
    browser.send(browser.body()[:-9])  # its end is missing
    visit.end("done")
    home.ends_right()
    assert "is passed over" in str([values for _, values in home.notes])


@pytest.mark.parametrize("lie", ["module", "memory", "fuel", "garbage", "bomb", "other"])
def test_states_that_lie(home: Home, lie: str) -> None:
    """None of them is taken for the program; it goes on from where it left."""
    import gzip

    from wasmsr.node.visits.apart import HEAD

    visit, browser = home.lend()
    browser.run(STEPS)
    state = browser.state()
    body = {
        "module": lambda: browser.body(instances=[]),
        "memory": lambda: browser.body(
            memories=[
                type(one)(one.minimum, one.maximum, bytes(len(one.data) + (70000 << 16)))
                for one in state.memories
            ]
        ),
        "fuel": lambda: browser.body(limits=_with_fuel(state.limits)),
        "garbage": lambda: HEAD.pack(1, 0, 0) + b"\x1f\x8b garbage",
        "bomb": lambda: HEAD.pack(1, 0, 0) + gzip.compress(bytes(64 << 20)),
        "other": lambda: browser.body(globals=state.globals * 2),
    }[lie]
    try:
        data = body()
    except WasmsrError:
        data = HEAD.pack(1, 0, 0) + b"no state"  # even our writer does not write it
    browser.send(data)
    visit.end("done")
    home.ends_right()
    assert "is passed over" in str([values for _, values in home.notes])


def _with_fuel(limits: object) -> object:
    from dataclasses import replace

    return replace(limits, fuel=1 << 40)  # type: ignore[type-var]


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 16, b"\0" * 8 + b"\1\0\0\0" + b"\0" * 4])
def test_what_is_no_state_is_refused_at_once(home: Home, data: bytes) -> None:
    visit, _ = home.lend()
    with pytest.raises(FormatError):
        visit.take(1, io.BytesIO(data), len(data))
    with pytest.raises(FormatError):
        visit.take(1, io.BytesIO(data), len(data) + 1)  # the client went away
    with pytest.raises(FormatError):
        visit.take(1, io.BytesIO(data), visits.MOST_STATE + 1)
    assert visit.renew()["number"] == 0
    visit.end("done")
    home.ends_right()


def test_it_is_killed_there(home: Home) -> None:
    visit, browser = home.lend()
    browser.run(STEPS)
    home.program.kill()
    with pytest.raises(VisitEnded):
        browser.send()
    assert home.program.standing is ProgramStanding.KILLED
    assert not states(home.program.folder.path) and not visit.parts.exists()


def test_the_node_is_started_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not go on before the lease of the browser has ended, and then from the last state."""
    monkeypatch.setattr(visits, "LEASE", 3.0)
    visit, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    ended = time.monotonic() + 2.5
    visit.over = "its node was lost"
    home.node.stop(save=False, seconds=5)
    home.start()
    assert home.program.standing is ProgramStanding.RESUMABLE
    with pytest.raises(WrongState, match="more"):
        home.program.resume()
    home.node.resume_all()
    until(lambda: home.program.standing is ProgramStanding.RUNNING)
    assert time.monotonic() > ended
    home.ends_right()
    with pytest.raises(VisitEnded):
        browser.send()


def test_a_program_that_cannot_be_lent_runs_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(verb: str, *paths: Path) -> None:
        raise WasmsrError("it has a socket")

    monkeypatch.setattr(visits, "apart", refuse)
    with pytest.raises(WasmsrError, match="it has a socket"):
        home.source.lend(home.id)
    assert home.program.standing is ProgramStanding.RUNNING
    home.ends_right()
