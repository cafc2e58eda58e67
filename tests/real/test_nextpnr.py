"""nextpnr for iCE40 FPGAs, unmodified, 223 MiB of memory: places and routes a design, whole and in
legs. An older one that needs little of its engine, and a newer one with exceptions and atomics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real import fetch
from tests.real.legs import Job, in_legs, whole
from tests.real.netlist import feedback_register
from tests.real.oracle import wasmtime_run
from wasmsr import Module

WIDTH = 48


NEEDS: dict[Callable[[], tuple[Path, Path]], set[str]] = {
    fetch.nextpnr: set(),
    fetch.newer_nextpnr: {"exceptions", "threads"},
}
"""The features that each version needs."""


@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("version", NEEDS, ids=["older", "newer"])
def test_place_and_route_in_legs(version: Callable[[], tuple[Path, Path]], tmp_path: Path) -> None:
    try:
        module, share = version()
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))
    assert Module.from_file(module).needed_features == NEEDS[version]
    # Quiet, for what it says otherwise holds times.
    words = "--hx8k --package ct256 --json /w/design.json --asc /w/out.asc --report /w/report.json"
    job = Job(
        module,
        (*words.split(), "--seed", "1", "-q"),
        mounts=((share, "/share"),),
        output="/w",
        inputs={"design.json": feedback_register(WIDTH)},
    )
    result, executed = whole(job, tmp_path / "whole")
    assert result.code == 0
    report = json.loads(result.files["report.json"])
    assert report["utilization"]["ICESTORM_LC"]["used"] >= WIDTH
    (clock,) = report["fmax"].values()
    assert clock["achieved"] > 12  # MHz; 12 is what is asked of it where nothing is said
    assert result.files["out.asc"].startswith(b".comment")

    assert result == wasmtime_run(job, tmp_path / "oracle")
    assert in_legs(job, tmp_path / "legs", executed=executed, seed=2) == result
