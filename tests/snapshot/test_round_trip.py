"""Encoding and decoding are inverse, in one way only, for every snapshot."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.snapshot.samples import full, large, lineage, small, to_bytes
from tests.snapshot.strategies import snapshots
from wasmsr.errors import FormatError, UnportableState
from wasmsr.snapshot.encoding.container import BATCH_SIZE, HEADER, TRAILER, tree_digest
from wasmsr.snapshot.format import Decoder, content_digest, decode, encode
from wasmsr.snapshot.state import SnapshotState

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "60"))
relaxed = settings(
    max_examples=ROUNDS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@relaxed
@given(snapshots(), st.booleans())
def test_decode_gives_what_was_encoded(snapshot: SnapshotState, compress: bool) -> None:
    data = to_bytes(snapshot, compress)
    found = decode(data)
    assert found == snapshot
    assert to_bytes(found, compress) == data


@relaxed
@given(snapshots(), st.randoms(use_true_random=False))
def test_pieces_may_be_cut_anywhere(snapshot: SnapshotState, source: random.Random) -> None:
    data = to_bytes(snapshot)
    decoder = Decoder()
    position = 0
    while position < len(data):
        size = source.choice((1, 2, 7, 64, 1000, 100_000))
        decoder.feed(data[position : position + size])
        position += size
    assert decoder.finish() == snapshot
    assert decoder.header is not None
    assert decoder.plain == decoder.header.plain
    ends = HEADER.size + TRAILER.size
    assert ends + sum(section.stored for section in decoder.sections) == len(data)


@pytest.mark.parametrize("make", [small, full])
@pytest.mark.parametrize("compress", [True, False])
def test_samples(make: object, compress: bool) -> None:
    snapshot = make()  # type: ignore[operator]
    data = to_bytes(snapshot, compress)
    assert decode(data) == snapshot
    assert to_bytes(decode(data), compress) == data
    assert decode(memoryview(bytearray(data))) == snapshot


def test_a_decoded_snapshot_keeps_nothing_of_its_source() -> None:
    data = bytearray(to_bytes(full(), compress=False))
    found = decode(data)
    data[:] = bytes(len(data))
    assert found == full()


def test_content_digest_is_of_all_but_the_lineage() -> None:
    snapshot = full()
    digest = content_digest(snapshot)
    assert digest == content_digest(snapshot)
    snapshot.lineage = lineage()
    assert content_digest(snapshot) == digest
    decoder = Decoder()
    for piece in encode(snapshot, compress=False):
        decoder.feed(piece)
    decoder.finish()
    assert decoder.content == digest
    assert isinstance(snapshot.memories[0].data, bytearray)
    snapshot.memories[0].data[100] ^= 1
    assert content_digest(snapshot) != digest


def test_root_does_not_depend_on_compression() -> None:
    one, two = to_bytes(full(), True), to_bytes(full(), False)
    assert one != two
    assert one[:64] == two[:64]


@pytest.mark.parametrize("compress", [True, False])
def test_sections_of_many_batches(compress: bool) -> None:
    snapshot = large()
    pieces = list(encode(snapshot, compress=compress))
    assert max(map(len, pieces)) < 3 * BATCH_SIZE
    data = b"".join(pieces)
    assert decode(data) == snapshot
    assert to_bytes(decode(data), compress) == data
    if compress:
        assert len(data) < len(to_bytes(snapshot, compress=False))


def test_pieces_are_made_when_asked_for() -> None:
    snapshot = large()
    pieces = encode(snapshot)
    assert len(next(pieces)) < 3 * BATCH_SIZE
    assert next(pieces)


def test_digest_tree_of_any_length_is_the_same_in_pieces() -> None:
    from wasmsr.snapshot.encoding.container import Tree

    for length in (0, 1, 65535, 65536, 65537, 131072, 200_000):
        data = random.Random(length).randbytes(length)
        tree = Tree()
        for start in range(0, length, 999):
            tree.update(data[start : start + 999])
        assert tree.digest() == tree_digest(data)


@pytest.mark.parametrize(
    ("externs", "named"),
    [
        ([1, object()], "externref 1 (object)"),
        ([(1, 2)], "externref 0 (tuple)"),
        ([2**64], "externref 0 (int)"),
        (["\ud800"], "externref 0 (str)"),
    ],
)
def test_host_objects_that_cannot_be_saved_are_named(externs: list[object], named: str) -> None:
    snapshot = replace(small(), externs=externs)
    with pytest.raises(UnportableState, match=named.replace("(", r"\(").replace(")", r"\)")):
        encode(snapshot)


def test_what_nests_too_deep_is_refused() -> None:
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(UnportableState):
        encode(replace(small(), externs=[deep]))


def test_a_writer_refuses_what_a_reader_would() -> None:
    snapshot = full()
    snapshot.thread.frames[0].offset = 1 << 40
    with pytest.raises(FormatError, match="position of frame 0"):
        encode(snapshot)
    with pytest.raises(FormatError, match="wrong type"):
        encode(replace(small(), limits=replace(small().limits, memory_pages="many")))  # type: ignore[arg-type]
