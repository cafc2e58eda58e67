"""Who is asked to take a module over, when the news of its device is late, old or wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("jsonschema")

from tests.fleet.test_owners import NODES, LeaseDesk, at
from wasmsr.fleet.orchestrator.rows import device_uuids
from wasmsr.ownership.owner_record import LastCheckpoint, Standing


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LeaseDesk]:
    found = LeaseDesk(tmp_path / "fleet.db")
    yield found
    found.fleet.close()


def test_an_owner_is_back_when_its_module_is_taken_over(desk: LeaseDesk) -> None:
    """The new owner must not hear that it is to stop the module: it would end it for good."""
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.leave("a")
    said = desk.alive("a", "m-one")
    desk.take(record, "b")
    assert not [one for one in said + desk.said() if one[1] == "delete"]
    row = desk.row("one")
    assert (row.parent, row.status.value) == (device_uuids(NODES["b"])[1], "A")


def test_an_heir_that_has_not_heard_of_it(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.leave("a")
    ((topic, action, data),) = desk.alive("b")
    assert (topic, action, data["epoch"]) == (at("b"), "create", 2)
    assert data["lease"]["program"] == record.program.hex()
    assert not desk.alive("b", "m-one")


def test_silence_while_the_broker_was_away(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    desk.begin("one", "a")
    desk.listen(5)
    desk.now += 12  # longer than the lease, and no tick
    desk.orchestrator.listen()
    desk.orchestrator.tick()
    assert desk.status("one") == "A" and not desk.said()
    desk.listen(15)
    assert desk.status("one") == "K"


def test_silence_after_the_clock_was_set_back(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    desk.begin("one", "a")
    desk.listen(5)
    desk.now -= 3600
    desk.listen(25)
    ((topic, action, _),) = desk.said()
    assert (topic, action, desk.status("one")) == (at("b"), "create", "K")


def test_a_device_that_gives_a_module_back_and_stays(desk: LeaseDesk) -> None:
    """It could not restore it: another one tries."""
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    assert desk.swap(record, record.next(standing=Standing.RELEASED))["done"]
    desk.listen(5)
    ((topic, action, _),) = desk.said()
    assert (topic, action, desk.status("one")) == (at("b"), "create", "K")


@pytest.mark.parametrize("saved", [True, False])
def test_a_device_that_cannot_go_on_with_its_module(desk: LeaseDesk, saved: bool) -> None:
    """Others can, if there is a checkpoint."""
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    if saved:
        assert desk.swap(record, record.next(checkpoint=LastCheckpoint(bytes(32), "s:x", 1)))[
            "done"
        ]
    said = desk.exited(
        "one", device_uuids(NODES["a"])[1], reason="error", program=record.program.hex()
    )
    assert desk.status("one") == ("K" if saved else "D")
    assert [(topic, action) for topic, action, _ in said] == [(at("b"), "create")] * saved


def test_a_list_that_is_lost(tmp_path: Path) -> None:
    """Devices may still have the programs of the old one: no other module has such a program."""
    programs = []
    for name in ("old", "new"):
        desk = LeaseDesk(tmp_path / f"{name}.db")
        desk.device("a")
        programs.append(desk.begin("one", "a").program)
        desk.fleet.close()
    assert programs[0] != programs[1]
