"""Hosts whose clock is far off, or that have too little memory: an answer, and no fault of ours."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from tests.wasi.guest import CREAT, ROOT, on
from wasmsr import realtime
from wasmsr.cli.words import failures
from wasmsr.errors import EXIT_HOST
from wasmsr.migrate.journal.journal import Journal, OwnershipState, Record
from wasmsr.snapshot.format import decode, encode

YEAR = 31_556_952 * 1_000_000_000
TIMES = {"1960": -10 * YEAR, "1970": 0, "2261": 291 * YEAR, "2300": 330 * YEAR, "2600": 630 * YEAR}


class Clock:
    """Python's `time` on a host whose clock shows `ns` since 1970."""

    CLOCK_REALTIME = time.CLOCK_REALTIME

    def __init__(self, ns: int) -> None:
        self.ns = ns

    def time_ns(self) -> int:
        if not -(1 << 63) <= self.ns < 1 << 63:
            raise OverflowError("timestamp too large to convert to C _PyTime_t")
        return self.ns

    def clock_gettime(self, clock: int) -> float:
        return self.ns / 1e9


@pytest.fixture(params=list(TIMES))
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What WASI can say of that time, ns."""
    ns = TIMES[request.param]
    monkeypatch.setattr(realtime, "time", Clock(ns))
    return min(max(ns, 0), realtime.LATEST)


@pytest.mark.parametrize("mode", ["host", "carry", "overlay"])
def test_a_program_is_saved_and_goes_on(shown: int, data: Path, mode: str) -> None:
    guest = on(data, mode)
    fd = guest.opened("f", CREAT)
    guest.write(fd, b"content")
    assert abs(guest.time(0) - shown) < 1_000_000
    now = 10  # ATIM_NOW and MTIM_NOW
    assert guest.call("path_filestat_set_times", ROOT, 0, *guest.path("f"), 0, 0, now) == 0
    guest.hop()
    guest.resume(guest.state(), live=True, on_changed="keep")
    assert guest.time(1) < 10**12
    assert guest.seek(fd, 0, 1) == (0, 7)
    given = shown // 10**9 * 10**9
    if given < 1 << 62:  # further than that not every file system goes
        assert guest.call("fd_filestat_set_times", fd, given, given, 5) == 0
        assert guest.filestat(fd)[1]["mtim"] == given
    guest.close()


def test_a_snapshot_is_written_and_read(shown: int) -> None:
    module = wasmsr.Module.from_text('(module (func (export "f") (loop $l (br $l))))')
    with wasmsr.Store() as store:
        store.enqueue(store.instantiate(module).function("f"))
        store.run(fuel=100)
        raw = b"".join(encode(wasmsr.Snapshot.of(store).state))
    assert abs(decode(raw).lineage.created - shown) < 1_000_000
    assert wasmsr.Snapshot(decode(raw)).restore(modules=[module]) is not None


def test_a_decision_is_on_disk(shown: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(Record(bytes(16), OwnershipState.OWNED, epoch=1))
    journal.close()
    (record,) = Journal(tmp_path).records()
    assert record.updated == pytest.approx(shown / 1e9)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("x.so: failed to map segment from shared object"),
        ImportError("x.so: cannot allocate memory in static TLS block"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_said_in_one_way(error: BaseException) -> None:
    assert failures.describe(error) == (failures.NO_MEMORY, None, EXIT_HOST)


@pytest.mark.skipif(sys.platform != "linux", reason="other hosts have no such limit")
@pytest.mark.parametrize("command", [["run", "fib"], ["run", "fib", "--snapshot-at", "1000"]])
@pytest.mark.parametrize("kilobytes", [44_000, 47_000, 52_000, 57_000, 58_500, 60_000, 61_500])
def test_a_small_address_space(tmp_path: Path, command: list[str], kilobytes: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (kilobytes << 10, kilobytes << 10))

    done: Any = subprocess.run(
        [sys.executable, "-m", "wasmsr", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert "fault of wasmsr" not in done.stderr
    if done.returncode not in (0, 120):
        assert done.returncode in (EXIT_HOST, 127), done.stderr  # 127: not even Python starts
        assert "Traceback" not in done.stderr or "wasmsr/cli" not in done.stderr
