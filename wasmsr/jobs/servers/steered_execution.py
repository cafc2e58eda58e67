"""What callers do with an execution on a node: they pause it, save it, move it.

`ServerExecution` adds the thread that watches it. Both say where it is and whether it stands, and
the lists that the thread reads are sometimes older than the answers that callers get.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from wasmsr.errors import WasmsrError, printable
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.ending import EndingExecution
from wasmsr.jobs.execution.lost_workers import not_saved
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.preparing.prepared import Prepared
from wasmsr.jobs.servers.job_servers import JobServers
from wasmsr.jobs.servers.output_copy import OutputCopy
from wasmsr.jobs.servers.server_files import save_execution
from wasmsr.jobs.servers.server_port import ProgramOnServer
from wasmsr.jobs.servers.server_run import OURS, ServerNote
from wasmsr.node.failures import NodeAway

COPY_SECONDS: Final = 60.0
"""How long the output of a paused program may take to come, when it is saved."""

LOOK_SECONDS: Final = 0.02
"""How often that is looked at."""


class SteeredExecution(EndingExecution):
    """One execution on a node, as callers steer it. Any thread may call its methods.

    Attributes:
        server: The address of the node that had it last.
    """

    _copy: OutputCopy

    def __init__(
        self, prepared: Prepared, servers: JobServers, server: str, note: Callable[..., None]
    ) -> None:
        super().__init__(prepared, Manner(), note)
        self.server, self._servers = server, servers
        self._lease: Mapping[str, Any] | None = None
        self._noted = ServerNote(self._began)
        self._paused_since = 0.0
        self._told, self._epoch = "", 0
        self._changed, self._older = 0.0, set[float]()
        """When its standing changed last, by its node, and what lists that are older may say."""
        self._steering = threading.RLock()
        """Held by what pauses it and lets it run on."""

    @property
    def name(self) -> str:
        """The name of its program on nodes."""
        return OURS + self.id

    def _renote(self, **changes: Any) -> None:
        """Change what is noted of it, on disk. Raises OSError."""
        with self._lock:
            self._noted = replace(self._noted, **changes)
            self._noted.write(self.folder)

    # ---- where it is, and whether it stands ------------------------------------------------------

    def _is_at(self, server: str, epoch: int) -> None:
        """Note where it is; a list may still show it where it was in an earlier epoch."""
        with self._lock:
            if epoch < self._epoch:
                return
            if epoch > self._epoch:
                self._older.clear()  # the clock is another one's from now on
            self._epoch, self.server = epoch, server
            news, self._told = server != self._told, server
        if news:
            self._note("server", self.id, server=server)

    def _is_said(self, found: ProgramOnServer) -> None:
        """Take what a node answers to a caller. Lists that come now can be older."""
        with self._lock:
            if found.changed != self._changed:
                self._older.add(self._changed)
                self._changed = found.changed
            self._has_state(found.standing)

    def _is_listed(self, found: ProgramOnServer) -> None:
        """Take what a list says."""
        with self._lock:
            if found.changed in self._older:
                return
            self._older.clear()
            self._changed = found.changed
            self._has_state(found.standing)

    def _has_state(self, standing: str) -> None:
        """Take a standing; one that is being moved runs or stands as before."""
        if self._state not in ("running", "paused") or standing not in ("running", "paused"):
            return
        if standing == "paused":
            self._state, self._paused_since = "paused", self._paused_since or time.time()
            return
        since, self._paused_since, self._state = self._paused_since, 0.0, "running"
        if since:
            self._renote(paused=self._noted.paused + time.time() - since)

    # ---- verbs -----------------------------------------------------------------------------------

    def _steer(self, what: str, verb: str, *values: Any) -> Any:
        if self.is_over:
            raise self._has_ended()
        place = self._servers.find(self.name, self._noted.replaced)
        if place is None:
            raise JobError("ExecutionNotFound", f"no server has {printable(self.id)}: {what}")
        return getattr(self._servers.at(place[0]), verb)(place[1].program, *values)

    def pause(self) -> None:
        """Pause it. Raises WasmsrError."""
        with self._steering:
            self._is_said(self._steer("paused", "pause"))
            if self._noted.saving:  # it does not run on by itself any more
                self._renote(saving=False)

    def resume(self) -> None:
        """Let it run on. Raises WasmsrError."""
        with self._steering:
            self._is_said(self._steer("resumed", "resume"))
            if self._noted.saving:
                self._renote(saving=False)

    def snapshot(self, path: Path) -> None:
        """Save it to a file; it stands while it is saved, and then goes on.

        If its server does not hear that it may go on, or this process is killed meanwhile, it does
        so as soon as a thread that watches it finds it paused.

        Raises:
            JobError: It has ended, or cannot be saved.
        """
        with self._steering:
            if self.is_over:
                raise self._has_ended()
            if self._state != "paused":
                self._renote(saving=True)
            try:
                self._is_said(self._steer("paused", "pause"))
                save_execution(self.id, self.folder, path, self._fetched)
            except (WasmsrError, OSError) as error:
                if self.is_over:
                    raise
                raise not_saved(self.id, error) from error
            finally:
                if self._noted.saving:
                    self._end_saving("paused")

    def _end_saving(self, standing: str) -> None:
        """Let it run on if it stands only because it was to be saved, and is not being saved now.

        Args:
            standing: What its node says of it.
        """
        if not self._steering.acquire(blocking=False):
            return
        try:
            if standing == "paused":
                with suppress(WasmsrError):  # it is tried again, or it has ended
                    self.resume()
            elif (
                standing == self._state == "running"
            ):  # its node has not heard that it should pause
                self._renote(saving=False)
        finally:
            self._steering.release()

    def _fetched(self, file: IO[bytes]) -> None:
        """Write the paused program's snapshot to a file when its log has all that it wrote."""
        if self._lease is not None and self.prepared.request.output == "commit":
            self._steer("saved", "checkpoint")  # its node shows no output before
        saved = self._steer("saved", "snapshot", file)
        wanted = {"stdout": saved.stdout, "stderr": saved.stderr}
        end = time.monotonic() + COPY_SECONDS
        while self._copy.sizes != wanted:
            if self.is_over:
                raise self._has_ended()
            if time.monotonic() >= end:
                raise NodeAway(f"the output of {printable(self.id)} does not come")
            time.sleep(LOOK_SECONDS)

    def migrate(self, address: str) -> None:
        """Move it to another node while it runs. Raises WasmsrError: it is where it was."""
        found = self._steer("moved", "migrate", address)
        self._servers.at(address)  # known from now on
        self._note("migrated", self.id, server=address)
        self._is_at(address, int((found.went or {}).get("epoch", self._epoch)))


__all__ = ["SteeredExecution"]
