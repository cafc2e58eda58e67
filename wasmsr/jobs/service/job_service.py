"""The process that runs the jobs of a list.

One thread decides: it reads the list, answers requests, starts what fits, and ends what is overdue.
Each execution has a thread that only waits. The process ends when nothing is left to do.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.errors import EXIT_HOST, EXIT_INTERRUPTED, WasmsrError
from wasmsr.jobs.description.job import Job
from wasmsr.jobs.description.job_file import read_job
from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.engines.engine_port import EngineTable, RunEngine
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.service.answering import RequestDesk
from wasmsr.jobs.service.home import JobHome
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.rows import JobRow, RunRow
from wasmsr.jobs.service.running import RunningExecution
from wasmsr.jobs.service.scheduling import (
    BACKOFF_FORGOTTEN,
    CPU,
    EVERYWHERE,
    KEPT_RUNS,
    STAYING,
    Waiting,
    backoff,
    executions_of,
    overdue,
    processors,
    startable,
)
from wasmsr.wasi.filesystem import tree_walk

if TYPE_CHECKING:
    from wasmsr.jobs.execution.saving import JobCheckpoint

IDLE_SECONDS = 30.0
"""How long the process stays when nothing is left to do."""

TURN_SECONDS = 1.0
"""Longest time between two looks at the list: that is how exact queue and total timeouts are."""

PAUSE_SECONDS = 0.005
"""Time between two looks at the list: what happens meanwhile is seen at once."""

SETTLE_SECONDS = 10.0
"""How long a process that is ended waits for executions that have just come to their end, and for
results that are being published."""

WORKERS_END_SECONDS = 1.5
"""How long workers of a process that was killed may still run. They end after 1 s by themselves."""

PEER_TRIES = 2
"""How often Bacalhau starts an execution on one server."""

PEER_SENTENCE = (
    "not enough nodes to run job. requested: {}, available: 1, suitable: 0.\n"
    "• Node {}: job already executed on this node more than once"
)

LOST = "the process that ran it has ended"


class JobService:
    """Runs the jobs of one list, until nothing is left to do."""

    def __init__(
        self,
        home: JobHome,
        engines: Callable[[EnginePlan], RunEngine],
        *,
        idle: float = IDLE_SECONDS,
        capacity: float | None = None,
    ) -> None:
        """Take the list of a folder.

        Args:
            home: The folder; this process has its lock.
            engines: Makes the executor of a plan.
            idle: Seconds for which the process stays when nothing is left to do.
            capacity: CPUs for executions; None for all of this machine.
        """
        self._home, self._idle = home, idle
        self._capacity = float(processors()) if capacity is None else capacity
        self._jobs = JobList(home.list_file, synced=False)
        self._engines = EngineTable(engines, self._avoid_drained)
        self._plans: dict[str, EnginePlan] = {}
        self._running: dict[str, RunningExecution] = {}
        self._tasks: dict[str, Job | WasmsrError] = {}
        self._desk = RequestDesk(
            self._jobs, self._engines, lambda run: self._running.get(run), self._avoid_all
        )
        self._placing: set[str] = set()
        self._failures: dict[tuple[str, int], int] = {}
        self._again: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()
        self._pipe = home.wake_pipe()
        self._ending = ""

    def end(self, message: str) -> None:
        """Have `run` return soon. What runs is resumed or begun again by the next process."""
        self._ending = message
        self._home.wake()

    def run(self, lock: int) -> None:
        """Run jobs until nothing is left to do; then the lock is released.

        Args:
            lock: The descriptor of `JobHome.lock`, which is closed.
        """
        released = False
        try:
            self._recover()
            quiet = time.monotonic()
            while not self._ending:
                if self._turn():
                    quiet = time.monotonic()
                elif time.monotonic() - quiet >= self._idle and self._may_go(lock):
                    released = True
                    return
                self._wait()
                time.sleep(PAUSE_SECONDS)
        finally:
            self._leave()
            self._jobs.close()
            os.close(self._pipe)
            if not released:  # its number may be another file's by now
                os.close(lock)

    def _leave(self) -> None:
        """Save what runs; the next process goes on with it. What has ended meanwhile is noted."""
        with self._lock:
            going = list(self._running.values())
        self._desk.settle(SETTLE_SECONDS)
        for engine in self._engines.all():
            for name, problem in engine.leave().items():
                for one in going:
                    if one.name == name:
                        sentence = f"it cannot be saved while its process ends: {problem}"
                        self._jobs.note(one.job.id, one.row.id, "Recovery", "", sentence)
        deadline = time.monotonic() + SETTLE_SECONDS
        for one in going:
            # What has not begun begins in the next process.
            if not one.is_staging:
                one.settled(deadline - time.monotonic())
            one.abandon()

    def _may_go(self, lock: int) -> bool:
        """Release the lock if there is nothing to do; no command can add a job meanwhile."""
        with self._jobs.changing():
            if self._jobs.jobs(only_open=True) or self._jobs.open_requests():
                return False
            os.close(lock)
            return True

    def _wait(self) -> None:
        now = time.time()
        soon = min([*self._again.values(), now + TURN_SECONDS])
        if select.select([self._pipe], [], [], max(0.01, soon - now))[0]:
            with suppress(BlockingIOError):
                os.read(self._pipe, 65536)

    # After a kill

    def _recover(self) -> None:
        """Say of each execution what became of it while no process ran the jobs."""
        left = self._jobs.runs(only_open=True)
        for one in left:
            if self._plan(self._jobs.job(one.job)).is_elsewhere:
                continue
            saved = saved_in(one.folder) if one.state == "Running" else None
            if one.state == "Running" and (saved is None or not saved.left):
                time.sleep(WORKERS_END_SECONDS)
                break
        for run in left:
            self._take_up(run, self._jobs.job(run.job))

    def _take_up(self, run: RunRow, job: JobRow) -> None:
        """Go on with an execution that no thread has."""
        if run.id in self._running:
            return
        run = self._jobs.run(run.id)
        if run.state == "Publishing":
            self._start(run, job)
        elif run.state == "Running":
            self._lost(run, job)

    def _lost(self, run: RunRow, job: JobRow) -> None:
        if self._plan(job).is_elsewhere:  # also one that is to be stopped there
            message = "its program may run on a server, which is asked"
            self._jobs.set_run(run, "New", message, "Recovery")
            return
        task, saved = self._task(job), saved_in(run.folder)
        fails = isinstance(task, WasmsrError) or task.on_loss == "fail"
        restores = not isinstance(task, WasmsrError) and task.on_loss == "restore"
        if job.stopping or (fails and (saved is None or not saved.left)):
            self._jobs.set_run(run, "Failed", LOST, ended=time.time(), exit_code=EXIT_HOST)
            return
        folder = run.folder if saved is not None and (saved.left or restores) else ""
        what = "it goes on from its checkpoint" if folder else "it is begun again"
        self._jobs.set_run(
            run, "New", f"{LOST}; {what}", "Recovery",
            epoch=run.epoch + 1, started=None, folder=folder,
        )  # fmt: skip
        shared = self._plan(job).shared
        tree_walk.remove(self._home.inputs(run.id, run.epoch, shared))
        if run.folder and not folder:
            tree_walk.remove(Path(run.folder))

    # A turn

    def _task(self, job: JobRow) -> Job | WasmsrError:
        """Return what a job's file says."""
        self._plan(job)
        found = self._tasks.get(job.id)
        if found is None:
            job = self._jobs.job(job.id)
            try:
                found = read_job(job.source, job.name or job.id, job.changes, peer=job.compat)
            except WasmsrError as error:  # a newer version took it
                found = error
            self._tasks[job.id] = found
        return found

    def _plan(self, job: JobRow) -> EnginePlan:
        """Return what runs the executions of a job; `_task` has the error if nothing can."""
        found = self._plans.get(job.id)
        if found is None:
            try:
                found = EnginePlan.read(job.engine, compat=job.compat)
            except JobError as error:  # a newer version took it
                self._tasks[job.id] = error
                found = EnginePlan(job.compat)
            self._plans[job.id] = found
        return found

    def _turn(self) -> bool:
        """Bring everything one step further; return whether there is something to do."""
        for request in self._jobs.open_requests():
            self._desk.take(request)
        jobs = self._jobs.jobs(only_open=True, files=False)
        if not jobs:
            return bool(self._running)
        by_job: dict[str, list[RunRow]] = {job.id: [] for job in jobs}
        for run in self._jobs.runs(only_open=True):
            by_job.setdefault(run.job, []).append(run)
        now = time.time()
        waiting: dict[str, list[Waiting]] = {}
        self._avoid_all()
        for job in jobs:
            runs = by_job[job.id]
            task = self._task(job)
            if isinstance(task, WasmsrError):
                self._give_up(job, runs, task.message, "Failed")
                continue
            if not self._is_spread(job, task):
                continue
            if self._ends(job, task, runs, now):
                continue
            if job.type in STAYING:
                self._stay(job, task, now)
                runs = self._jobs.runs(job.id, only_open=True)
            cpu = task.task.resources.cpu or CPU
            for run in runs:
                if run.state != "New":
                    self._take_up(run, job)
                elif run.id not in self._running:
                    waiting.setdefault(self._plan(job).key, []).append(Waiting(run, job, cpu))
        for key, mine in waiting.items():
            with self._lock:
                used = sum(one.cpu for one in self._running.values() if one.plan.key == key)
            most = self._plan(mine[0].job).capacity
            for one in startable(mine, used, self._capacity if most is None else most):
                self._start(one.run, one.job)
        return True

    def _avoid_all(self) -> None:
        """Have all executors leave the servers that are to be shut down."""
        for engine in self._engines.all():
            self._avoid_drained(engine)

    def _avoid_drained(self, engine: RunEngine) -> None:
        avoid = getattr(engine, "avoid", None)
        if avoid is not None:
            avoid(self._jobs.drained())

    def _is_spread(self, job: JobRow, task: Job) -> bool:
        """Return whether a job has its executions.

        One that runs on every server that matches gets them when the servers are known, which can
        take a while.
        """
        plan = self._plan(job)
        if not (plan.is_elsewhere and job.type in EVERYWHERE) or job.stopping:
            return True
        if job.id in self._placing:
            return False
        if self._jobs.runs(job.id):
            return True
        self._placing.add(job.id)
        threading.Thread(
            target=self._spread, args=(job, task, plan), name="job-servers", daemon=True
        ).start()
        return False

    def _spread(self, job: JobRow, task: Job, plan: EnginePlan) -> None:
        """Make an execution for each server that matches; called in a thread."""
        try:
            servers = self._engines.of(plan).matching(task.constraints)  # type: ignore[attr-defined]
            if not servers:
                raise JobError("ExecutorSpecValidationErr", "no server matches the job")
            with self._jobs.changing():
                for number, server in enumerate(servers):
                    self._jobs.add_run(job.id, number, server=server)
        except (WasmsrError, OSError) as error:
            self._jobs.set_job(job.id, "Failed", str(error))
        finally:
            self._placing.discard(job.id)
            self._home.wake()

    def _start(self, run: RunRow, job: JobRow) -> None:
        task = self._task(job)
        if isinstance(task, WasmsrError):
            return
        if run.state == "New":
            self._jobs.note(job.id, run.id, "Scheduling", "", "Its inputs are fetched")
        plan = self._plan(job)
        if not plan.is_elsewhere:  # otherwise it may wait for a server
            self._jobs.set_job(job.id, "Running")
        cpu = task.task.resources.cpu or CPU
        one = RunningExecution(
            self._home, self._jobs, self._engines, plan, run, job, task, self._ended, cpu
        )
        with self._lock:
            self._running[run.id] = one
        one.begin()

    def heard(self, event: str, id: str, **values: Any) -> None:
        """Take an event of an executor; any thread may call it."""
        if event in ("server", "placed"):
            with self._lock:
                mine = [one for one in self._running.values() if one.name == id]
            for one in mine:
                one.is_at(values["server"], event == "placed")
        elif event == "not-moved":
            with self._lock:
                mine = [one for one in self._running.values() if one.name == id]
            for one in mine:
                said = f"it cannot leave {one.row.server}: {values['error']}"
                self._jobs.note(one.job.id, one.row.id, "Drain", "", said)

    def _ended(self, one: RunningExecution) -> None:
        """Note that a thread has ended; called in it."""
        with self._lock:
            self._running.pop(one.row.id, None)
            place = (one.row.job, one.row.number)
            lasted = (one.row.ended or 0) - (one.row.started or one.row.ended or 0)
            short = self._failures.get(place, 0)
            self._failures[place] = 0 if lasted >= BACKOFF_FORGOTTEN else short + 1
        self._home.wake()

    def _ends(self, job: JobRow, task: Job, runs: list[RunRow], now: float) -> bool:
        """End a job that is to be stopped, is overdue, or has done all; return whether it ends.

        Args:
            job: The job.
            task: What its file says.
            runs: Its executions that have not ended.
            now: The time.
        """
        if job.stopping:
            return self._give_up(job, runs, "Stopped at user request", "Stopped")
        limits = (task.task.timeouts.queue, task.task.timeouts.total)
        late = overdue(job, limits, job.state == "Running", now)
        if late is not None:
            return self._give_up(job, runs, late, "Failed")
        if job.type in STAYING or runs:
            return False
        runs = self._jobs.runs(job.id)
        if any(run.open for run in runs):
            return False
        done = {run.number for run in runs if run.state == "Completed"}
        failed = [run for run in runs if run.number not in done]
        if failed and job.compat:
            return self._peer_fails(job, failed)
        if failed:
            more = f" ({len(failed)} of {len(runs)} executions failed)" if len(runs) > 1 else ""
            self._jobs.set_job(job.id, "Failed", failed[0].message + more)
        else:
            self._jobs.set_job(job.id, "Completed")
        self._forget(job)
        return True

    def _peer_fails(self, job: JobRow, failed: list[RunRow]) -> bool:
        """Try once more, then fail, as Bacalhau does with one server; return whether it ends."""
        numbers = {run.number for run in failed}
        once = [one for one in numbers if sum(run.number == one for run in failed) < PEER_TRIES]
        for number in once:
            self._jobs.add_run(job.id, number)
        if not once:
            self._jobs.set_job(
                job.id, "Failed", PEER_SENTENCE.format(job.count, os.uname().nodename)
            )
            self._forget(job)
        return not once

    def _give_up(self, job: JobRow, runs: list[RunRow], message: str, state: str) -> bool:
        """Cancel the executions of a job; when all have ended, the job has."""
        for run in runs:
            if run.open and run.folder and self._plan(job).is_elsewhere:
                self._take_up(run, job)
                if run.id not in self._running:
                    self._start(run, job)  # it may run on a server, and is ended there
            running = self._running.get(run.id)
            if running is not None:
                running.cancel(message)
            elif run.open:
                self._jobs.set_run(
                    run, "Cancelled", message, ended=time.time(), exit_code=EXIT_INTERRUPTED
                )
        if not self._jobs.runs(job.id, only_open=True):
            self._jobs.set_job(job.id, "Stopped" if state == "Stopped" else "Failed", message)
            self._forget(job)
        return True

    def _forget(self, job: JobRow) -> None:
        self._tasks.pop(job.id, None)
        self._plans.pop(job.id, None)
        with self._lock:
            for table in (self._failures, self._again):
                for place in [place for place in table if place[0] == job.id]:
                    del table[place]

    # Daemons and services

    def _stay(self, job: JobRow, task: Job, now: float) -> None:
        """Make a new execution for each place whose last one has ended, after a while."""
        runs = self._jobs.runs(job.id)
        numbers: Iterable[int] = range(executions_of(task))
        if self._plan(job).is_elsewhere and job.type in EVERYWHERE:
            numbers = sorted({run.number for run in runs})
        for number in numbers:
            mine = [run for run in runs if run.number == number]
            if any(run.open for run in mine):
                continue
            place = (job.id, number)
            if place not in self._again and mine:
                failures = max(0, self._failures.get(place, 1) - 1)
                self._again[place] = now + backoff(failures)
            if now >= self._again.get(place, 0):
                self._again.pop(place, None)
                server = mine[0].server if job.type in EVERYWHERE and mine else ""
                message = "Begun again: the one before has ended"
                self._jobs.add_run(job.id, number, message, server)
                for old in mine[: max(0, len(mine) - KEPT_RUNS)]:
                    self._drop(old, self._plan(job).shared)

    def _drop(self, run: RunRow, shared: str) -> None:
        """Forget an old execution of a daemon, with its folders."""
        for epoch in range(1, run.epoch + 1):
            tree_walk.remove(self._home.execution(run.id, epoch, shared))
            tree_walk.remove(self._home.results / (run.id + (f"-e{epoch}" if epoch > 1 else "")))
        self._jobs.forget_run(run.id)


def saved_in(folder: str) -> JobCheckpoint | None:
    """Return the checkpoint from which an execution can go on that has this folder, or None."""
    from wasmsr.jobs.execution.requests import ExecutionFolder
    from wasmsr.jobs.execution.saving import JobCheckpoint

    return JobCheckpoint.read(ExecutionFolder(Path(folder))) if folder else None


__all__ = ["JobService"]
