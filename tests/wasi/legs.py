"""Runs a WASI program in legs: stopped before every host call and resumed, in place or by a new
process each time.

    python -m tests.wasi.legs JOB        JOB as JSON; prints the exit code and the number of legs

Between the tests and the library. A leg makes one host call. The machine and its WASI go through
the bytes of a snapshot in between, and nothing else does: in a new process even the host's
descriptors are new. Such a process is forked from one that knows the module but has run nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wasmsr import Module, Mount, Snapshot, Store
from wasmsr.errors import UnportableState
from wasmsr.interp.gate import HostCall, HostGate
from wasmsr.interp.outcomes import Exited, Finished, Paused
from wasmsr.interp.store.externs import Retry
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.restore import restore
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.restore import CarriedFiles
from wasmsr.wasi.streams.listen_address import TcpListen

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 280


@dataclass
class Job:
    """A program and what it gets; all plain, to be sent to another process.

    Attributes:
        mounts: (host folder, guest name).
        stdin, stdout, stderr: files; output is appended.
        listen: addresses of listening sockets.
        stride: a leg makes so many host calls at most, drawn by its number.
        carry: the folders travel with the program: each leg has them at another place, where there
            was nothing, and those of the leg before are gone.
    """

    module: str
    stdout: str
    stderr: str
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    mounts: list[tuple[str, str]] = field(default_factory=list)
    stdin: str | None = None
    listen: list[str] = field(default_factory=list)
    stride: int = 1
    carry: bool = False

    def at(self, leg: int) -> Job:
        """The job as that leg sees it."""
        if not self.carry or not leg:
            return self
        return replace(self, mounts=[(f"{host}-{leg}", guest) for host, guest in self.mounts])

    def surroundings(self) -> dict[str, Any]:
        """What every leg is given anew."""
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return {
            "mounts": [
                Mount(Path(host), guest, "carry" if self.carry else "host")
                for host, guest in self.mounts
            ],
            "stdin": self.stdin,
            "stdout": os.open(self.stdout, append, 0o666),
            "stderr": os.open(self.stderr, append, 0o666),
            "sockets": [TcpListen.parse(text).open() for text in self.listen],
        }


class CallLimit(HostGate):
    """Lets so many host calls through (None: any number); the next one pauses."""

    def __init__(self, calls: int | None) -> None:
        self.left = calls

    def host_call(self, call: HostCall) -> None:
        """Perform the call, or give up as for a pause."""
        if self.left is not None:
            if not self.left:
                raise Retry
            self.left -= 1
        call.perform()


def leg(job: Job, module: Module, before: bytes | None, calls: int | None) -> bytes | int:
    """From a snapshot (None: the start), over so many host calls, to the next snapshot or the exit
    code. While the program has a connection open, which cannot be saved, it goes on."""
    around = job.surroundings()
    gate = CallLimit(calls)
    if before is None:
        wasi = Wasi(args=[Path(job.module).name, *job.args], env=job.env, **around)
        store = Store(features=module.allowed_features)
        instance = store.instantiate(module, wasi.imports)
        store.enqueue(instance.function("_start"))
    else:
        value = decode(before)
        assert value.wasi is not None
        carried = CarriedFiles(value.files or Contents(), since=value.lineage.created)
        wasi = Wasi.restore(value.wasi, carried=carried, **around)
        store = restore(value, modules=[module], imports=wasi.imports)
    store.gate = gate
    try:
        with wasi, store:
            while True:
                outcome = store.run()
                if isinstance(outcome, Exited):
                    return outcome.code
                if isinstance(outcome, Finished):
                    return 0
                assert isinstance(outcome, Paused), outcome
                try:
                    return b"".join(encode(Snapshot.of(store, wasi=wasi).state))
                except UnportableState as error:
                    assert "connection" in error.message
                    gate.left = 1
    finally:
        for listening in around["sockets"]:
            listening.close()
        for name in ("stdin", "stdout", "stderr"):
            if isinstance(around[name], int):
                os.close(around[name])


def straight(job: Job) -> int:
    """The exit code of a run without stops."""
    code = leg(job, Module.from_file(job.module), None, None)
    assert isinstance(code, int)
    return code


def _all(job: Job, one: Callable[[bytes | None, int], bytes | int]) -> tuple[int, int]:
    state, legs = one(None, 0), 1
    while isinstance(state, bytes):
        calls = random.Random(legs).randint(1, job.stride)
        state, legs = one(state, calls), legs + 1
    return state, legs


def in_place(job: Job) -> tuple[int, int]:
    """(exit code, legs), all in this process."""
    module = Module.from_file(job.module)
    return _all(job, lambda state, calls: leg(job, module, state, calls))


def in_processes(job: Job) -> tuple[int, int]:
    """(exit code, legs), each leg in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.wasi.legs", json.dumps(asdict(job))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    code, legs = map(int, done.stdout.split())
    return code, legs


def _forked(job: Job, module: Module, folder: Path) -> tuple[int, int]:
    legs = itertools.count()

    def one(before: bytes | None, calls: int) -> bytes | int:
        after, number = folder / "after", next(legs)
        here = job.at(number)
        child = os.fork()
        if not child:
            try:
                if before is not None:
                    before = (folder / "before").read_bytes()
                state = leg(here, module, before, calls)
                after.write_bytes(state if isinstance(state, bytes) else b"%d" % state)
                os._exit(0 if isinstance(state, bytes) else 1)
            except BaseException:  # noqa: BLE001 (this process must end here, whatever it is)
                sys.excepthook(*sys.exc_info())
                os._exit(2)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 1), f"a leg ended with {status}"
        if status:
            return int(after.read_bytes())
        for host, _ in here.mounts if job.carry else ():
            shutil.rmtree(host)
        os.replace(after, folder / "before")
        return b"in the file"

    return _all(job, one)


if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory() as scratch:
        print(*_forked(given, Module.from_file(given.module), Path(scratch)))
