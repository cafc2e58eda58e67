"""Draws the bench's ratios, last in its flow. matplotlib is needed only here."""

from __future__ import annotations

import sys
from collections.abc import Mapping

Spread = tuple[float, float, float, float]
"""Ratio of minima; median, least and greatest ratio of a round."""


def draw(ratios: Mapping[str, Mapping[str, Spread]], base: str, path: str) -> None:
    """Bars for each program and engine, on a logarithmic scale, with the spread as lines.

    Where an engine has not run a program, a gap remains.
    """
    try:
        import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("without a plot: pip install matplotlib", file=sys.stderr)
        return
    engines = list(dict.fromkeys(engine for row in ratios.values() for engine in row))
    figure, axes = plt.subplots(figsize=(1 + 0.13 * len(engines) * len(ratios), 5))
    width = 0.8 / len(engines)
    for number, engine in enumerate(engines):
        found = [(i, row[engine]) for i, row in enumerate(ratios.values()) if engine in row]
        places = [i + (number + 0.5 - len(engines) / 2) * width for i, _ in found]
        heights = [value[0] for _, value in found]
        below = [max(0.0, value[0] - value[2]) for _, value in found]
        above = [max(0.0, value[3] - value[0]) for _, value in found]
        lines = {"elinewidth": 0.6}
        axes.bar(places, heights, width, label=engine, yerr=[below, above], error_kw=lines)
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xlim(-0.6, len(ratios) - 0.4)
    axes.set_xticks(range(len(ratios)), list(ratios), rotation=45, ha="right")
    axes.set_ylabel(f"time / {base}")
    axes.legend(ncols=2, fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
