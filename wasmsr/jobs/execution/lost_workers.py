"""The end of a worker process, and what is said of it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from wasmsr.errors import WasmsrError, printable
from wasmsr.executor.port import ExecutorError
from wasmsr.executor.process import ProcessExecutor
from wasmsr.jobs.failures import JobError
from wasmsr.node.workers.warm_parents import reap


def end_worker(worker: ProcessExecutor, *, kill: bool = True) -> None:
    """End a worker process.

    Args:
        worker: The worker.
        kill: Whether at once; otherwise it ends by itself.
    """
    with suppress(WasmsrError, OSError):
        if kill and not worker.is_gone:  # its process id may be another process's
            worker.kill()
        else:
            worker.close()


def how_it_ended(process: int) -> str:
    """Return how a worker process has ended, as the rest of a sentence."""
    status = reap(process)
    if status is None:
        return "has ended"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = f"signal {number}"
        with suppress(ValueError):
            name = signal.Signals(number).name
        return f"was ended by {name}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


def no_answer(id: str, error: ExecutorError) -> JobError:
    """Return the error for a worker that does not answer."""
    return JobError(
        "WASIError",
        f"the worker of the execution {printable(id)} does not answer: {error.message}",
        retryable=True,
    )


def not_saved(id: str, error: WasmsrError | OSError) -> JobError:
    """Return the error for an execution that cannot be saved."""
    why = error.message if isinstance(error, WasmsrError) else error.strerror or str(error)
    return JobError(
        "FilesystemError",
        f"the execution {printable(id)} cannot be saved: {why}",
        hint=error.hint if isinstance(error, WasmsrError) else None,
        retryable=True,
    )


__all__ = ["end_worker", "how_it_ended", "no_answer", "not_saved"]
