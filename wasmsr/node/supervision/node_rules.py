"""How a node treats its programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wasmsr.executor.port import RING
from wasmsr.migrate.events import Event
from wasmsr.migrate.ports import Peer
from wasmsr.node.failures import NodeError
from wasmsr.node.moving.node_peers import MakePeer
from wasmsr.node.supervision.noted_program import Note
from wasmsr.node.workers.confinement import WorkerLimits
from wasmsr.ownership.register import Register
from wasmsr.runspec.run_spec import RunSpec


def _ignore(event: str, **values: Any) -> None:
    """Do nothing with an event."""


def _take_all(program: str, caller: str, digest: str, spec: RunSpec) -> None:
    """Admit every program."""


def _check_nothing(digest: str, spec: RunSpec) -> None:
    """Find nothing wrong with a program."""


def kept_streams(program: str) -> tuple[int, ...]:
    """Return the streams of a program without an input, whose output the node keeps."""
    return (-1, RING, RING)


def _no_peer(address: str, node: bytes, ours: bytes) -> Peer:
    """Refuse to speak to other nodes."""
    raise NodeError("this node speaks to no other nodes")


@dataclass(frozen=True)
class NodeRules:
    """How a node treats its programs.

    Attributes:
        limits: What each worker may have.
        ring: Bytes of output that are kept of each stream.
        every: Seconds between checkpoints, if the submission does not say; None for none.
        keep: Checkpoints that stay of each program.
        adopt: How many seconds workers wait for a supervisor that is started again.
        admit: Gets id, caller, digest of the module, and the run of each program that comes; it
            raises an error to refuse it.
        check: Gets digest and run before each start of a worker; it raises an error to refuse it.
        leave: Gets the id of each program that no worker has any more.
        peer: Makes another node, by address and node id.
        register: Opens the register of leased programs; None for none.
        store: The address of the store for the checkpoints of leased programs; "" for none.
        advertised: Where other nodes call this one, or "" if it is not known.
        note: Gets events, for the log.
        trace: Gets the events of moves, for spans.
        streams: Returns, for a program that begins here or goes on from a save point, what
            `Executor.start` takes as its streams; by the id in hexadecimal digits.
        takes: Gets the id of a leased program that this node may own, and returns whether it is to
            be here now.
        settle: Gets the id, in hexadecimal digits, of a leased program of which a checkpoint is
            written and does not count yet. It returns when what the program did outside before is
            done, and raises an error if that cannot be waited for.
    """

    limits: WorkerLimits = field(default_factory=WorkerLimits)
    ring: int = 16 << 20
    every: float | None = None
    keep: int = 3
    adopt: float = 30.0
    admit: Callable[[str, str, str, RunSpec], None] = _take_all
    check: Callable[[str, RunSpec], None] = _check_nothing
    leave: Callable[[str], None] = lambda program: None
    peer: MakePeer = _no_peer
    register: Callable[[], Register] | None = None
    store: str = ""
    advertised: str = ""
    note: Note = _ignore
    trace: Callable[[Event], None] = lambda event: None
    streams: Callable[[str], tuple[int, ...]] = kept_streams
    takes: Callable[[bytes], bool] = lambda program: True
    settle: Callable[[str], None] = lambda program: None


__all__ = ["NodeRules"]
