"""`python -m bench`: ratios of this engine to its peers over the kernels.

    python -m bench [--quick] [--rounds N] [--json] [--plot FILE] [KERNEL…]

Pinned to one core, the peers take turns; of each the CPU time of the process is taken, and over the
rounds its minimum. All results must be equal. Nothing is dropped after measuring.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from bench import plot
from bench.build import REPEATS, Kernel, Missing, kernel
from bench.peers import PEERS, Absent, Peer, Run

BASE = "pywasm3"
"""Whose time is 1 in the tables, where it is there; otherwise the first peer's that is."""

Times = dict[str, dict[str, list[float]]]
"""Kernel to peer to seconds, one for each round."""


def outvoted(answers: Mapping[str, Hashable]) -> list[str]:
    """Who gives another answer than most do; everybody where no answer has the most voices."""
    ranked = Counter(answers.values()).most_common(2)
    tie = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return [name for name, answer in answers.items() if tie or answer != ranked[0][0]]


def prepared(chosen: Kernel, peers: Sequence[Peer]) -> tuple[dict[str, Run], dict[str, str]]:
    """Return what runs the kernel, by peer, after each has run it once; and why peers are missing.

    A peer is left out of this kernel if it fails, or if its result is not what most peers give.
    """
    runs: dict[str, Run] = {}
    results: dict[str, int] = {}
    failures: dict[str, str] = {}
    for peer in peers:
        try:
            run = peer.prepare(chosen)
            results[peer.name] = run()
        except Exception as error:  # noqa: BLE001 (whatever a peer raises, the others go on)
            failures[peer.name] = f"{type(error).__name__}: {error}"
        else:
            runs[peer.name] = run
    for name in outvoted(results):
        failures[name] = f"its result is {results[name]}; all results: {results}"
        del runs[name]
    return runs, failures


def present() -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that are here, and why the others are not."""
    peers, absent = [], {}
    smallest = kernel("crc", quick=True)
    for kind in PEERS:
        peer = kind()
        try:
            peer.prepare(smallest)
        except Absent as reason:
            absent[peer.name] = str(reason)
        else:
            peers.append(peer)
    return peers, absent


def measure(names: Sequence[str], peers: Sequence[Peer], *, quick: bool, rounds: int) -> Times:
    """Time every kernel in every peer, in turns."""
    times: Times = {}
    for name in names:
        runs, failures = prepared(kernel(name, quick=quick), peers)
        for peer, why in failures.items():
            print(f"failed: {name} in {peer}: {why}", file=sys.stderr, flush=True)
        seconds: dict[str, list[float]] = {peer: [] for peer in runs}
        for _ in range(rounds):
            for peer, run in runs.items():
                began = time.process_time()
                run()
                seconds[peer].append(time.process_time() - began)
        times[name] = seconds
        shown = " ".join(f"{peer} {min(values):.3f}" for peer, values in seconds.items())
        print(f"{name}: {shown}", file=sys.stderr, flush=True)
    return times


def ratios(times: Times, base: str) -> dict[str, dict[str, plot.Spread]]:
    """Kernel to peer to the ratio of minima, and median, least and greatest ratio of a round.

    A kernel that `base` did not run has no ratios and is left out.
    """
    found: dict[str, dict[str, plot.Spread]] = {}
    for name, seconds in times.items():
        if base not in seconds:
            continue
        found[name] = {}
        for peer, values in seconds.items():
            rounds = [a / b for a, b in zip(values, seconds[base], strict=True)]
            found[name][peer] = (
                min(values) / min(seconds[base]),
                statistics.median(rounds),
                min(rounds),
                max(rounds),
            )
    return found


def mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def table(times: Times, base: str) -> str:
    """Ratios to `base` by kernel, the spread of this engine's, and the geometric means."""
    found = ratios(times, base)
    peers = list(dict.fromkeys(peer for seconds in times.values() for peer in seconds))
    lines = [f"{'time / ' + base:14}" + "".join(f"{peer:>17}" for peer in peers) + "   spread"]
    for name, by_peer in found.items():
        cells = "".join(f"{by_peer[p][0]:17.3f}" if p in by_peer else " " * 17 for p in peers)
        spread = ""
        if peers[0] in by_peer:
            _, median, least, greatest = by_peer[peers[0]]
            spread = f"   {median:.3f} ({least:.3f}..{greatest:.3f})"
        lines.append(f"{name:14}{cells}{spread}")
    last = f"{'geometric mean':14}"
    for peer in peers:
        values = [by_peer[peer][0] for by_peer in found.values() if peer in by_peer]
        last += f"{mean(values):17.3f}" if len(values) == len(times) else " " * 17
    lines.append(last)
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=", ".join(REPEATS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, three rounds")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 3")
    parser.add_argument("--json", action="store_true", help="print all times as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios (needs matplotlib)")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.kernels) - set(REPEATS)):
        parser.error(f"no such kernel: {', '.join(unknown)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        peers, absent = present()
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 1
    for name, why in absent.items():
        print(f"without {name}: {why}", file=sys.stderr)
    rounds = options.rounds or (3 if options.quick else 7)
    names = options.kernels or list(REPEATS)
    times = measure(names, peers, quick=options.quick, rounds=rounds)
    base = BASE if BASE not in absent else peers[0].name
    complete = all(len(seconds) == len(peers) for seconds in times.values())
    if options.json:
        print(json.dumps({"machine": platform.platform(), "base": base, "seconds": times}))
    else:
        print(table(times, base))
    if options.plot:
        plot.draw(ratios(times, base), base, options.plot)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
