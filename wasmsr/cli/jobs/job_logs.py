"""The output of an execution, as it comes, from the log that its worker writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.cli.jobs.job_options import write_stream
from wasmsr.cli.words.messages import say

if TYPE_CHECKING:
    from wasmsr.jobs.execution.log import LogItem
    from wasmsr.jobs.service.client import JobClient

FOLLOW_SECONDS = 0.05
"""How often a follower looks whether an execution has begun."""

STATE_SECONDS = 2.0
"""How often a follower looks whether a process runs the jobs."""


def items(
    client: JobClient, execution: str, *, follow: bool, tail: int | None = None
) -> Iterator[LogItem]:
    """Yield what an execution writes.

    If it goes on from a checkpoint, or is begun again, a `LogRewound` says so.

    Args:
        client: The jobs.
        execution: Its whole id.
        follow: Whether to go on until it has ended.
        tail: Only the last lines of what is there; None for all.
    """
    from wasmsr.jobs.execution.log import LogRewound, read_log

    last = None
    while True:
        run = client.jobs.run(execution)
        log = client.log(run)
        if log != last and (log / "frames").exists():
            if last is not None:
                yield LogRewound(0)
            last = log
            ended = _Ended(client, execution, log) if follow else lambda: True
            yield from read_log(log, tail=tail, ended=ended)
            tail = None
            continue
        if not follow or not run.open:
            return
        client.refresh()
        time.sleep(FOLLOW_SECONDS)


class _Ended:
    """Says whether nothing more is written to a log of an execution."""

    def __init__(self, client: JobClient, execution: str, log: Path) -> None:
        self._client, self._execution, self._log = client, execution, log
        self._version, self._asked, self._over = -1, 0.0, False

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._asked >= STATE_SECONDS:
            self._asked = now
            self._client.refresh()
        version = self._client.jobs.version()
        if not self._over and version != self._version:
            self._version = version
            run = self._client.jobs.run(self._execution)
            over = not run.open or run.state == "Publishing"
            self._over = over or self._client.log(run) != self._log
        return self._over


def show(item: LogItem) -> None:
    """Write a piece of output to the stream that it belongs to."""
    from wasmsr.jobs.execution.log import LogRewound

    if isinstance(item, LogRewound):
        say(str(item))
    else:
        write_stream(item.stream, item.data)


def as_data(item: LogItem) -> dict[str, Any]:
    """Return a piece of output as plain data."""
    from wasmsr.jobs.execution.log import LogRewound

    if isinstance(item, LogRewound):
        return {"rewound": item.offset}
    return {
        "stream": "stdout" if item.stream == 1 else "stderr",
        "offset": item.offset,
        "text": item.data.decode("utf-8", "replace"),
    }


__all__ = ["as_data", "items", "show"]
