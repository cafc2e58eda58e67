"""One node of the campaign: a supervisor that keeps a lease, and a worker process with the program.

python -m tests.ownership.campaign_node JSON
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.process import ProcessExecutor, old_executors
from wasmsr.ownership.epoch_log import EpochLog
from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.fencing import epoch_folder
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.lease import Lease, boot_clock
from wasmsr.ownership.leased_program import LeasedProgram
from wasmsr.ownership.owner_record import LastCheckpoint, OwnerRecord
from wasmsr.ownership.register import Register
from wasmsr.ownership.sqlite_backend import SqliteBackend
from wasmsr.ownership.transitions import OwnerState


class WorkerGuest:
    """The program, in a worker process of this node."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.store = Path(given["store"])
        self.executor: ProcessExecutor | None = None
        self.program = b""
        self.log: EpochLog | None = None
        self.read = 0
        self.count = 0

    def resume(self, record: OwnerRecord) -> None:
        if self.executor is None:
            self._restore(record)
        assert self.executor is not None
        self.executor.lease(self.program, *self.times)
        self.executor.resume(self.program)

    def _restore(self, record: OwnerRecord) -> None:
        executor = ProcessExecutor(folder=Path(self.given["workers"]), wait=1)
        spec = {"program": self.given["wasm"]}
        last = record.checkpoint
        self.log = EpochLog(self.store, "stdout", record.epoch, last.output if last else 0)
        self.read = self.count = 0
        if last is None:
            self.program = executor.start(spec, program=record.program)
            executor.pause(self.program)
        else:
            data = Path(last.store).read_bytes()
            assert hashlib.sha256(data).digest() == last.root
            with open(last.store, "rb") as file:
                self.program = executor.adopt(file.fileno(), spec, program=record.program)
        self.executor = executor

    def extend(self, pause_at: int, end_at: int) -> None:
        self.times = pause_at, end_at
        if self.executor is not None:
            self.executor.lease(self.program, pause_at, end_at)

    def pause(self) -> None:
        if self.executor is not None and not self.executor.pause(self.program, 0.3):
            os.kill(self.executor.pid, signal.SIGKILL)

    def discard(self) -> None:
        executor, self.executor = self.executor, None
        if executor is not None:
            executor.close()

    def drain(self, lease: Lease, epoch: int) -> None:
        """Append new output to the log of this epoch, after a look at the deadline."""
        assert self.executor is not None and self.log is not None
        start, data = self.executor.logs(self.program, "stdout", self.read)
        assert start == self.read
        if data:
            lease.check(None)
            now = boot_clock()
            self.log.write(data)
            self.read += len(data)
            print(json.dumps({"epoch": epoch, "time": now, "bytes": len(data)}), flush=True)

    def checkpoint(self, lease: Lease, epoch: int) -> LastCheckpoint:
        """Save the paused program below a folder of the epoch."""
        assert self.executor is not None and self.log is not None
        self.drain(lease, epoch)
        self.log.sync()
        self.count += 1
        path = epoch_folder(self.store, epoch) / f"{self.count}.bin"
        with open(path, "xb") as file:
            self.executor.snapshot(self.program, file.fileno())
            os.fsync(file.fileno())
        root = hashlib.sha256(path.read_bytes()).digest()
        return LastCheckpoint(root, str(path), epoch, self.log.size)


def step(keeper: LeaseKeeper, guest: WorkerGuest, save: bool) -> None:
    """Output, and a checkpoint if it is time."""
    with keeper.lock:
        program = keeper.program
        if program.state is not OwnerState.RUNNING or guest.executor is None:
            return
        assert program.record is not None
        epoch = program.record.epoch
        if not save:
            guest.drain(program.lease, epoch)
            return
        if not guest.executor.pause(guest.program, 1):
            return
        last = guest.checkpoint(program.lease, epoch)
        guest.executor.resume(guest.program)
    keeper.renew(last)


def main(given: dict[str, Any]) -> None:
    for old in old_executors(Path(given["workers"])):
        old.close()  # its program goes on from the checkpoint, in the next epoch
    node, guest = bytes.fromhex(given["node"]), WorkerGuest(given)
    program = LeasedProgram(bytes.fromhex(given["program"]), node, guest, Lease(given["lease"]))
    register = Register(SqliteBackend(Path(given["register"]), busy=0.2), patience=0.2)
    keeper = LeaseKeeper(program, register, say=lambda text: print(text, file=sys.stderr))
    try:
        if given["creates"] and register.read(program.program) is None:
            keeper.create(failover=tuple(map(bytes.fromhex, given["nodes"])))
    except OwnershipError as error:
        print(error, file=sys.stderr)
    keeper.start()
    # A thread of the keeper that fails ends the node, as a crash would.
    threading.excepthook = lambda args: (print(args.exc_value, file=sys.stderr), os._exit(3))
    saved = time.monotonic()
    while True:
        time.sleep(0.02)
        with keeper.lock:
            state = program.state
        try:
            if state in (OwnerState.NONE, OwnerState.RECEIVED):
                keeper.watch(0.1)
            save = time.monotonic() - saved > given["interval"]
            if save:
                saved = time.monotonic()
            step(keeper, guest, save)
        except OwnershipError as error:
            print(error, file=sys.stderr)
        except (WasmsrError, OSError) as error:
            print(f"the worker failed: {error}", file=sys.stderr)
            os._exit(3)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
