"""What executions on other servers need of a node; `wasmsr.Node` has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, Protocol

from wasmsr.errors import WasmsrError
from wasmsr.jobs.description.job import Constraint
from wasmsr.jobs.execution.requests import ExecutionRequest


class Unwanted(WasmsrError):
    """A place on a server is not wanted any more."""


class OutputOnServer(Protocol):
    """A piece of output; `LogPiece` has it."""

    @property
    def stream(self) -> str:
        """The stream, "stdout" or "stderr"."""

    @property
    def offset(self) -> int:
        """Offset in the stream of the first byte."""

    @property
    def data(self) -> bytes:
        """The bytes."""

    @property
    def life(self) -> int:
        """The life of the program in which they were written."""

    @property
    def rewound(self) -> bool:
        """Whether what came of the stream from `offset` on is written again."""

    @property
    def dropped(self) -> int:
        """Bytes before `offset` that were asked for and are kept no more."""


class SavedOnServer(Protocol):
    """A snapshot that a node has given; `SavedProgram` has it."""

    @property
    def stdout(self) -> int:
        """Bytes of standard output that the program had written."""

    @property
    def stderr(self) -> int:
        """The same of standard error."""


class ProgramOnServer(Protocol):
    """What a node says of a program; `ProgramInfo` has it."""

    @property
    def program(self) -> str:
        """Its id in hexadecimal digits."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def standing(self) -> str:
        """What the node says of it."""

    @property
    def reason(self) -> str:
        """Why, as a sentence, or ""."""

    @property
    def ending(self) -> str:
        """How it ended."""

    @property
    def code(self) -> int | None:
        """Its exit code."""

    @property
    def submitted(self) -> float:
        """When it came."""

    @property
    def changed(self) -> float:
        """When its standing changed, by the node's clock."""

    @property
    def epoch(self) -> int:
        """The epoch in which its node owns it, or owned it."""

    @property
    def saved(self) -> Mapping[str, Any] | None:
        """The last save point, with its "number" and the bytes of each stream, or None."""

    @property
    def went(self) -> Mapping[str, Any] | None:
        """Where it is if it has moved."""

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow on this node."""


class JobServer(Protocol):
    """A node that runs executions. Its methods raise WasmsrError."""

    def submit(
        self,
        module: bytes,
        spec: Mapping[str, Any],
        *,
        name: str,
        every: float | None,
        lease: Mapping[str, Any] | None,
        from_snapshot: str | os.PathLike[str] | None = None,
        goes_on: bool = False,
        fork: int = 0,
    ) -> ProgramOnServer:
        """Have the node run a program."""

    def snapshot(self, program: str, file: IO[bytes]) -> SavedOnServer:
        """Write a snapshot of a program to a file."""

    def carried(self, program: str, mount: str, file: IO[bytes]) -> object:
        """Write the files of a mount of a program that has ended to a tar file."""

    def drop_carried(self, program: str, mount: str) -> object:
        """Remove the files of a mount of a program that has ended."""

    def info(self) -> Mapping[str, Any]:
        """Return what the node is; "node" is its id, and "cpus" how many processors it has."""

    def ps(self) -> list[Any]:
        """Return all programs of the node."""

    def watch(self) -> Iterator[list[Any]]:
        """Yield all programs, at once and after each change."""

    def logs(
        self,
        program: str,
        *,
        follow: bool,
        had: Mapping[str, tuple[int, int]],
    ) -> Iterator[Any]:
        """Yield output of a program until it ends there."""

    def checkpoint(self, program: str) -> Any:
        """Save a program, which runs on if it did."""

    def pause(self, program: str) -> Any:
        """Pause a program."""

    def resume(self, program: str) -> Any:
        """Let a program run on."""

    def kill(self, program: str) -> Any:
        """End a program for good."""

    def migrate(self, program: str, to: str) -> Any:
        """Move a program to another node while it runs."""

    def close(self) -> None:
        """Close the connection."""


class ServerPlace(Protocol):
    """A place that an execution has on a server; `RayReservation` is one."""

    @property
    def server(self) -> str:
        """The address of the server's node."""

    def release(self) -> None:
        """Give it back."""


class ServerPlacement(Protocol):
    """Says on which server an execution runs; `RayPlacement` is one."""

    @property
    def patience(self) -> float:
        """Seconds for which an execution that is to move waits for room on another server."""

    def reserve(
        self,
        request: ExecutionRequest,
        at: str = "",
        *,
        but: Callable[[], frozenset[str]] = frozenset,
        wanted: Callable[[], bool] = lambda: True,
    ) -> ServerPlace:
        """Return a place for an execution, as soon as there is one.

        Args:
            request: The execution.
            at: The server that it has to be; "" for any.
            but: Returns the addresses of servers that it must not be now.
            wanted: Whether the place is still wanted; it is asked again and again.

        Raises:
            JobError: No server can have it.
            Unwanted: It is not wanted any more.
        """

    def avoid(self, servers: frozenset[str]) -> None:
        """Begin nothing on these servers from now on."""

    def leaving(self) -> frozenset[str]:
        """Return the addresses of servers that will go, as they have said themselves."""

    def matching(self, constraints: Iterable[Constraint]) -> list[str]:
        """Return the addresses of the servers that meet constraints. Raises JobError."""

    def close(self) -> None:
        """End the connection, if there is one."""


__all__ = [
    "JobServer",
    "OutputOnServer",
    "ProgramOnServer",
    "SavedOnServer",
    "ServerPlace",
    "ServerPlacement",
    "Unwanted",
]
