"""Checkpoints of a node in a store: the newest of each program, for any host to go on from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.programs import counting, lines
from tests.node.test_node import Here, output, until
from wasmsr.node.stored_checkpoints import StoredCheckpoints
from wasmsr.snapshot.store.store import SnapshotStore


class Stored(Here):
    """A node whose checkpoints go to a store."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "store"
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.keeper: StoredCheckpoints | None = None
        super().__init__(folder, note=self.note)
        self.keeper = StoredCheckpoints(str(self.place), self.supervisor.find, self.note)

    def note(self, event: str, **values: Any) -> None:
        self.events.append((event, values))
        if self.keeper is not None:
            self.keeper.hear(event, **values)

    def said(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)

    def names(self) -> list[str]:
        return SnapshotStore(str(self.place), create=True).names()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    yield made
    assert made.keeper is not None
    made.keeper.close(5)
    made.end()


def test_the_newest_checkpoint_is_in_the_store(here: Stored, tmp_path: Path) -> None:
    program = here.node.submit(counting(1000, 20))
    until(lambda: len(output(here.node, program)) > 90)
    for count in (1, 2, 3):
        here.node.checkpoint(program.program)
        until(lambda count=count: here.said("stored") == count)  # type: ignore[misc]
    (name,) = here.names()
    saved = here.node.ps()[0].saved
    assert saved is not None
    assert name == f"{program.program}@1.{saved['root'][:16]}"
    got = tmp_path / "got.snapshot"
    assert SnapshotStore(str(here.place)).get(name, str(got)).root.hex() == saved["root"]
    # Another program of another node, as it were, goes on there.
    again = here.node.submit(counting(1000, 20), from_snapshot=got)
    until(lambda: len(output(here.node, again)) > 90)
    found = output(here.node, again)
    first = int(found[:8])
    assert found == lines(first, first + len(found) // 9)
    assert first * 9 >= saved["stdout"] - 9
    here.node.kill(program.program)
    until(lambda: not here.names())


def test_a_store_that_cannot_be_used(here: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    from wasmsr.node import stored_checkpoints

    monkeypatch.setattr(stored_checkpoints, "AGAIN_SECONDS", 0.2)
    here.place.write_text("no folder")
    program = here.node.submit(counting(1000, 20))
    assert here.node.checkpoint(program.program).saved is not None, "the node has it all the same"
    until(lambda: here.said("not-stored") >= 2)
    here.place.unlink()
    until(lambda: here.said("stored") == 1)
    assert len(here.names()) == 1


def test_what_is_left_is_copied_before_the_end(here: Stored) -> None:
    program = here.node.submit(counting(1000, 20))
    time.sleep(0.2)
    here.node.checkpoint(program.program)
    assert here.keeper is not None and here.keeper.close(20)
    assert len(here.names()) == 1
