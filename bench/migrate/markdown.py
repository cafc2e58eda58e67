"""The tables of docs/performance.md, from what `bench.migrate --json FOUND.json` has kept.

python -m bench.migrate.markdown FOUND.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.migrate.cases import COPY, METHODS, ROUNDS, WANTED
from bench.migrate.moves import median
from bench.migrate.subjects import SUBJECTS
from bench.migrate.table import MIB, SLACK, Cell

NONE = "–"


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the lines of all tables."""
    for cores in sorted({cell.cores for cell in cells}, reverse=True):
        own = [cell for cell in cells if cell.cores == cores]
        yield f"Both ends on {'one core' if cores == 1 else f'{cores} cores'}:"
        yield ""
        yield from _downtimes(own)
        yield ""
        yield from _costs(own)
        yield ""
    yield from _lines(cells)


def _downtimes(cells: Sequence[Cell]) -> Iterator[str]:
    yield (
        "| program, line | stop-and-copy | in rounds | limit | as a share | private mapping | "
        "rounds | last set, MiB | predictions | the largest parts |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for name, line in _places(cells):
        copy, first, second = (
            _found(cells, name, line, COPY, ""),
            _found(cells, name, line, ROUNDS, METHODS[0]),
            _found(cells, name, line, ROUNDS, METHODS[1]),
        )
        if first is None:
            continue
        share = NONE
        if copy is not None:
            share = f"1/{median(copy.downtimes) / median(first.downtimes):.0f}"
        near, of = first.foretold
        parts = sorted(first.parts.items(), key=lambda part: -part[1])[:3]
        row = [
            f"{name}, {line}",
            _span(copy),
            _span(first),
            _ms(median([first.probe.limit(move.last) for move in first.moves])),
            share,
            _span(second),
            f"{median([move.said.get('rounds', 1) for move in first.moves]):.0f}",
            f"{median([move.last_raw for move in first.moves]) / MIB:.2f}",
            f"{near} of {of}",
            ", ".join(f"{part} {_ms(seconds)}" for part, seconds in parts),
        ]
        yield f"| {' | '.join(row)} |"


def _costs(cells: Sequence[Cell]) -> Iterator[str]:
    yield (
        "| program, line | moves | bytes sent / those of stop-and-copy | speed in the rounds, for "
        "| most memory (limit), MiB | written in the downtime (limit), KiB |"
    )
    yield "|---|---:|---:|---:|---:|---:|"
    for name, line in _places(cells):
        cell = _found(cells, name, line, ROUNDS, METHODS[0])
        copy = _found(cells, name, line, COPY, "")
        if cell is None:
            continue
        slower = [m.during / m.before for m in cell.moves if m.during is not None and m.before]
        spans = [move.span for move in cell.moves if move.during is not None]
        sent = NONE
        if copy is not None:
            whole = median([move.size for move in copy.moves])
            sent = f"{median([move.size for move in cell.moves]) / whole:.2f}"
        written, may = max((sum(move.written), move.last_raw + SLACK) for move in cell.moves)
        row = [
            f"{name}, {line}",
            f"{len(cell.moves)}",
            sent,
            f"{median(slower):.2f}, {median(spans):.1f} s" if slower else NONE,
            f"{max(cell.peaks.values()) / MIB:.0f} ({1.1 * cell.alone / MIB + 64:.0f})",
            f"{written / 1024:.0f} ({may / 1024:.0f})",
        ]
        yield f"| {' | '.join(row)} |"


def _lines(cells: Sequence[Cell]) -> Iterator[str]:
    yield "| line | round trip, ms | MiB/s | one sync, ms | load of the machine |"
    yield "|---|---:|---:|---:|---:|"
    for line in WANTED:
        own = [cell for cell in cells if cell.line == line]
        if own:
            probes = [cell.probe for cell in own]
            loads = [cell.load for cell in own]
            yield (
                f"| {line} | {median([p.round_trip for p in probes]) * 1000:.2f} | "
                f"{median([p.rate for p in probes]) / MIB:.1f} | "
                f"{median([p.sync for p in probes]) * 1000:.2f} | "
                f"{min(loads):.1f} to {max(loads):.1f} |"
            )


def _places(cells: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    there = {(cell.program, cell.line) for cell in cells}
    for line in WANTED:
        for subject in SUBJECTS:
            if (subject.name, line) in there:
                yield subject.name, line


def _found(cells: Sequence[Cell], name: str, line: str, mode: str, method: str) -> Cell | None:
    for cell in cells:
        if (cell.program, cell.line, cell.mode, cell.method) == (name, line, mode, method):
            return cell
    return None


def _span(cell: Cell | None) -> str:
    """Return median and worst downtime in ms."""
    if cell is None:
        return NONE
    return f"{_ms(median(cell.downtimes))} / {_ms(max(cell.downtimes))}"


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}"


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.migrate.markdown", description=__doc__)
    parser.add_argument("found", type=Path, nargs="+", metavar="FOUND.json")
    options = parser.parse_args(argv)
    try:
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in options.found]
        cells = [Cell.of(values) for run in runs for values in run["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"without a table: {error}", file=sys.stderr)
        return 1
    for line in tables(cells):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
