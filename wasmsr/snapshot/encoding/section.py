"""What a section of a snapshot declares, and what it gets to do its work.

Each file in a wing of `wasmsr/snapshot/sections` declares one section, or two that belong together.
The writer, the reader, the checks, capture, restore, `inspect`, the fuzzer and the test of the
document's table go through all of them (`registry`). To add a section, add its file there and its
words in docs/snapshot-format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from wasmsr.errors import FormatError, SnapshotError
from wasmsr.snapshot.encoding.canonical import unpack
from wasmsr.snapshot.encoding.container import (
    BATCH_SIZE,
    FULL,
    IGNORABLE,
    VERSIONS,
    Buffer,
    Tree,
)
from wasmsr.snapshot.encoding.pages import PageMap, Placement
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.rules import CheckScope
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.spaces.places import SpacePlace
from wasmsr.snapshot.spaces.space_pages import DraftSpace, PageRuns, SpacePages
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import Lineage, SavedLimits, SnapshotState, ThreadState
from wasmsr.snapshot.trust.signatures import Signature

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

MSGPACK = "msgpack"
"""The payload of a section that is one msgpack value."""
WrittenPages: TypeAlias = "PageMap | SpacePages"
"""What a writer stores of the spaces, in version 1 and in version 2 of the format."""
Allocate: TypeAlias = Callable[[int], "bytearray | memoryview"]
"""Gives that many zero bytes for a memory."""
MapPages: TypeAlias = Callable[[int, int], memoryview]
"""Gives bytes of a mapped file, by offset and length, without reading them."""
FieldTypes: TypeAlias = frozenset[tuple[type, ...]]
"""The types that the values of a msgpack map may have, in the order of its keys."""


class ReferenceNumbers(Protocol):
    """Gives references the numbers by which a snapshot names what they refer to."""

    def saved(self, code: int, bits: int) -> int:
        """Return the saved bits of a value with this type code and these bits in the store."""

    def parameters(self, address: int) -> bytes:
        """Return the type codes of the parameters of the function at an address."""


class BulkPayload(Protocol):
    """A payload that is too long to be built as one byte string.

    In version 2 its digest is asked after its batches, and so are batches of later sections.
    """

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def digest(self) -> bytes:
        """Return its tree digest (32 bytes)."""

    def batches(self) -> Iterator[Buffer]:
        """Yield it in batches of `BATCH_SIZE` bytes, the last one shorter."""

    def olds(self) -> Iterator[Buffer | None] | None:
        """Yield what the base has in place of each batch; None if there is no base."""


class PieceList:
    """A bulk payload made of pieces of any lengths, such as modules or chunks of files.

    Args:
        size: Length of all pieces together, in bytes.
        pieces: Gives the pieces from the first to the last; called once for each pass.
    """

    def __init__(self, size: int, pieces: Callable[[], Iterable[bytes]]) -> None:
        self.size = size
        self._pieces = pieces

    def digest(self) -> bytes:
        """Return the tree digest (32 bytes)."""
        tree = Tree()
        for piece in self._pieces():
            tree.update(piece)
        return tree.digest()

    def batches(self) -> Iterator[Buffer]:
        """Yield the pieces cut into batches of `BATCH_SIZE` bytes, the last one shorter."""
        rest = b""
        for piece in self._pieces():
            view = memoryview(piece)
            start = 0
            if rest:
                start = min(BATCH_SIZE - len(rest), len(view))
                rest += view[:start]
                if len(rest) == BATCH_SIZE:
                    yield rest
                    rest = b""
            while len(view) - start >= BATCH_SIZE:
                yield view[start : start + BATCH_SIZE]
                start += BATCH_SIZE
            rest += view[start:]
        if rest:
            yield rest

    def olds(self) -> None:
        """Return None: there is nothing in place of the pieces."""


class Sink(Protocol):
    """Takes the batches of a section that is not collected in memory."""

    def take(self, start: int, data: Buffer) -> None:
        """Take one batch, which begins at byte `start` of the payload."""

    def close(self) -> None:
        """Finish after the last batch."""


class _NoSink:
    """A sink that forgets what it takes."""

    def take(self, start: int, data: Buffer) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(slots=True)
class ReadBase:
    """The snapshot that an incremental one is made against, read before.

    A reader takes over its memories: the state is of no use afterwards. A sparse base keeps them.

    Attributes:
        root: Its root digest.
        state: Its state.
        trees: The digests of its memories, by number.
        depth: How many snapshots are below it.
        sparse: Whether its pages are left out. Memories that are read have zeros where the
            snapshot has no pages of its own, and the caller has the base's pages.
    """

    root: bytes
    state: SnapshotState
    trees: list[SpaceTree]
    depth: int
    sparse: bool = False


def no_base(root: bytes) -> ReadBase:
    """Refuse to look for a base.

    Raises:
        SnapshotError: Always.
    """
    raise SnapshotError(
        f"the snapshot is incremental, and its base with the root {root.hex()} is not given",
        hint="read it where its base is: a checkpoint folder, or the folder of the file",
    )


@dataclass(slots=True)
class Draft:
    """A snapshot that is being read.

    Attributes:
        state: The state so far. Nobody sees it before all of it is verified.
        limits: What the reader still allows.
        allocate: Gives zero bytes for a memory.
        payloads: Payloads that are read and not yet parsed, by kind.
        embedded: For each module, whether its binary is in the snapshot.
        page_spaces: Byte spaces whose pages the page data fill, by their number in the page index.
        placement: Where the stored pages belong, in version 1.
        version: The version of the format.
        form: The form of the snapshot.
        base: What an incremental snapshot is made against, once that is known.
        find_base: Returns the base with a root digest.
        spaces: In version 2, what `page_spaces` becomes when the page runs are read.
        runs: In version 2, where the stored pages belong, once somebody has asked `page_runs`.
        places: Where a mapped file has its spaces.
        padding: Bytes of padding in the head of a mapped file.
        space_digests: The digests in the section *spaces*, by number.
        map_pages: Gives bytes of a mapped file. None if pages are read.
        signatures: Signatures over the root, as they were read.
    """

    limits: ReadLimits
    allocate: Allocate
    state: SnapshotState = field(
        default_factory=lambda: SnapshotState(
            [],
            [],
            [],
            [],
            [],
            [],
            ThreadState(),
            SavedLimits(0, 0, 0, 0),
            Lineage(b"", None, 0, "", ""),
        )
    )
    payloads: dict[int, Buffer] = field(default_factory=dict)
    embedded: list[bool] = field(default_factory=list)
    page_spaces: list[memoryview] = field(default_factory=list)
    placement: Placement = field(default_factory=Placement)
    version: int = 1
    form: int = FULL
    base: ReadBase | None = None
    find_base: Callable[[bytes], ReadBase] = no_base
    spaces: list[DraftSpace] = field(default_factory=list)
    runs: PageRuns | None = None
    places: list[SpacePlace] = field(default_factory=list)
    padding: int = 0
    space_digests: list[bytes] = field(default_factory=list)
    map_pages: MapPages | None = None
    signatures: tuple[Signature, ...] = ()

    @property
    def page_runs(self) -> PageRuns:
        """Where the stored pages belong; the spaces are made when this is asked first."""
        if self.runs is None:
            trees = [] if self.base is None else self.base.trees
            for number, view in enumerate(self.page_spaces):
                tree = trees[number] if number < len(trees) else SpaceTree(0)
                tree.grow(len(view) // PAGE_SIZE)
                self.spaces.append(DraftSpace(SpaceName(0, number), view, tree))
            self.runs = PageRuns(self.spaces)
        return self.runs

    def set_space(self, number: int, data: bytearray | memoryview) -> None:
        """Give a space other bytes of the same length; before `page_runs` is asked."""
        self.state.memories[number].data = data
        self.page_spaces[number] = memoryview(data)


class Section:
    """A kind of section. A subclass sets the attributes and overrides what concerns it.

    Attributes:
        kind: Its number in the file; sections are written in ascending order of it. With bit 15
            (`IGNORABLE`) a reader that does not have it may skip it.
        name: Its name in messages, listings and the document.
        payload: The payload's form, as in the document: `MSGPACK`, "array", "bytes" and the like.
        present: When a writer writes it, in the document's words.
        required: Whether each snapshot must have it.
        compressible: Whether its batches may be compressed. Elsewhere a few bytes could ask a
            reader for gigabytes; a compressible section's size follows from another section.
        early: Whether a reader parses it when it is read, and not after all digests are verified.
            A later section of bulk data needs what it says.
        feature: Name of the WebAssembly feature without which it is never written, or None.
        place: Its rank in what `inspect` shows; the lowest comes first.
        numbering: Its rank when references are numbered; None if it holds no references.
        versions: The versions of the format that have it.
        space_kind: The kind of its spaces: 0 for memories.
        carrier: Whether no digest of version 2 covers it, because the content of other sections
            proves what it carries, in whatever form: pages, modules, chunks of files.
        encrypted: Whether its batches are encrypted in an encrypted snapshot.
    """

    kind = 0
    name = ""
    payload = MSGPACK
    present = "always"
    required = False
    compressible = False
    early = False
    feature: str | None = None
    place = 1000
    numbering: int | None = None
    versions: tuple[int, ...] = VERSIONS
    space_kind = 0
    carrier = False
    encrypted = True

    # ---- from a store and back; for state that has no field of its own ----

    def capture(self, store: Any) -> Any:
        """Return what to keep of a store in `SnapshotState.extra`, or None for nothing."""
        return None

    def restore(self, store: Any, value: Any) -> None:
        """Give a store what `capture` returned. Raises SnapshotError if it does not fit."""

    def renumber(self, state: SnapshotState, numbers: ReferenceNumbers) -> None:
        """Replace all references of the section by their saved form, in the document's order."""

    # ---- writing ----

    def page_spaces(self, state: SnapshotState) -> Sequence[Buffer]:
        """Return the byte spaces of the section that are stored as pages.

        In version 2 the name of a space is `space_kind` and its place in what is returned.
        """
        return ()

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes | BulkPayload:
        """Return the payload; an empty one means that the section is left out."""
        raise NotImplementedError

    # ---- beside an earlier state of the same program ----

    def same(self, state: SnapshotState, earlier: SnapshotState) -> bool:
        """Return whether the section has the same payload in both states, if that is fast to tell.

        Only for sections whose check depends on nothing else.
        """
        return False

    def adopt(self, draft: Draft, earlier: SnapshotState) -> bool:
        """Take the content of an earlier state, whose payload is the same, in place of `parse`.

        Returns:
            Whether that was done.
        """
        return False

    # ---- reading ----

    def enter(self, limits: ReadLimits, size: int) -> None:
        """Compare the length of the payload with what the reader allows. Raises FormatError."""
        if self.payload == MSGPACK:
            allowed = limits.take_messages(size)
        elif self.ignorable:
            allowed = limits.take_ignorable(size)
        else:
            most = self.limit(limits)
            allowed = most is None or size <= most
        if not allowed:
            raise FormatError(f"the {self.name} section is too large: {size} bytes")

    def limit(self, limits: ReadLimits) -> int | None:
        """Return the largest allowed length in bytes; None if other checks bound it.

        It is not asked for msgpack sections and ignorable ones, which share a limit.
        """
        return None

    def begin(self, draft: Draft, size: int) -> None:
        """Check the payload's length before the payload is read. Raises FormatError."""

    def sink(self, draft: Draft) -> Sink | None:
        """Return what takes the batches; None if they are to be collected."""
        return None

    def old(self, draft: Draft, start: int, size: int) -> bytes:
        """Return what the base has in place of a batch. Raises FormatError without a base."""
        raise FormatError(f"the {self.name} section has a batch that needs a base")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Put the payload's content into the draft. Raises FormatError."""
        raise NotImplementedError

    def inherit(self, draft: Draft, base: ReadBase) -> None:
        """Take over what an incremental snapshot leaves to its base, after `parse`."""

    def absent(self, draft: Draft) -> None:
        """Refuse a snapshot that should have the section and does not. Raises FormatError."""
        if self.required:
            raise FormatError(f"the snapshot has no {self.name} section")

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check everything that can be checked without the modules' code.

        Raises:
            FormatError: No machine can be in that state.
        """

    # ---- for people ----

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the section's content as data for JSON, by key."""
        return {}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the section's part of a whole description as tables of text.

        Args:
            description: What `describe` returned for all sections.
            values: Show locals and operands.
        """
        return iter(())

    # ---- for subclasses ----

    @property
    def ignorable(self) -> bool:
        """Whether a reader that does not have the section may skip it."""
        return bool(self.kind & IGNORABLE)

    def malformed(self, problem: str) -> FormatError:
        """Return the error for a payload that breaks the section's form."""
        return FormatError(f"the {self.name} section of the snapshot is malformed: {problem}")

    def expect_size(self, size: int, expected: int) -> None:
        """Refuse a payload of another length than the one that follows from other sections."""
        if size != expected:
            raise FormatError(f"the {self.name} section has {size} bytes in place of {expected}")

    def unpack(self, data: Buffer, *, strict_keys: bool = True) -> Any:
        """Return the value of a msgpack payload. Raises FormatError."""
        try:
            return unpack(data, strict_keys=strict_keys)
        except ValueError as error:
            raise self.malformed(str(error)) from error

    def fields(self, value: Any, keys: tuple[str, ...], types: FieldTypes) -> tuple[Any, ...]:
        """Return the values of a map that has just these keys and types. Raises FormatError."""
        if type(value) is not dict or tuple(value) != keys:
            raise self.malformed(f"a map does not have just the keys {', '.join(keys)}")
        found = tuple(value.values())
        if tuple(map(type, found)) not in types:
            wrong = ", ".join(f"{key} {type(item).__name__}" for key, item in value.items())
            raise self.malformed(f"a value has the wrong type ({wrong})")
        return found

    def list_of(self, items: list[Any], kept: type) -> list[Any]:
        """Return a list whose items are all of one type. Raises FormatError."""
        if items and set(map(type, items)) != {kept}:
            raise self.malformed(f"a list has items that are not {kept.__name__}")
        return items

    def map_of(self, data: Buffer) -> dict[str, Any]:
        """Return the map of a msgpack payload that has strings as keys. Raises FormatError."""
        value = self.unpack(data)
        if type(value) is not dict or any(type(key) is not str for key in value):
            raise self.malformed("it is not a map with strings as keys")
        return value


class UnknownSection(Section):
    """A section of a kind that this wasmsr does not have, read to be skipped."""

    payload = "bytes"
    compressible = True

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.name = f"kind {kind:#06x}"

    def sink(self, draft: Draft) -> Sink:
        """Return a sink that forgets the payload."""
        return _NoSink()

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Ignore the payload."""
