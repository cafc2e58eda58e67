"""The calls about the process itself: arguments, environment, clocks, random bytes, its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

from wasmsr.errors import Exit
from wasmsr.wasi.clocks import RESOLUTION, Clocks
from wasmsr.wasi.engine import Caller
from wasmsr.wasi.preview1.abi import (
    IGNORED_SIGNALS,
    SIZE,
    STOPPING_SIGNALS,
    TIMESTAMP,
    TWO_SIZES,
    U32,
    ClockId,
    Errno,
    Failure,
    Signal,
    span,
)
from wasmsr.wasi.process import Process

Call = Callable[[Caller, int, int], int]
"""A call with two parameters, as the table binds it."""
_CLOCKS = {
    int(ClockId.REALTIME): Clocks.realtime,
    int(ClockId.MONOTONIC): Clocks.monotonic,
    int(ClockId.PROCESS_CPUTIME): Clocks.cpu_time,
    int(ClockId.THREAD_CPUTIME): Clocks.cpu_time,
}


def _strings_sizes(caller: Caller, strings: tuple[bytes, ...], count: int, size: int) -> None:
    memory = caller.memory
    count, size = span(memory, count, 4), span(memory, size, 4)
    total = sum(map(len, strings)) + len(strings)
    if total > U32:
        raise Failure(Errno.OVERFLOW)
    SIZE.pack_into(memory, count, len(strings))
    SIZE.pack_into(memory, size, total)


def _strings(caller: Caller, strings: tuple[bytes, ...], pointers: int, buffer: int) -> None:
    memory = caller.memory
    lengths = [len(string) + 1 for string in strings]
    pointers = span(memory, pointers, 4 * len(strings))
    buffer = span(memory, buffer, sum(lengths))
    joined = b"".join(string + b"\0" for string in strings)
    memory[buffer : buffer + len(joined)] = joined
    for index, start in enumerate(accumulate(lengths[:-1], initial=0) if lengths else ()):
        SIZE.pack_into(memory, pointers + 4 * index, buffer + start)


def sizes_call(strings: tuple[bytes, ...], otherwise: Call) -> Call:
    """Return a short way for the calls that tell the sizes of strings that never change.

    Half of CPython's host calls are of this kind.

    Args:
        strings: The arguments or the environment.
        otherwise: The call for what the short way cannot do.
    """
    count, total = len(strings), sum(map(len, strings)) + len(strings)
    if total > U32:
        return otherwise
    one, both = SIZE.pack_into, TWO_SIZES.pack_into

    def answer(caller: Caller, first: int, second: int) -> int:
        memory = caller.memory
        end = len(memory) - 4
        if first > end or second > end:
            return otherwise(caller, first, second)
        if second == first + 4:
            both(memory, first, count, total)
        else:
            one(memory, first, count)
            one(memory, second, total)
        return 0

    return answer


def args_get(process: Process, caller: Caller, argv: int, argv_buf: int) -> None:
    """Write pointers to the arguments, and the arguments."""
    _strings(caller, process.args, argv, argv_buf)


def args_sizes_get(process: Process, caller: Caller, argc: int, argv_buf_size: int) -> None:
    """Write number and size of the arguments."""
    _strings_sizes(caller, process.args, argc, argv_buf_size)


def environ_get(process: Process, caller: Caller, environ: int, environ_buf: int) -> None:
    """Write pointers to the environment variables, and the variables."""
    _strings(caller, process.environ, environ, environ_buf)


def environ_sizes_get(process: Process, caller: Caller, count: int, environ_buf_size: int) -> None:
    """Write number and size of the environment variables."""
    _strings_sizes(caller, process.environ, count, environ_buf_size)


def clock_res_get(process: Process, caller: Caller, id: int, resolution: int) -> None:
    """Write the resolution of a clock in ns."""
    memory = caller.memory
    if id not in _CLOCKS:
        raise Failure(Errno.INVAL)
    TIMESTAMP.pack_into(memory, span(memory, resolution, 8), RESOLUTION)


def clock_time_get(process: Process, caller: Caller, id: int, precision: int, time: int) -> None:
    """Write the time of a clock in ns."""
    memory = caller.memory
    time = span(memory, time, 8)
    clocks = process.clocks
    clocks.tick()
    reading = _CLOCKS.get(id)
    if reading is None:
        raise Failure(Errno.INVAL)
    TIMESTAMP.pack_into(memory, time, reading(clocks))


def random_get(process: Process, caller: Caller, buf: int, buf_len: int) -> None:
    """Write random bytes."""
    memory = caller.memory
    buf_len &= U32
    buf = span(memory, buf, buf_len)
    process.random.fill(memory[buf : buf + buf_len])


def proc_exit(process: Process, caller: Caller, rval: int) -> None:
    """End the program."""
    raise Exit(rval & U32)


def proc_raise(process: Process, caller: Caller, sig: int) -> None:
    """End the program as a signal does, or ignore the signal."""
    if not 0 <= sig <= max(Signal):
        raise Failure(Errno.INVAL)
    if sig in STOPPING_SIGNALS:
        raise Failure(Errno.NOTSUP)
    if sig not in IGNORED_SIGNALS:
        # As a shell reports a process that a signal ended.
        raise Exit(128 + sig)


def sched_yield(process: Process, caller: Caller) -> None:
    """Let others run."""
    os.sched_yield()
