"""Draws the bench's ratios, last in its flow. matplotlib is needed only here."""

from __future__ import annotations

import sys
from collections.abc import Mapping

Spread = tuple[float, float, float, float]
"""Ratio of minima; median, least and greatest ratio of a round."""


def draw(ratios: Mapping[str, Mapping[str, Spread]], base: str, path: str) -> None:
    """Bars for each kernel and peer, on a logarithmic scale, with the spread as lines."""
    try:
        import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("without a plot: pip install matplotlib", file=sys.stderr)
        return
    peers = list(next(iter(ratios.values())))
    figure, axes = plt.subplots(figsize=(1 + 0.9 * len(ratios), 5))
    width = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        places = [i + (number - len(peers) / 2) * width for i in range(len(ratios))]
        values = [by_peer[peer] for by_peer in ratios.values()]
        heights = [value[0] for value in values]
        below = [max(0.0, value[0] - value[2]) for value in values]
        above = [max(0.0, value[3] - value[0]) for value in values]
        axes.bar(places, heights, width, label=peer, yerr=[below, above])
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(ratios)), list(ratios), rotation=45, ha="right")
    axes.set_ylabel(f"time / {base}")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
