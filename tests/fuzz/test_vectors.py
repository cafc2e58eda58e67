"""Random modules of vector instructions: in fast and precise code, counted, and under Wasmtime."""

from __future__ import annotations

import os
import random

from tests.fuzz.test_generated_programs import restored
from tests.fuzz.test_random_codes import trial
from tests.fuzz.vectors import Vectors
from wasmsr import Module

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "40"))


def test_modules_of_vectors() -> None:
    ends = [trial(Vectors(random.Random(seed).randrange).module(), seed) for seed in range(ROUNDS)]
    assert sum(end.trap is None for end, _ in ends) > ROUNDS * 3 // 4


def test_journeys_between_instructions() -> None:
    """Put away with vectors on the stack, again and again."""
    for seed in range(3):
        text = Vectors(random.Random(seed).randrange).module()
        end, _ = trial(text, seed)
        again, _ = restored(Module.from_text(text), every=7)
        assert again == end
