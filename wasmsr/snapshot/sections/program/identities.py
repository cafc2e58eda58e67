"""Section *identities*: chosen names of host functions. Format document, section 5.15."""

from __future__ import annotations

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.rules import CheckScope, invalid
from wasmsr.snapshot.state import SnapshotState


class IdentitiesSection(Section):
    """Address and identity of each host function that has one."""

    kind = 17
    name = "identities"
    present = "a host function has an identity"

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return pairs of address and identity."""
        found = [[f.address, f.identity] for f in state.host_functions if f.identity is not None]
        return pack(found, "the identities of host functions") if found else b""

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the identities of the host functions."""
        value = self.unpack(data)
        by_address = {function.address: function for function in draft.state.host_functions}
        last = -1
        if type(value) is not list or not value:
            raise self.malformed("it is not a list of one or more")
        for item in value:
            if type(item) is not list or [*map(type, item)] != [int, str]:
                raise self.malformed("an entry is not an address and a string")
            address, identity = item
            if address <= last or address not in by_address:
                raise self.malformed(f"no host function is at {address}, or it is out of order")
            last = address
            by_address[address].identity = identity

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check that identities are unique and not empty."""
        found = [f.identity for f in state.host_functions if f.identity is not None]
        if len({*found}) != len(found) or "" in found:
            raise invalid("two host functions have one identity, or one has an empty one")


SECTIONS = (IdentitiesSection(),)
