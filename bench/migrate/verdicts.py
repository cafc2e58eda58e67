"""What moves in rounds must keep to, and sentences about what they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.migrate.moves import median
from bench.migrate.table import MIB, SLACK, Cell

SHARES = {"nextpnr": 1 / 10, "1 GiB": 1 / 50}
"""What the downtime in rounds may be, by that of stop-and-copy, on every line."""
NOT_CONVERGED = 1.05
"""The same where the rounds did not converge, for every program."""
FORETOLD = 0.9
"""The share of predictions that must be near enough."""


def misses(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a sentence for each limit that a program does not keep to."""
    for cell in cells:
        if cell.mode == "rounds":
            where = f"{cell.program}, {cell.line}, --cores {cell.cores}"
            where += f", {cell.method}" if cell.method else ""
            for text in (*_downtime(cell, _copy_of(cell, cells)), *_others(cell)):
                yield f"{where}: {text}"


def _copy_of(cell: Cell, cells: Sequence[Cell]) -> float | None:
    """Return the downtime of stop-and-copy of the same program on the same line."""
    for other in cells:
        same = (cell.program, cell.line, cell.cores) == (other.program, other.line, other.cores)
        if same and other.mode != "rounds":
            return median(other.downtimes)
    return None


def _downtime(cell: Cell, copy: float | None) -> Iterator[str]:
    near = [move for move in cell.moves if move.converged]
    late = [move for move in near if move.downtime > cell.probe.limit(move.last)]
    if late:
        over = median([move.downtime - cell.probe.limit(move.last) for move in late])
        yield (
            f"{len(late)} of {len(near)} moves that converged are beyond the limit, by "
            f"{over * 1000:.1f} ms in the median; {blame(cell)}"
        )
    if copy is None:
        return
    others = [move.downtime for move in cell.moves if not move.converged]
    if others and median(others) > NOT_CONVERGED * copy:
        yield (
            f"{len(others)} moves did not converge and stood for {median(others) * 1000:.0f} ms, "
            f"stop-and-copy for {copy * 1000:.0f} ms; {blame(cell)}"
        )
    share = SHARES.get(cell.program)
    if share is not None and median(cell.downtimes) > share * copy:
        yield (
            f"1/{copy / median(cell.downtimes):.1f} of stop-and-copy, not 1/{1 / share:.0f}; "
            f"{blame(cell)}"
        )


def _others(cell: Cell) -> Iterator[str]:
    if cell.failed:
        yield f"{len(cell.failed)} attempts failed: {cell.failed[0]}"
    near, of = cell.foretold
    if of and near < FORETOLD * of:
        yield f"{near} of {of} predictions are within 30 % or 20 ms"
    if of < len(cell.moves):
        yield f"{len(cell.moves) - of} of {len(cell.moves)} moves had no prediction"
    allowed = 1.1 * cell.alone + 64 * MIB
    for name, peak in cell.peaks.items():
        if peak > allowed:
            yield f"end {name} had {peak / MIB:.0f} MiB at its peak, not {allowed / MIB:.0f}"
    over = [sum(move.written) - move.last_raw - SLACK for move in cell.moves]
    if max(over) > 0:
        count = sum(one > 0 for one in over)
        yield (
            f"{count} of {len(over)} moves wrote more to the disk in the downtime than the last "
            f"set and 64 KiB, by up to {max(over) / 1024:.0f} KiB (the source "
            f"{median([move.written[0] for move in cell.moves]) / 1024:.0f}, the destination "
            f"{median([move.written[1] for move in cell.moves]) / 1024:.0f})"
        )


def blame(cell: Cell) -> str:
    """Return which parts of the downtime are the longest, as the ends say, beside their limits."""
    probe, moves = cell.probe, cell.moves
    parts = sorted(cell.parts.items(), key=lambda part: -part[1])[:4]
    rest = median(cell.downtimes) - sum(cell.parts.values())
    words = ", ".join(f"{name} {span * 1000:.1f}" for name, span in [*parts, ("not named", rest)])
    last = median([move.last / probe.rate for move in moves])
    limits = (
        f"(1.5 round trips are {1500 * probe.round_trip:.1f}, the last set {last * 1000:.1f}, "
        f"3 syncs {3000 * probe.sync:.1f})"
    )
    return f"of {median(cell.downtimes) * 1000:.1f} ms: {words} {limits}"
