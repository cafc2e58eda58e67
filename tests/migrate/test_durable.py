"""Moves with `--durable none`: a destination that is READY in memory only, and is then gone.

And what may not be called durable."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.migrate.ends import End, Fault, Stuck
from tests.migrate.test_faults import Session, no_sync
from wasmsr.migrate.journal.forget import forget
from wasmsr.migrate.journal.image_file import ImageFile
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.protocol import JournalError, Move, OwnershipState
from wasmsr.snapshot.encoding.container import MAGIC

__all__ = ["no_sync"]

KILLED = Fault("b", "before OWNED is on disk", "kill")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path, [], "none")


def kinds(end: End) -> list[str]:
    return [event.kind for event in end.events]


def test_nothing_is_written_before_the_decision(session: Session) -> None:
    session.run()
    points = session.script.passed
    assert ("b", "after OWNED is on disk") in points
    assert not [point for point in points if "READY" in point[1]]
    assert not list(session.b.folder.glob("journal/*.received"))


def test_a_program_whose_new_owner_never_began_is_taken_back(session: Session) -> None:
    """In a further epoch, so that a late Commit means nothing."""
    session.script.faults.append(KILLED)
    session.begin()
    counter = session.held["a"]
    assert session.a.node and session.a.node.source.move(counter) is None
    record = session.a.node.journal.get(session.program)
    assert record and (record.standing, record.epoch) == (OwnershipState.OWNED, 3)
    assert session.world.running == {session.program: "a"}
    assert "taken-back" in kinds(session.a)
    late = Move(session.program, 2, record.attempt)
    assert session.b.node and session.b.node.answers.commit(late, 0.0) is OwnershipState.UNKNOWN
    assert session.world.running == {session.program: "a"}
    session.move()
    session.check()
    assert session.world.running == {session.program: "b"}


def test_nothing_is_taken_back_if_the_journal_may_have_lost_records(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = End.kill

    def killed(end: End) -> None:
        kill(end)
        journal = Journal(end.folder / "journal")
        journal.renew()
        journal.close()

    monkeypatch.setattr(End, "kill", killed)
    session.script.faults.append(KILLED)
    session.begin()
    assert session.a.node
    with pytest.raises(Stuck):
        session.a.node.source.move(session.held["a"])
    assert not session.world.running
    record = session.a.node.journal.get(session.program)
    assert record and record.standing is OwnershipState.HANDED


def test_a_state_in_memory_is_parked_on_the_disk(session: Session) -> None:
    session.begin()
    node, other = session.a.node, session.b.node
    assert node and other
    counter = session.held["a"]
    attempt = node.source.attempt(counter)
    answer = node.source.prepare(counter, attempt.move)
    attempt.offer(answer.journal)
    attempt.departure().send(answer)
    assert other.destination.ready and other.journal.get(session.program) is None
    assert other.answers.status(attempt.move).standing is OwnershipState.READY
    other.destination.park()
    assert not other.destination.all_ready()
    record = other.journal.get(session.program)
    assert record and record.incoming and other.journal.path(record.incoming.file).exists()
    assert other.answers.status(attempt.move).standing is OwnershipState.READY
    assert attempt.hand(other.journal.node)
    assert other.answers.commit(attempt.move, 0.0) is OwnershipState.OWNED
    assert session.world.running == {session.program: "b"}


def test_a_journal_has_another_id_when_records_may_be_missing(tmp_path: Path) -> None:
    folder = tmp_path / "remote" / "7000"
    journal = Journal(folder)
    first, node = journal.id, journal.node
    journal.put(Record(b"p" * 16, OwnershipState.LOST, 1))
    journal.close()
    again = Journal(folder)
    assert (again.id, again.node) == (first, node)
    again.close()
    shutil.copytree(folder, tmp_path / "copy")
    copy = Journal(tmp_path / "copy")
    assert copy.id != first
    copy.close()
    assert forget(tmp_path, None, "", print)
    after = Journal(folder)
    assert after.id != first and after.node == node
    after.close()


def test_an_image_that_is_no_snapshot_is_not_committed(tmp_path: Path) -> None:
    """READY would name a file from which no program can be restored."""
    image = ImageFile(tmp_path / "image")
    os.pwrite(image.fd, b"pages", 4096)
    with pytest.raises(JournalError, match="image is not complete"):
        image.commit()
    os.pwrite(image.fd, MAGIC, 0)
    assert image.commit() == tmp_path / "image"
