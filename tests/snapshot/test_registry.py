"""A new kind of section takes one class: everything else goes through the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import wasmsr
from tests.snapshot.samples import full, to_bytes
from wasmsr.errors import FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.registry import SECTIONS, register, unregister
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.format import content_digest, decode, encode
from wasmsr.snapshot.inspect.describe import describe, render
from wasmsr.snapshot.inspect.names import SnapshotNames
from wasmsr.snapshot.inspect.text_tables import Block
from wasmsr.snapshot.rules import CheckScope, invalid
from wasmsr.snapshot.state import SnapshotState


class NoteSection(Section):
    """A line of text that somebody has put on a store."""

    kind = 0x7000
    name = "note"
    present = "the store has a note"

    def capture(self, store: Any) -> Any:
        return getattr(store, "note", None)

    def restore(self, store: Any, value: Any) -> None:
        store.note = value

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        return pack(state.extra[self.name], "the note") if self.name in state.extra else b""

    def parse(self, data: Buffer, draft: Draft) -> None:
        draft.state.extra[self.name] = self.unpack(data)

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        if not isinstance(state.extra.get(self.name, ""), str):
            raise invalid("the note is no text")

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        return {"note": state.extra.get(self.name)}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        yield "Note", (), [("text", description["note"])]


@pytest.fixture
def note() -> Iterator[NoteSection]:
    section = NoteSection()
    register(section)
    yield section
    unregister(section)


def test_from_a_store_to_a_file_and_back(note: NoteSection) -> None:
    store: Any = wasmsr.Store()
    store.note = "remember"
    taken = wasmsr.Snapshot.of(store)
    assert taken.state.extra == {"note": "remember"}
    data = to_bytes(taken.state)
    again = wasmsr.Snapshot(decode(data))
    assert again == taken
    restored: Any = again.restore()
    assert restored.note == "remember"
    description = describe(again.state)
    assert description["note"] == "remember"
    assert "Note\n  text  remember\n" in render(description)


def test_it_is_part_of_the_content(note: NoteSection) -> None:
    one, two = full(), full()
    two.extra["note"] = "x"
    assert content_digest(one) != content_digest(two)


def test_its_check_is_asked_on_both_sides(note: NoteSection) -> None:
    state = full()
    state.extra["note"] = 5
    with pytest.raises(FormatError, match="the note is no text"):
        encode(state)


def test_without_it_the_snapshot_is_refused() -> None:
    section = NoteSection()
    register(section)
    try:
        state = full()
        state.extra["note"] = "x"
        data = to_bytes(state)
    finally:
        unregister(section)
    with pytest.raises(VersionError, match="kind 0x7000"):
        decode(data)
    with pytest.raises(SnapshotError, match="no section for its part 'note'"):
        encode(state)


def test_kinds_and_names_are_unique(note: NoteSection) -> None:
    with pytest.raises(ValueError, match="kind 28672"):
        register(NoteSection())
    assert [one.kind for one in SECTIONS] == sorted({one.kind for one in SECTIONS})
