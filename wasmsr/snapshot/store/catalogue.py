"""The catalogue: which pieces a store has, and where. It is made of the packs' indexes.

A store can have millions of pieces, and a hostile one claims as many as its indexes have room for.
So a piece is 54 bytes of a table here and no object of Python, and all indexes together have a
limit.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from struct import Struct

from wasmsr.errors import FormatError, SnapshotError
from wasmsr.snapshot.store.pack import (
    FRAME,
    HEAD,
    PackEntry,
    PackFrame,
    pack_name,
    packs_of,
    piece_of,
    read_frame,
    read_index,
    read_pieces,
)
from wasmsr.snapshot.store.place import StorePlace

CATALOGUE_LIMIT = 256 << 20
"""Bytes that all indexes of a store may have together: 7 million pieces, 27 GiB of pages. The
tables in memory have at most twice as many."""
_RECORD = Struct("<32sIIIHII")
"""SHA-256, number of the pack, frame, place in the frame, length less 1, mark, number of names."""
_MARK = Struct("<II")
_MARK_AT = 46
_NEW = 0xFFFFFFFF
"""Number of the pack of pieces that are being written."""
_FRAMES = 32
"""How many frames are kept after they were decompressed: 8 MiB."""


def _key(digest: bytes) -> int:
    """Return in which table a piece is: by Python's hash, which nobody outside can foresee."""
    return hash(digest) & 0x3FFF


class Catalogue:
    """All pieces of a store at one moment.

    Args:
        folder: The store, whose lock the caller holds.

    Attributes:
        packs: The names of the packs that can be read.
        problems: What is wrong with packs and indexes; their pieces are not in the catalogue.

    Raises:
        SnapshotError: The store has too many pieces.
    """

    def __init__(self, folder: StorePlace) -> None:
        self._folder = folder
        self._buckets: dict[int, bytearray] = {}
        self._frames: list[array[int]] = []
        self._plain: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._left = CATALOGUE_LIMIT
        self.packs: list[str] = []
        self.problems: dict[str, SnapshotError] = {}
        for pack in packs_of(folder):
            try:
                self._add(pack)
            except SnapshotError as error:
                self.problems[pack] = error
            if self._left < 0:
                raise SnapshotError(
                    f"{folder.path} has more pieces than a store may have",
                    hint="use several stores: --store",
                )

    def _add(self, pack: str) -> None:
        index = read_index(self._folder, pack)
        size = self._folder.size(pack_name(pack))
        if size is None:
            raise FormatError(f"pack {pack} is missing")
        whole = sum(frame.offset + frame.stored <= size for frame in index.frames)
        gone = sum(index.counts[whole:])
        if gone:
            self.problems[pack] = FormatError(
                f"pack {pack} is cut off: {gone} of its pieces are missing"
            )
        self._left -= HEAD.size + len(index.frames) * FRAME.size + len(index.raw)
        number = len(self.packs)
        self.packs.append(pack)
        frames = array("Q", (part for frame in index.frames for part in frame))
        self._frames.append(frames)
        for entry in index.entries():
            if entry.frame >= whole:
                break
            self._insert(entry, number)

    def _insert(self, entry: PackEntry, number: int) -> None:
        if self._at(entry.digest) is not None:
            return
        digest, frame, place, length = entry
        record = _RECORD.pack(digest, number, frame, place, length - 1, 0, 0)
        key = _key(digest)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = bytearray(record)
        else:
            bucket += record

    def _at(self, digest: bytes) -> tuple[bytearray, int] | None:
        """Return the table that has a piece, and where."""
        bucket = self._buckets.get(_key(digest))
        if bucket is None:
            return None
        at = bucket.find(digest)
        while at >= 0 and at % _RECORD.size:
            at = bucket.find(digest, at + 1)
        return None if at < 0 else (bucket, at)

    def __contains__(self, digest: bytes) -> bool:
        return self._at(digest) is not None

    def expect(self, digest: bytes, length: int) -> None:
        """Note a piece that is being written: it is in the catalogue, and cannot be read."""
        self._insert(PackEntry(digest, 0, 0, length), _NEW)

    def _found(self, digest: bytes) -> tuple[int, PackEntry]:
        found = self._at(digest)
        if found is not None:
            _, pack, frame, place, less, _, _ = _RECORD.unpack_from(*found)
            if pack != _NEW:
                return pack, PackEntry(digest, frame, place, less + 1)
        raise FormatError(
            f"the store does not have the piece {digest.hex()[:16]}",
            hint="wasmsr store verify says what is damaged",
        )

    def _frame(self, pack: int, number: int) -> PackFrame:
        return PackFrame(*self._frames[pack][3 * number : 3 * number + 3])

    def place(self, digest: bytes) -> tuple[str, PackEntry]:
        """Return the pack and the place of a piece.

        Raises:
            FormatError: The store does not have it.
        """
        pack, entry = self._found(digest)
        return self.packs[pack], entry

    def cost(self, digest: bytes) -> float:
        """Return the stored bytes of a piece: its share of its frame. Raises FormatError."""
        pack, entry = self._found(digest)
        frame = self._frame(pack, entry.frame)
        return frame.stored * entry.length / frame.length

    def mark(self, digest: bytes, mark: int) -> int | None:
        """Mark a piece with a number of a name; return how many names have marked it.

        Returns:
            The number of different marks so far; None if the piece has this mark already, or is
            not there.
        """
        found = self._at(digest)
        if found is None:
            return None
        bucket, at = found
        last, names = _MARK.unpack_from(bucket, at + _MARK_AT)
        if last == mark:
            return None
        _MARK.pack_into(bucket, at + _MARK_AT, mark, names + 1)
        return int(names) + 1

    def marks(self, digest: bytes) -> int:
        """Return how many names have marked a piece."""
        found = self._at(digest)
        return 0 if found is None else int(_MARK.unpack_from(found[0], found[1] + _MARK_AT)[1])

    def read(self, digest: bytes, length: int) -> bytes:
        """Return a piece.

        Raises:
            FormatError: The store does not have it, or it has another length.
            DigestError: It is damaged.
        """
        pack, entry = self._found(digest)
        if entry.length != length:
            raise FormatError(
                f"the piece {digest.hex()[:16]} has {entry.length} bytes in place of {length}"
            )
        frame = self._frame(pack, entry.frame)
        key = (pack, entry.frame)
        plain = self._plain.get(key)
        if plain is None:
            plain = self._plain[key] = read_frame(self._folder, self.packs[pack], frame)
            if len(self._plain) > _FRAMES:
                self._plain.popitem(last=False)
        else:
            self._plain.move_to_end(key)
        return piece_of(self.packs[pack], frame, plain, entry)

    def damaged(self) -> Iterator[tuple[str, SnapshotError]]:
        """Read every piece, and yield each pack with the first thing that is wrong with it."""
        for pack in self.packs:
            try:
                for _ in read_pieces(self._folder, pack, read_index(self._folder, pack)):
                    pass
            except SnapshotError as error:
                yield pack, error
