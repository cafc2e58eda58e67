"""Kills and freezes servers while they run jobs, and compares what the jobs leave.

    python -m tests.jobs.server_campaign --runs 20 --file FILE [--seed 1] [--jobs 10] [--faults 3]

Each run has three nodes with one register (etcd where it is installed, SQLite otherwise) and one
store, and leased executions of jobs: some count, some exit with a code, some trap. One server at a
time is killed, with or without its workers, and started again after some seconds, or it is frozen
for two leases. A run is right if each job ends exactly once, with its own code, and if its log and
the file of its output have each line once. One line of JSON a run goes to the file; a run that it
has is not made again.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.jobs.judging import carry_out, wrong_counts, wrong_end
from tests.jobs.programs import COUNTER, numbers, request
from tests.node.lease_campaign import EVERY, LEASE, LeaseRun
from tests.node.test_commands import Shell
from wasmsr import Node
from wasmsr.errors import WasmsrError
from wasmsr.jobs import JobError, StillRuns
from wasmsr.jobs.engines.engine_plan import PlannedServer
from wasmsr.jobs.execution.requests import ExecutionRequest
from wasmsr.jobs.executor import JobExecutor
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.jobs.servers.server_run import OURS
from wasmsr.jobs.servers.spread_placement import SpreadPlacement, SpreadReservation
from wasmsr.node.failures import NodeAway
from wasmsr.rpc.control.program_info import ProgramInfo

SLOW = 1_500_000
"""Turns of a loop before each line."""

PATIENCE = 240.0
"""Seconds in which a job must have ended after the last fault."""

TAILS = {
    0: "",
    7: "(call $exit (i32.const 7))",
    134: "unreachable",
}
"""What a job does after its lines, by the exit code that it has then."""

EXIT = """
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export"""


def job_text(lines: int, code: int) -> str:
    """Return a module that counts, and ends with an exit code."""
    text = COUNTER.replace("{lines}", str(lines)).replace("{slow}", str(SLOW))
    text = text.replace("\n  (memory (export", EXIT, 1)
    return text.rstrip()[: -len("))")] + TAILS[code] + "))\n"


class RandomPlacement(SpreadPlacement):
    """Spreads executions over servers by chance."""

    def __init__(self, turn: random.Random, servers: list[str]) -> None:
        super().__init__([PlannedServer(one) for one in servers])
        self._turn, self._addresses = turn, servers

    def reserve(
        self,
        request: ExecutionRequest,
        at: str = "",
        *,
        but: Callable[[], frozenset[str]] = frozenset,
        wanted: Callable[[], bool] = lambda: True,
    ) -> SpreadReservation:
        """Return a server."""
        chosen = at or self._turn.choice([one for one in self._addresses if one not in but()])
        return super().reserve(request, chosen, wanted=wanted)


class ServerRun(LeaseRun):
    """One run: three nodes, a register, some jobs, some faults."""

    def __init__(self, folder: Path, seed: int, jobs: int, faults: int) -> None:
        super().__init__(folder, seed, jobs, faults, 0)
        (folder / "c").mkdir()
        shell = Shell(folder / "c")
        shell.environ["XDG_STATE_HOME"] = str(folder / "state")
        shell.environ["WASMSR_STATE_DIR"] = str(folder / "c" / "state")
        self.shells.append(shell)
        self.sockets = {one.address: f"unix:{one.folder}/state/node/control" for one in self.shells}

    def start(self, shell: Shell) -> None:
        register = str(self.folder / "register.db")
        if self.host is not None:
            register = f"http://127.0.0.1:{self.host.proxy.port}"
        shell.node(
            "--checkpoints-every", str(EVERY), "--checkpoints-store", str(self.folder / "store"),
            "--ownership-register", register, "--policy-mounts", str(self.folder / "shared"),
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        """Carry the run out, and return what it found."""
        for shell in self.shells:
            self.start(shell)
            with self.client(shell) as node:
                self.nodes.append(node.info()["node"])
        lease = {"seconds": LEASE, "failover": self.nodes}
        addresses = list(self.sockets)
        kinds: list[str] = []
        with ServerExecutor(
            self.folder / "shared", lambda at: Node(self.sockets[at], seconds=20), addresses,
            lease=lease, placement=RandomPlacement(self.random, addresses),
        ) as executor:  # fmt: skip
            jobs = {}
            for number in range(self.count):
                lines, code = self.random.randrange(50, 600), self.random.choice(list(TAILS))
                jobs[f"job-{number}"] = (lines, code)
                executor.start(
                    request(
                        self.folder,
                        f"job-{number}",
                        job_text(lines, code),
                        snapshot_every=EVERY,
                        on_loss="restore",
                        outputs=[{"name": "out", "path": "/outputs"}],
                    )
                )
            for _ in range(self.faults):
                time.sleep(self.random.random() * 2)
                kinds.append(self.fault())
            for id, (lines, code) in jobs.items():
                self.check(executor, id, lines, code)
            self.check_once(list(jobs))
        return {"faults": kinds, "jobs": len(jobs), "wrong": self.wrong}

    def check(self, executor: JobExecutor, id: str, lines: int, code: int) -> None:
        """Note what is wrong with a job that should have ended."""
        try:
            result = executor.wait(id, PATIENCE)
        except (StillRuns, JobError) as error:
            self.wrong.append(f"{id}: {error}")
            return
        results, expected = executor.folder / id / "results", (code, numbers(lines))
        for name in ("stdout", "out/numbers"):
            data = (results / name).read_bytes() if (results / name).exists() else b""
            self.wrong += wrong_end(
                f"{id} {name}", result.exit_code, data, expected=expected, said=result.error
            )

    def check_once(self, ids: list[str]) -> None:
        """Note jobs that have not ended on exactly one server."""
        self.wrong += wrong_counts(self.listed(), [OURS + id for id in ids])[1]

    def listed(self) -> list[ProgramInfo]:
        """Return what all servers list; one that was lost last may still be starting."""
        found: list[ProgramInfo] = []
        end = time.monotonic() + PATIENCE
        for shell in self.shells:
            while True:
                try:
                    with self.client(shell) as node:
                        found += node.ps()
                    break
                except NodeAway:
                    if time.monotonic() >= end:
                        raise
                    time.sleep(0.1)
        return found

    def fault(self) -> str:
        """Let one server be lost for a while; return how."""
        kind = self.random.choice(("node", "host", "freeze"))
        shell = self.random.choice(self.shells)
        assert shell.process is not None
        if kind == "freeze":
            self.signal(shell, signal.SIGSTOP, node=True, workers=True)
            time.sleep(2 * LEASE)
            self.signal(shell, signal.SIGCONT, node=True, workers=True)
        else:
            self.signal(shell, signal.SIGKILL, node=True, workers=kind == "host")
            shell.process.wait()
            time.sleep(self.random.random() * 5)
            self.start(shell)
        return kind

    def stop(self) -> None:
        """End the nodes, and what they left."""
        for shell in self.shells:
            with suppress(WasmsrError, OSError, AssertionError):
                shell.end()
        if self.host is not None:
            self.host.close()


def campaign(runs: range, jobs: int, faults: int, seed: int) -> Any:
    """Yield a line of each run."""
    for number in runs:
        with tempfile.TemporaryDirectory(prefix="wasmsr-servers-") as place:
            one = ServerRun(Path(place), seed * 100_000 + number, jobs, faults)
            try:
                yield {"number": number, "seed": seed, **one.run()}
            finally:
                one.stop()


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--faults", type=int, default=3)
    options = parser.parse_args()
    return carry_out(
        options.file, options.runs, options.seed,
        lambda numbers: campaign(numbers, options.jobs, options.faults, options.seed),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
