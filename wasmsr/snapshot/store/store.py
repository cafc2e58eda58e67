"""`SnapshotStore`: snapshots by name, in packs of pieces that all of them share."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from wasmsr.errors import DigestError, SnapshotError, printable
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.encoding.section import Allocate
from wasmsr.snapshot.mapped.opening import open_mapped
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.memory.adoption import allocate, share
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.store.catalogue import Catalogue
from wasmsr.snapshot.store.folder import MAPPED, StoreFolder
from wasmsr.snapshot.store.increments import IncrementBase, StoredIncrements, check_owned
from wasmsr.snapshot.store.manifest import MANIFEST_LIMIT, Manifest, cut, decode_manifest
from wasmsr.snapshot.store.pack import PackWriter, index_name, pack_name
from wasmsr.snapshot.store.place import NAMES, PACKS, StorePlace
from wasmsr.snapshot.store.sweeping import sweep
from wasmsr.snapshot.tools.copies import Copied, refuse_unknown, write_full
from wasmsr.snapshot.tools.opened import OpenedSnapshot, open_snapshot
from wasmsr.snapshot.trust.policy import READ_ANY, WRITE_PLAIN, ReadTrust, WriteTrust

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits

NAME_LIMIT = 128
"""Characters of the longest name."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]*\Z")
_SUFFIX = ".manifest"


class PutSnapshot(NamedTuple):
    """What `put` did.

    Attributes:
        root: The root digest in version 2 of the format.
        pieces: Number of different pieces of the snapshot.
        added: Number of those that the store did not have.
        written: Bytes that were written to packs.
    """

    root: bytes
    pieces: int
    added: int
    written: int


class MappedName(NamedTuple):
    """A mapped file of a name.

    Attributes:
        path: The file.
        size: Its length in bytes, holes included.
        root: The root digest.
        admitted: Whether this user's programs map it.
    """

    path: str
    size: int
    root: bytes
    admitted: bool


@dataclass(slots=True)
class StoredName:
    """A name in a store.

    Attributes:
        name: The name.
        root: The root digest; None if the manifest cannot be read.
        plain: Plain bytes of the snapshot.
        stored: Bytes of its pieces in the packs.
        shared: Bytes of those that another name has too.
        pieces: Number of its different pieces.
        handed: Whether the program was handed over to another host.
        error: What is wrong with it.
    """

    name: str
    root: bytes | None = None
    plain: int = 0
    stored: int = 0
    shared: int = 0
    pieces: int = 0
    handed: bool = False
    error: SnapshotError | None = None


class Collected(NamedTuple):
    """What `gc` removed.

    Attributes:
        pieces: Number of pieces.
        packs: Number of packs that are gone; those whose pieces were moved are among them.
        bytes: Bytes by which the packs are smaller.
        kept: Packs that were not touched because they are damaged.
    """

    pieces: int
    packs: int
    bytes: int
    kept: list[str]


class SnapshotStore:
    """Snapshots by name.

    Args:
        path: A folder, or the address of a place in an object store: `s3://BUCKET/PREFIX`.
        create: Make it a store if it is absent or empty.

    Raises:
        SnapshotError: It is no store.
        MissingPackageError: The packages for object stores are not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        self.folder = _place(path, create)
        self.increments: StoredIncrements | None = None
        """The increments of a store that is a folder of this host."""
        if isinstance(self.folder, StoreFolder):
            self.increments = StoredIncrements(self.folder)

    def put(
        self,
        source: str | os.PathLike[str],
        name: str,
        *,
        replace: bool = False,
        warn: Callable[[str], None] = lambda text: None,
        trust: ReadTrust = READ_ANY,
    ) -> PutSnapshot:
        """Store a snapshot. Its signatures stay; what is in the store is not encrypted.

        Args:
            source: A file, or a folder of checkpoints, of which the last complete one is taken.
            name: Its name.
            replace: Whether a name that is there may get the new snapshot.
            warn: Gets a sentence for each damaged checkpoint that is passed over.
            trust: Keys that decrypt, and whose signature is asked for.

        Raises:
            SnapshotError: The snapshot is damaged, the name is taken or impossible, or the host
                refuses.
        """
        check_name(name)
        opened = open_snapshot(source, warn=warn, trust=trust)
        refuse_unknown(opened)
        kept = WRITE_PLAIN
        root: bytes | None = None
        if opened.header.version == 2:
            root = opened.decoder.root
            kept = kept.keeping(opened.decoder.signatures, root)
        with self.folder.locked("write"):
            if not replace and self._is_taken(name):
                raise _taken(name)
            return self._put(opened.state, name, replace, opened.header.handed, kept, root)

    def put_state(self, state: SnapshotState, name: str) -> PutSnapshot:
        """Store a state under a name that is free. Raises SnapshotError."""
        check_name(name)
        with self.folder.locked("write"):
            if self._is_taken(name):
                raise _taken(name)
            return self._put(state, name, False, False, WRITE_PLAIN, None)

    def put_increment(
        self, state: SnapshotState, name: str, base: IncrementBase, dirty: Sequence[array[int]]
    ) -> None:
        """Store a state under a name that is free, as what differs from a base.

        The store keeps the base, in a file that all increments over it share.

        Args:
            state: The state; its memories do not change meanwhile.
            name: The name.
            base: The base.
            dirty: For each memory, the runs of pages that may differ from the base.

        Raises:
            SnapshotError: The name is taken or impossible, the store is not on this host, or the
                host refuses.
        """
        check_name(name)
        if self.increments is None:
            raise SnapshotError(f"{printable(self.folder.path)} is not on this host")
        taken = self._is_taken(name)
        if taken or not self.increments.put(
            name, base, state, dirty, lambda: self.folder.size(_file(name)) is None
        ):
            raise _taken(name)

    def _is_taken(self, name: str) -> bool:
        """Return whether there is a snapshot of this name."""
        if self.increments is not None and self.increments.has(name):
            return True
        return self.folder.size(_file(name)) is not None

    def _put(
        self,
        state: SnapshotState,
        name: str,
        replace: bool,
        handed: bool,
        kept: WriteTrust,
        root: bytes | None,
    ) -> PutSnapshot:
        catalogue = Catalogue(self.folder)
        writer = PackWriter(self.folder)
        added = pieces = 0

        def take(digest: bytes, piece: bytes) -> None:
            nonlocal added, pieces
            if digest not in catalogue:
                writer.add(digest, piece)
                catalogue.expect(digest, len(piece))
                added += 1
            pieces += catalogue.mark(digest, 1) is not None

        try:
            manifest = cut(state, handed, take, kept)
            if root is not None and manifest.root != root:
                raise DigestError("the copy would have another root digest, so it is not kept")
            data = manifest.encode()
            if len(data) > MANIFEST_LIMIT:
                raise SnapshotError("the snapshot is too large for the store")
            writer.publish()
        finally:
            writer.close()
        with self._naming():
            other = self.increments is not None and self.increments.has(name)
            if (other and not replace) or not self.folder.write(_file(name), data, replace=replace):
                raise _taken(name)
            if other and self.increments is not None:  # until here the name has the old snapshot
                self.increments.remove(name, None)
        return PutSnapshot(manifest.root, pieces, added, writer.written)

    def _naming(self) -> AbstractContextManager[None]:
        """Keep others from giving a name in another form meanwhile, where there are two forms."""
        return nullcontext() if self.increments is None else self.folder.locked("names")

    def get(
        self,
        name: str,
        out: str,
        *,
        trust: ReadTrust = READ_ANY,
        write: WriteTrust = WRITE_PLAIN,
    ) -> Copied:
        """Write a full snapshot of version 2.

        Args:
            name: The name.
            out: The file, which appears complete or not at all; `-` is standard output.
            trust: Whose signature is asked for.
            write: Keys that sign and encrypt the file.

        Raises:
            SignatureError: No accepted key has signed the snapshot.
            SnapshotError: There is no such name, or the file must not or cannot be written.
            FormatError, DigestError: The store is damaged.
        """
        check_name(name)
        with self.folder.locked("read"):
            opened = self._read(name, trust)
        if self.folder.inside(out):
            raise SnapshotError(
                f"{printable(out)} is in the store", hint="name another file: --output FILE"
            )
        return write_full(opened, out, version=2, trust=write, read=trust)

    def state(self, name: str, *, limits: Limits | None = None) -> tuple[SnapshotState, bytes]:
        """Return the state of a name, which is to run here, and its root digest.

        Args:
            name: The name.
            limits: Limits of the store in which the state is to be restored.

        Raises:
            SnapshotError: There is no such name.
            HandedOver: Another host owns the program now.
            FormatError, DigestError: The store is damaged.
        """
        check_name(name)
        with self.folder.locked("read"):
            opened = self._read(name, room=allocate, limits=limits)
        check_owned(opened.decoder, name)
        share(opened.state.memories)
        return opened.state, opened.decoder.root

    def mapped(self, name: str, *, trust: ReadTrust = READ_ANY) -> MappedName:
        """Return a mapped file of a snapshot, in the folder of the store.

        The file is made once; its pages are compared with their digests then. `gc` removes it when
        the name is gone or has another snapshot.

        Args:
            name: The name.
            trust: Whose signature is asked for.

        Raises:
            SignatureError: No accepted key has signed the snapshot.
            SnapshotError: There is no such name, the store is no folder of this host, or the file
                cannot be written.
            FormatError, DigestError: The store is damaged.
        """
        check_name(name)
        folder = self.folder
        if not isinstance(folder, StoreFolder):
            raise SnapshotError(
                f"{printable(folder.path)} is not on this host, so it can have no mapped files",
                hint=f"wasmsr store get {name} -o FILE, then "
                "wasmsr snapshot convert --mapped FILE -o OTHER",
            )
        with folder.locked("read"):
            self._refuse_increment(name)
            manifest = self._manifest(name)
            path = folder.mapped_place(name, manifest.root)
            size = _mapped_size(path, manifest, trust)
            if size is not None:
                return MappedName(path, size, manifest.root, admitted=True)
            opened = self._opened(name, manifest, Catalogue(folder), trust)
            folder.make(MAPPED)
            saved = save_mapped(
                opened.state,
                path,
                handed=manifest.handed,
                root=manifest.root,
                trust=WRITE_PLAIN.keeping(opened.decoder.signatures, manifest.root),
            )
        return MappedName(path, saved.size, manifest.root, saved.admitted)

    def _refuse_increment(self, name: str) -> None:
        if self.increments is not None and self.increments.has(name):
            raise SnapshotError(
                f"{name} is an increment, of which the store makes no mapped file",
                hint=f"wasmsr store get {name} -o FILE, then "
                "wasmsr snapshot convert --mapped FILE -o OTHER",
            )

    def _read(
        self,
        name: str,
        trust: ReadTrust = READ_ANY,
        room: Allocate | None = None,
        limits: Limits | None = None,
    ) -> OpenedSnapshot:
        """Return the whole snapshot of a name, in whatever form the store has it."""
        if self.increments is None or not self.increments.has(name):
            manifest = self._manifest(name)
            return self._opened(name, manifest, Catalogue(self.folder), trust, room, limits)
        with self.increments.opened(name) as found:
            base = self.increments.base(found.base, limits=limits)
            decoder = found.read(base, limits=limits)
            trust.check(decoder.signatures, found.root)
            return OpenedSnapshot(self.folder.place(name), decoder.finish(), decoder, 1)

    def _opened(
        self,
        name: str,
        manifest: Manifest,
        catalogue: Catalogue,
        trust: ReadTrust = READ_ANY,
        room: Allocate | None = None,
        limits: Limits | None = None,
    ) -> OpenedSnapshot:
        decoder = Decoder(trust=trust, allocate=room, limits=limits)
        try:
            for piece in manifest.stream(catalogue.read):
                decoder.feed(piece)
            state = decoder.finish()
        except SnapshotError as error:
            raise type(error)(f"{name}: {error.message}", hint=error.hint) from error
        return OpenedSnapshot(self.folder.place(_file(name)), state, decoder)

    def _manifest(self, name: str) -> Manifest:
        if self.folder.size(_file(name)) is None:
            raise SnapshotError(
                f"the store has no snapshot with the name {printable(name)}",
                hint="wasmsr store ls shows all names",
            )
        return decode_manifest(self.folder.read(_file(name), MANIFEST_LIMIT), name)

    def names(self) -> list[str]:
        """Return all names, sorted. Files that cannot be names are left out."""
        found = set(self.folder.listed(NAMES, _SUFFIX))
        if self.increments is not None:
            found.update(self.increments.names())
        return sorted(filter(is_name, found))

    def _manifests(self) -> list[str]:
        """Return the names of all snapshots in packs."""
        return [name for name in self.folder.listed(NAMES, _SUFFIX) if is_name(name)]

    def remove(self, name: str, *, root: bytes | None = None) -> None:
        """Remove a name, for good when this returns. Its pieces stay until `gc`.

        Of several callers at once, one succeeds.

        Args:
            name: The name.
            root: Remove it only if its snapshot has this root digest.

        Raises:
            SnapshotError: It is not there, or has another snapshot.
        """
        check_name(name)
        with self.folder.locked("names"):
            if self.increments is not None and self.increments.remove(name, root):
                return
            if root is not None or self.folder.size(_file(name)) is None:
                found = self._manifest(name)  # says if it is not there
                if root is not None and found.root != root:
                    raise SnapshotError(f"the name {name} has another snapshot by now")
            self.folder.remove(_file(name), lasting=True)

    def ls(self) -> list[StoredName]:
        """Return what the store has, by name."""
        with self.folder.locked("read"):
            return self._ls(Catalogue(self.folder))

    def _ls(self, catalogue: Catalogue) -> list[StoredName]:
        rows: list[StoredName] = []
        known: list[tuple[StoredName, Manifest]] = []
        for name in self._manifests():
            row = StoredName(name)
            rows.append(row)
            try:
                manifest = self._manifest(name)
                row.root, row.plain, row.handed = manifest.root, manifest.plain, manifest.handed
                for digest, _ in manifest.pieces(catalogue.read):
                    if catalogue.mark(digest, len(rows)) is not None:
                        row.pieces += 1
                known.append((row, manifest))
            except SnapshotError as error:
                row.error = error
        for number, (row, manifest) in enumerate(known, len(rows) + 1):
            stored = shared = 0.0
            try:
                for digest, _ in manifest.pieces(catalogue.read):
                    cost = catalogue.cost(digest)
                    names = catalogue.marks(digest)
                    if catalogue.mark(digest, number) is not None:
                        stored += cost
                        shared += cost if names > 1 else 0
            except SnapshotError as error:
                row.error = row.error or error
            row.stored, row.shared = round(stored), round(shared)
        if self.increments is not None:
            rows += map(self._row, filter(is_name, self.increments.names()))
        return sorted(rows, key=lambda row: row.name)

    def _row(self, name: str) -> StoredName:
        """Return what an increment takes; its base counts for none."""
        assert self.increments is not None
        row = StoredName(name)
        try:
            with self.increments.opened(name) as found:
                row.root, row.plain, row.stored = found.root, found.plain, found.stored
        except SnapshotError as error:
            row.error = error
        return row

    def verify(self) -> Iterator[tuple[str, SnapshotError | None]]:
        """Yield each pack and name with what is wrong with it, or None."""
        with self.folder.locked("read"):
            catalogue = Catalogue(self.folder)
            wrong = dict(catalogue.damaged()) | catalogue.problems
            for pack in sorted({*catalogue.packs, *wrong}):
                yield f"pack {pack}", wrong.get(pack)
            for name in self._manifests():
                try:
                    self._opened(name, self._manifest(name), catalogue)
                except SnapshotError as error:
                    yield name, error
                else:
                    yield name, None
            if self.increments is not None:
                yield from self.increments.verify()

    def gc(self) -> Collected:
        """Remove what no name needs. Wait until no writer is at work.

        Raises:
            SnapshotError: A manifest is damaged, so that nobody can say what it needs.
        """
        folder = self.folder
        with folder.locked("alone"):
            catalogue = Catalogue(folder)
            for name in self._manifests():
                try:
                    for digest, _ in self._manifest(name).pieces(catalogue.read):
                        catalogue.mark(digest, 1)
                except SnapshotError as error:
                    raise type(error)(
                        f"nothing is removed: {error.message}",
                        hint=f"wasmsr store rm {name} gives the name up",
                    ) from error
            folder.tidy()
            if self.increments is not None and isinstance(folder, StoreFolder):
                self.increments.prune()
                named = ((name, self._manifest(name).root) for name in self._manifests())
                folder.prune_mapped({folder.mapped_place(name, root) for name, root in named})
            before = self._packed()
            gone, kept, removed = sweep(folder, catalogue)
            for pack in folder.listed(PACKS, ".pack"):
                if folder.size(index_name(pack)) is None:
                    folder.remove(pack_name(pack))
                    gone += 1
            return Collected(removed, gone, before - self._packed(), kept)

    def _packed(self) -> int:
        packs = self.folder.listed(PACKS, ".pack")
        return sum(self.folder.size(pack_name(pack)) or 0 for pack in packs)


def _place(path: str | os.PathLike[str], create: bool) -> StorePlace:
    """Return the place that a path or an address names."""
    name = os.fspath(path)
    if "://" not in name:
        return StoreFolder(name, create=create)
    from wasmsr.snapshot.store.remote import RemoteStore

    return RemoteStore(name, create=create)


def is_name(name: str) -> bool:
    """Tell whether a snapshot may have this name."""
    return len(name) <= NAME_LIMIT and _NAME.match(name) is not None


def _mapped_size(path: str, manifest: Manifest, trust: ReadTrust) -> int | None:
    """Return the length of a mapped file that serves for a manifest; None if it must be made."""
    try:
        decoder = open_mapped(path, trust=trust)
    except SnapshotError:  # also one that lacks a signature that was added later
        return None
    if decoder is None or decoder.header is None or decoder.root != manifest.root:
        return None
    return decoder.stored if decoder.header.handed == manifest.handed else None


def check_name(name: str) -> None:
    """Refuse a name that no snapshot may have. Raises SnapshotError."""
    if not is_name(name):
        raise SnapshotError(
            f"{printable(name)} cannot be a name in a store",
            hint=f"a name has 1 to {NAME_LIMIT} of the characters A-Z a-z 0-9 . _ + @ = - and "
            "begins with a letter, a digit or _",
        )


def _taken(name: str) -> SnapshotError:
    return SnapshotError(
        f"the store has a snapshot with the name {name}",
        hint="choose another name, or say --replace",
    )


def _file(name: str) -> str:
    return f"{NAMES}/{name}{_SUFFIX}"


__all__ = ["Collected", "PutSnapshot", "SnapshotStore", "StoredName", "check_name", "is_name"]
