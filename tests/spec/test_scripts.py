"""The official scripts against wasmsr: straight, restored between instructions, and hopped:
restored at canonical points in fast code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from . import hopped, report, suite
from .conftest import PROPERTY
from .convert import has_wabt
from .execute import Tally
from .runner import run_script

absence = suite.absence()
needs_scripts = pytest.mark.skipif(absence is not None, reason=absence or "")
NAMES = suite.names()
LARGEST_FIRST = sorted(NAMES, key=suite.size, reverse=True)
LEAST = 22_900
"""Assertions of Wasm 2.0 without SIMD, of tail calls and of extended constant expressions."""

QUICK = ("br_table", "call_ref", "fac", "if", "loop", "memory_grow", "try_table")
"""Scripts that are hopped in the quick tests."""


def run(name: str, mode: str, record_property: Callable[[str, object], None]) -> Tally:
    if name.startswith("legacy/") and not has_wabt():
        pytest.skip("wabt's wat2wasm, which takes the old exception instructions, is not installed")
    tally, numbers = run_script(name, mode)
    counts = report.as_json(tally) | {"mode": mode, "numbers": vars(numbers)}
    record_property(PROPERTY, counts)
    assert not tally.failures, "\n".join(map(str, tally.failures))
    # What does not fail may still have been skipped: the floor is what must have passed.
    assert tally.assertions["passed"] >= suite.floor().get(name, 0)
    # Wherever it stopped in fast code it goes on in fast code.
    assert numbers.entered == numbers.stops * hopped.FAST
    return tally


@needs_scripts
@pytest.mark.parametrize("name", NAMES)
def test_straight(name: str, record_property: Callable[[str, object], None]) -> None:
    tally = run(name, "straight", record_property)
    if "WASMSR_SPEC" not in os.environ:  # which may name scripts of another day
        assert report.markdown_row(tally) in suite.CONFORMANCE.read_text().splitlines(), (
            "docs/conformance.md is stale: python -m tests.spec.runner --write"
        )


@needs_scripts
@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGEST_FIRST)
def test_restored(name: str, record_property: Callable[[str, object], None]) -> None:
    run(name, "restored", record_property)


@needs_scripts
@pytest.mark.parametrize("name", [name for name in QUICK if name in NAMES])
def test_some_hopped(name: str, record_property: Callable[[str, object], None]) -> None:
    run(name, "hopped", record_property)


@needs_scripts
@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGEST_FIRST)
def test_hopped(name: str, record_property: Callable[[str, object], None]) -> None:
    run(name, "hopped", record_property)


def test_the_floor_is_high_enough() -> None:
    assert sum(suite.floor().values()) >= LEAST


@needs_scripts
def test_the_floor_knows_every_script() -> None:
    assert sorted(suite.floor()) == NAMES


def test_the_table_adds_up() -> None:
    rows = re.findall(
        r"^\| (\S+) \| ([\d,]+ \| .*?) \|[^|]*\|$", suite.CONFORMANCE.read_text(), re.M
    )
    numbers = [[int(cell.replace(",", "")) for cell in cells.split(" | ")] for _, cells in rows]
    names = [name for name, _ in rows]
    assert names == [f"`{name}`" for name in sorted(suite.floor())] + ["**total**"]
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1]
    for assertions, passed, failed, skipped, texts in numbers:
        assert (passed + failed + skipped + texts, failed) == (assertions, 0)
