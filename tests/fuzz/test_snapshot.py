"""Random damage to snapshots, from bytes to whole sections with all checksums made right again.

Whatever comes of it, a reader either raises one of its three errors, quickly and without taking
much memory, or gives a snapshot that can be written and read again. `make fuzz` runs it for longer;
`python -m tests.fuzz.test_snapshot SECONDS [SEED]` by itself.
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import replace

import msgpack
import pytest

from tests.snapshot import samples
from tests.snapshot.samples import full, large, parts, seal, small, to_bytes
from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import FULL, INCREMENTAL
from wasmsr.snapshot.encoding.registry import BY_KIND
from wasmsr.snapshot.encoding.section import MSGPACK, ReadBase
from wasmsr.snapshot.format import Decoder, content_digest, decode, encode
from wasmsr.snapshot.spaces.space_pages import Base, Written

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "300")) * 4
LIMIT = 64 << 20
INTERESTING = (0, 1, 2, 7, 8, 0x6F, 0x70, 0x7B, 0x7F, 0x80, 0xFF, 1 << 16, 1 << 31, (1 << 32) - 1)
SLOW = 2.0


class Mutator:
    """Makes damaged snapshots of good ones; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seeds: dict[int, list[bytes]] = {}
        self.large: dict[int, bytes] = {}
        for samples.written_version in (1, 2):
            self.seeds[samples.written_version] = [
                to_bytes(make(), compress) for make in (small, full) for compress in (False, True)
            ]
            self.large[samples.written_version] = to_bytes(large())
        self.base = self.seeds[2][2]
        self.increments = increments(self.base)

    def next(self) -> bytes:
        """Return a damaged snapshot of either version, or an increment to `base`."""
        source = self.random
        samples.written_version = source.choice((1, 2))
        form = FULL
        if samples.written_version == 2 and source.random() < 0.4:
            form, seed = INCREMENTAL, source.choice(self.increments)
        elif source.random() < 0.01:
            seed = self.large[samples.written_version]
        else:
            seed = source.choice(self.seeds[samples.written_version])
        kind = source.randrange(4)
        if kind == 0:
            return self._bytes(seed, source.randint(1, 4))
        sections = parts(seed)
        for _ in range(source.randint(1, 2)):
            number = source.randrange(len(sections))
            name, payload = sections[number]
            if kind == 1 and name in BY_KIND and BY_KIND[name].payload == MSGPACK:
                payload = self._message(payload)
            elif kind == 3:
                self._sections(sections, number)
                continue
            else:
                payload = self._bytes(payload, source.randint(1, 3))
            sections[number] = (name, payload)
        data = seal([section for section in sections if section[1]], form)
        return self._bytes(data, 1) if source.random() < 0.05 else data

    def _bytes(self, data: bytes, times: int) -> bytes:
        source = self.random
        result = bytearray(data)
        for _ in range(times):
            at = source.randrange(len(result) + 1)
            choice = source.randrange(6)
            if choice == 0 and at < len(result):
                result[at] ^= 1 << source.randrange(8)
            elif choice == 1 and at < len(result):
                result[at] = source.randrange(256)
            elif choice == 2:
                del result[at : at + source.choice((1, 4, 8, 24, 1000))]
            elif choice == 3:
                result[at:at] = source.randbytes(source.choice((1, 4, 8, 24)))
            elif choice == 4:
                result[at:at] = result[at : at + source.choice((8, 16, 24, 32, 500))]
            else:
                size = source.choice((1, 2, 4, 8))
                number = source.choice(INTERESTING) % (1 << 8 * size)
                at -= at % size
                result[at : at + size] = number.to_bytes(size, "little")
        return bytes(result)

    def _message(self, payload: bytes) -> bytes:
        """The message with a value exchanged, removed or added."""
        source = self.random
        value = msgpack.unpackb(payload, strict_map_key=False)
        inner = value
        while isinstance(inner, (dict, list)) and inner and source.random() < 0.7:
            place = source.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            if not isinstance(inner[place], (dict, list)) or source.random() < 0.2:
                inner[place] = self._value()
                break
            inner = inner[place]
        else:
            if isinstance(inner, dict):
                inner[source.choice(("size", "extra", "name"))] = self._value()
            elif isinstance(inner, list):
                inner.insert(source.randrange(len(inner) + 1), self._value())
        packed = msgpack.packb(value)
        assert isinstance(packed, bytes)
        return packed

    def _value(self) -> object:
        source = self.random
        return source.choice(
            (
                None,
                True,
                source.choice(INTERESTING),
                -1,
                (1 << 64) - 1,
                1.5,
                "text",
                b"",
                source.randbytes(16),
                source.randbytes(32),
                [],
                {},
                [source.choice(INTERESTING)],
            )
        )

    def _sections(self, sections: list[tuple[int, bytes]], number: int) -> None:
        source = self.random
        choice = source.randrange(4)
        if choice == 0 and len(sections) > 1:
            del sections[number]
        elif choice == 1:
            sections.insert(number, sections[number])
        elif choice == 2:
            kind = source.choice((*BY_KIND, 0x4000, 0x8001, 0xFFFF, 0))
            sections[number] = (kind, sections[number][1])
        else:
            other = source.randrange(len(sections))
            sections[number], sections[other] = sections[other], sections[number]


def increments(base: bytes) -> list[bytes]:
    """Snapshots that are made against one of `full`, all batches raw."""
    state, got = full(), list[Written]()
    list(encode(state, version=2, written=got.append, compress=False))
    below = Base(got[0].root, got[0].content, 0, got[0].trees)
    made = [b"".join(encode(state, version=2, base=below, compress=False))]
    data = state.memories[0].data
    assert isinstance(data, bytearray)
    data[:4096], data[4096:8192] = b"new!" * 1024, bytes(4096)
    data += bytes(65536)
    state = replace(state, memories=[replace(state.memories[0], data=data), *state.memories[1:]])
    made.append(b"".join(encode(state, version=2, base=below, compress=False)))
    return made


def reader(base: bytes, *, sparse: bool = False) -> Decoder:
    """A decoder that finds the base of every increment."""

    def find(root: bytes) -> ReadBase:
        decoder = Decoder()
        decoder.feed(base)
        return ReadBase(decoder.root, decoder.finish(), decoder.trees, 0, sparse)

    return Decoder(limit=LIMIT, find_base=find)


def trial(data: bytes, base: bytes, source: random.Random) -> bool:
    """Read damaged bytes, whole and in pieces; whether they were taken."""
    began = time.perf_counter()
    try:
        decoder = reader(base)
        decoder.feed(data)
        found = decoder.finish()
    except SnapshotError as error:
        assert type(error) in (FormatError, VersionError, DigestError) or _of_base(error)
        assert 10 < len(error.message) < 400, error.message
        outcome: tuple[type, str] = (type(error), error.message)
    else:
        again = to_bytes(found)
        assert decode(again) == found
        assert to_bytes(decode(again)) == again
        outcome = (bytes, content_digest(found).hex())
    assert time.perf_counter() - began < SLOW
    assert _in_pieces(data, base, source) == outcome
    assert _sparse(data, base) in (outcome[1] if outcome[0] is bytes else None, "needs its base")
    return outcome[0] is bytes


def _sparse(data: bytes, base: bytes) -> str | None:
    """Read without the pages of the base, which are laid below then; None if that is refused."""
    decoder = reader(base, sparse=True)
    try:
        decoder.feed(data)
        state = decoder.finish()
    except SnapshotError as error:
        return "needs its base" if "that needs a base" in error.message else None
    if decoder.header is None or decoder.header.form != INCREMENTAL:
        return content_digest(state).hex()
    below = reader(base)
    below.feed(base)
    memories = []
    for number, (memory, runs) in enumerate(zip(state.memories, decoder.stored_pages, strict=True)):
        whole = bytearray(len(memory.data))
        if number < len(below.finish().memories):
            old = below.finish().memories[number].data
            whole[: len(old)] = old
        for first, count in runs:
            part = slice(first * 4096, (first + count) * 4096)
            whole[part] = memory.data[part]
        memories.append(replace(memory, data=whole))
    return content_digest(replace(state, memories=memories)).hex()


def _of_base(error: SnapshotError) -> bool:
    return error.message == "another snapshot was given as the base of an incremental one"


def _in_pieces(data: bytes, base: bytes, source: random.Random) -> tuple[type, str]:
    decoder = reader(base)
    try:
        position = 0
        while position < len(data):
            size = source.choice((1, 50, 3000)) if len(data) < 50_000 else 100_000
            decoder.feed(data[position : position + size])
            position += size
        return bytes, content_digest(decoder.finish()).hex()
    except SnapshotError as error:
        return type(error), error.message


@pytest.mark.parametrize("seed", range(4))
def test_damaged_snapshots(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "written_version", 2)  # the mutator changes it
    mutator = Mutator(seed)
    taken = 0
    for _ in range(ROUNDS // 4):
        taken += trial(mutator.next(), mutator.base, mutator.random)
    # Some damage leaves a valid snapshot of another state; if none did, little was tested.
    assert taken > ROUNDS // 600


def main() -> None:
    """Run for as many seconds as the first argument says."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    mutator = Mutator(seed)
    end = time.monotonic() + seconds
    count = taken = 0
    print(f"seed {seed}")
    while time.monotonic() < end:
        data = mutator.next()
        try:
            taken += trial(data, mutator.base, mutator.random)
        except BaseException:
            with open("snapshot-crash.bin", "wb") as file:
                file.write(data)
            print(f"after {count} snapshots; the bytes are in snapshot-crash.bin")
            raise
        count += 1
    print(f"{count} damaged snapshots, {taken} taken as valid, none caused harm")


if __name__ == "__main__":
    main()
