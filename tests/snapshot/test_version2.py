"""Version 2 of the format: full and incremental snapshots, digests by position, damage."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from hashlib import sha256

import pytest

from tests.snapshot import second_reader
from tests.snapshot.samples import full, small
from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import HEADER, TRAILER, Header
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.encoding.section import ReadBase
from wasmsr.snapshot.format import content_digest, decode, encode
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.space_pages import Base, Runs, Written
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import MemoryState, SnapshotState

PAGE = 4096


def with_memories(*sizes: int) -> SnapshotState:
    """A state with memories of so many Wasm pages, all zeros."""
    memories = [MemoryState(0, None, bytearray(size * 65536)) for size in sizes]
    return replace(small(), memories=memories)


def copied(state: SnapshotState) -> SnapshotState:
    memories = [replace(one, data=bytearray(one.data)) for one in state.memories]
    return replace(state, memories=memories)


@dataclass
class Link:
    """A snapshot of a chain: its bytes, and what the next one needs of it."""

    data: bytes
    written: Written
    depth: int
    state: SnapshotState
    """A copy of what was written."""


def write(
    state: SnapshotState,
    below: Link | None = None,
    dirty: list[Runs] | None = None,
    *,
    old: bool = True,
    compress: bool = True,
) -> Link:
    got: list[Written] = []
    base = None
    if below is not None:
        memories = below.state.memories

        def find(name: SpaceName, runs: Runs) -> bytes:
            data = bytes(memories[name.number].data) if name.number < len(memories) else b""
            parts = [data[f * PAGE : (f + n) * PAGE].ljust(n * PAGE, b"\0") for f, n in runs]
            return b"".join(parts)

        base = Base(
            below.written.root,
            below.written.content,
            below.depth,
            below.written.trees,
            modules={one.digest for one in below.state.modules if one.binary},
            chunks=below.state.files or frozenset(),
            old=find if old else None,
        )
    pieces = encode(state, version=2, base=base, dirty=dirty, written=got.append, compress=compress)
    data = b"".join(pieces)
    depth = 0 if below is None else below.depth + 1
    return Link(data, got[0], depth, copied(state))


def read(chain: list[Link]) -> SnapshotState:
    """Read the last link of a chain through all that are below it."""

    def find(root: bytes, number: int = len(chain) - 1) -> ReadBase:
        decoder = Decoder(find_base=lambda root: find(root, number - 1))
        decoder.feed(chain[number].data)
        state = decoder.finish()
        return ReadBase(decoder.root, state, decoder.trees, chain[number].depth)

    return find(b"").state


@pytest.mark.parametrize("compress", [True, False])
def test_everything_there_and_back(compress: bool) -> None:
    for state in (small(), full(), with_memories(0), with_memories(2, 0, 1)):
        data = b"".join(encode(state, version=2, compress=compress))
        assert decode(data) == state
        assert Header.decode(data[: HEADER.size]).version == 2


def test_the_digest_of_either_version_follows_from_a_state_read_from_the_other() -> None:
    state = full()
    one, two = (decode(b"".join(encode(state, version=v))) for v in (1, 2))
    for version in (1, 2):
        assert content_digest(one, version=version) == content_digest(two, version=version)
    assert content_digest(one, version=1) != content_digest(one, version=2)


def test_the_digest_that_a_reader_finds_is_the_one_of_the_state() -> None:
    state = full()
    decoder = Decoder()
    decoder.feed(b"".join(encode(state, version=2)))
    decoder.finish()
    assert decoder.content == content_digest(state, version=2)


def test_one_changed_page_changes_the_digests_of_its_path_only() -> None:
    tree = SpaceTree(5000)
    before = tree.copy()
    tree.set_pages(1234, b"x" * PAGE)
    assert tree.root() != before.root()
    tree.set_zeros(1234, 1)
    assert tree.root() == before.root()


def _root(pages: list[bytes]) -> bytes:
    """The digest of a space, after the words of the document."""
    level = [sha256(page).digest() for page in pages] or [sha256(bytes(PAGE)).digest()]
    zero = sha256(bytes(PAGE)).digest()
    while len(level) > 1:
        level += [zero] * (-len(level) % 16)
        level = [sha256(b"".join(level[i : i + 16])).digest() for i in range(0, len(level), 16)]
        zero = sha256(zero * 16).digest()
    return level[0]


def test_the_digest_of_a_space_is_that_of_the_document() -> None:
    chance = random.Random(5)
    for size in (0, 1, 2, 15, 16, 17, 255, 256, 257, 300):
        pages = [bytes(PAGE)] * size
        tree = SpaceTree(size)
        for _ in range(8):
            if size:
                at = chance.randrange(size)
                pages[at] = chance.choice([bytes(PAGE), chance.randbytes(PAGE)])
                tree.set_pages(at, pages[at])
            if chance.random() < 0.3:
                more = chance.choice([1, 16, 240])
                pages += [bytes(PAGE)] * more
                size += more
                tree.grow(size)
            assert tree.root() == _root(pages)


def test_runs_of_pages_are_taken_and_returned_at_once() -> None:
    chance = random.Random(6)
    for size in (1, 17, 300, 5000):
        tree, other = SpaceTree(size), SpaceTree(size)
        for _ in range(6):
            cuts = sorted(chance.sample(range(size + 1), min(size + 1, 40)))
            runs = [(one, two - one) for one, two in zip(cuts[::2], cuts[1::2], strict=False)]
            digests = chance.randbytes(32 * sum(count for _, count in runs))
            tree.set_runs(iter(runs), digests)
            at = 0
            for first, count in runs:
                other.set_leaves(first, digests[at : at + 32 * count])
                at += 32 * count
            assert tree.leaves_of(runs) == digests
            assert tree.leaves() == other.leaves()
            assert tree.root() == other.root() == _root_of_leaves(tree.leaves())


def _root_of_leaves(leaves: bytes) -> bytes:
    level = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    zero = sha256(bytes(PAGE)).digest()
    while len(level) > 1:
        level += [zero] * (-len(level) % 16)
        level = [sha256(b"".join(level[i : i + 16])).digest() for i in range(0, len(level), 16)]
        zero = sha256(zero * 16).digest()
    return level[0]


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_of_increments_is_the_state(seed: int) -> None:
    """Pages are written, cleared and added; what is told as dirty has pages too many at times."""
    chance = random.Random(seed)
    state = with_memories(3, 0, 40)
    data = state.memories[2].data
    assert isinstance(data, bytearray)
    data[:700_000] = chance.randbytes(1000) * 700
    chain = [write(state)]
    for _ in range(5):
        dirty: list[Runs] = []
        for memory in state.memories:
            data = memory.data
            assert isinstance(data, bytearray)
            if chance.random() < 0.3:
                data += bytes(65536 * chance.randrange(3))
            pages = len(data) // PAGE
            touched = sorted({chance.randrange(pages) for _ in range(12)}) if pages else []
            for page in touched:
                at = page * PAGE
                what = chance.random()
                if what < 0.3:
                    data[at : at + PAGE] = bytes(PAGE)
                elif what < 0.6:
                    data[at + chance.randrange(PAGE)] ^= 255
                elif what < 0.8:
                    data[at : at + PAGE] = chance.randbytes(PAGE)
            dirty.append([(page, 1) for page in touched])
        told = chance.choice([dirty, None])
        chain.append(write(state, chain[-1], told, old=chance.random() < 0.8))
        assert chain[-1].written.content == content_digest(state, version=2)
        assert read(chain) == state
    assert len(chain[-1].data) < len(chain[0].data) + 50 * PAGE


def test_an_increment_costs_what_changed() -> None:
    state = with_memories(64)
    data = state.memories[0].data
    assert isinstance(data, bytearray)
    data[:] = random.Random(1).randbytes(len(data))
    first = write(state)
    data[5 * PAGE + 7] ^= 1
    second = write(state, first, [[(5, 1)]])
    assert len(second.data) < 1000, "the rest of the page is in the base"
    assert len(write(state, first, [[(5, 1)]], old=False).data) > PAGE
    assert read([first, second]) == state


def test_modules_and_files_are_not_stored_again() -> None:
    state = full()
    first = write(state)
    second = write(state, first)
    assert read([first, second]) == state
    assert second.written.content == first.written.content
    binaries = sum(len(one.binary or b"") for one in state.modules)
    assert binaries and len(second.data) < len(first.data) - binaries


def test_without_the_right_base_nothing_is_read() -> None:
    state = with_memories(2)
    first = write(state)
    second = write(state, first)
    with pytest.raises(SnapshotError, match="is incremental, and its base with the root"):
        decode(second.data)
    other = write(with_memories(3))
    with pytest.raises(SnapshotError, match="another snapshot was given"):
        read([other, second])


def test_every_flipped_byte_is_found() -> None:
    state = with_memories(2)
    state.memories[0].data[4096:4100] = b"here"  # type: ignore[index]
    first = write(state)
    state.memories[0].data[:5] = b"there"  # type: ignore[index]
    second = write(state, first)
    for chain in ([first], [first, second]):
        data = chain[-1].data
        for at in range(len(data)):
            if at in (12, 13):  # the flags: the mark of hand-over is no damage
                continue
            damaged = bytearray(data)
            damaged[at] ^= 0x41
            with pytest.raises((FormatError, VersionError, DigestError, SnapshotError)):
                read([*chain[:-1], replace(chain[-1], data=bytes(damaged))])


def test_a_cut_or_longer_file_is_refused() -> None:
    data = write(with_memories(1)).data
    for end in range(len(data)):
        decoder = Decoder()
        decoder.feed(data[:end])
        with pytest.raises(FormatError):
            decoder.finish()
    with pytest.raises(FormatError, match="bytes follow the end"):
        decode(data + b"x")
    with pytest.raises(FormatError, match="no trailer"):
        decode(data[: -TRAILER.size] + bytes(TRAILER.size))


@pytest.mark.parametrize("compress", [True, False])
def test_a_reader_written_from_the_document_alone_agrees(compress: bool) -> None:
    chance = random.Random(3)
    state = full()
    big = bytearray(chance.randbytes(1000) * 700)
    big += bytes(-len(big) % 65536)
    state.memories[-1] = MemoryState(0, None, big)
    states = replace(state, limits=replace(state.limits))
    first = write(states, compress=compress)
    found = second_reader.read(first.data)
    assert (found.root, found.content) == (first.written.root, first.written.content)
    assert [bytes(one.data) for one in states.memories] == [bytes(m) for m in found.memories]
    link = first
    for _ in range(3):
        for _ in range(9):
            at = chance.randrange(len(big) // PAGE) * PAGE
            what = chance.randrange(3)
            if what:
                big[at + 5 : at + 9] = chance.randbytes(4)
            else:
                big[at : at + PAGE] = bytes(PAGE)
        big += bytes(65536)
        link = write(states, link, compress=compress)
        found = second_reader.read(link.data, found)
        assert (found.root, found.content) == (link.written.root, link.written.content)
        assert bytes(found.memories[-1]) == bytes(big)
