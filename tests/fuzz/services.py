"""Wrong calls for every method of both services: each is refused, and nobody else notices.

    python -m tests.fuzz.services --seconds N [--service control|migration] [--file FILE]
    python -m tests.fuzz.services --service S --seed N

Right sequences of calls (a submission and what follows, a move with its rounds) are changed:
fields, order, repetitions, cuts, huge counts, ids of other programs, epochs of others, zstd bombs,
module bombs, pages out of range. The caller has a valid certificate or key. After each sequence the
service must live, and a program that nobody touches must have counted on and be right. Each refusal
must be a status with a sentence. After ten sequences memory must be within 64 MiB of before, and
threads and descriptors as many as before.

With `--file`, a command that is started again goes on after the last seed there.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.service_bombs import bombs
from tests.fuzz.service_node import NodeEndTarget
from tests.fuzz.service_targets import TARGETS as OTHERS
from tests.fuzz.service_targets import FuzzTarget, Harm

TARGETS: dict[str, Callable[[Path], FuzzTarget]] = {**OTHERS, NodeEndTarget.name: NodeEndTarget}
"""The services, by name."""

EVERY = 10
"""After so many sequences threads and descriptors are counted."""


def attack(target: FuzzTarget, seed: int) -> int:
    """Send one sequence of wrong calls and return how many it has. Raises Harm."""
    numbers = random.Random(f"{target.name} {seed}")
    mutator = target.mutator(numbers)
    calls = target.fresh(numbers.choice(target.corpus()), numbers)
    if numbers.random() < 0.1:
        calls = bombs(target.name, calls, numbers)
    else:
        calls = mutator.wrong(calls, target.kinds)
    for call in calls:
        target.send(call)
        target.check_alive()
    target.tidy()
    if seed % EVERY == 0:
        target.check()
    else:
        target.check_counting()
    return len(calls)


def campaign(
    names: Sequence[str], seconds: float, first: int, file: Path | None = None
) -> list[str]:
    """Attack the services in turn for so long; return what did harm, one sentence each.

    Args:
        names: The services, keys of `TARGETS`.
        seconds: How long, for each.
        first: The first seed.
        file: What is done is kept there.
    """
    harms: list[str] = []
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="wasmsr-fuzz-"))
        target: FuzzTarget | None = None
        began, seed, calls = time.monotonic(), first, 0
        try:
            while time.monotonic() - began < seconds:
                try:
                    if target is None:
                        target = TARGETS[name](folder)
                        began = began if calls else time.monotonic()
                    calls += attack(target, seed)
                except Harm as error:
                    harms.append(f"{name}, seed {seed}: {error}")
                    print(harms[-1], flush=True)
                    if target is not None:
                        target.close()
                    target, folder = None, Path(tempfile.mkdtemp(prefix="wasmsr-fuzz-"))
                seed += 1
                if file is not None and seed % EVERY == 0:
                    with open(file, "a", encoding="utf-8") as log:
                        print(json.dumps({"service": name, "seed": seed, "harms": harms}), file=log)
            if target is not None:
                target.check()
                print(
                    f"{name}: {seed - first} sequences, {calls} calls; "
                    f"{(target.held()[0] - target.before[0]) / 2**20:+.1f} MiB",
                    flush=True,
                )
                for answer, count in sorted(target.answers.items()):
                    print(f"  {count:7} {answer}")
        except Harm as error:
            harms.append(f"{name}, at the end: {error}")
            print(harms[-1], flush=True)
        finally:
            if target is not None:
                target.close()
            shutil.rmtree(folder, ignore_errors=True)
    return harms


def next_seed(file: Path | None) -> int:
    """Return the first seed that a log has not."""
    if file is None or not file.exists():
        return 1
    seeds = [json.loads(line)["seed"] for line in file.read_text("utf-8").splitlines()]
    return max(seeds, default=1)


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each service")
    parser.add_argument("--service", choices=sorted(TARGETS), action="append")
    parser.add_argument("--seed", type=int, help="only this sequence")
    parser.add_argument("--file", type=Path, help="what is done is kept there")
    options = parser.parse_args()
    names = options.service or sorted(TARGETS)
    if options.seed is not None:
        return int(bool(campaign(names, 0.001, options.seed)))
    harms = campaign(names, options.seconds, next_seed(options.file), options.file)
    print(f"{len(harms)} harms")
    return int(bool(harms))


if __name__ == "__main__":
    sys.exit(main())
