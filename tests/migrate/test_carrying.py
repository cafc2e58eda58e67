"""Files that move with a program by `wasmsr remote`: there, and back to where they came from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.migrate.remote import Ends

DIARY = Path(__file__).with_name("diary.wat")
LINES = [b"%03d dear diary" % number for number in range(150)]


def begin(folder: Path) -> Path:
    """A folder as the program expects it."""
    folder.mkdir()
    (folder / "old").write_bytes(b"old")
    (folder / "gone").write_bytes(b"gone")
    (folder / "large").write_bytes(os.urandom(1 << 20))
    return folder


def check(folder: Path) -> None:
    """The folder as the program leaves it."""
    assert (folder / "diary").read_bytes().splitlines() == LINES
    assert (folder / "older").read_bytes() == b"old"
    assert (folder / "large").stat().st_size == 1 << 20
    assert sorted(path.name for path in folder.iterdir()) == ["diary", "large", "older"]


def values(events: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    return [event for event in events if event["event"] == kind]


def test_there_and_back(ends: Ends) -> None:
    home = begin(ends.work / "home")
    ends.listen("b", "--every", "0.6")
    folder = f"{home}::data::carry"
    ends.start("a", "--send", "--program", str(DIARY), "--dir", folder, "--every", "0.6")
    events, err = ends.events("a")
    assert ends.processes["a"].returncode == 0, err
    first, *later = values(events, "moved") + values(events, "arrived")
    assert later, "it came back at least once"
    # What each end has already is not sent again.
    assert first["bytes"] > 1 << 20  # type: ignore[operator]
    # It went in the rounds, and not while the program was paused.
    assert first["bytes_files"] > 1 << 20  # type: ignore[operator]
    assert first["bytes_files_last"] < 1 << 17  # type: ignore[operator]
    assert first["bytes_rest"] < 1 << 16  # type: ignore[operator]
    assert all(event["bytes"] < 1 << 16 for event in later)  # type: ignore[operator]
    events, err = ends.events("b")
    assert ends.processes["b"].returncode == 0, err
    if values(events, "ended")[-1]["here"]:
        (there,) = (ends.state / "remote" / str(ends.ports["b"]) / "files").glob("*/data")
        check(there)
    else:
        check(home)
        assert not list((ends.state / "remote" / str(ends.ports["b"])).glob("files/*/data"))


@pytest.mark.full
def test_a_foreign_edit_is_refused_on_return(ends: Ends) -> None:
    home = begin(ends.work / "home")
    ends.listen("b", "--every", "1.5")
    folder = f"{home}::data::carry"
    ends.start("a", "--send", "--program", str(DIARY), "--dir", folder, "--every", "0.3")
    ends.until("a", "moved")
    seen = (home / "diary").read_bytes()
    (home / "large").write_bytes(b"edited by somebody")
    event = ends.until("b", "not-moved")
    assert "data/large was changed on this host while the program was elsewhere" in str(event)
    events, err = ends.events("b")
    assert values(events, "ended")[-1]["here"], err
    (there,) = (ends.state / "remote" / str(ends.ports["b"]) / "files").glob("*/data")
    check(there)
    assert (home / "large").read_bytes() == b"edited by somebody"
    assert (home / "diary").read_bytes() == seen  # as it was at hand-over
    ends.events("a")


@pytest.mark.full
def test_an_overlay_leaves_both_bases_alone(ends: Ends) -> None:
    one = begin(ends.work / "one")
    two = ends.work / "two"
    shutil.copytree(one, two)
    # Longer than a busy machine takes for the program, so that it ends where it went.
    ends.listen("b", "--every", "100", "--dir", f"{two}::data::overlay")
    words = ("--dir", f"{one}::data::overlay", "--every", "0.3")
    ends.start("a", "--send", "--program", str(DIARY), *words)
    events, err = ends.events("b")
    (ended,) = values(events, "ended")
    assert (ended["code"], ended["here"]) == (0, True), err
    assert len(values(events, "arrived")) == 1
    events, err = ends.events("a")
    assert ends.processes["a"].returncode == 0, err
    assert values(events, "ended")[-1]["here"] is False
    for base in (one, two):
        assert sorted(path.name for path in base.iterdir()) == ["gone", "large", "old"]


def test_a_mount_of_another_mode_is_refused_before_the_stop(ends: Ends) -> None:
    home = begin(ends.work / "home")
    ends.listen("b", "--dir", f"{home}::data")
    folder = f"{home}::data::carry"
    ends.start("a", "--send", "--program", str(DIARY), "--dir", folder)
    _, err = ends.events("a")
    assert ends.processes["a"].returncode == 124
    assert "data in mode host, and the program has it in mode carry" in err
    assert "--dir HOST::data::carry" in err
