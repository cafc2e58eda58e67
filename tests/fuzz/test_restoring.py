"""A short run of `restoring`: snapshots of real programs with changed values."""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.restoring import Changes, originals, run, trial, written
from wasmsr.errors import SnapshotError
from wasmsr.snapshot.format import encode

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "60")) * 8
ORIGINALS = originals(random.Random(4))


def test_originals_run() -> None:
    for snapshot in ORIGINALS:
        data = written(snapshot)
        assert data and trial(data) == "run"


def test_changed_snapshots() -> None:
    draw = random.Random(5)
    changes = Changes(draw.randrange, ORIGINALS)
    stages = []
    for _ in range(ROUNDS):
        data = written(changes.apply(ORIGINALS[draw.randrange(len(ORIGINALS))]))
        if data is not None:
            stages.append(trial(data))
    # All three kinds of ends are common, or one of the checks is not reached.
    for stage in ("not read", "not restored", "run"):
        assert stages.count(stage) > ROUNDS // 40, stage


def test_values_that_were_built_in_python() -> None:
    """Restored as they are, without bytes between: the one door checks them all the same."""
    draw = random.Random(6)
    changes = Changes(draw.randrange, ORIGINALS, odd=True)
    stages = []
    for _ in range(ROUNDS):
        value = changes.apply(ORIGINALS[draw.randrange(len(ORIGINALS))])
        stages.append(run(value))
        try:
            data = b"".join(encode(value))
        except SnapshotError:
            continue
        trial(data)
    for stage in ("not restored", "run"):
        assert stages.count(stage) > ROUNDS // 40, stage


@settings(
    max_examples=ROUNDS // 8,
    deadline=None,
    derandomize="WASMSR_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_shrinkable_changes(data: st.DataObject) -> None:
    changes = Changes(lambda n: data.draw(st.integers(0, n - 1)), ORIGINALS)
    changed = written(changes.apply(data.draw(st.sampled_from(ORIGINALS))))
    if changed is not None:
        trial(changed)
