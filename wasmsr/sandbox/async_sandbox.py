"""`AsyncSandbox`: a sandbox for programs of asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from wasmsr.sandbox.guests import WORK
from wasmsr.sandbox.sandbox import Sandbox
from wasmsr.sandbox.tools import Deferred

if TYPE_CHECKING:
    import os

    from wasmsr.sandbox.results import (
        Completions,
        SandboxLimits,
        SandboxResult,
        SandboxValue,
        ToolCall,
    )
    from wasmsr.sandbox.sandbox import Tools
    from wasmsr.sandbox.states.parking import StoreName
    from wasmsr.wasi.filesystem.mounts import Mount

P = ParamSpec("P")
R = TypeVar("R")
_AGAIN = 0.02
"""Seconds after which a call is told once more to pause, if it had not begun before."""


class AsyncSandbox:
    """The methods of `Sandbox` as coroutines; each runs on a thread of the loop's executor.

    A task that is cancelled while it awaits a call interrupts the call. The sandbox has the status
    "interrupted" then: `resume` goes on, `cancel` ends it.

    Functions `on_output`, `on_display` and `on_input` are called on the thread that runs the code.
    Tools can be coroutine functions: they run in the loop. Such a tool is cancelled with the task;
    its call then waits for `deliver`.
    """

    def __init__(self, sandbox: Sandbox, loops: _Loop | None = None) -> None:
        self.sandbox = sandbox
        """The sandbox itself."""
        self._loops = loops or _Loop()

    @classmethod
    async def python(
        cls,
        packages: str = "base",
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
        env: Mapping[str, str] | None = None,
        deterministic: bool = False,
        seed: int | None = None,
    ) -> AsyncSandbox:
        """Return a Python; see `Sandbox.python`."""
        loops = _Loop()
        made = await asyncio.to_thread(
            Sandbox.python,
            packages,
            mounts=mounts,
            tools=loops.tools(tools),
            limits=limits,
            env=env,
            deterministic=deterministic,
            seed=seed,
        )
        return cls(made, loops)

    @classmethod
    async def javascript(
        cls,
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
        env: Mapping[str, str] | None = None,
        deterministic: bool = False,
        seed: int | None = None,
    ) -> AsyncSandbox:
        """Return a JavaScript; see `Sandbox.javascript`."""
        loops = _Loop()
        made = await asyncio.to_thread(
            Sandbox.javascript,
            mounts=mounts,
            tools=loops.tools(tools),
            limits=limits,
            env=env,
            deterministic=deterministic,
            seed=seed,
        )
        return cls(made, loops)

    @classmethod
    async def load(
        cls,
        path: str | os.PathLike[str],
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
    ) -> AsyncSandbox:
        """Return the sandbox of a file; see `Sandbox.load`."""
        loops = _Loop()
        given = loops.tools(tools)
        made = await asyncio.to_thread(
            Sandbox.load, path, mounts=mounts, tools=given, limits=limits
        )
        return cls(made, loops)

    @property
    def status(self) -> str:
        """As `Sandbox.status`."""
        return self.sandbox.status

    @property
    def pending(self) -> ToolCall | None:
        """As `Sandbox.pending`."""
        return self.sandbox.pending

    @property
    def snapshots(self) -> tuple[str, ...]:
        """As `Sandbox.snapshots`."""
        return self.sandbox.snapshots

    async def run(
        self,
        code: str,
        *,
        filename: str | None = None,
        silent: bool = False,
        pause_after: int | None = None,
        on_output: Callable[[str, str], None] | None = None,
        on_display: Callable[[SandboxValue], None] | None = None,
        on_input: Callable[[str, bool], str] | None = None,
    ) -> SandboxResult:
        """Execute code; see `Sandbox.run`."""
        return await self._do(
            self.sandbox.run,
            code,
            filename=filename,
            silent=silent,
            pause_after=pause_after,
            on_output=on_output,
            on_display=on_display,
            on_input=on_input,
        )

    async def resume(
        self,
        *,
        pause_after: int | None = None,
        on_output: Callable[[str, str], None] | None = None,
        on_display: Callable[[SandboxValue], None] | None = None,
        on_input: Callable[[str, bool], str] | None = None,
    ) -> SandboxResult:
        """Go on with an interrupted call; see `Sandbox.resume`."""
        return await self._do(
            self.sandbox.resume,
            pause_after=pause_after,
            on_output=on_output,
            on_display=on_display,
            on_input=on_input,
        )

    def interrupt(self) -> None:
        """Stop the call that runs, in the middle; see `Sandbox.interrupt`."""
        self.sandbox.interrupt()

    async def cancel(self, *, gently: bool = False) -> SandboxResult | None:
        """End the call that runs or is interrupted; see `Sandbox.cancel`."""
        return await self._do(self.sandbox.cancel, gently=gently)

    async def deliver(self, id: str, value: Any) -> None:
        """Give a pending tool call its result; see `Sandbox.deliver`."""
        await self._do(self.sandbox.deliver, id, value)

    async def fail(self, id: str, message: str) -> None:
        """Let a pending tool call fail; see `Sandbox.fail`."""
        await self._do(self.sandbox.fail, id, message)

    async def complete(self, code: str, cursor: int) -> Completions:
        """Return what a name can go on with; see `Sandbox.complete`."""
        return await self._do(self.sandbox.complete, code, cursor)

    async def inspect(self, code: str, cursor: int, detail: int = 0) -> SandboxValue | None:
        """Return what is known of a name; see `Sandbox.inspect`."""
        return await self._do(self.sandbox.inspect, code, cursor, detail)

    async def is_complete(self, code: str) -> tuple[str, str]:
        """Say whether code can be executed as it is; see `Sandbox.is_complete`."""
        return await self._do(self.sandbox.is_complete, code)

    async def put(self, path: str, data: bytes) -> None:
        """Write a file of the sandbox; see `Sandbox.put`."""
        await self._do(self.sandbox.put, path, data)

    async def get(self, path: str) -> bytes:
        """Return the bytes of a file; see `Sandbox.get`."""
        return await self._do(self.sandbox.get, path)

    async def files(self, path: str = WORK) -> tuple[str, ...]:
        """Return the names of files; see `Sandbox.files`."""
        return await self._do(self.sandbox.files, path)

    async def snapshot(self, name: str | None = None) -> str:
        """Keep the present state in memory; see `Sandbox.snapshot`."""
        return await self._do(self.sandbox.snapshot, name)

    async def rewind(self, name: str) -> None:
        """Go back to a snapshot; see `Sandbox.rewind`."""
        await self._do(self.sandbox.rewind, name)

    async def forget(self, name: str) -> None:
        """Give back the memory of a snapshot; see `Sandbox.forget`."""
        await self._do(self.sandbox.forget, name)

    async def fork(self, count: int = 1) -> list[AsyncSandbox]:
        """Return copies; see `Sandbox.fork`."""
        made = await self._do(self.sandbox.fork, count)
        return [AsyncSandbox(one, self._loops) for one in made]

    async def save(self, path: str | os.PathLike[str]) -> int:
        """Write the state to a file; see `Sandbox.save`."""
        return await self._do(self.sandbox.save, path)

    async def park(self, store: StoreName, name: str) -> None:
        """Put the sandbox into a store, and close it; see `Sandbox.park`."""
        await self._do(self.sandbox.park, store, name)

    @classmethod
    async def wake(
        cls,
        store: StoreName,
        name: str,
        *,
        mounts: Sequence[Mount | str] = (),
        tools: Tools = (),
        limits: SandboxLimits | None = None,
    ) -> AsyncSandbox:
        """Return a sandbox that was parked; see `Sandbox.wake`.

        If the task is cancelled, the sandbox is parked again under its name.
        """
        loops = _Loop()
        given = loops.tools(tools)
        work = asyncio.ensure_future(
            asyncio.to_thread(Sandbox.wake, store, name, mounts=mounts, tools=given, limits=limits)
        )
        try:
            return cls(await asyncio.shield(work), loops)
        except asyncio.CancelledError:
            await _settled(work)
            if not work.cancelled() and work.exception() is None:
                # It is out of the store, and nobody would have it.
                back = asyncio.ensure_future(asyncio.to_thread(work.result().park, store, name))
                await _settled(back)
                back.result()
            raise

    async def close(self) -> None:
        """Give back everything."""
        await self._do(self.sandbox.close)

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _do(self, function: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        """Call a method of the sandbox on a thread. A cancelled task pauses the call first."""
        self._loops.loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(asyncio.to_thread(function, *given, **named))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                self._loops.cancel()
                self.sandbox.interrupt()
                try:
                    await asyncio.wait({work}, timeout=_AGAIN)
                except asyncio.CancelledError:
                    continue  # nobody can leave while the sandbox is used by the thread
            if not work.cancelled():
                work.exception()  # it is known; the caller is not there any more
            raise


async def _settled(work: asyncio.Future[Any]) -> None:
    """Wait for what a thread does, however often the waiting task is cancelled."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({work})


class _Loop:
    """The loop in which coroutine functions run that are tools of a sandbox and its forks."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._running: set[concurrent.futures.Future[Any]] = set()

    def tools(self, tools: Tools) -> Tools:
        """Return tools, of which those that are coroutine functions run in the loop."""
        if isinstance(tools, Mapping):
            return {name: self._plain(one) for name, one in tools.items()}
        given: Iterable[Callable[..., Any]] = tools
        return [self._plain(one) for one in given]

    def _plain(self, tool: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.iscoroutinefunction(tool):
            return tool

        @functools.wraps(tool)
        def call(*given: Any, **named: Any) -> Any:
            assert self.loop is not None
            future = asyncio.run_coroutine_threadsafe(tool(*given, **named), self.loop)
            self._running.add(future)
            try:
                return future.result()
            except concurrent.futures.CancelledError:
                raise Deferred from None  # it may have acted: whoever goes on decides
            finally:
                self._running.discard(future)

        return call

    def cancel(self) -> None:
        """Cancel the tools that run."""
        for one in list(self._running):
            one.cancel()


__all__ = ["AsyncSandbox"]
