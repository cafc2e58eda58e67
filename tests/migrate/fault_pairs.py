"""All pairs of faults of two moves, for hours if need be: a seeded part of them is in the tests.

    python -m tests.migrate.fault_pairs --file F [--durable ready|none] [--jobs N] [--minutes M]

F has a line for each first fault whose pairs are done, so the same command goes on where it ended.
A program that carries files moves from an end to another one and back (`test_faults.py`). The last
line of the output says how many pairs were run and what was wrong; the exit code is 1 if something
was, and 2 if pairs are left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.migrate.ends import Fault
from tests.migrate.test_faults import attempt, faults_of, second_faults

DURABLE = ("ready", "none")


def no_sync(fd: object) -> None:
    """Sync nothing: as in `test_faults`, a killed process loses nothing that it wrote."""


def run(first: Fault, durable: str) -> tuple[int, list[str]]:
    """Run all pairs that begin with a fault; return how many, and what was wrong."""
    os.fsync = no_sync
    count, wrong = 0, []
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-pairs-"))
    try:
        for second in second_faults(folder, first, durable):
            count += 1
            try:
                attempt(folder, first, second, durable=durable)
            except BaseException as error:  # noqa: BLE001 (what an assertion of the test says)
                wrong.append(f"{first}, {second}, {durable}: {error!r}")
            if count % 20 == 0:
                for path in folder.iterdir():
                    shutil.rmtree(path, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return count, wrong


def done_in(path: Path) -> dict[tuple[str, str], tuple[int, list[str]]]:
    """Return what a file says was run: pairs and faults by first fault and mode."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(one["durable"], one["first"]): (one["pairs"], one["wrong"]) for one in found}


def firsts(durable: str) -> Iterator[Fault]:
    """Yield every first fault."""
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-pairs-"))
    try:
        yield from faults_of(attempt(folder, durable=durable))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.migrate.fault_pairs")
    parser.add_argument("--file", type=Path, required=True, help="what is done is kept there")
    parser.add_argument("--durable", choices=DURABLE, action="append", help="default: both")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after that")
    options = parser.parse_args(argv)
    os.fsync = no_sync
    until = time.monotonic() + 60 * options.minutes
    done, left = done_in(options.file), 0
    with ProcessPoolExecutor(options.jobs) as pool, options.file.open("a") as file:
        todo = [
            (durable, first)
            for durable in options.durable or DURABLE
            for first in firsts(durable)
            if (durable, str(first)) not in done
        ]
        for at in range(0, len(todo), options.jobs):
            if time.monotonic() > until:
                left = len(todo) - at
                break
            some = todo[at : at + options.jobs]
            futures = {
                pool.submit(run, first, durable): (durable, first) for durable, first in some
            }
            for future in as_completed(futures):
                durable, first = futures[future]
                pairs, wrong = done[durable, str(first)] = future.result()
                line = {"durable": durable, "first": str(first), "pairs": pairs, "wrong": wrong}
                print(json.dumps(line), file=file, flush=True)
                for text in wrong:
                    print(text, flush=True)
    for durable in DURABLE:
        found = [one for (mode, _), one in done.items() if mode == durable]
        count, faults = sum(one[0] for one in found), sum(len(one[1]) for one in found)
        print(f"{durable}: {len(found)} first faults, {count} pairs, {faults} wrong")
    print(f"{left} first faults are left" if left else "all that was asked for is done")
    return 1 if any(texts for _, texts in done.values()) else 2 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
