"""Prints, after the tests, what the official scripts came to: sums over all that were run here."""

from __future__ import annotations

from collections import Counter

import pytest

from . import report
from .engine import Numbers
from .execute import Tally

PROPERTY = "wasmsr spec script"
"""The name under which a test leaves its counts in its report."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    modes: dict[str, tuple[list[Tally], Numbers]] = {}
    for outcome in ("passed", "failed"):
        for test in terminalreporter.stats.get(outcome, []):
            for name, counts in getattr(test, "user_properties", []):
                if name == PROPERTY and test.when == "call":
                    tallies, numbers = modes.setdefault(counts["mode"], ([], Numbers()))
                    tallies.append(_tally(counts))
                    numbers.add(Numbers(**counts["numbers"]))
    for mode, (tallies, numbers) in sorted(modes.items()):
        terminalreporter.section(f"official scripts, {mode}")
        terminalreporter.write_line(report.summary(tallies))
        if numbers.invocations:
            terminalreporter.write_line(report.numbers_sentence(numbers))


def _tally(counts: dict[str, dict[str, int]]) -> Tally:
    tally = Tally(str(counts["script"]))
    tally.assertions = Counter(counts["assertions"])
    tally.commands = Counter(counts["commands"])
    tally.skipped = Counter(counts["skipped"])
    return tally
