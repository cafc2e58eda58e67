"""Executions that are paused, saved, copied, lost and followed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.programs import FORKED, counting, numbers, request, stop, until_stopped
from wasmsr.jobs import AsyncExecutor, Executor, JobError, LogFrame, LogRewound

SLOW = 300_000
"""Turns of a loop before each line, so that logs stay short."""


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    with Executor(tmp_path / "jobs") as made:
        yield made


def has_written(executor: Executor, id: str, size: int) -> None:
    path = executor.folder / id / "log" / "stdout"
    end = time.monotonic() + 30
    while path.stat().st_size < size:
        assert time.monotonic() < end
        time.sleep(0.002)


def check(executor: Executor, id: str, lines: int) -> None:
    result = executor.wait(id, 60)
    assert (result.exit_code, result.error) == (0, "")
    results = executor.folder / id / "results"
    assert (results / "stdout").read_bytes() == numbers(lines)
    assert (results / "out" / "numbers").read_bytes() == numbers(lines)
    log = b"".join(one.data for one in executor.logs(id) if isinstance(one, LogFrame))
    assert log == numbers(lines)


def check_stopped(executor: Executor, id: str) -> None:
    """Let a program of `until_stopped` come to its end, and check what it leaves."""
    stop(executor.folder / id)
    executor.wait(id, 60)
    lines = (executor.folder / id / "results" / "stdout").stat().st_size // 8
    assert lines
    check(executor, id, lines)


def test_it_is_paused_saved_restored_and_copied(executor: Executor, tmp_path: Path) -> None:
    executor.start(until_stopped(tmp_path, "a", slow=SLOW))
    has_written(executor, "a", 80)
    executor.pause("a")
    paused = executor.describe("a")
    size = (executor.folder / "a/log/frames").stat().st_size
    executor.snapshot("a", tmp_path / "saved")
    time.sleep(0.05)
    assert paused.state == executor.describe("a").state == "paused"
    assert (executor.folder / "a/log/frames").stat().st_size == size
    copies = executor.fork("a", 2)
    assert copies == ["a.1", "a.2"]
    executor.resume("a")
    executor.restore(tmp_path / "saved", "b")
    for id in ("a", "b", *copies):
        check_stopped(executor, id)
    assert {one.execution_id: one.state for one in executor.list()} == dict.fromkeys(
        ("a", "a.1", "a.2", "b"), "ended"
    )
    for verb in (executor.pause, executor.resume):
        with pytest.raises(JobError) as caught:
            verb("a")
        assert caught.value.code == "ExecutionAlreadyComplete"


def test_a_killed_worker_goes_on_from_its_checkpoint(executor: Executor, tmp_path: Path) -> None:
    executor.start(until_stopped(tmp_path, "a", slow=SLOW, on_loss="restore", snapshot_every=0.1))
    followed: list[bytes] = []
    rewound: list[int] = []

    def follow() -> None:
        for item in executor.logs("a", follow=True):
            if isinstance(item, LogRewound):
                rewound.append(item.offset)
                left = item.offset // 16
                del followed[left:]
            else:
                assert isinstance(item, LogFrame)
                assert item.offset == 16 * len(followed)
                followed.append(item.data)

    follower = threading.Thread(target=follow)
    follower.start()
    for _ in range(2):
        before = executor.describe("a").saved
        end = time.monotonic() + 30
        while executor.describe("a").saved == before:
            assert time.monotonic() < end
            time.sleep(0.002)
        worker = executor.describe("a").worker
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        while executor.describe("a").worker == worker:
            time.sleep(0.002)
    has_written(executor, "a", 800)
    check_stopped(executor, "a")
    lines = (executor.folder / "a" / "results" / "stdout").stat().st_size // 8
    follower.join(60)
    assert b"".join(followed) == numbers(lines)
    assert executor.describe("a").losses == 2
    assert len(rewound) <= 4  # each is said twice to who reads at that moment


@pytest.mark.parametrize("policy", ["fail", "restart"])
def test_a_killed_worker_without_a_checkpoint(
    executor: Executor, tmp_path: Path, policy: str
) -> None:
    executor.start(until_stopped(tmp_path, "a", slow=SLOW, on_loss=policy))
    has_written(executor, "a", 80)
    worker = executor.describe("a").worker
    assert worker
    os.kill(worker, signal.SIGKILL)
    if policy == "restart":
        check_stopped(executor, "a")
        assert executor.describe("a").losses == 1
        return
    result = executor.wait("a", 60)
    assert result.exit_code == 1
    assert "was ended by SIGKILL" in result.error
    assert executor.describe("a").state == "failed"


def test_a_time_out_is_no_other_execution_s(executor: Executor, tmp_path: Path) -> None:
    loop = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'
    executor.start(request(tmp_path, "loop", loop, timeout=0.2))
    executor.start(counting(tmp_path, "a", lines=20, slow=SLOW))
    result = executor.wait("loop", 60)
    assert (result.exit_code, result.error) == (121, "Execution timed out after 0.2s")
    assert result.timed_out
    check(executor, "a", 20)


def test_a_copy_calls_the_hook_of_forks_first(executor: Executor, tmp_path: Path) -> None:
    text = FORKED.replace("{lines}", "1").replace("{slow}", "1000")
    executor.start(request(tmp_path, "a", text, outputs=[{"name": "out", "path": "/outputs"}]))
    has_written(executor, "a", 80)
    executor.pause("a")
    size = (executor.folder / "a" / "log" / "stdout").stat().st_size
    copies = executor.fork("a", 2)
    executor.resume("a")
    for id in ("a", *copies):
        has_written(executor, id, size + 800)
        stop(executor.folder / id)
        executor.wait(id, 60)
    for id, digit in (("a", b"0"), ("a.1", b"1"), ("a.2", b"2")):
        lines = (executor.folder / id / "results" / "stdout").read_bytes().splitlines()
        shared = next((at for at, line in enumerate(lines) if line[:1] != b"0"), len(lines))
        assert [line[1:] for line in lines] == [b"%06d" % n for n in range(1, len(lines) + 1)]
        assert {line[:1] for line in lines[shared:]} <= {digit}
        assert digit == b"0" or shared == size // 8


def test_output_is_held_until_a_checkpoint_has_it(executor: Executor, tmp_path: Path) -> None:
    executor.start(until_stopped(tmp_path, "a", slow=SLOW, on_loss="restore", output="commit"))
    has_written(executor, "a", 80)
    assert list(executor.logs("a")) == [] == list(executor.logs("a", tail=3))
    seen: list[LogFrame] = []
    rewound: list[LogRewound] = []

    def follow() -> None:
        for item in executor.logs("a", follow=True):
            (seen if isinstance(item, LogFrame) else rewound).append(item)  # type: ignore[arg-type]

    follower = threading.Thread(target=follow)
    follower.start()
    execution = executor._running("a", "saved")
    point = execution.checkpoint()
    shown = point.ends["frames"]
    found = [one for one in executor.logs("a") if isinstance(one, LogFrame)]
    assert sum(len(one.encode()) for one in found) == shown
    has_written(executor, "a", shown // 2 + 80)
    worker = executor.describe("a").worker
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    while executor.describe("a").worker == worker:
        time.sleep(0.002)
    stop(executor.folder / "a")
    executor.wait("a", 60)
    follower.join(60)
    written = (executor.folder / "a" / "results" / "stdout").read_bytes()
    assert b"".join(one.data for one in seen) == written == numbers(len(written) // 8)
    assert not rewound


def test_output_is_held_only_with_restore(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        executor.start(until_stopped(tmp_path, "a", output="commit"))
    assert caught.value.code == "SpecError" and "restore" in caught.value.message


def test_a_log_has_a_tail_and_offsets(executor: Executor, tmp_path: Path) -> None:
    executor.run(counting(tmp_path, "a", lines=50))
    frames = [one for one in executor.logs("a") if isinstance(one, LogFrame)]
    assert [one.end for one in frames] == [one.offset for one in frames[1:]] + [50 * 16]
    assert (
        b"".join(one.encode() for one in frames) == (executor.folder / "a/log/frames").read_bytes()
    )
    rest = list(executor.logs("a", offset=frames[9].end))
    assert rest == frames[10:]
    for count in (0, 1, 3, 50, 99):
        last = b"".join(
            one.data for one in executor.logs("a", tail=count) if isinstance(one, LogFrame)
        )
        assert last == b"".join(numbers(50).splitlines(keepends=True)[50 - min(count, 50) :])
    for offset in (-1, 5, 50 * 16 + 1):
        with pytest.raises(JobError) as caught:
            list(executor.logs("a", offset=offset))
        assert caught.value.code == "LogError"


def test_coroutines(executor: Executor, tmp_path: Path) -> None:
    async def work() -> None:
        aio = AsyncExecutor(executor)
        assert await aio.is_installed()
        await aio.start(until_stopped(tmp_path, "a", slow=SLOW))
        has_written(executor, "a", 80)
        await aio.pause("a")
        await aio.snapshot("a", tmp_path / "saved")
        await aio.restore(tmp_path / "saved", "b")
        assert await aio.fork("a", 1) == ["a.1"]
        with pytest.raises(TimeoutError):
            await aio.wait("a", 0.01)
        await aio.resume("a")
        for id in ("a", "b", "a.1"):
            stop(executor.folder / id)
        parts = [one.data async for one in aio.logs("b", follow=True) if isinstance(one, LogFrame)]
        assert parts and b"".join(parts) == numbers(len(b"".join(parts)) // 8)
        results = await asyncio.gather(*(aio.wait(one, 60) for one in ("a", "b", "a.1")))
        assert [one.exit_code for one in results] == [0, 0, 0]
        result = await aio.run(counting(tmp_path, "c", lines=3))
        assert result.stdout.encode() == numbers(3)
        assert len(await aio.list()) == 4

    asyncio.run(work())
