"""Section *signatures* of version 2: who vouches for the root digest. Document, section 13.8."""

from __future__ import annotations

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.signatures import ENTRY, MOST, parse_signatures


class SignaturesSection(Section):
    """Signatures over the root, which is known when all else is written.

    They are no part of the state: the writer makes the payload, and the reader of a file compares
    the signatures with what its user trusts. The section is not encrypted, so that a snapshot can
    be signed without being encrypted anew.
    """

    kind = 41
    name = "signatures"
    payload = "array"
    present = "the snapshot is signed"
    early = True
    place = 6
    versions = (2,)
    carrier = True
    encrypted = False

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return nothing: the writer adds the section."""
        return b""

    def limit(self, limits: ReadLimits) -> int:
        """Return the length of the most signatures."""
        return MOST * ENTRY.size

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Give the draft the signatures, which nobody has compared with the root yet."""
        draft.signatures = parse_signatures(data)


SIGNATURES = SignaturesSection()
SECTIONS = (SIGNATURES,)
