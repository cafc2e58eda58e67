"""Kills, freezes and cuts off nodes with leased programs: a part of `campaign.py`.

Two nodes have one register (etcd where it is installed, SQLite otherwise) and one store. Programs
that count move to and fro and are saved meanwhile. A run is right if

- each program comes to its end on exactly one node, which has each line once from the offset on
  where it took the program over, and the nodes before have the lines up to there;
- a program that was lost with its host runs elsewhere within the lease and 2 s;
- the checkpoint from which it goes on is at most two intervals old;
- started again, a node says of each program that it runs here, or where it is.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.node.move_campaign import MoveRun
from tests.node.programs import counting, lines
from tests.node.test_commands import Shell
from tests.ownership.services import EtcdHost, etcd_missing
from wasmsr.errors import WasmsrError
from wasmsr.executor.old_workers import living
from wasmsr.executor.output.rings import ring_bounds

LEASE, EVERY, LINES, SLOW = 1.5, 0.5, 900, 10
"""Seconds of the lease and between checkpoints; lines of a program, and milliseconds after each."""

BACK = LEASE + 2.0
"""Seconds in which a program must be back elsewhere."""

KINDS = ("supervisor", "host away", "supervisor away", "worker", "freeze", "register away", "both")


class LeaseRun(MoveRun):
    """One run: two nodes, a register, some leased programs, some faults."""

    def __init__(self, folder: Path, seed: int, programs: int, faults: int, slack: float) -> None:
        super().__init__(folder, seed, programs, faults)
        self.folder, self.slack = folder, slack
        self.host = None if etcd_missing() else EtcdHost(folder)
        self.back: list[float] = []
        self.old: list[float] = []
        self.wrong: list[str] = []
        self.nodes: list[str] = []

    def start(self, shell: Shell) -> None:
        register = str(self.folder / "register.db")
        if self.host is not None:
            register = f"http://127.0.0.1:{self.host.proxy.port}"
        shell.node(
            "--checkpoints-every", str(EVERY), "--checkpoints-store", str(self.folder / "store"),
            "--ownership-register", register,
        )  # fmt: skip

    def resume(self) -> None:
        """Do nothing: leases bring programs back."""

    def run(self) -> dict[str, Any]:
        """Carry the run out, and return what it found."""
        a = self.shells[0]
        (a.folder / "count.wasm").write_bytes(counting(LINES, SLOW))
        for shell in self.shells:
            self.start(shell)
            with self.client(shell) as node:
                self.nodes.append(node.info()["node"])
        for _ in range(self.count):
            with self.client(a) as node:
                found = node.submit(
                    a.folder / "count.wasm", every=EVERY,
                    lease={"seconds": LEASE, "failover": self.nodes},
                )  # fmt: skip
            self.programs.append(found.program)
        mover = threading.Thread(target=self.move)
        mover.start()
        kinds = []
        try:
            for _ in range(self.faults):
                time.sleep(0.3 + self.random.random() * 1.5)
                kinds.append(self.fault())
        finally:
            self.over.set()
            mover.join()
        wrong = self.wrong + self.end()
        return {"faults": kinds, "wrong": wrong, "back": self.back, "old": self.old}

    # ---- faults ----------------------------------------------------------------------------------

    def workers(self, shell: Shell) -> list[int]:
        found = []
        for place in (shell.folder / "state" / "node" / "programs").glob("*/worker"):
            with suppress(OSError):
                found += [process for _, process in living(place) if process]
        return found

    def signal(self, shell: Shell, number: int, *, node: bool, workers: bool) -> None:
        assert shell.process is not None
        targets = [shell.process.pid] if node else []
        for process in targets + (self.workers(shell) if workers else []):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def fault(self) -> str:
        """Let one fault happen, and put right what does not come back by itself."""
        kind = self.random.choice([one for one in KINDS if self.host or one != "register away"])
        shell = self.random.choice(self.shells)
        if kind.endswith("away") or kind == "freeze":  # where most programs are
            shell = max(self.shells, key=lambda one: len(self.owned(one)))
        assert shell.process is not None
        if kind == "worker":
            found = self.workers(shell)
            if found:
                with suppress(ProcessLookupError):
                    os.kill(self.random.choice(found), signal.SIGKILL)
        elif kind == "register away":
            assert self.host is not None
            self.host.partition()
            time.sleep(2 * LEASE)
            self.host.heal()
        elif kind == "freeze":
            self.signal(shell, signal.SIGSTOP, node=True, workers=True)
            time.sleep(2 * LEASE)
            self.signal(shell, signal.SIGCONT, node=True, workers=True)
        elif kind == "both":
            for one in self.shells:
                self.signal(one, signal.SIGKILL, node=True, workers=self.random.random() < 0.5)
                assert one.process is not None
                one.process.wait()
            for one in self.shells:
                self.start(one)
        else:
            away = kind.endswith("away")
            mine = self.owned(shell) if away else []
            self.signal(shell, signal.SIGKILL, node=True, workers=kind.startswith("host"))
            shell.process.wait()
            if away:
                self.wait_back(shell, mine)
            self.start(shell)
        return kind

    def owned(self, shell: Shell) -> list[str]:
        """Return the programs that run at a node, and are not on their way."""
        with suppress(WasmsrError, OSError), self.client(shell) as node:
            return [one.program for one in node.ps() if one.standing == "running"]
        return []

    def wait_back(self, gone: Shell, mine: list[str]) -> None:
        """Wait until the other node has the programs of one that is gone; note how long."""
        began = time.monotonic()
        (other,) = [one for one in self.shells if one is not gone]
        left = set(mine)
        while left and time.monotonic() < began + BACK + self.slack:
            with suppress(WasmsrError, OSError), self.client(other) as node:
                for one in node.ps():
                    if one.program in left and one.standing in ("running", "ended", "moving"):
                        left.discard(one.program)
                        self.back.append(round(time.monotonic() - began, 2))
                        if one.reason.startswith("taken over") and one.saved is not None:
                            self.note_age(gone, one.program, one.saved["stdout"])
            time.sleep(0.03)
        for program in left:
            self.wrong.append(f"{program[:8]} is not back after {BACK + self.slack} s")

    def note_age(self, gone: Shell, program: str, offset: int) -> None:
        """Note how old the checkpoint is, by the lines that the lost node has beyond it."""
        ends = [0]
        for place in (gone.folder / "state" / "node" / "programs").glob(f"{program}*"):
            with suppress(OSError):
                ends.append(ring_bounds(place / "output", "stdout")[1])
        age = max(0, max(ends) - offset) / 9 * SLOW / 1000
        self.old.append(round(age, 2))
        if age > 2 * EVERY + self.slack:
            self.wrong.append(f"{program[:8]} goes on from a checkpoint that is {age:.2f} s old")

    # ---- the end ---------------------------------------------------------------------------------

    def end(self) -> list[str]:
        """Wait until all programs have ended; return what is wrong."""
        deadline = time.monotonic() + 90
        while True:
            found = self.standings()
            if all("ended" in said and set(said) <= {"ended", "moved"} for said in found.values()):
                break
            if time.monotonic() > deadline:
                return [f"{program[:8]} is {said}" for program, said in found.items()]
            time.sleep(0.2)
        wrong = [
            f"{program[:8]} is {said}"
            for program, said in found.items()
            if said.count("ended") != 1
        ]
        whole = lines(0, LINES)
        for shell in self.shells:
            with self.client(shell) as node:
                for one in node.ps():
                    pieces = list(node.logs(one.program, ("stdout",)))
                    data = b"".join(piece.data for piece in pieces)
                    begins = pieces[0].offset if pieces else 0
                    if data != whole[begins : begins + len(data)]:
                        wrong.append(f"{one.program[:8]} has other output from {begins} on")
                    if one.standing == "ended" and begins + len(data) != len(whole):
                        wrong.append(f"{one.program[:8]} ends at {begins + len(data)}")
        return wrong

    def close(self) -> None:
        for shell in self.shells:
            if shell.process is not None and shell.process.poll() is None:
                self.signal(shell, signal.SIGKILL, node=True, workers=True)
                shell.process.wait()
            self.signal(shell, signal.SIGKILL, node=False, workers=True)
        if self.host is not None:
            self.host.close()


def play(seed: int, programs: int = 2, faults: int = 3, slack: float = 0.0) -> dict[str, Any]:
    """Do the run of a seed, and return what came of it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run = LeaseRun(Path(folder), seed, programs, faults, slack)
        found: dict[str, Any] = {"seed": seed, "wrong": [], "faults": []}
        try:
            found |= run.run()
        except (WasmsrError, OSError, AssertionError, ValueError) as error:
            found["wrong"] = [f"{type(error).__name__}: {error}"[:2000]]
        finally:
            run.close()
        logs = [(shell.folder / "log").read_text()[-20_000:] for shell in run.shells]
        text = "\n".join(map(str, found["wrong"]))
        counts = {f"fault: {kind}": found["faults"].count(kind) for kind in set(found["faults"])}
        return {
            "seed": seed, "wrong": text, **counts,
            "back": found.get("back", []), "old": found.get("old", []),
            **({"logs": logs} if text else {}),
        }  # fmt: skip
