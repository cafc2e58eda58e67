"""Random damage to mapped snapshots: their head, their places, their regions and their length.

Each damaged file is read as a stream, and opened as a mapped file whose record says that all of it
was checked. Either it is refused with a typed error, or its state is whole and all of its pages can
be read. `python -m tests.fuzz.test_mapped SECONDS [SEED]` runs it for longer.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.fuzz.test_snapshot import INTERESTING, LIMIT, ROUNDS, Mutator, trial
from tests.snapshot import samples
from tests.snapshot.live.sending import received
from tests.snapshot.samples import Kind, full, parts, seal, small
from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import FULL, HEADER, INCREMENTAL, MAPPED, TRAILER, Header
from wasmsr.snapshot.encoding.mapped_writer import write_mapped
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.mapped.admission import admit
from wasmsr.snapshot.mapped.opening import open_mapped
from wasmsr.snapshot.spaces.places import ALIGNMENT, PLACE, aligned
from wasmsr.snapshot.spaces.space_pages import SPACE
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import SnapshotState

OFFSETS = (*INTERESTING, 4096, 65535, ALIGNMENT, 3 * ALIGNMENT, 1 << 62, (1 << 63) - 4096)


def to_mapped(state: SnapshotState) -> bytes:
    """A mapped file as bytes."""
    with tempfile.TemporaryFile() as file:
        write_mapped(state, file.fileno())
        file.seek(0)
        return file.read()


def to_padded(state: SnapshotState) -> bytes:
    """A mapped file that was written in rounds, with the section *padding*."""
    with tempfile.TemporaryDirectory() as folder:
        return received(state, Path(folder, "image"))


class MappedMutator(Mutator):
    """Makes damaged mapped files; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        samples.written_version = 2
        self.whole = [to_mapped(full()), to_mapped(full()), to_mapped(small()), to_padded(full())]

    def next(self) -> bytes:
        """Return a damaged mapped file."""
        samples.written_version = 2
        source = self.random
        data = source.choice(self.whole)
        choice = source.randrange(8)
        if choice == 0:
            return self._bytes(data, source.randint(1, 4))
        if choice == 1:
            form = source.choice((0, FULL, INCREMENTAL, MAPPED, 4))
            header = Header.decode(data[: HEADER.size])._replace(form=form)
            return header.encode() + data[HEADER.size :]
        end = data.index(b"WSR end\n") + TRAILER.size
        sections, regions = parts(data), data[aligned(end) :]
        if choice == 2 and source.random() < 0.3:
            sections = [(k, self._padding(p) if k == Kind.PADDING else p) for k, p in sections]
        elif choice in (2, 3):
            sections = [(k, self._places(p) if k == Kind.PLACES else p) for k, p in sections]
        elif choice == 4:
            sections, regions = self._pages(sections, regions)
        elif choice == 5:
            regions = self._regions(regions)
        else:
            number = source.randrange(len(sections))
            kind, payload = sections[number]
            sections[number] = (kind, self._bytes(payload, source.randint(1, 3)))
            if source.random() < 0.3:
                self._sections(sections, number)
        head = seal([section for section in sections if section[1]], MAPPED)
        if not regions and source.random() < 0.5:
            return head
        return head + bytes(aligned(len(head)) - len(head)) + regions

    def _places(self, payload: bytes) -> bytes:
        source = self.random
        places = [list(place) for place in PLACE.iter_unpack(payload)]
        place = source.choice(places)
        choice = source.randrange(5)
        if choice == 0:
            place[3] = source.choice(OFFSETS)
        elif choice == 1:
            place[4] = source.choice(OFFSETS)
        elif choice == 2:
            place[3] = max(0, place[3] + source.choice((-1, 1)) * source.choice(OFFSETS[:12]))
        elif choice == 3:
            place[source.randrange(3)] = source.choice((1, 2, 7, 0xFFFF))
        else:
            places.insert(source.randrange(len(places) + 1), list(source.choice(places)))
        return b"".join(
            PLACE.pack(a & 0xFFFF, b & 0xFFFF, c, d % (1 << 64), e % (1 << 64))
            for a, b, c, d, e in places
        )

    def _padding(self, payload: bytes) -> bytes:
        more = self.random.choice((-65536, -13, -1, 1, 12, 13, 65536, 262144 + 12))
        changed = bytearray(max(0, len(payload) + more))
        if changed and self.random.random() < 0.2:
            changed[self.random.randrange(len(changed))] = 1
        return bytes(changed)

    def _pages(
        self, sections: list[tuple[int, bytes]], regions: bytes
    ) -> tuple[list[tuple[int, bytes]], bytes]:
        """Other pages, of which the digests of the spaces know."""
        changed = bytearray(regions)
        for _ in range(self.random.randint(1, 3) if regions else 0):
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        found = []
        at = 0
        for kind, payload in sections:
            if kind == Kind.SPACES:
                entries = []
                for space, flags, number, pages, _ in SPACE.iter_unpack(payload):
                    tree = SpaceTree(pages)
                    tree.set_pages(0, memoryview(changed)[at : at + pages * 4096])
                    at += pages * 4096
                    entries.append(SPACE.pack(space, flags, number, pages, tree.root()))
                payload = b"".join(entries)
            found.append((kind, payload))
        return found, bytes(changed)

    def _regions(self, regions: bytes) -> bytes:
        source = self.random
        choice = source.randrange(5)
        at = source.randrange(len(regions) + 1)
        if choice == 0:
            return regions[:at]
        if choice == 1:
            return regions + bytes(source.choice((1, 4096, ALIGNMENT)))
        if choice == 2:
            return regions[:at] + source.randbytes(1) + regions[at + 1 :]
        if choice == 3:
            return regions[4096:] + regions[:4096]
        return b""


def admitted(data: bytes, folder: Path) -> bool:
    """Open damaged bytes as a file whose record says that it was checked; whether it was taken."""
    path = folder / "damaged.bin"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o400)
    end = data.find(b"WSR end\n")
    assert admit(str(path), data[end + 8 : end + 40])
    try:
        decoder = open_mapped(path, limit=LIMIT)
    except SnapshotError as error:
        assert type(error) in (FormatError, VersionError, DigestError), error
        assert 10 < len(error.message) < 600
        return False
    if decoder is None:  # no longer one that is mapped
        return False
    for memory in decoder.finish().memories:  # each page can be read
        sum(memory.data[::4096])
    return True


@pytest.mark.parametrize("seed", range(4))
def test_damaged_mapped_files(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(samples, "written_version", 2)  # the mutator changes it
    mutator = MappedMutator(seed)
    taken = opened = 0
    for number in range(ROUNDS // 4):
        data = mutator.next()
        taken += trial(data, mutator.base, mutator.random)
        if number % 4 == 0:
            opened += admitted(data, tmp_path)
    assert taken > ROUNDS // 400 and opened


def test_the_seeds_are_whole() -> None:
    for data in MappedMutator(0).whole:
        decoder = Decoder(limit=LIMIT)
        decoder.feed(data)
        assert decoder.finish() in (full(), small())


def main() -> None:
    """Run for as many seconds as the first argument says."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    mutator = MappedMutator(seed)
    end = time.monotonic() + seconds
    count = taken = opened = 0
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_STATE_HOME"] = f"{name}/state"
        while time.monotonic() < end:
            data = mutator.next()
            try:
                taken += trial(data, mutator.base, mutator.random)
                opened += admitted(data, Path(name))
            except BaseException:
                Path("mapped-crash.bin").write_bytes(data)
                print(f"after {count} files; the bytes are in mapped-crash.bin")
                raise
            count += 1
    print(f"{count} damaged files, {taken} read, {opened} mapped, none caused harm")


if __name__ == "__main__":
    main()
