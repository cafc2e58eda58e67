"""One execution whose program is on a node, and the thread that watches it there.

The node owns the program: if this process ends, the program runs on, and `ServerExecutor.recover`
goes on watching. If it moves, the thread goes along.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from wasmsr.errors import EXIT_HOST, EXIT_TRAP, WasmsrError, printable
from wasmsr.jobs.execution.execution import LOSSES
from wasmsr.jobs.execution.requests import (
    ExecutionInfo,
    ExecutionResult,
    ExecutionState,
)
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.preparing.prepared import Prepared
from wasmsr.jobs.servers.job_servers import JobServers
from wasmsr.jobs.servers.output_copy import GAP_SECONDS, OutputCopy
from wasmsr.jobs.servers.server_files import OUTPUT_BYTES, begin_file, fetch_outputs
from wasmsr.jobs.servers.server_port import ProgramOnServer, ServerPlace
from wasmsr.jobs.servers.server_run import ServerNote, spec_for, terms_for
from wasmsr.jobs.servers.steered_execution import SteeredExecution
from wasmsr.node.failures import NodeAway, NodeBusy, SubmissionRefused

SOON_SECONDS: Final = 0.02
"""How long the thread waits before it asks for more output of a program that writes."""

AGAIN_SECONDS: Final = 0.5
"""The same of one that has not written for a while; each time twice as long until then."""

TAKEN_TRIES: Final = 10
"""How often a node is asked whether it took a program, when its answer did not come."""

ABSENT_SECONDS: Final = 5.0
"""How long no server may show a program that one may have taken, until it is sent again."""

GONE_SECONDS: Final = 35.0
"""The same of one that was seen there. A server that was started again with another folder has
workers of the old one left, which end after 30 s if no supervisor comes for them."""

LOST: Final = ("resumable", "lost")
"""What a node says of a program whose worker is gone, with a save point and without."""

CANCEL_SECONDS: Final = 30.0
"""How long a caller waits for the end of an execution that it has cancelled."""


class ServerExecution(SteeredExecution):
    """One execution on a node. Any thread may call its methods."""

    def __init__(
        self, prepared: Prepared, servers: JobServers, server: str, note: Callable[..., None]
    ) -> None:
        super().__init__(prepared, servers, server, note)
        self._cancelled = self._left = self._timed_out = False
        self._place: ServerPlace | None = None
        self._losses, self._tries, self._saved = 0, 0, -1
        self._seen, self._absent = False, 0.0
        self._program = ""
        """The id of its program that was seen last."""
        self._ending = threading.Lock()
        """Held by what ends it: a caller or the thread."""
        self._thread: threading.Thread | None = None

    @property
    def info(self) -> ExecutionInfo:
        """What a list shows of it."""
        with self._lock:
            request = self.prepared.request
            return ExecutionInfo(
                request.execution_id, request.job_id, self._state, os.fspath(self.folder.path),
                None, self._began, self._end or None, losses=self._losses, result=self._result,
                server=self.server,
            )  # fmt: skip

    def take(self, place: ServerPlace) -> None:
        """Have a place on a server, which is given back at the end; an older one is at once."""
        with self._lock:
            given_back, self._place = [self._place], place
            if self.is_over:
                given_back, self._place = [*given_back, place], None
        for one in given_back:
            if one is not None:
                one.release()

    # ---- begin -----------------------------------------------------------------------------------

    def begin(
        self, lease: Mapping[str, Any] | None, base: Mapping[str, int] | None = None, fork: int = 0
    ) -> None:
        """Have the node run the program, and watch it.

        Args:
            lease: The terms of its lease, or None.
            base: Bytes of each stream that its log has already: it goes on in the snapshot that is
                in its folder. None lets it begin at its beginning.
            fork: The number with which it calls `wasmsr_forked` first then; 0 for none.

        Raises:
            WasmsrError: The node does not take it.
            OSError: The module cannot be read.
        """
        self._lease = lease
        self._renote(base=dict(base or {}), fork=fork)
        copy = self._opened()
        try:
            self._submit()
        except BaseException:
            copy.close()
            raise
        self._follow(copy)

    def _opened(self) -> OutputCopy:
        """Return the log, which is there from now on. Raises OSError."""
        request = self.prepared.request
        held = request.output == "commit" and self._lease is None
        copy = OutputCopy(
            self.id, self.folder, request.output_limits, self._servers, self.watch.tell, held,
            self._noted.base,
        )  # fmt: skip
        copy.begin()
        self._copy = copy
        return copy

    def _submit(self) -> None:
        """Have the node run the program. Raises WasmsrError or OSError."""
        begins = begin_file(self.folder)
        goes_on = begins.exists()
        with open(self.prepared.modules.entry, "rb") as file:
            module = file.read()
        server = self._servers.at(self.server)
        if self.server in self._servers.away():
            raise NodeAway(f"the server {printable(self.server)} cannot be reached")
        try:
            server.submit(
                module, spec_for(self.prepared), name=self.name,
                every=self.prepared.request.snapshot_every,
                lease=terms_for(self.prepared, self._lease),
                from_snapshot=begins if goes_on else None, goes_on=goes_on, fork=self._noted.fork,
            )  # fmt: skip
        except NodeAway:
            # The answer may be lost, and the program run. Nobody may begin it a second time then:
            # as long as that is not known, it is looked for.
            if self._was_taken() is False:
                raise

    def _was_taken(self) -> bool | None:
        """Return whether the node has the program; None if it does not answer."""
        for _ in range(TAKEN_TRIES):
            with suppress(NodeAway):
                return any(
                    one.name == self.name and one.program not in self._noted.replaced
                    for one in self._servers.at(self.server).ps()
                )
            time.sleep(AGAIN_SECONDS)
        return None

    def again(self, lease: Mapping[str, Any] | None) -> None:
        """Go on watching a program that a node has, which another process began. Raises OSError."""
        self._lease = lease
        self._noted = ServerNote.read(self.folder, self._began)
        self._began, self._seen = self._noted.began, self._noted.seen
        self._servers.replace(self.name, self._noted.replaced)
        self._follow(self._opened())

    def _follow(self, copy: OutputCopy) -> None:
        """Watch the program."""
        self._state = "running"
        self._note("started", self.id, job=self.prepared.request.job_id, server=self.server)
        self._thread = threading.Thread(
            target=self._watch, args=(copy,), name="wasmsr-server-execution", daemon=True
        )
        self._thread.start()

    # ---- the thread ------------------------------------------------------------------------------

    def _watch(self, copy: OutputCopy) -> None:
        try:
            try:
                found = self._copy_all(copy)
                if found is not None:
                    copy.show_all()
            finally:
                copy.close()
            if found is not None and not self._left:
                problem = self._outputs_problem(found)
                if problem is not None:
                    self._come_to_end(found, problem)
        except (WasmsrError, OSError) as error:
            self._settle("failed", EXIT_HOST, getattr(error, "message", str(error)))
        except Exception as error:  # noqa: BLE001  whoever waits would wait for ever
            self._settle("failed", EXIT_HOST, f"it cannot be watched: {error!r}")

    def _copy_all(self, copy: OutputCopy) -> ProgramOnServer | None:
        """Copy output until the program has ended, wherever; None if this executor was left."""
        pause = SOON_SECONDS
        while not self._left:
            heard = self._servers.heard(self.name)
            try:
                place = self._servers.find(self.name, self._noted.replaced)
                if place is None:
                    self._is_nowhere(copy)
                    continue
                found = place[1]
                self._is_seen(found.program)
                self._is_at(place[0], found.epoch)
                if copy.copy(self.server, found.program, self._has_to_stop):
                    pause = SOON_SECONDS
                    copy.show(found)
                    if self._has_to_stop():
                        self._end_late()
                    continue  # there may be more
                copy.show(found)
                if found.standing == "moved":
                    copy.miss(found)
                elif self._lease is None and found.standing in LOST:
                    if self._has_failed(found, copy):
                        return found
                elif found.is_final:  # since before its output was copied
                    return found
                else:
                    copy.found()
                self._is_listed(found)
                if self._noted.saving:
                    self._end_saving(found.standing)
            except NodeAway:
                pass  # it may come back, or another node takes the program over
            self._end_late()
            self._servers.wait(self.name, heard, min(pause, max(self._time_left(), SOON_SECONDS)))
            pause = min(2 * pause, AGAIN_SECONDS)
        return None

    def _is_seen(self, program: str) -> None:
        self._program, self._seen, self._absent = program, True, 0.0
        if not self._noted.seen:
            self._renote(seen=True)
            begin_file(self.folder).unlink(missing_ok=True)

    def _is_nowhere(self, copy: OutputCopy) -> None:
        """Have a server run a program that none has taken, or has any more; all have been asked.

        If none has taken it, the answer of the one to which it was sent did not come. It may have
        the question still before it when it is there again, so it has some seconds to show the
        program. It is the one that is asked again: so there is never one on two servers.

        A server that had it and has it no more has lost its folder, or was given a new one. Then
        `on_loss` decides. Of a leased program the register says what becomes of it.

        Raises:
            JobError: ExecutionNotFound; one had the program, and it may not begin again.
            WasmsrError: The server does not take it.
            OSError: The module cannot be read.
        """
        now = time.monotonic()
        self._absent = self._absent or now
        if now - self._absent < (GONE_SECONDS if self._seen else ABSENT_SECONDS):
            time.sleep(AGAIN_SECONDS)
        elif self._cancelled:  # and it is not sent any more
            self._left = True
            self._settle("cancelled", *self._manner.cancelled)
        elif self._seen:
            self._is_gone(copy)
        else:
            self._absent = 0.0
            self._submit()

    def _is_gone(self, copy: OutputCopy) -> None:
        """Begin a program again that no server has any more, if it may. Raises as `_is_nowhere`."""
        sentence = f"no server has the execution {printable(self.id)} any more"
        if self._lease is None:
            self._losses, self._tries, self._saved = self._losses + 1, self._tries + 1, -1
            self._note("worker-lost", self.id, how=sentence)
            if self.prepared.request.on_loss != "fail" and self._tries <= LOSSES:
                self._begin_again(self._program, copy)
                return
        raise JobError("ExecutionNotFound", sentence)

    def _time_left(self) -> float:
        """Return the seconds until the time-out; pauses do not count."""
        seconds = self.prepared.request.timeout
        if seconds is None:
            return float("inf")
        now = self._paused_since or time.time()
        return seconds - (now - self._noted.began - self._noted.paused)

    def _has_to_stop(self) -> bool:
        """Return whether output is not to be copied on; a program may write without end."""
        return self._left or (self._time_left() <= 0 and not (self._timed_out or self._cancelled))

    def _end_late(self) -> None:
        """End the program if it has run longer than it may, or its server was away for an end."""
        if self._time_left() <= 0 and not self._cancelled:
            self._timed_out = True
        # A caller that ends it just now hears of it that way.
        if (self._timed_out or self._cancelled) and self._ending.acquire(blocking=False):
            try:
                with suppress(WasmsrError):  # it is tried again
                    self._steer("ended", "kill")
            finally:
                self._ending.release()

    def _has_failed(self, found: ProgramOnServer, copy: OutputCopy) -> bool:
        """Let a program go on whose worker was lost, or return True: that is its end."""
        server = self._servers.at(self.server)
        now = [one for one in server.ps() if one.program == found.program]
        if not now or now[0].standing not in LOST:
            return False  # the list was older
        saved = int((now[0].saved or {}).get("number", -1))
        self._losses += 1
        self._tries = 1 if saved != self._saved else self._tries + 1
        self._saved = saved
        on_loss = self.prepared.request.on_loss
        self._note("worker-lost", self.id, how=now[0].reason)
        fails = on_loss == "fail" or self._tries > LOSSES
        resumes = on_loss == "restore" and now[0].standing == "resumable" and not fails
        if resumes:
            server.resume(found.program)
            return False
        if now[0].standing == "resumable":  # it has a save point, which is not used
            server.kill(found.program)
        if fails:
            return True
        self._begin_again(found.program, copy)
        return False

    def _begin_again(self, program: str, copy: OutputCopy) -> None:
        """Begin it from its beginning, where it was lost. Raises WasmsrError or OSError."""
        replaced = (*self._noted.replaced, *([program] if program else []))
        # If the answer of the server does not come, the new one is looked for as the first one was.
        self._seen, self._absent = False, 0.0
        with self._lock:
            self._epoch = 0
        begin_file(self.folder).unlink(missing_ok=True)
        # Before it is begun: the old one counts no more.
        self._renote(replaced=replaced, seen=False, base={}, fork=0, saving=False)
        self._servers.replace(self.name, replaced)
        self._drop_outputs(program)
        copy.begin_again()
        self._submit()

    # ---- the end ---------------------------------------------------------------------------------

    def _outputs_problem(self, found: ProgramOnServer) -> str | None:
        """Bring the outputs of a program that has come to its end.

        Returns:
            Why they cannot be had, or ""; None if this executor was left before they were here.
        """
        outputs = [(one.name, f"/{path}") for one, path in self.prepared.files.outputs]
        most = self.prepared.request.resources.disk or OUTPUT_BYTES
        away = 0.0
        while outputs and not self._noted.fetched:
            if self._left:
                return None
            try:
                fetch = partial(self._servers.at(self.server).carried, found.program)
                fetch_outputs(self.folder, outputs, most, fetch)
                self._renote(fetched=True)  # before they are removed there
                self._drop_outputs(found.program)
            except NodeBusy:  # it answers, and sends other files: however long that takes
                away = 0.0
                time.sleep(AGAIN_SECONDS)
            except NodeAway as error:
                away = away or time.monotonic()  # not before: to fetch them may have taken long
                if time.monotonic() - away >= GAP_SECONDS:
                    return f"its outputs are on a server that cannot be asked: {error.message}"
                time.sleep(AGAIN_SECONDS)
            except SubmissionRefused:
                return ""  # an earlier version has begun it, with its outputs in the results
            except WasmsrError as error:
                return error.message
            except OSError as error:
                return f"its outputs cannot be written: {error.strerror or error}"
        return ""

    def _drop_outputs(self, program: str) -> None:
        """Have the server remove outputs that are not needed there; it does so itself later."""
        for _, path in self.prepared.files.outputs if program else ():
            with suppress(WasmsrError):
                self._servers.at(self.server).drop_carried(program, f"/{path}")

    def _come_to_end(self, found: ProgramOnServer, problem: str) -> None:
        """Settle what a program that has come to its end has left.

        Args:
            found: What its node says of it.
            problem: Why its outputs are not here, or "".
        """
        manner = self._manner
        if self._timed_out and found.standing == "killed":
            code, error = manner.timed_out(self.prepared.request.timeout or 0)
            self._settle("failed", code, error)
        elif found.ending in ("exited", "finished"):
            code = (found.code or 0) if found.ending == "exited" else 0
            if problem:
                self._settle("failed", code or EXIT_HOST, problem)
            else:
                self._settle("ended", code, "")
        elif found.standing in LOST:  # and it is not to go on
            sentence = found.reason or "its worker was lost"
            if self._tries > 1:
                sentence += f", for the {self._tries}th time since it was last saved"
            self._settle("failed", EXIT_HOST, sentence)
        elif self._cancelled or found.standing == "killed":
            code, error = manner.cancelled
            self._settle("cancelled", code, error)
        else:
            code = EXIT_TRAP if found.ending == "trapped" else found.code or EXIT_HOST
            self._settle("failed", code, found.reason or found.ending or found.standing)

    def _settle(self, state: ExecutionState, code: int, error: str) -> None:
        late = self._timed_out and state == "failed"
        self._ended(state, self._written(code, error, timed_out=late), error)

    def _tell(self, state: ExecutionState, result: ExecutionResult | None) -> bool:
        told = super()._tell(state, result)
        if told:
            with self._lock:
                place, self._place = self._place, None
            if place is not None:
                place.release()
        return told

    # ---- verbs -----------------------------------------------------------------------------------

    def leave(self) -> None:
        """Watch it no more; its program runs on."""
        self._left = True
        self._servers.wake()
        self._tell("left", None)
        if self._thread is not None:
            self._thread.join(CANCEL_SECONDS)

    def cancel(self) -> None:
        """End it at once, and wait for that. One that no server has taken yet is not sent again.

        Raises:
            NodeAway: Its server does not answer; it is ended as soon as that does.
            WasmsrError: It has ended.
        """
        with self._ending:
            self._cancelled = True
            try:
                place = self._servers.find(self.name, self._noted.replaced)
                if place is None and not self._seen and not self.is_over:
                    return  # no server may have it; the thread sees to that
                self._steer("cancelled", "kill")
            except NodeAway:
                raise
            except BaseException:
                self._cancelled = False
                raise
        self._over.wait(CANCEL_SECONDS)


__all__ = ["ServerExecution"]
