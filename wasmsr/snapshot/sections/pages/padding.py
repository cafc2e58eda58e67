"""Sections *padding* and *file padding* of version 2: zeros in the head of a mapped file.

Format document, 13.7.
"""

from __future__ import annotations

from typing import Any

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import BATCH_SIZE, MAPPED, Buffer
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.encoding.section import Draft, Section, Sink, WrittenPages
from wasmsr.snapshot.spaces.places import PADDING_LIMIT
from wasmsr.snapshot.state import SnapshotState

_ZEROS = bytes(BATCH_SIZE)


class PaddingSection(Section):
    """Zeros between the sections of a mapped file and its regions.

    Who writes the regions before the sections are known leaves room for the sections, and fills
    what is left of it with this section. No digest covers it: it says nothing.
    """

    kind = 44
    name = "padding"
    payload = "zeros"
    present = "the form is mapped and the regions were written first"
    early = True
    versions = (2,)
    carrier = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return nothing: a writer that needs the section adds it."""
        return b""

    def limit(self, limits: ReadLimits) -> int:
        """Return the length of the longest padding."""
        return PADDING_LIMIT

    def begin(self, draft: Draft, size: int) -> None:
        """Refuse it where no region follows."""
        if draft.form != MAPPED:
            raise FormatError(f"a snapshot that is not mapped has a {self.name} section")
        if not draft.places:
            raise FormatError(f"a mapped snapshot without memories has a {self.name} section")
        draft.padding = size

    def sink(self, draft: Draft) -> Sink:
        """Return what compares the payload with zeros."""
        return _Zeros()

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Do nothing: the sink has compared the bytes."""

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: it is no part of the state."""
        return {}


class FilePaddingSection(Section):
    """Zeros between the first sections of a mapped file and the file index.

    Who writes the file data before the sections are known leaves room for those before it, and
    fills what is left of it with this section. No digest covers it: it says nothing.
    """

    kind = 23
    name = "file padding"
    payload = "zeros"
    present = "the form is mapped and the file data was written first"
    early = True
    versions = (2,)
    carrier = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return nothing: a writer that needs the section adds it."""
        return b""

    def limit(self, limits: ReadLimits) -> int:
        """Return the length of the longest padding."""
        return PADDING_LIMIT

    def begin(self, draft: Draft, size: int) -> None:
        """Refuse it in other forms."""
        if draft.form != MAPPED:
            raise FormatError(f"a snapshot that is not mapped has a {self.name} section")

    def sink(self, draft: Draft) -> Sink:
        """Return what compares the payload with zeros."""
        return _Zeros()

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Do nothing: the sink has compared the bytes."""

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: it is no part of the state."""
        return {}


class _Zeros:
    """Refuses bytes that are not zeros."""

    def take(self, start: int, data: Buffer) -> None:
        if data != memoryview(_ZEROS)[: len(data)]:
            raise FormatError("the padding of the mapped snapshot is not zeros")

    def close(self) -> None:
        pass


PADDING = PaddingSection()
FILE_PADDING = FilePaddingSection()
SECTIONS = (FILE_PADDING, PADDING)
