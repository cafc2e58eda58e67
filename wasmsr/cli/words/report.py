"""How a program ended, in words on standard error and, with --json, as one object.

The object is the last line of standard output. It contains results and timings, which are then not
printed otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from wasmsr.cli.words.messages import say
from wasmsr.cli.words.units import human_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr import errors
    from wasmsr.cli.running.session import RunEnding

SHOWN = 24
"""Most lines of a backtrace. A longer backtrace has only its innermost and outermost lines."""


FIELDS: dict[str, Any] = {
    "outcome": None,
    "exit_code": None,
    "guest_exit_code": None,
    "results": [],
    "executed": None,
    "snapshot": None,
    "snapshots": 0,
    "signal": None,
    "trap": None,
    "error": None,
    "timings": {},
}
"""The object of --json without values; every object has all of these keys."""


def tell(ending: RunEnding, *, executed: int | None, snapshot: str | None) -> None:
    """Say how a run ended; nothing if the program ended well."""
    count = "" if executed is None else f" after {executed:,} instructions"
    if ending.outcome == "trapped" and ending.trap is not None:
        say(f"trap: {ending.trap.code}{count}", "error")
        for line in backtrace(ending.trap):
            print(line, file=sys.stderr)
    elif ending.outcome == "out-of-fuel":
        say(f"out of fuel{count}", "error")
    elif ending.outcome == "timed-out":
        say(f"out of time{count}" + (f"; {snapshot} continues it" if snapshot else ""), "error")
    elif ending.outcome == "stopped":
        say(f"stopped{count}; {snapshot} continues it")
    elif ending.outcome == "interrupted":
        say(f"interrupted{count}" + (f"; {snapshot} continues it" if snapshot else ""))


def backtrace(trap: errors.Trap) -> list[str]:
    """Return the frames of a trap, innermost first, one line each, without the middle of many."""
    lines = [f"  at {frame}" for frame in trap.backtrace]
    if len(lines) <= SHOWN:
        return lines
    half = SHOWN // 2
    return [*lines[:half], f"  ... {len(lines) - 2 * half:,} more ...", *lines[-half:]]


def as_json(
    ending: RunEnding,
    *,
    results: Sequence[Sequence[object]],
    executed: int | None,
    snapshot: str | None,
    timings: Mapping[str, Sequence[float]],
) -> str:
    """Return the object of --json for an end that is not an error."""
    found = fields(ending, results=results, executed=executed, snapshot=snapshot, timings=timings)
    return dumps(found)


def fields(
    ending: RunEnding,
    *,
    results: Sequence[Sequence[object]],
    executed: int | None,
    snapshot: str | None = None,
    timings: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return that object as a dictionary."""
    found = FIELDS | {
        "outcome": ending.outcome,
        "exit_code": ending.exit_code,
        "guest_exit_code": ending.guest_code,
        "results": results,
        "executed": executed,
        "snapshot": snapshot,
        "snapshots": ending.snapshots,
        "signal": ending.signal,
        "timings": timings_table(timings),
    }
    if ending.trap is not None:
        frames = [
            {"module": f.module, "function": f.function, "index": f.index, "offset": f.offset}
            for f in ending.trap.backtrace
        ]
        found["trap"] = {"code": ending.trap.code, "backtrace": frames}
    return found


def error_as_json(kind: str, message: str, hint: str | None, exit_code: int) -> str:
    """Return the object of --json for an end by an error."""
    error = error_fields(kind, message, hint)
    return dumps(FIELDS | {"outcome": "error", "exit_code": exit_code, "error": error})


def error_fields(kind: str, message: str, hint: str | None) -> dict[str, str | None]:
    """Return the error in the object of --json."""
    return {"kind": kind, "message": message, "hint": hint}


def interrupted_as_json(name: str, exit_code: int) -> str:
    """Return the object of --json for a signal that came before the program ran."""
    found = {"outcome": "interrupted", "exit_code": exit_code, "signal": name}
    return dumps(FIELDS | found)


def dumps(found: Mapping[str, object]) -> str:
    """Return an object as one line of JSON."""
    import json

    return json.dumps(found)


def timings_table(timings: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return for each step: how often, and seconds in all, on average and at most."""
    return {
        step: {
            "count": len(spans),
            "total": sum(spans),
            "mean": sum(spans) / len(spans),
            "max": max(spans),
        }
        for step, spans in timings.items()
        if spans
    }


def print_timings(timings: Mapping[str, Sequence[float]]) -> None:
    """Print the times of --timings for people, on standard error."""
    if not timings:
        say("timings: no snapshot was taken or read")
        return
    print(f"{'step':<10}{'times':>7}{'total':>12}{'mean':>12}{'most':>12}", file=sys.stderr)
    for step, row in timings_table(timings).items():
        spans = (human_time(row[column]) for column in ("total", "mean", "max"))
        cells = "".join(f"{span:>12}" for span in spans)
        print(f"{step:<10}{row['count']:>7.0f}{cells}", file=sys.stderr)
