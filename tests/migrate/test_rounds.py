"""Rounds that a destination refuses: out of order, too many, with wrong pages."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from tests.migrate.counter import DIGEST, MODULE, Counter, World
from tests.migrate.ends import End, Script
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.protocol import (
    Move,
    Offer,
    PackedFiles,
    PackedPages,
    PeerRefused,
    Reason,
    RoundHead,
)
from wasmsr.wasi.state.contents import digest_of

NONE, ONE = array("Q"), array("Q", (0, 1))
MOVE = Move(b"p" * 16, 2, b"t" * 16)


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    end = End("b", "a", tmp_path, World(), Script())
    end.others = {"b": end}
    node = end.open()
    counter = Counter(World(), "a", program=MOVE.program)
    node.answers.prepare(Offer(b"n" * 16, MOVE, counter.describe(), rounds=3))
    upload = node.answers.upload(counter.describe().modules[0])
    upload.write(MODULE)
    upload.finish()
    made = node.answers.begin(MOVE)
    yield made
    made.cancel()
    assert not node.destination.receiving(MOVE)
    assert not list(node.journal.folder.glob("*.received"))
    node.journal.close()


def pages(first: int, count: int = 1, memory: int = 0, size: int | None = None) -> PackedPages:
    size = count * 4096 if size is None else size
    runs, zeros = array("Q", (first, count)), array("Q")
    return PackedPages(memory, runs, zeros, size, bytes(size), packed=False)


def zeros(*runs: int) -> PackedPages:
    return PackedPages(0, array("Q"), array("Q", runs), 0, b"", packed=False)


def functions(*indices: int, module: bytes = DIGEST) -> CalledFunctions:
    return CalledFunctions(module, False, False, False, indices)


def first(reception: Reception) -> None:
    reception.begin(RoundHead(1, (4,)))


def last(reception: Reception) -> None:
    reception.begin(RoundHead(1, (4,), last=True))


def piece(data: bytes) -> PackedFiles:
    return PackedFiles((digest_of(data),), (len(data),), data, packed=False)


STEPS: dict[str, list[Callable[[Reception], object]]] = {
    "pages outside a round": [lambda r: r.pages(pages(0))],
    "no first round": [lambda r: r.begin(RoundHead(2, (4,)))],
    "the same round again": [first, lambda r: r.end(1), first],
    "a round in a round": [first, lambda r: r.begin(RoundHead(2, (4,)))],
    "a round left out": [first, lambda r: r.end(1), lambda r: r.begin(RoundHead(3, (4,)))],
    "another round ends": [first, lambda r: r.end(2)],
    "a round ends twice": [first, lambda r: r.end(1), lambda r: r.end(1)],
    "the last round ends": [last, lambda r: r.end(1)],
    "more rounds than agreed": [
        *(
            step
            for number in (1, 2, 3)
            for step in (
                lambda r, n=number: r.begin(RoundHead(n, (4,))),
                lambda r, n=number: r.end(n),
            )
        ),
        lambda r: r.begin(RoundHead(4, (4,))),
    ],
    "a page twice": [first, lambda r: r.pages(pages(1)), lambda r: r.pages(pages(1))],
    "a page twice in a batch": [
        first,
        lambda r: r.pages(
            PackedPages(0, array("Q", (1, 2, 2, 1)), array("Q"), 12288, bytes(12288), packed=False)
        ),
    ],
    "pages out of order": [first, lambda r: r.pages(pages(2)), lambda r: r.pages(pages(1))],
    "memories out of order": [
        first,
        lambda r: r.pages(PackedPages(1, array("Q"), array("Q"), 0, b"", packed=False)),
        lambda r: r.pages(pages(1)),
    ],
    "zeros out of order": [first, lambda r: r.pages(zeros(2, 1)), lambda r: r.pages(zeros(0, 1))],
    "an empty run": [first, lambda r: r.pages(zeros(1, 0))],
    "a page beyond the memory": [first, lambda r: r.pages(pages(4))],
    "fewer bytes than pages": [first, lambda r: r.pages(pages(0, 2, size=4096))],
    "the rest before the last round": [first, lambda r: r.end(1), lambda r: r.write(b"\x89")],
    "pages after the rest": [last, lambda r: r.write(b"\x89"), lambda r: r.pages(pages(0))],
    "a round after the last": [last, lambda r: r.begin(RoundHead(2, (4,)))],
    "pages that nobody keeps": [
        first,
        lambda r: r.pages(PackedPages(0, NONE, NONE, 0, b"", packed=False, known=ONE)),
    ],
    "an earlier rest after a round": [first, lambda r: r.early(b"x", last=False)],
    "an earlier rest twice": [
        lambda r: r.early(b"x", last=True),
        lambda r: r.early(b"x", last=False),
    ],
    "functions after a round": [first, lambda r: r.called(functions(0))],
    "functions of another module": [lambda r: r.called(functions(0, module=bytes(32)))],
    "functions that the module does not have": [lambda r: r.called(functions(2))],
    "a repeat of nothing": [last, lambda r: r.repeat(0, 1)],
    "a repeat before the last round": [
        lambda r: r.early(b"x", last=True),
        first,
        lambda r: r.repeat(0, 1),
    ],
    "pieces of files outside a round": [lambda r: r.files(piece(b"x"))],
    "pieces of files between rounds": [first, lambda r: r.end(1), lambda r: r.files(piece(b"x"))],
    "pieces of files after the rest": [
        last,
        lambda r: r.write(b"\x89"),
        lambda r: r.files(piece(b"x")),
    ],
    "a piece of a file twice": [
        first,
        lambda r: r.files(piece(b"x")),
        lambda r: r.files(piece(b"x")),
    ],
    "a piece of a file again in a later round": [
        first,
        lambda r: r.files(piece(b"x")),
        lambda r: r.end(1),
        lambda r: r.begin(RoundHead(2, (4,))),
        lambda r: r.files(piece(b"x")),
    ],
    "a piece of a file of another digest": [
        first,
        lambda r: r.files(PackedFiles((digest_of(b"y"),), (1,), b"x", packed=False)),
    ],
    "pieces of files that unpack to more": [
        first,
        lambda r: r.files(replace(piece(b"x"), data=zstandard.compress(b"xx"), packed=True)),
    ],
    "pieces of files that cannot be unpacked": [
        first,
        lambda r: r.files(replace(piece(b"x"), packed=True)),
    ],
    "fewer bytes than pieces of files": [first, lambda r: r.files(replace(piece(b"x"), data=b""))],
    "a rest that is none": [last, lambda r: r.write(b"x" * 100)],
}


@pytest.mark.parametrize("case", STEPS)
def test_what_is_refused(reception: Reception, case: str) -> None:
    *before, wrong = STEPS[case]
    for step in before:
        step(reception)
    with pytest.raises(PeerRefused) as caught:
        wrong(reception)
    assert caught.value.reason is Reason.STATE


def test_a_reception_that_was_given_up_takes_nothing(reception: Reception) -> None:
    first(reception)
    reception.cancel()
    with pytest.raises(PeerRefused, match="given this attempt up"):
        reception.pages(pages(0))


def test_zeros_and_pages_share_a_range(reception: Reception) -> None:
    """The pages of a batch and its zeros may lie between each other."""
    first(reception)
    both = PackedPages(0, array("Q", (0, 1, 2, 1)), array("Q", (1, 1)), 8192, bytes(8192), False)
    reception.pages(both)
    reception.pages(pages(3))
    assert reception.end(1).number == 1
