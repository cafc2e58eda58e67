"""Section *host state* of version 2: the state that hosts keep for a program. Document, 13.5.

Each owner has a name and a map of its own. WASI preview 1 is one owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from wasmsr.channels.table import OWNER as CHANNELS
from wasmsr.channels.table import ChannelTable
from wasmsr.errors import FormatError, VersionError
from wasmsr.mem.guest_state import OWNER as MEMORIES
from wasmsr.mem.guest_state import GuestMemory
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.rules import CheckScope
from wasmsr.snapshot.sections.about.origin import ORIGIN
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.text_tables import Block

PREVIEW1: Final = "wasi_snapshot_preview1"
"""The owner's name of WASI preview 1."""


SANDBOX: Final = "sandbox"
"""The owner's name of a sandbox, which checks its record when it takes it over."""


def _record(state: Any) -> None:
    """Check what a sandbox keeps: a map from text. Raises FormatError."""
    if type(state) is not dict or any(type(key) is not str for key in state):
        raise FormatError("the record of a sandbox is not a map with strings as keys")


OTHERS: Final[Mapping[str, Callable[[Any], object]]] = {
    CHANNELS: ChannelTable.restore,
    MEMORIES: GuestMemory.restore,
    SANDBOX: _record,
}
"""The other owners, each with what checks its state."""
SHOWN: Final = {CHANNELS: CHANNELS, MEMORIES: "remote_memories", SANDBOX: SANDBOX}
"""Their names in a description, where `memories` are those of the store."""


class KeptOwner:
    """The state of an owner that no host has taken over; a snapshot has it again."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def capture(self) -> Any:
        """Return the state."""
        return self._state

    def close(self) -> None:
        """Do nothing: nobody serves it."""


class HostStateSection(Section):
    """A map from the owner's name to what it captured."""

    kind = 37
    name = "host state"
    present = "a host keeps state for the program, such as WASI"
    versions = (2,)

    def capture(self, store: Any) -> Any:
        """Return the state of the owners that the store knows, by name."""
        return {name: one.capture() for name, one in store.owners.items()} or None

    def restore(self, store: Any, value: Any) -> None:
        """Keep the state of each owner, until a host takes it over."""
        store.owners.update({name: KeptOwner(state) for name, state in value.items()})

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return the map."""
        owners = dict(state.extra.get(self.name, {}))
        if state.wasi is not None:
            owners[PREVIEW1] = {key: one for key, one in state.wasi.items() if key != ORIGIN}
        return pack(owners, "the state of hosts") if owners else b""

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state of WASI, and that of the others."""
        owners = self.map_of(data)
        for name in owners.keys() - {PREVIEW1, *OTHERS}:
            raise VersionError(f"the snapshot has state of the host {name!r}, which is not known")
        others = {name: state for name, state in owners.items() if name != PREVIEW1}
        for name, state in others.items():
            OTHERS[name](state)
        if others:
            draft.state.extra[self.name] = others
        if PREVIEW1 not in owners and others:
            return
        found = owners.get(PREVIEW1)
        if type(found) is not dict or any(type(key) is not str for key in found):
            raise self.malformed("the state of WASI is not a map with strings as keys")
        if ORIGIN in found:
            raise self.malformed("it has what belongs into another section")
        draft.state.wasi = found

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check the state of the owners besides WASI."""
        for name, one in state.extra.get(self.name, {}).items():
            if name not in OTHERS:
                raise self.malformed(f"it has state of the host {name!r}, which is not known")
            OTHERS[name](one)

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return channels and memories; the section *wasi* describes the state of WASI."""
        from wasmsr.snapshot.inspect.plain import plain_data

        found = state.extra.get(self.name, {})
        return {SHOWN[name]: plain_data(found[name]) for name in OTHERS if name in found}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the channels, with how much waits on each, and the memories."""
        memories = description.get(SHOWN[MEMORIES])
        if memories is not None:
            named = [(str(at), str(one[2]), one[0]) for at, one in enumerate(memories["memories"])]
            yield "Remote memories", ("handle", "commands", "name"), named
        found = description.get(CHANNELS)
        if found is None:
            return
        mode = {1: "read", 2: "write", 3: "read and write"}
        waiting = Counter(one[0] for one in found["messages"])
        rows = [
            (str(fd), mode[flags], str(waiting[fd]), path) for fd, path, flags in found["channels"]
        ]
        yield "Channels", ("fd", "mode", "messages", "path"), rows


SECTIONS = (HostStateSection(),)
