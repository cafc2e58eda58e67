"""Answers are found in output that comes in pieces of any size."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wasmsr.sandbox.streams import MARK, TOO_LONG, AnswerReader

PIECES = st.lists(
    st.sampled_from(
        [b"out", b"\n", b"\x1e", b"\x1ewas", MARK, MARK + b'{"k": "show"}\n', MARK + b"[1]\n"]
    )
)


def joined(found: list[bytes | dict[str, Any]]) -> list[bytes | dict[str, Any]]:
    """Output in one piece between two answers."""
    made: list[Any] = []
    for one in found:
        if made and isinstance(one, bytes) and isinstance(made[-1], bytes):
            made[-1] += one
        else:
            made.append(one)
    return made


@given(PIECES, st.sets(st.integers(0, 200)))
def test_cuts_change_nothing(pieces: list[bytes], cuts: set[int]) -> None:
    data = b"".join(pieces)
    whole = AnswerReader()
    expected = whole.feed(data)
    places = sorted({0, len(data), *(one for one in cuts if one < len(data))})
    reader, found = AnswerReader(), []
    for begin, end in pairwise(places):
        found += reader.feed(data[begin:end])
        reader = AnswerReader(reader.rest) if begin % 2 else reader  # a saved one goes on
    assert joined(found) == joined(expected)
    assert reader.rest == whole.rest


def test_an_answer_without_an_end_is_dropped() -> None:
    reader = AnswerReader()
    reader.longest = 1000
    found = reader.feed(MARK)
    for _ in range(20):
        found += reader.feed(b"x" * 100)
        assert len(reader.rest) <= 1100
    assert found == [TOO_LONG]


def test_an_answer_that_is_too_long_is_dropped() -> None:
    reader = AnswerReader()
    reader.longest = 100
    long = MARK + b'{"k": "done", "x": "' + b"x" * 200 + b'"}\n'
    assert reader.feed(b"a" + long + b"b") == [b"a", TOO_LONG, b"b"]
    assert reader.feed(long[:150]) == [TOO_LONG]
    assert reader.rest == b""
    assert reader.feed(long[150:] + b"c") == [b"c"]
    assert reader.feed(MARK + b'{"k": "too long"}\n') == [MARK + b'{"k": "too long"}\n']
    assert reader.feed(MARK + b'{"k": "done"}\n') == [{"k": "done"}]
