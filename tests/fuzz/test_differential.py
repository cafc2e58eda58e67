"""A short run of `differential`: random modules with everything, here and under Wasmtime."""

from __future__ import annotations

import os
import random

import pytest

from tests.fuzz.everything import source as everything
from tests.fuzz.legacy import assemble, pair
from tests.fuzz.throwing import source

wasmtime = pytest.importorskip("wasmtime", reason="Wasmtime is what the results are compared with")

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "60"))


def test_modules_with_everything() -> None:
    from tests.fuzz.differential import trial

    ends = [trial(source(random.Random(seed).randrange), seed).end for seed in range(ROUNDS)]
    assert sum(end.trap is None for end in ends) > ROUNDS // 3
    assert sum(end.trap is not None for end in ends) > ROUNDS // 20
    assert sum(end.values.get("r99", 0) != 0 for end in ends) > ROUNDS // 20  # nobody caught


def test_modules_without_exceptions() -> None:
    from tests.fuzz.differential import trial

    for seed in range(1000, 1000 + ROUNDS // 3):
        trial(everything(random.Random(seed).randrange), seed)


def test_old_exception_instructions() -> None:
    from tests.fuzz.differential import legacy_trial

    if assemble("(module)") is None:
        pytest.skip("wabt's wat2wasm, which takes the old exception instructions, is not installed")
    done = [
        legacy_trial(*pair(random.Random(seed).randrange), seed)
        for seed in range(2000, 2000 + ROUNDS // 2)
    ]
    assert sum(trial.end.trap is None for trial in done) > ROUNDS // 6
    assert sum(trial.journeys for trial in done) > ROUNDS


def test_what_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import differential

    oracle = differential.oracle

    def wrong(module: object) -> differential.End:
        end = oracle(module)  # type: ignore[arg-type]
        name = next(iter(end.memories))
        end.memories[name] = bytes(32)
        return end

    monkeypatch.setattr(differential, "oracle", wrong)
    with pytest.raises(AssertionError, match="Wasmtime ends otherwise"):
        differential.trial(source(random.Random(0).randrange), 0)
