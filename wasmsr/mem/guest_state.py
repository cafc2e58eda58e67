"""What a snapshot keeps of the remote memories of a program."""

from __future__ import annotations

from wasmsr.errors import FormatError
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OWNER = "memories"
"""The owner's name in the section *host state*."""
MOST_MEMORIES = 1024
"""Memories that a program may have open."""
LONGEST_NAME = 256
"""Bytes of a name."""
LONGEST_CUT = 100
"""Characters of the name of a cut."""


@record
class OpenMemory:
    """A memory that is open.

    Attributes:
        name: The name that the program has for it.
        client: The program's id for it, 16 bytes.
        seq: The number of the last command that was answered.
        begun: Whether a command was ever answered.
    """

    name: str
    client: bytes
    seq: int = 0
    begun: bool = False


class GuestMemory:
    """The state of a program's remote memories.

    Attributes:
        open: The memories that are open; a handle is a place in the list.
        errno: What `mem_errno` says.
        retried: Whether the last command has no answer, and is made again.
        cut: The cut of a gang of which this state is a part; "" for a program alone.
    """

    def __init__(self) -> None:
        self.open: list[OpenMemory] = []
        self.errno = 0
        self.retried = False
        self.cut = ""

    def capture(self) -> dict[str, Any]:
        """Return the state as plain data."""
        rows = [[one.name, one.client, one.seq, one.begun] for one in self.open]
        found: dict[str, Any] = {"errno": self.errno, "memories": rows, "retried": self.retried}
        # Only where it is needed: versions before it refuse what they do not know.
        return found | ({"cut": self.cut} if self.cut else {})

    @classmethod
    def restore(cls, state: Any) -> GuestMemory:
        """Return the state that plain data describe.

        Raises:
            FormatError: They describe none.
        """
        keys = {"errno", "memories", "retried"}
        if type(state) is not dict or set(state) - {"cut"} != keys:
            raise _malformed("has other keys")
        cut = state.get("cut", "")
        if type(cut) is not str or len(cut) > LONGEST_CUT or ("cut" in state and not cut):
            raise _malformed("has a cut without a name")
        errno, rows, retried = state["errno"], state["memories"], state["retried"]
        if type(errno) is not int or not 0 <= errno < 1 << 16 or type(retried) is not bool:
            raise _malformed("has values of other types")
        if type(rows) is not list or len(rows) > MOST_MEMORIES:
            raise _malformed("has no list of memories, or too many")
        made = cls()
        made.errno, made.retried, made.cut = errno, retried, cut
        for row in rows:
            if type(row) is not list or len(row) != 4:
                raise _malformed("has a memory of another form")
            name, client, seq, begun = row
            if type(name) is not str or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
                raise _malformed("has a memory without a name")
            if type(client) is not bytes or len(client) != 16 or type(begun) is not bool:
                raise _malformed("has a memory without an id")
            if type(seq) is not int or not 0 <= seq < 1 << 16:
                raise _malformed("has a memory without a number")
            made.open.append(OpenMemory(name, client, seq, begun))
        if len({one.name for one in made.open}) != len(made.open):
            raise _malformed("has two memories of one name")
        return made


def _malformed(what: str) -> FormatError:
    return FormatError(f"the state of remote memories {what}")
