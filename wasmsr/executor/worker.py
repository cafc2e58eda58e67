"""A worker process: an executor behind a socket.

    python -m wasmsr.executor.worker DESCRIPTOR [FOLDER SECONDS]

The worker answers calls until the other end closes the socket. Then its programs end. With a
folder it first waits so many seconds for a new supervisor, with all programs paused; see
`old_workers.py`. Then it writes how each program has ended (FOLDER/PROGRAM.result), or a snapshot
of one that may still be saved (FOLDER/PROGRAM.snapshot), and ends.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.errors import EXIT_HOST, WasmsrError
from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.messages import METHODS, hello, receive, send
from wasmsr.executor.old_workers import HeldLock, listen, new_name
from wasmsr.executor.port import ExecutorError, ProgramStatus
from wasmsr.interp.modules.module import Module

if TYPE_CHECKING:
    from wasmsr.snapshot.moments.moment import Moment

CALLS = 64
"""Calls at a time; one more waits."""

PAUSE_SECONDS = 5.0
"""How long a program may take to pause when the supervisor is gone. Its process then ends."""


def serve(
    end: socket.socket,
    folder: Path | None = None,
    wait: float = 0,
    *,
    module: Module | None = None,
    rings: tuple[Path, int] | None = None,
    moment: Moment | None = None,
    confine: Callable[[], object] = lambda: None,
    make: Callable[..., LocalExecutor] = LocalExecutor,
) -> None:
    """Answer calls until the other end closes the socket, and wait for another end in `folder`.

    Args:
        end: The supervisor's socket.
        folder: Where the worker has its locks.
        wait: How many seconds it waits there for a new supervisor.
        module: As for `LocalExecutor`.
        rings: The same.
        moment: The same.
        make: Makes the executor.
        confine: Is called before the first call is answered, when all that the worker needs of the
            system is open. There is no other thread yet.
    """
    executor = make(
        locks=folder,
        overdue=lambda program: os._exit(EXIT_HOST),
        module=module,
        rings=rings,
        moment=moment,
    )
    if folder is None:
        confine()
        _answer(executor, end)
        os._exit(0)  # a program that does not yield must not keep the worker
    name = new_name()
    lock = HeldLock(folder / f"{name}.lock", f"worker {name}")
    with listen(folder, name) as server:
        confine()
        server.settimeout(wait)
        while not _answer(executor, end):
            end.close()
            if not all(executor.pause(one, PAUSE_SECONDS) for one in executor.programs()):
                break
            try:
                end, _ = server.accept()
            except TimeoutError:
                _save(executor, folder)
                break
            end.settimeout(None)
    for left in (folder / f"{name}.socket", folder / f"{name}.lock"):
        left.unlink(missing_ok=True)
    del lock
    os._exit(0)


def _save(executor: LocalExecutor, folder: Path) -> None:
    """Write a snapshot of each program that nobody else can own by now, or how it has ended."""
    for program in executor.programs():
        if not executor.deadlines.may(program):
            continue
        status = executor.wait(program, 0)
        if status.ending:
            path = folder / f"{program.hex()}.result"
            with suppress(OSError):
                part = path.with_suffix(".part")
                part.write_text(json.dumps(asdict(status)), encoding="utf-8")
                part.replace(path)
            continue
        path = folder / f"{program.hex()}.snapshot"
        part = path.with_suffix(".part")
        with suppress(WasmsrError, OSError), open(part, "wb") as file:
            executor.snapshot(program, file.fileno())
            os.fsync(file.fileno())
            part.replace(path)


def _answer(executor: LocalExecutor, end: socket.socket) -> bool:
    """Answer calls until the other end closes the socket; True if it said "end" before."""
    sending = threading.Lock()

    def answer(number: int, method: str, values: dict[str, Any], descriptors: list[int]) -> None:
        try:
            result = call(executor, method, values, descriptors)
            reply = [number, True, asdict(result) if isinstance(result, ProgramStatus) else result]
        except (WasmsrError, OSError, MemoryError, TypeError, ValueError) as error:
            reply = [number, False, failure(error)]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        with sending, suppress(ExecutorError):  # whoever asked may be gone
            send(end, reply)

    pool = ThreadPoolExecutor(CALLS, thread_name_prefix="wasmsr-call")
    try:
        send(end, hello())
        while (message := receive(end)) is not None:
            (number, method, values), descriptors = message
            if method == "end":
                return True
            pool.submit(answer, number, method, values, descriptors)
    except (ExecutorError, ValueError, TypeError):
        return False  # a message that is none: this end is not served any more
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return False


def call(
    executor: LocalExecutor, method: str, values: dict[str, Any], descriptors: list[int]
) -> Any:
    """Call a method of the executor; descriptors in `values` are numbers of those that came.

    Raises:
        ExecutorError: There is no such method or descriptor.
        WasmsrError: What the method raises.
    """
    asked = getattr(executor, method, None) if method in METHODS else None
    if asked is None:
        raise ExecutorError(f"this executor has no method {method!r}")
    values = dict(values)
    for name in METHODS[method]:
        given = values.get(name)
        try:
            if isinstance(given, int):
                values[name] = descriptors[given] if given >= 0 else given
            elif given is not None:
                values[name] = [descriptors[at] if at >= 0 else at for at in given]
        except IndexError:
            raise ExecutorError(f"{name}: the descriptor did not come") from None
    return asked(**values)


def failure(error: BaseException) -> dict[str, Any]:
    """Return an error as plain data."""
    if isinstance(error, WasmsrError):
        return {
            "kind": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "code": error.exit_code,
        }
    text = str(error) or type(error).__name__
    return {"kind": "ExecutorError", "message": text, "hint": None, "code": EXIT_HOST}


if __name__ == "__main__":
    _, descriptor, *more = sys.argv
    serve(
        socket.socket(fileno=int(descriptor)),
        Path(more[0]) if more else None,
        float(more[1]) if more else 0,
    )
