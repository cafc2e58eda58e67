"""The end of campaigns that lose servers of jobs: what is wrong, and the file of the runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

Line = dict[str, Any]


class Listed(Protocol):
    """A program in the list of a node."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def standing(self) -> str:
        """What the node says of it."""


def wrong_end(
    name: str, code: int | None, data: bytes, *, expected: tuple[int, bytes], said: str = ""
) -> list[str]:
    """Return what is wrong with an execution that has ended; it is one sentence, or none.

    Args:
        name: The execution.
        code: Its exit code.
        data: What it has written.
        expected: The code that it should have, and all that it should have written.
        said: What is said of its end.
    """
    right, whole = expected
    if (code, data) == (right, whole):
        return []
    same = next((at for at, pair in enumerate(zip(data, whole, strict=False)) if len({*pair}) > 1),
                min(len(data), len(whole)))  # fmt: skip
    return [
        f"{name}: code {code} (not {right}), {len(data)} bytes (not {len(whole)}), equal up to "
        f"{same}: {said}"
    ]


def wrong_counts(
    programs: Iterable[Listed], exactly: Collection[str] = ()
) -> tuple[int, list[str]]:
    """Return how many programs there were, and what is wrong with how often they have ended.

    Args:
        programs: What all nodes list.
        exactly: Names of programs that must have ended once; others may not have ended.
    """
    ended = Counter[str]()
    for one in programs:
        ended[one.name] += one.standing == "ended"
    wrong = [f"{name} ended {count} times" for name, count in ended.items() if count > 1]
    return len(ended), wrong + [f"{name} did not end" for name in exactly if not ended[name]]


def earlier(path: Path, seed: int) -> int:
    """Return how many runs of a seed a file has, without a line that a killed process left half."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    found = [json.loads(line) for line in whole.splitlines()]
    return max((one["number"] + 1 for one in found if one["seed"] == seed), default=0)


def carry_out(path: Path, runs: int, seed: int, campaign: Callable[[range], Iterator[Line]]) -> int:
    """Make the runs that a file has not, a line of JSON each, and return the exit code.

    Args:
        path: The file.
        runs: How many there are in all.
        seed: The seed, which each line names.
        campaign: Makes runs by their numbers; each line has its `number`, `seed` and `wrong`.
    """
    wrong = 0
    begin = earlier(path, seed)
    with open(path, "a", encoding="utf-8") as file:
        for line in campaign(range(begin, runs)):
            print(json.dumps(line), file=file, flush=True)
            print(json.dumps(line), flush=True)
            wrong += len(line["wrong"])
    print(f"{wrong} wrong")
    return 1 if wrong else 0
