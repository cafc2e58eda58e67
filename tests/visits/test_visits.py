"""A program that a node has lent: every state counts with its output, or not at all."""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.programs import counting, lines
from tests.visits.played_browser import PlayedBrowser
from wasmsr import realtime
from wasmsr.errors import FormatError, WasmsrError
from wasmsr.executor.output.rings import ring_bounds
from wasmsr.http.page.supervisor_source import SupervisorSource
from wasmsr.node.failures import WrongState
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.program_record import ProgramStanding
from wasmsr.node.visits import visit as visits
from wasmsr.node.visits.apart import HEAD, apart
from wasmsr.node.visits.lent_stay import LONGEST
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
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(visits, "LEASE", 60.0)  # the machine may be slow
    made = Home(tmp_path)
    yield made
    made.node.stop(save=False, seconds=5)


def left_of_visits(folder: Path) -> list[str]:
    """Return the names of files of a visit in the folder of a program."""
    return [one.name for one in folder.iterdir() if "visit" in one.name or "lent" in one.name]


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
    assert not left_of_visits(home.program.folder.path)


def test_visits_leave_one_state(home: Home) -> None:
    """However often it goes and comes, and whatever a lost node has left of a visit before."""
    folder = home.program.folder.path
    for number in range(3):
        (folder / ".lent-0.part").write_bytes(b"half")
        (folder / "visit-000000099-0000000000000000-0000000000000000.state").write_bytes(b"old")
        visit, browser = home.lend()
        if number:
            browser.run(STEPS)
            browser.send()
        visit.end("it was asked home")
        assert len(list(folder.glob("parked-*"))) == 1 and not left_of_visits(folder)
    home.ends_right()
    assert "is passed over" not in str([values for _, values in home.notes])


def test_the_lease_ends(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the browser did after its last state happens again at home, and its next one is late."""
    visit, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    browser.run(STEPS)
    late = browser.body()
    monkeypatch.setattr(visits, "LEASE", 0.2)
    visit.renew()
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


@pytest.mark.parametrize("lie", ["module", "memory", "fuel", "garbage", "bomb", "other", "code"])
def test_states_that_lie(home: Home, lie: str) -> None:
    """None of them is taken for the program; it goes on from where it left."""
    import gzip

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
        "code": lambda: browser.body(thread=_elsewhere(state.thread)),
    }[lie]
    try:
        data = body()
    except WasmsrError:
        data = HEAD.pack(1, 0, 0) + b"no state"  # even our writer does not write it
    browser.send(data)
    visit.end("done")
    home.ends_right()
    assert "is passed over" in str([values for _, values in home.notes])


def _elsewhere(thread: Any) -> Any:
    """Return a thread that stands in the header of its module."""
    from dataclasses import replace

    *frames, last = thread.frames
    return replace(thread, frames=[*frames, replace(last, offset=9)])


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


@pytest.mark.parametrize("closed", [False, True])
def test_it_is_killed_there(home: Home, closed: bool) -> None:
    """Nothing is left of it, whether the tab asks again or not."""
    visit, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    home.program.kill()
    folder = home.program.folder.path
    assert not left_of_visits(folder)
    (folder / "visit-000000002-0000000000000000-0000000000000000.state").write_bytes(b"late")
    if closed:
        with visit._lock:
            visit._until = 0
            visit._changed.notify_all()
        until(lambda: visit.over)
    with pytest.raises(VisitEnded):
        browser.send()
    assert home.program.standing is ProgramStanding.KILLED
    until(lambda: not left_of_visits(folder))
    assert "trouble" not in [event for event, _ in home.notes]


def test_the_node_is_started_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not go on before the lease of the browser has ended, and then from the last state."""
    visit, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    monkeypatch.setattr(visits, "LEASE", 1.0)
    monkeypatch.setattr(visits, "MARGIN", 0.5)
    now = realtime.boot()
    monkeypatch.setattr(realtime, "boot", lambda: now)  # the lease does not end
    visit.renew()
    home.node.stop(save=False, seconds=5)
    home.start()
    assert home.program.standing is ProgramStanding.RESUMABLE
    assert home.program.lent_seconds == 1.5
    with pytest.raises(WrongState, match="more"):
        home.program.resume()
    home.node.resume_all()
    assert home.program.standing is ProgramStanding.RESUMABLE
    monkeypatch.setattr(realtime, "boot", lambda: now + 2_000_000_000)
    until(lambda: home.program.standing is ProgramStanding.RUNNING)
    home.ends_right()
    with pytest.raises(VisitEnded):
        browser.send()
    assert not left_of_visits(home.program.folder.path)


def test_a_node_that_has_ended_brings_nothing_home(home: Home) -> None:
    """The next node has the program; two of them would run it."""
    visit, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    home.node.stop(save=True, seconds=5)
    record, found = home.program.folder.record.read_bytes(), home.program.folder.parked()
    with pytest.raises(VisitEnded):
        visit.renew()
    assert visit.over and home.program.pid == 0
    assert home.program.folder.record.read_bytes() == record
    assert home.program.folder.parked() == found and states(home.program.folder.path)
    with pytest.raises(WrongState):
        home.program.resume()
    home.start()
    assert home.program.standing is ProgramStanding.RESUMABLE


def test_the_machine_is_started_again(home: Home) -> None:
    """Its clock began anew, so the record names a time that is far away."""
    home.lend()
    home.node.stop(save=False, seconds=5)
    record = home.program.record
    record.lent_until += 30 * 86_400 * 1_000_000_000
    record.write(home.program.folder.record)
    home.start()
    assert 0 < home.program.lent_seconds <= LONGEST


def test_a_full_disk_on_the_way_home_loses_no_state(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, browser = home.lend()
    browser.run(STEPS)
    browser.send()
    with monkeypatch.context() as full:

        def refuse(verb: str, *paths: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(visits, "apart", refuse)
        visit.end("it was asked home")
    assert home.program.standing is ProgramStanding.RESUMABLE
    assert "did not come home" in home.program.record.reason
    assert len(states(home.program.folder.path)) == 1
    now = realtime.boot()
    monkeypatch.setattr(realtime, "boot", lambda: now + 100_000_000_000)
    home.program.resume()
    home.ends_right()


def test_errors_of_files_are_no_damage(home: Home, tmp_path: Path) -> None:
    """A process of its own says whether a state is damaged, or a file cannot be written."""
    visit, browser = home.lend()
    browser.send()
    parked = home.program.folder.parked()
    assert parked is not None
    came = states(home.program.folder.path)[-1][2]
    with pytest.raises(FileNotFoundError):
        apart("home", parked[3], came, tmp_path / "nowhere" / "file")
    apart("home", parked[3], came, tmp_path / "file")
    visit.end("done")
    home.ends_right()


def test_the_node_keeps_as_much_output_as_of_programs_at_home(home: Home) -> None:
    visit, _ = home.lend()
    folder = home.program.folder.output
    for number in (1, 2):
        body = HEAD.pack(1, 3 << 20, 0) + bytes(3 << 20) + b"no state"
        visit.take(number, io.BytesIO(body), len(body))
    begin, end = ring_bounds(folder, "stdout")
    assert begin == 0 and end > 6 << 20
    visit.end("done")
    home.ends_right()


@pytest.mark.parametrize("paused", [False, True])
def test_a_program_that_cannot_be_lent_stays_as_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    """It keeps its worker, with all that no state has."""

    def refuse(verb: str, *paths: Path) -> None:
        raise WasmsrError("it has a socket")

    if paused:
        home.program.pause()
    standing, pid = home.program.standing, home.program.pid
    monkeypatch.setattr(visits, "apart", refuse)
    with pytest.raises(WasmsrError, match="it has a socket"):
        home.source.lend(home.id)
    assert (home.program.standing, home.program.pid) == (standing, pid)
    assert not left_of_visits(home.program.folder.path) and not home.program.folder.parked()
    if paused:
        home.program.resume()
    home.ends_right()


def test_a_paused_program_runs_when_it_comes_home(home: Home) -> None:
    """Somebody has asked for it to run there, so no later move lets it stand."""
    home.program.pause()
    visit, _ = home.lend()
    visit.end("done")
    assert not home.program.record.stands
    home.ends_right()
