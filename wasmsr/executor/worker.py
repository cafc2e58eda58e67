"""A worker process: an executor behind a socket.

    python -m wasmsr.executor.worker DESCRIPTOR

The worker answers calls until the other end closes the socket. Then its programs end.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from wasmsr.errors import EXIT_HOST, WasmsrError
from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.messages import METHODS, receive, send
from wasmsr.executor.port import ExecutorError, ProgramStatus

CALLS = 64
"""Calls at a time; one more waits."""


def serve(end: socket.socket) -> None:
    """Answer calls until the other end closes the socket."""
    executor = LocalExecutor()
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
        with sending:
            send(end, reply)

    with ThreadPoolExecutor(CALLS, thread_name_prefix="wasmsr-call") as pool:
        while (message := receive(end)) is not None:
            (number, method, values), descriptors = message
            pool.submit(answer, number, method, values, descriptors)
        # Whoever asked is gone. A program that does not yield must not keep the worker.
        os._exit(0)


def call(
    executor: LocalExecutor, method: str, values: dict[str, Any], descriptors: list[int]
) -> Any:
    """Call a method of the executor; descriptors in `values` are numbers of those that came.

    Raises:
        ExecutorError: There is no such method or descriptor.
        WasmsrError: What the method raises.
    """
    if method not in METHODS:
        raise ExecutorError(f"an executor has no method {method!r}")
    values = dict(values)
    for name in METHODS[method]:
        given = values.get(name)
        try:
            if isinstance(given, int):
                values[name] = descriptors[given]
            elif given is not None:
                values[name] = [descriptors[at] if at >= 0 else -1 for at in given]
        except IndexError:
            raise ExecutorError(f"{name}: the descriptor did not come") from None
    return getattr(executor, method)(**values)


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
    serve(socket.socket(fileno=int(sys.argv[1])))
