"""`python -m bench.simd`: what vector instructions are worth, here and in Wasmtime.

    python -m bench.simd [--rounds N] [KERNEL…]

Eight kernels in C (bench/kernels/simd), four on lanes of 8 bits and four on lanes of 32, each built
twice by clang -O2, without and with -msimd128. Both builds run in turns, pinned to one core; the
ratio is that of the least CPU times. All results must be equal.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from bench.__main__ import mean
from bench.build import Kernel, Missing, vectors
from bench.peers import Absent, Peer, Run, Wasmsr, Wasmtime

REPEATS = {
    "difference": 600,
    "blend": 800,
    "brighten": 500,
    "checksum": 500,
    "dot": 3000,
    "product": 25,
    "clamp": 1000,
    "mixing": 1000,
}
"""run(n) of every kernel without vectors: a few tenths of a second in this interpreter."""

LANES_OF_8 = ("difference", "blend", "brighten", "checksum")


def _prepared(name: str, peer: Peer) -> dict[bool, Run]:
    return {
        simd: peer.prepare(Kernel(name, wasm := vectors(name, simd=simd), wasm, REPEATS[name]))
        for simd in (False, True)
    }


def measure(name: str, peers: Sequence[Peer], rounds: int) -> dict[str, tuple[float, float]]:
    """Least CPU times without and with vectors, in seconds, by peer."""
    runs = {peer.name: _prepared(name, peer) for peer in peers}
    results = {run() for both in runs.values() for run in both.values()}
    assert len(results) == 1, f"{name}: results differ: {results}"
    least = {(peer, simd): float("inf") for peer in runs for simd in (False, True)}
    for _ in range(rounds):
        for peer, simd in least:
            began = time.process_time()
            runs[peer][simd]()
            least[peer, simd] = min(least[peer, simd], time.process_time() - began)
    return {peer: (least[peer, False], least[peer, True]) for peer in runs}


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.simd", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=", ".join(REPEATS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.kernels) - set(REPEATS)):
        parser.error(f"no such kernel: {', '.join(unknown)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peers: list[Peer] = [Wasmsr()]
    names = options.kernels or list(REPEATS)
    try:
        vectors(names[0], simd=True)
        Wasmtime().prepare(Kernel("", made := vectors(names[0], simd=False), made, 0))
        peers.append(Wasmtime())
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 1
    except Absent as reason:
        print(f"without wasmtime: {reason}", file=sys.stderr)
    heads = (f"{peer.name + what:>16}" for peer in peers for what in (", ms", ", faster"))
    print(f"{'kernel':12}{'lanes':>6}" + "".join(heads))
    gains: dict[str, list[float]] = {}
    for name in names:
        times = measure(name, peers, options.rounds)
        cells = ""
        for peer, (scalar, vector) in times.items():
            cells += f"{vector * 1e3:16.1f}{scalar / vector:16.2f}"
            gains.setdefault(peer, []).append(scalar / vector)
        print(f"{name:12}{8 if name in LANES_OF_8 else 32:>6}{cells}", flush=True)
    means = "".join(f"{'':16}{mean(values):16.2f}" for values in gains.values())
    print(f"{'geometric mean':18}{means}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
