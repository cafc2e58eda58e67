"""Output of a program on a node, and on the nodes to which it moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.node_options import open_node
from wasmsr.cli.words.messages import say
from wasmsr.errors import WasmsrError
from wasmsr.node.failures import NodeAway, NodeError

if TYPE_CHECKING:
    from wasmsr.rpc.control.client_values import LogPiece
    from wasmsr.rpc.control.control_client import Node
    from wasmsr.rpc.control.program_info import ProgramInfo

AGAIN_SECONDS = 60.0
"""How long a node may be away while its output is followed."""

PAUSE_SECONDS = 0.5
"""Seconds between two attempts."""


class FollowedLogs:
    """The output of one program.

    Args:
        values: The options of the connection, as `node_options.taken` gives them.
        program: The program.
        streams: The streams; none stands for all.
        follow: Wait for more until the program has ended, wherever it is then.
        tell_lease: Gets the lease of a leased program (`ProgramInfo.lease`): before its output,
            and again when the program has begun another life or is at another node.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        program: str,
        streams: tuple[str, ...],
        follow: bool,
        tell_lease: Callable[[Mapping[str, Any]], None] = lambda lease: None,
    ) -> None:
        self._values, self._program = values, program
        self._streams, self._follow = streams, follow
        self._tell_lease = tell_lease
        self._had: dict[str, tuple[int, int]] = {}
        self._until = 0.0
        self._life = 0
        self._told: tuple[str, int] | None = None

    def pieces(self) -> Iterator[LogPiece]:
        """Yield the output. A node that is away while it is followed is asked again.

        Raises:
            WasmsrError: A node cannot be asked, or has no such program.
        """
        with ExitStack() as stack:
            node = stack.enter_context(open_node(self._values))
            while True:
                found: ProgramInfo | None = None
                try:
                    yield from self._from(node)
                    found = _find(node, self._program)
                    if found is None or (found.is_final and found.went is None):
                        return
                except NodeAway:
                    if not self._follow or time.monotonic() > self._until:
                        raise
                if found is not None and found.went is not None:
                    address = found.went["address"]
                    if not address:
                        node_id = found.went["node"]
                        say(f"node {node_id[:8]} has its later output", "warning")
                        return
                    if not self._follow:
                        say(f"the program went to {address}, which has its later output", "warning")
                        return
                    stack.close()
                    node = stack.enter_context(self._next(found))
                elif not self._follow:
                    return
                time.sleep(PAUSE_SECONDS)

    def _from(self, node: Node) -> Iterator[LogPiece]:
        self._look_at_lease(node)
        asked = node.logs(self._program, self._streams, follow=self._follow, had=self._had)
        for piece in asked:
            self._until = time.monotonic() + AGAIN_SECONDS
            if piece.life > self._life:
                self._look_at_lease(node)
            self._had[piece.stream] = piece.offset + len(piece.data), piece.life
            yield piece

    def _look_at_lease(self, node: Node) -> None:
        """Tell the program's lease if its owner or its epoch is another one than was told."""
        found = _find(node, self._program)
        if found is None:
            return  # the node says so when it is asked for the output
        self._life = found.life
        if found.lease is not None:
            now = found.lease["owner"], found.lease["epoch"]
            if now != self._told:
                self._told = now
                self._tell_lease(found.lease)

    def _next(self, found: ProgramInfo) -> Node:
        """Return the node to which the program went."""
        assert found.went is not None
        address = found.went["address"]
        say(f"the program went to {address}")
        self._program = found.program
        self._until = time.monotonic() + AGAIN_SECONDS
        self._values = {**self._values, "node": address}
        if self._values["node_id"]:
            self._values["node_id"] = found.went["node"]
        try:
            node = open_node(self._values)
            with suppress(NodeAway):  # it is asked again
                node.ps()
        except (WasmsrError, click.UsageError) as error:
            raise NodeError(
                f"the program went to {address}, which cannot be asked: {error.message}",
                hint=f"wasmsr logs -f {found.program[:8]} --node {address}, with what that node "
                "asks of its callers",
            ) from None
        return node


def _find(node: Node, program: str) -> ProgramInfo | None:
    """Return a program; None if the node has forgotten it, because it has ended."""
    digits = program.strip().lower()
    every = node.ps()
    named = [one for one in every if one.program.startswith(digits)]
    named = named or [one for one in every if one.name == program]
    return named[0] if named else None


__all__ = ["FollowedLogs"]
