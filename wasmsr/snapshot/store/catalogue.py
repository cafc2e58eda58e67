"""The catalogue: which pieces a store has, and where. It is made of the packs' indexes."""

from __future__ import annotations

from collections.abc import Iterator

from wasmsr.errors import FormatError, SnapshotError
from wasmsr.snapshot.store.folder import StoreFolder
from wasmsr.snapshot.store.pack import PackEntry, pack_name, packs_of, read_index, read_piece


class Catalogue:
    """All pieces of a store at one moment.

    Args:
        folder: The store, whose lock the caller holds.

    Attributes:
        packs: The entries of each pack that can be read, by the pack's name.
        problems: What is wrong with packs and indexes; their pieces are not in the catalogue.
    """

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self._places: dict[bytes, tuple[str, PackEntry]] = {}
        self.packs: dict[str, list[PackEntry]] = {}
        self.problems: dict[str, SnapshotError] = {}
        for pack in packs_of(folder):
            try:
                self._add(pack)
            except SnapshotError as error:
                self.problems[pack] = error

    def _add(self, pack: str) -> None:
        entries = read_index(self._folder, pack)
        size = self._folder.size(pack_name(pack))
        if size is None:
            raise FormatError(f"pack {pack} is missing")
        whole = [entry for entry in entries if entry.end <= size]
        if len(whole) < len(entries):
            self.problems[pack] = FormatError(
                f"pack {pack} is cut off: {len(entries) - len(whole)} of its pieces are missing"
            )
        self.packs[pack] = whole
        for entry in whole:
            self._places.setdefault(entry.digest, (pack, entry))

    def __contains__(self, digest: object) -> bool:
        return digest in self._places

    def place(self, digest: bytes) -> tuple[str, PackEntry]:
        """Return the pack and the place of a piece.

        Raises:
            FormatError: The store does not have it.
        """
        found = self._places.get(digest)
        if found is None:
            raise FormatError(
                f"the store does not have the piece {digest.hex()[:16]}",
                hint="wasmsr store verify says what is damaged",
            )
        return found

    def read(self, digest: bytes, length: int) -> bytes:
        """Return a piece.

        Raises:
            FormatError: The store does not have it, or it has another length.
            DigestError: It is damaged.
        """
        pack, entry = self.place(digest)
        if entry.length != length:
            raise FormatError(
                f"the piece {digest.hex()[:16]} has {entry.length} bytes in place of {length}"
            )
        return read_piece(self._folder, pack, entry)

    def damaged(self) -> Iterator[tuple[str, SnapshotError]]:
        """Read every piece, and yield each pack with the first thing that is wrong with it."""
        for pack, entries in self.packs.items():
            for entry in entries:
                try:
                    read_piece(self._folder, pack, entry)
                except SnapshotError as error:
                    yield pack, error
                    break
