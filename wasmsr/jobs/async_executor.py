"""The verbs of an executor of jobs as coroutines.

AsyncExecutor(executor).run(request) is awaited, and its logs are iterated with "async for".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from wasmsr.jobs.description.job import Resources
from wasmsr.jobs.execution.log import LogItem
from wasmsr.jobs.execution.requests import (
    BidResponse,
    ExecutionInfo,
    ExecutionInput,
    ExecutionRequest,
    ExecutionResult,
)
from wasmsr.jobs.executor import JobExecutor

Request = ExecutionRequest | Mapping[str, Any]

T = TypeVar("T")

_END: Final = object()


class AsyncExecutor:
    """An executor for programs with an event loop; each method is the executor's.

    A coroutine that waits for an execution takes no thread, however many wait.
    """

    def __init__(self, executor: JobExecutor) -> None:
        self._executor = executor

    async def _call(self, method: Callable[..., T], *args: Any, **named: Any) -> T:
        return await asyncio.to_thread(method, *args, **named)

    async def is_installed(self) -> bool:
        """Return True."""
        return self._executor.is_installed()

    async def should_bid(self, request: Request) -> BidResponse:
        """Return whether an execution could run here."""
        return self._executor.should_bid(request)

    async def should_bid_based_on_usage(self, request: Request, usage: Resources) -> BidResponse:
        """Return the same, when this much is in use already."""
        return self._executor.should_bid_based_on_usage(request, usage)

    async def start(self, request: Request) -> None:
        """Start an execution."""
        await self._call(self._executor.start, request)

    async def wait(self, id: str, timeout: float | None = None) -> ExecutionResult:
        """Return the result of an execution when it has ended."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(over.set)

        self._executor.when_over(id, tell)
        try:
            await asyncio.wait_for(over.wait(), timeout)
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            return self._executor.wait(id, 0)
        return self._executor.wait(id)

    async def run(self, request: Request) -> ExecutionResult:
        """Start an execution and return its result."""
        read = request if isinstance(request, ExecutionRequest) else ExecutionRequest.read(request)
        await self.start(read)
        return await self.wait(read.execution_id)

    async def cancel(self, id: str) -> None:
        """End an execution at once."""
        await self._call(self._executor.cancel, id)

    async def logs(
        self, id: str, follow: bool = False, tail: int | None = None, offset: int = 0
    ) -> AsyncIterator[LogItem]:
        """Yield what an execution has written; see `JobExecutor.logs`."""
        items = self._executor.logs(id, follow, tail, offset)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "wasmsr-logs") as thread:  # the iterator waits on it
            try:
                while (item := await loop.run_in_executor(thread, next, items, _END)) is not _END:
                    yield item  # type: ignore[misc]
            finally:
                thread.submit(getattr(items, "close", bool))

    async def list(self) -> list[ExecutionInfo]:
        """Return all executions."""
        return self._executor.list()

    async def pause(self, id: str) -> None:
        """Pause an execution."""
        await self._call(self._executor.pause, id)

    async def resume(self, id: str) -> None:
        """Let a paused execution run on."""
        await self._call(self._executor.resume, id)

    async def snapshot(self, id: str, file: str | os.PathLike[str]) -> None:
        """Save an execution to a file."""
        await self._call(self._executor.snapshot, id, file)

    async def restore(
        self,
        file: str | os.PathLike[str],
        id: str,
        *,
        request: Request | None = None,
        inputs: Sequence[ExecutionInput] | None = None,
        execution_dir: str = "",
    ) -> None:
        """Let a saved execution go on under an id."""
        await self._call(
            self._executor.restore, file, id, request=request, inputs=inputs,
            execution_dir=execution_dir,
        )  # fmt: skip

    async def fork(self, id: str, n: int) -> Sequence[str]:
        """Make copies of an execution, and return their ids."""
        return await self._call(self._executor.fork, id, n)


__all__ = ["AsyncExecutor"]
