"""What a measurement runs where."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("jsonschema")

from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.measuring import BenchPlan

PLAN = BenchPlan(["x/a.wasm", "x/b.wasm", "x/c.wasm"], ["one", "two"], [["1"], ["2"]], seed=3)


def test_the_cross_product() -> None:
    found = PLAN.modules(["d1", "d2"])
    assert [len(one) for one in found.values()] == [12, 12]
    for modules in found.values():
        kinds = Counter(
            (one["file"], one["args"]["engine"], one["args"]["argv"][0]) for one in modules
        )
        assert len(kinds) == 12 and set(kinds.values()) == {1}
    names = {one["uuid"] for modules in found.values() for one in modules}
    assert len(names) == 24
    assert found["d1"][0]["name"] == "a.one"


def test_what_is_random_repeats_with_the_seed() -> None:
    def order(plan: BenchPlan) -> list[list[str]]:
        return [[f"{one['file']} {one['args']}" for one in modules]
                for modules in plan.modules(["d1", "d2"]).values()]  # fmt: skip

    shuffled = replace(PLAN, shuffle=True)
    assert order(shuffled) == order(shuffled) != order(PLAN)
    assert order(shuffled)[0] != order(shuffled)[1]
    several = replace(PLAN, interference=2)
    assert order(several) == order(several)
    files = {one["file"] for one in several.modules(["d"])["d"]}
    assert len(files) == 3
    assert sorted(":".join(files).split(":")) == sorted([*PLAN.files, *PLAN.files])


def test_too_many() -> None:
    with pytest.raises(FleetError, match="4096 are the most"):
        replace(PLAN, argvs=[["x"]] * 5000).modules(["d"])
