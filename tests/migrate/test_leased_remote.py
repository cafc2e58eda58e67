"""`wasmsr remote --lease` as it is typed: two processes, and the register says who owns it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.migrate.remote import PATIENCE, Ends
from tests.migrate.test_remote import kinds, wasmsr
from wasmsr.errors import EXIT_MIGRATION

LINES = str(Path(__file__).with_name("lines.wat"))


def register(ends: Ends) -> str:
    return str(ends.state / "ownership" / "register.db")


def shown(ends: Ends, program: str) -> dict[str, object]:
    """What `wasmsr ownership show` says of a program."""
    run = wasmsr(ends.folder, "ownership", "show", program, "--register", register(ends), "--json")
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)
    return found


def event_of(ends: Ends, end: str, kind: str) -> dict[str, object]:
    """The next event of a kind; the program's own lines are between the events."""
    while True:
        line = ends.line(end)
        if line.startswith("{") and (event := json.loads(line))["event"] == kind:
            assert isinstance(event, dict)
            return event


@pytest.mark.full
def test_a_leased_program_moves_and_the_register_names_its_owner(ends: Ends) -> None:
    ends.listen("b", "--every", "1.5")
    ends.start("a", "--every", "0.5", "--send", "--lease", "2", "--program", LINES)
    first = event_of(ends, "a", "leased")
    second = event_of(ends, "b", "leased")
    assert first["program"] == second["program"] and first["node"] != second["node"]
    assert (first["epoch"], second["epoch"]) == (1, 2)
    now = shown(ends, str(second["program"]))
    assert (now["owner"], now["epoch"], now["standing"]) == (second["node"], 2, "owned")
    wrote = [ends.rest(end)[0].splitlines() for end in "ab"]
    assert [ends.processes[end].returncode for end in "ab"] == [0, 0]
    events = [[json.loads(line) for line in one if line.startswith("{")] for one in wrote]
    assert [kinds(one)[-1] for one in events] == ["ended", "ended"]
    last = shown(ends, str(second["program"]))
    assert last["standing"] == "ended"


@pytest.mark.full
def test_the_owner_is_killed_and_nobody_runs_it_again(ends: Ends) -> None:
    ends.listen("b", "--every", "60")
    ends.start("a", "--every", "0.3", "--send", "--lease", "2", "--program", LINES)
    owned = event_of(ends, "b", "leased")
    event_of(ends, "a", "moved")
    ends.processes["b"].kill()
    ends.processes["b"].wait()
    assert shown(ends, str(owned["program"]))["owner"] == owned["node"]
    ends.start("b", "--every", "60")  # it no longer holds the program, and nobody else may take it
    event_of(ends, "b", "lost")
    _, said = ends.rest("a")
    assert ends.processes["a"].returncode == EXIT_MIGRATION, said
    assert "was killed" in said
    deadline = time.monotonic() + PATIENCE
    while shown(ends, str(owned["program"]))["standing"] != "ended":
        assert time.monotonic() < deadline
    ends.processes["b"].terminate()


def test_what_a_lease_does_not_allow(ends: Ends) -> None:
    (ends.work / "files").mkdir()
    for options, words in (
        (["--lease", "2"], "belongs to the end with --send"),
        (["--lease", "0.1", "--send"], "not in the range"),
        (["--lease", "2", "--send", "--dir", "files", "--program", LINES], "--unfenced host"),
        (
            ["--lease", "2", "--send", "--program", LINES, "--tcp-listen", "127.0.0.1:9"],
            "strangers",
        ),
        (["--lease", "2", "--send", "--program", LINES, "--register", "/dev/null"], "register"),
    ):
        ends.start("a", *options)
        _, said = ends.rest("a")
        assert words in said, (options, said)
        assert ends.processes["a"].returncode not in (0, 1)


def test_another_register_is_refused(ends: Ends, tmp_path: Path) -> None:
    ends.listen("b", "--register", str(tmp_path / "other.db"))
    ends.start("a", "--send", "--lease", "2", "--program", LINES)
    _, said = ends.rest("a")
    assert ends.processes["a"].returncode == EXIT_MIGRATION
    assert "its register does not have the program" in said and "same --register" in said
