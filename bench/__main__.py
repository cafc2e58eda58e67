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
from collections.abc import Sequence

from bench import plot
from bench.build import REPEATS, Kernel, Missing, kernel
from bench.peers import PEERS, Absent, Peer, Run

BASE = "pywasm3"
"""Whose time is 1 in the tables, where it is there; otherwise the first peer's that is."""

Times = dict[str, dict[str, list[float]]]
"""Kernel to peer to seconds, one for each round."""


def prepared(chosen: Kernel, peers: Sequence[Peer]) -> dict[str, Run]:
    """What runs the kernel, by peer; all have run it once and agree.

    Raises:
        AssertionError: results differ.
    """
    runs = {peer.name: peer.prepare(chosen) for peer in peers}
    results = {name: run() for name, run in runs.items()}
    assert len(set(results.values())) == 1, f"{chosen.name}: results differ: {results}"
    return runs


def present() -> tuple[list[Peer], dict[str, str]]:
    """The peers that are here, and why the others are not."""
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
        runs = prepared(kernel(name, quick=quick), peers)
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
    """Kernel to peer to the ratio of minima, and median, least and greatest ratio of a round."""
    found: dict[str, dict[str, plot.Spread]] = {}
    for name, seconds in times.items():
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
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def table(times: Times, base: str) -> str:
    """Ratios to `base` by kernel, the spread of this engine's, and the geometric means."""
    found = ratios(times, base)
    peers = list(next(iter(times.values())))
    lines = [f"{'time / ' + base:14}" + "".join(f"{peer:>17}" for peer in peers) + "   spread"]
    for name, by_peer in found.items():
        _, median, least, greatest = by_peer[peers[0]]
        cells = "".join(f"{by_peer[peer][0]:17.3f}" for peer in peers)
        lines.append(f"{name:14}{cells}   {median:.3f} ({least:.3f}..{greatest:.3f})")
    means = (mean([by_peer[peer][0] for by_peer in found.values()]) for peer in peers)
    lines.append(f"{'geometric mean':14}" + "".join(f"{value:17.3f}" for value in means))
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
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
    if options.json:
        print(json.dumps({"machine": platform.platform(), "base": base, "seconds": times}))
    else:
        print(table(times, base))
    if options.plot:
        plot.draw(ratios(times, base), base, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
