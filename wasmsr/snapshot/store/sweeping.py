"""Writes the needed pieces of packs with waste to new packs."""

from __future__ import annotations

from wasmsr.errors import DigestError, FormatError
from wasmsr.snapshot.store.catalogue import Catalogue
from wasmsr.snapshot.store.pack import (
    PACK,
    PackWriter,
    index_name,
    pack_name,
    read_index,
    read_pieces,
)
from wasmsr.snapshot.store.place import StorePlace


def sweep(folder: StorePlace, catalogue: Catalogue) -> tuple[int, list[str], int]:
    """Write packs anew that have waste, or of which several are small.

    Args:
        folder: The store, whose lock the caller holds alone.
        catalogue: Its pieces; those that are needed are marked.

    Returns:
        The number of packs that are gone, the packs that are kept because they are damaged,
        and the number of pieces that are gone.
    """
    sizes = {pack: folder.size(pack_name(pack)) or 0 for pack in catalogue.packs}
    small = sum(size < PACK for size in sizes.values())
    kept = sorted(catalogue.problems)
    writer = PackWriter(folder, {*catalogue.packs, *catalogue.problems})
    done: list[str] = []
    removed = 0
    try:
        for pack in catalogue.packs:
            if pack in catalogue.problems:
                continue
            index = read_index(folder, pack)
            live = {
                entry.digest
                for entry in index.entries()
                if catalogue.marks(entry.digest) and catalogue.place(entry.digest)[0] == pack
            }
            waste = len(live) < sum(index.counts) or sizes[pack] > index.stored
            if not waste and not (small > 1 and sizes[pack] < PACK):
                continue
            try:
                for digest, piece in read_pieces(folder, pack, index):
                    if digest in live:
                        writer.add(digest, piece)
            except (DigestError, FormatError):
                kept.append(pack)
            else:
                removed += sum(index.counts) - len(live)
                done.append(pack)
        writer.publish()
    finally:
        writer.close()
    for pack in done:
        folder.remove(index_name(pack))
        folder.remove(pack_name(pack))
    return len(done), kept, removed


__all__ = ["sweep"]
