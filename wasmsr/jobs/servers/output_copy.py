"""Copies the output of a program from the nodes that have it, into the log of its execution."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from wasmsr.errors import printable
from wasmsr.jobs.execution.log import ALL, commit_log
from wasmsr.jobs.execution.requests import ExecutionFolder, OutputLimits
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.servers.copied_log import CopiedLog
from wasmsr.jobs.servers.job_servers import JobServers
from wasmsr.jobs.servers.server_port import ProgramOnServer
from wasmsr.node.failures import NodeAway, NodeError

GAP_SECONDS: Final = 120.0
"""How long a node may be away that alone has a part of the output. Then the execution has failed,
because its log would have a gap."""


class OutputCopy:
    """The log of one execution, as far as it is copied. One thread uses it."""

    def __init__(
        self,
        id: str,
        folder: ExecutionFolder,
        limits: OutputLimits,
        servers: JobServers,
        tell: Callable[[], None],
        held: bool,
        base: Mapping[str, int],
    ) -> None:
        """Open the log. Raises OSError.

        Args:
            id: The execution.
            folder: Its folder.
            limits: How much of the output is kept.
            servers: The nodes.
            tell: Is called when the log has grown, or was cut.
            held: Whether readers see output only when a checkpoint has it.
            base: Bytes of each stream that are not of this program: it goes on where another one
                was saved.
        """
        self._id, self._folder, self._servers, self._tell = id, folder, servers, tell
        self._log = CopiedLog(
            folder.log, {"stdout": limits.stdout_file, "stderr": limits.stderr_file}
        )
        self._lives = dict.fromkeys(self._log.sizes, 0)
        self._gap_since = 0.0
        self._held = held
        self._base = {name: base.get(name, 0) for name in self._log.sizes}

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each stream that the program has written, as far as they are copied."""
        return {name: size - self._base[name] for name, size in self._log.sizes.items()}

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def begin(self) -> None:
        """Let readers see nothing yet of a new program, if output is held. Raises OSError."""
        if self._held and self._log.sizes == self._base:
            commit_log(self._folder.log, self._log.end_within(self._base))

    def begin_again(self) -> None:
        """Cut the log to nothing: the program was begun again. Raises OSError."""
        self._log.clear()
        self._lives = dict.fromkeys(self._log.sizes, 0)
        self._base = dict.fromkeys(self._log.sizes, 0)
        self._tell()

    def found(self) -> None:
        """Note that the program was found where it is said to be."""
        self._gap_since = 0.0

    def miss(self, found: ProgramOnServer) -> None:
        """Note that the server to which a program went does not show it yet.

        Raises JobError: It has not for `GAP_SECONDS`.
        """
        if self._gap_lasts():
            raise JobError(
                "ExecutionNotFound",
                f"no server shows the execution {printable(self._id)}: {found.reason}",
                hint="name the server to which it went among the servers of the executor",
            )

    def _gap_lasts(self) -> bool:
        self._gap_since = self._gap_since or time.monotonic()
        return time.monotonic() - self._gap_since >= GAP_SECONDS

    def show(self, found: ProgramOnServer) -> None:
        """Let readers see what the last checkpoint has, if output is held. Raises OSError."""
        if self._held:
            saved = found.saved or {}
            most = {name: int(saved.get(name, 0)) + at for name, at in self._base.items()}
            commit_log(self._folder.log, self._log.end_within(most))
            self._tell()

    def show_all(self) -> None:
        """Let readers see everything: the program has ended. Raises OSError."""
        if self._held:
            commit_log(self._folder.log, ALL)
            self._tell()

    def copy(self, server: str, program: str, left: Callable[[], bool]) -> bool:
        """Copy the output that a node has now; return whether there was any.

        A node that is asked to follow does not say when a worker is lost.

        Args:
            server: The node.
            program: The program.
            left: Whether nobody waits for it any more.

        Raises:
            NodeAway: The node does not answer.
            JobError: LogError; a part of the output is nowhere.
            OSError: The log cannot be written.
        """
        log, some = self._log, False
        had = {stream: (size, self._lives[stream]) for stream, size in self.sizes.items()}
        for piece in self._servers.at(server).logs(program, follow=False, had=had):
            some = True
            if left():
                return some
            self._lives[piece.stream] = piece.life
            offset = piece.offset + self._base[piece.stream]
            if offset < log.sizes[piece.stream]:
                log.rewind(piece.stream, offset)
                self._tell()
                return some  # of the other stream, too, some may have to be asked for again
            if offset > log.sizes[piece.stream]:
                self._fill(server, program, piece.stream, offset)
            log.write(piece.stream, piece.data)
            self._tell()
        return some

    def _fill(self, server: str, program: str, stream: str, end: int) -> None:
        """Copy output that only a node has that had the program before.

        Args:
            server: The node that has the program now.
            program: The program.
            stream: The stream.
            end: Where in the log the output of that node begins. What the others have from there on
                counts no more.

        Raises:
            NodeAway: Such a node may have it, and may come back.
            JobError: LogError; no node has it.
        """
        log, away, base = self._log, None, self._base[stream]
        for address in [one for one in self._servers.addresses if one != server]:
            try:
                had = {stream: (log.sizes[stream] - base, 0)}
                for piece in self._servers.at(address).logs(program, follow=False, had=had):
                    offset = piece.offset + base
                    if piece.stream == stream and offset == log.sizes[stream] < end:
                        log.write(stream, piece.data[: end - offset])
            except NodeAway as error:
                away = error
            except NodeError:
                continue  # it never had the program
            if log.sizes[stream] == end:
                self._gap_since = 0.0
                return
        if away is not None and not self._gap_lasts():
            raise away
        raise JobError(
            "LogError",
            f"{end - log.sizes[stream]} bytes of {stream} of the execution {printable(self._id)} "
            "are on no server that can be asked",
            hint="give the nodes a larger --output-limit, or start the lost node again",
        )


__all__ = ["OutputCopy"]
