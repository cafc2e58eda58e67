"""A short run of `differential`: random modules with everything, here and under Wasmtime."""

from __future__ import annotations

import os
import random

import pytest

from tests.fuzz.everything import source

wasmtime = pytest.importorskip("wasmtime", reason="Wasmtime is what the results are compared with")

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "60"))


def test_modules_with_everything() -> None:
    from tests.fuzz.differential import trial

    ends = [trial(source(random.Random(seed).randrange), seed) for seed in range(ROUNDS)]
    assert sum(end.trap is None for end in ends) > ROUNDS // 3
    assert sum(end.trap is not None for end in ends) > ROUNDS // 20


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
