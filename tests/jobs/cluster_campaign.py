"""Runs jobs of all types on a Ray cluster of three servers, which are lost one after the other.

    python -m tests.jobs.cluster_campaign --file FILE [--runs 1] [--jobs 200] [--every 40] [--two]

Each run has three nodes with one register (etcd where it is installed) and one store, and a raylet
beside each. Jobs are submitted as job files, with leases. Every so many seconds a server is killed,
with its raylet or without, and started again after 5 s, or it is frozen for two leases. A run is
right if each execution ends exactly once with its own code and its own lines, and if what a lost
server ran goes on elsewhere within the lease and 1 s (and --slack). With --two, two servers are
lost at once, and only safety is checked: nothing ends twice, no line is wrong.

One line of JSON a run goes to the file; a run that it has is not made again.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.jobs.judging import carry_out, wrong_counts, wrong_end
from tests.jobs.served import jobs_served
from tests.jobs.server_campaign import ServerRun
from tests.node.programs import COUNT, lines
from tests.node.test_commands import Shell
from wasmsr import Node
from wasmsr.errors import WasmsrError
from wasmsr.interp.modules.module import assemble
from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.engines.engine_port import RunEngine
from wasmsr.jobs.engines.making import make_engine
from wasmsr.jobs.execution.log import LogFrame, read_log
from wasmsr.jobs.service.client import JobClient, Submission
from wasmsr.jobs.service.rows import JobRow, RunRow

LEASE, EVERY = 2.0, 1.0
"""Seconds of a lease, and between checkpoints."""

BACK = LEASE + 1.0
"""Seconds in which what a lost server ran must go on elsewhere."""

PACE = 25
"""Milliseconds after each line."""

AGAIN = 5.0
"""Seconds after which a killed server is started again."""

PATIENCE = 300.0
"""Seconds in which all jobs must have ended after the last one was submitted and nothing is lost
any more, and for which a run waits at most without an end of any job."""

CODES = {0: "(call $exit (i32.const 0))", 7: "(call $exit (i32.const 7))", 134: "unreachable"}

TYPES = ("batch", "batch", "batch", "ops", "service", "daemon")

RAYLET = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}


def job_bytes(kind: str, count: int, total: int, code: int) -> bytes:
    """Return a job file whose program prints `total` lines and ends with a code."""
    text = COUNT.replace("TOTAL", str(total)).replace("WAIT", str(PACE * 1_000_000))
    text = text.replace("(call $exit (i32.const 7))", CODES[code])
    module = base64.b64encode(assemble(text.encode())).decode()
    source = {"Type": "inline", "Params": {"URL": f"data:;base64,{module}"}}
    task = {
        "Engine": {"Type": "wasm", "Params": {"EntryModule": "/m.wasm"}},
        "InputSources": [{"Source": source, "Target": "/m.wasm"}],
    }
    meta = {"wasmsr/snapshotEvery": str(EVERY), "wasmsr/onLoss": "restore"}
    job = {"Name": kind, "Type": kind, "Meta": meta, "Tasks": [task]}
    return json.dumps(
        {**job, **({"Count": count} if kind in ("batch", "service") else {})}
    ).encode()


class ClusterRun(ServerRun):
    """One run."""

    def __init__(
        self, folder: Path, seed: int, jobs: int, *, every: float, two: bool, slack: float,
        shortest: int, longest: int, cpus: int,
    ) -> None:  # fmt: skip
        super().__init__(folder, seed, jobs, 0)
        self._every, self._two, self.slack = every, two, slack
        self._shortest, self._longest = shortest, longest
        self._cpus, self._kinds = cpus, list[str]()
        self._expected: dict[str, tuple[str, int, int, int]] = {}
        self._raylets: dict[str, Any] = {}
        self._cluster: Any = None
        self._done = threading.Event()

    def raylet(self, address: str) -> Any:
        """Start a raylet beside a node."""
        return self._cluster.add_node(
            num_cpus=self._cpus, resources={"wasmsr": 1000, f"wasmsr@{address}": 1}, **RAYLET
        )

    def run(self) -> dict[str, Any]:
        """Carry the run out, and return what it found."""
        from ray.cluster_utils import Cluster

        for shell in self.shells:
            self.start(shell)
            with self.client(shell) as node:
                self.nodes.append(node.info()["node"])
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, **RAYLET},
        )
        self._raylets = {address: self.raylet(address) for address in self.sockets}
        home = self.folder / "shared" / "jobs"
        plan = EnginePlan(ray=self._cluster.address, lease=LEASE)

        def make(plan: EnginePlan) -> RunEngine:
            return make_engine(
                plan, home / "executions",
                lambda at, proof: Node(self.sockets[at], seconds=20), lambda *said, **values: None,
            )  # fmt: skip

        began = time.monotonic()
        with jobs_served(home, make) as client:
            for number in range(self.count):
                kind = self.random.choice(TYPES)
                total = self.random.randrange(self._shortest, self._longest)
                code = self.random.choice(list(CODES)) if kind in ("batch", "ops") else 0
                count = self.random.randrange(1, 4) if kind == "batch" else 1
                job = client.submit(
                    Submission(job_bytes(kind, count, total, code), f"job-{number}", engine=plan)
                )
                self._expected[job.id] = kind, count, total, code
            waiting = threading.Thread(target=self._wait, args=(client,))
            waiting.start()
            self._lose_servers()  # Ray starts a raylet only in the main thread
            waiting.join()
            for id in self._expected:
                self._check(client, client.job(id))
        executions = self._check_ends()
        return {
            "faults": self._kinds, "jobs": self.count, "executions": executions,
            "seconds": round(time.monotonic() - began), "back": self.back, "wrong": self.wrong,
        }  # fmt: skip

    def _wait(self, client: JobClient) -> None:
        """Wait until all jobs have ended; those that stay are stopped when each place has ended."""
        try:
            self._wait_for_all(client)
        except (WasmsrError, OSError) as error:
            self.wrong.append(f"the list of jobs cannot be read: {error!r}"[:500])
        finally:
            self._done.set()

    def _wait_for_all(self, client: JobClient) -> None:
        last = time.monotonic()
        before = (-1, -1)
        while True:
            going = client.jobs.jobs(only_open=True, files=False)
            ended = sum(not run.open for run in client.jobs.runs())
            if (len(going), ended) != before:
                before, last = (len(going), ended), time.monotonic()
            if not going:
                return
            if time.monotonic() - last > PATIENCE:
                self.wrong += [f"{one.id} is {one.state}: {one.message}" for one in going]
                return
            for job in going:
                if job.type in ("service", "daemon") and not job.stopping:
                    runs = client.jobs.runs(job.id)
                    places = {run.number for run in runs}
                    over = {run.number for run in runs if run.state == "Completed"}
                    if runs and places == over:
                        client.jobs.stop(job.id, "it has run once")
                        client.home.wake()
            time.sleep(0.2)

    def _check(self, client: JobClient, job: JobRow) -> None:
        kind, count, total, code = self._expected[job.id]
        runs = client.jobs.runs(job.id)
        state = {"service": "Stopped", "daemon": "Stopped"}.get(
            kind, "Failed" if code == 134 else "Completed"
        )
        if job.state != state:
            self.wrong.append(f"{job.id} ({kind}) is {job.state}, not {state}: {job.message}")
        places = {"batch": count, "service": 1}.get(kind, len(self.shells))
        if len({run.number for run in runs}) != places:
            self.wrong.append(f"{job.id} ({kind}) has {len(runs)} executions, not {places}")
        for run in runs:
            self._check_run(client, run, total, code)

    def _check_run(self, client: JobClient, run: RunRow, total: int, code: int) -> None:
        data = b""
        with suppress(WasmsrError):
            items = list(read_log(client.log(run)))
            data = b"".join(one.data for one in items if isinstance(one, LogFrame))
        whole = lines(0, total)
        if run.state == "Cancelled":  # one of a job that stays
            if data != whole[: len(data)]:
                self.wrong.append(f"{run.id} was cancelled and has other lines")
        else:
            self.wrong += wrong_end(
                run.id, run.exit_code, data, expected=(code, whole),
                said=f"{run.state}: {run.message}",
            )  # fmt: skip

    def _check_ends(self) -> int:
        """Note executions that have ended on more than one server; return how many there were."""
        count, wrong = wrong_counts(self.listed())
        self.wrong += wrong
        return count

    # ---- faults ----------------------------------------------------------------------------------

    def _lose_servers(self) -> None:
        while not self._done.wait(self._every):
            try:
                kind = self.random.choice(("node", "host", "freeze"))
                shells = self.random.sample(self.shells, 2 if self._two else 1)
                self._kinds.append(kind + (" two" if self._two else ""))
                self._lose(kind, shells)
            except (WasmsrError, OSError, AssertionError) as error:
                self.wrong.append(f"a fault could not be made: {error!r}"[:500])

    def _lose(self, kind: str, shells: list[Shell]) -> None:
        mine = [] if self._two else self.owned(shells[0])
        raylets = [self._raylets[one.address] for one in shells]
        if kind == "freeze":
            for shell, raylet in zip(shells, raylets, strict=True):
                self.signal(shell, signal.SIGSTOP, node=True, workers=True)
                self._signal_raylet(raylet, signal.SIGSTOP)
        else:
            for shell, raylet in zip(shells, raylets, strict=True):
                assert shell.process is not None
                self.signal(shell, signal.SIGKILL, node=True, workers=kind == "host")
                shell.process.wait()
                if kind == "host":
                    self._cluster.remove_node(raylet, allow_graceful=False)
        began = time.monotonic()
        left: set[str] = set()
        if not self._two and kind != "node":  # workers of a killed node go on for a while
            left = self._wait_elsewhere(shells[0], mine)
        lost = 2 * LEASE if kind == "freeze" else AGAIN
        time.sleep(max(0.0, began + lost - time.monotonic()))
        for shell, raylet in zip(shells, raylets, strict=True):
            if kind == "freeze":
                self.signal(shell, signal.SIGCONT, node=True, workers=True)
                self._signal_raylet(raylet, signal.SIGCONT)
                continue
            self.start(shell)
            if kind == "host":
                self._raylets[shell.address] = self.raylet(shell.address)
        if left:
            with self.client(shells[0]) as node:  # it may have ended there just before
                left -= {one.program for one in node.ps() if one.standing in ("ended", "killed")}
        late = f"is not elsewhere after {BACK + self.slack} s: {kind}"
        self.wrong += [f"{program[:8]} {late}" for program in left]

    def _signal_raylet(self, raylet: Any, number: int) -> None:
        for one in raylet.all_processes.get("raylet", ()):
            with suppress(ProcessLookupError):
                os.kill(one.process.pid, number)

    def _wait_elsewhere(self, gone: Shell, mine: list[str]) -> set[str]:
        """Wait until others have what a server ran, and note how long; return what they lack."""
        began = time.monotonic()
        left = set(mine)
        others = [one for one in self.shells if one is not gone]
        while left and time.monotonic() < began + BACK + self.slack:
            for other in others:
                with suppress(WasmsrError, OSError), self.client(other) as node:
                    for one in node.ps():
                        if one.program in left and one.standing in ("running", "ended", "starting"):
                            left.discard(one.program)
                            self.back.append(round(time.monotonic() - began, 2))
            time.sleep(0.05)
        return left

    def stop(self) -> None:
        """End everything."""
        import ray

        ray.shutdown()
        if self._cluster is not None:
            for raylet in self._raylets.values():
                self._signal_raylet(raylet, signal.SIGCONT)
            self._cluster.shutdown()
        super().stop()


def campaign(numbers: range, jobs: int, seed: int, **settings: Any) -> Iterator[dict[str, Any]]:
    """Yield a line of each run."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # 127.0.0.1 stays that
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    os.environ.setdefault("PYTHONPATH", os.getcwd())
    for number in numbers:
        with tempfile.TemporaryDirectory(
            prefix="wasmsr-cluster-", ignore_cleanup_errors=True
        ) as place:
            one = ClusterRun(Path(place), seed * 100_000 + number, jobs, **settings)
            try:
                yield {"number": number, "seed": seed, **one.run()}
            finally:
                one.stop()


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--every", type=float, default=40.0, help="seconds between faults")
    parser.add_argument("--shortest", type=int, default=400, help="lines of a job")
    parser.add_argument("--longest", type=int, default=1600)
    parser.add_argument("--cpus", type=int, default=4, help="of each raylet; a job takes 0.5")
    parser.add_argument("--two", action="store_true", help="lose two servers at once")
    parser.add_argument(
        "--slack", type=float, default=0.0, help="seconds more, for a loaded machine"
    )
    given = vars(parser.parse_args())
    path, runs = given.pop("file"), given.pop("runs")
    return carry_out(path, runs, given["seed"], lambda numbers: campaign(numbers, **given))


if __name__ == "__main__":
    sys.exit(main())
