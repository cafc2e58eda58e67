"""What an element in Python gets as `action`: its memories by name, and what it is."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wasmsr.errors import printable
from wasmsr.mem.durl import Durl, parse_values
from wasmsr.mem.failures import TransportError
from wasmsr.mem.transports import MemoryTransport, transport_of

if TYPE_CHECKING:
    from wasmsr.mem.serving.memory_server import MemoryServer

KINDS = ("rdma", "rdma_server")
"""How an element can ask for a memory: to read and write it, or to serve it."""


class ServedTransport:
    """A memory that this element serves.

    Attributes:
        name: The name by which the element asked for it.
    """

    def __init__(self, durl: Durl) -> None:
        self.name = durl.name
        self._durl = durl
        self._server: MemoryServer | None = None
        self._ended = threading.Event()

    def serve(self) -> int:
        """Serve the memory until `close`, or until the process ends; return 0.

        Raises:
            TransportError: Its port is in use, or its size is wrong.
        """
        from wasmsr.mem.memory_link import parse_url
        from wasmsr.mem.serving.memory_region import MemoryRegion
        from wasmsr.mem.serving.memory_server import MemoryServer
        from wasmsr.mem.serving.place import own_place
        from wasmsr.mem.sizes import parse_size

        host, port = parse_url(self._durl.value("url").replace("//*:", "//0.0.0.0:"))
        try:
            size = parse_size(self._durl.values.get("size", "1G"))
        except ValueError as error:
            raise TransportError(f"transport {printable(self.name)}: size: {error}") from None
        with own_place(size) as buffer:
            self._server = MemoryServer(MemoryRegion(buffer), host, port)
            self._server.start()
            try:
                self._ended.wait()
            finally:
                self._server.stop()
                self._server.region.buffer.release()
        return 0

    def close(self) -> None:
        """Let `serve` return."""
        self._ended.set()


class ElementAction:
    """What an element can ask for while it runs.

    Attributes:
        index: The index of this copy, from 0.
        runtime: What runs it: `run` (its id), `element` (its name), `copies`, `attempt`.
        profiled: (point, seconds since the start) of each call of `profile`.
    """

    def __init__(
        self,
        transports: Iterable[Durl] = (),
        *,
        index: int = 0,
        runtime: Any = None,
        epoch: int = 0,
    ) -> None:
        """Make an action.

        Args:
            transports: The memories that it can ask for.
            index: The index of this copy.
            runtime: What runs it.
            epoch: The number by which memories refuse who was replaced.
        """
        self.index = index
        self.runtime = runtime
        self.profiled: list[tuple[int, float]] = []
        self._began = time.monotonic()
        self._durls = {durl.name: durl for durl in transports}
        self._made: dict[str, MemoryTransport | ServedTransport] = {}
        self._epoch = epoch

    @property
    def memories(self) -> dict[str, Durl]:
        """The memories that it can ask for, by name."""
        return dict(self._durls)

    @property
    def epoch(self) -> int:
        """The number by which memories refuse who was replaced."""
        return self._epoch

    def get_transport(self, name: str, kind: str) -> Any:
        """Return the transport of a name, always the same.

        Args:
            name: The name of the memory.
            kind: "rdma" to read and write it, "rdma_server" to serve it.

        Raises:
            TransportError: There is no such name or kind.
        """
        if kind not in KINDS:
            raise TransportError(f"{printable(kind)} is no kind of a transport",
                                 hint=f"known are {', '.join(KINDS)}")  # fmt: skip
        durl = self._durls.get(name)
        if durl is None:
            known = ", ".join(map(printable, self._durls)) or "none"
            raise TransportError(f"this element has no memory {printable(name)}",
                                 hint=f"its memories (corunning): {known}")  # fmt: skip
        if name not in self._made:
            serves = kind == "rdma_server"
            self._made[name] = (
                ServedTransport(durl) if serves else transport_of(durl, epoch=self._epoch)
            )
        return self._made[name]

    def add_transport(self, durl: str) -> int:
        """Add a memory by its text, `NAME;IMPL;KEY,VALUE;`, and return 0."""
        parsed = Durl.parse(durl)
        self._durls[parsed.name] = parsed
        return 0

    def config_transport(self, name: str, values: str) -> int:
        """Add `KEY,VALUE;` to a memory that was not asked for yet, and return 0."""
        before = self._durls.get(name)
        if before is None or name in self._made:
            raise TransportError(f"{printable(name)} cannot be configured now")
        self._durls[name] = Durl(name, before.impl, {**before.values, **parse_values(values)})
        return 0

    def profile(self, point: int) -> None:
        """Note a point of time."""
        self.profiled.append((point, time.monotonic() - self._began))

    def terminate(self) -> None:
        """Close all transports."""
        for transport in self._made.values():
            transport.close()
        self._made.clear()


def provide_disagg() -> None:
    """Let `from disagg import *` work, which the peer's elements begin with."""

    class LibdAction(ElementAction):
        """An action by the peer's name: a condition, an id, and settings that are not used."""

        def __init__(self, condition: Any, aid: str, **settings: Any) -> None:
            super().__init__()

    module = types.ModuleType("disagg", "What the elements of Scad import.")
    module.LibdAction = LibdAction  # type: ignore[attr-defined]
    sys.modules.setdefault("disagg", module)
