"""A node as its page for people asks it (`PageSource` of `wasmsr.http.page.node_page`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wasmsr.executor.rings import read_ring, ring_bounds
from wasmsr.node.supervision.node_supervisor import NodeSupervisor


class NodePageSource:
    """The supervisor behind the page. Any thread may call it."""

    def __init__(self, supervisor: NodeSupervisor, software: str) -> None:
        """Ask a supervisor; `software` is the version of wasmsr."""
        self._supervisor, self._software = supervisor, software

    def about(self) -> Mapping[str, Any]:
        """Return what is known of the node."""
        found = {**self._supervisor.shown(), "software": self._software}
        del found["programs"]
        return found

    def programs(self) -> list[Mapping[str, Any]]:
        """Return all programs."""
        return [one.shown() for one in self._supervisor.programs()]

    def inspect(self, program: str) -> Mapping[str, Any]:
        """Return everything about a program; it stands for a moment."""
        return self._supervisor.find(program).inspect()

    def output(self, program: str, stream: str, offset: int, most: int) -> tuple[int, bytes]:
        """Return output from an offset on, and where it begins; below 0 it counts from the end."""
        folder = self._supervisor.find(program).folder.output
        first, end = ring_bounds(folder, stream)
        begin = max(first, end + offset) if offset < 0 else min(offset, end)
        return read_ring(folder, stream, begin, most)

    def act(self, program: str, verb: str) -> Mapping[str, Any]:
        """Pause, resume, save or kill a program, and return it."""
        found = self._supervisor.find(program)
        acts = {"pause": found.pause, "resume": found.resume, "checkpoint": found.checkpoint}
        if verb == "kill":
            found.kill("killed on the node's page")
        else:
            acts[verb]()
        return found.shown()
