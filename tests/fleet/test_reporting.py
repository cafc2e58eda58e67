"""`wasmsr fleet report`: what kept records of measurements show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wasmsr.cli.fleet.measured import report
from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.measuring import RecordKeeper
from wasmsr.fleet.reporting import MOST_IN_PANEL, draw_report, read_measured
from wasmsr.fleet.wire.records import encode_records


def keep(
    folder: Path, module: str, wall: list[int], kind: str = "benchmarking", **about: Any
) -> None:
    columns = {"wall": wall, "user": [one // 2 for one in wall], "system": [1] * len(wall)}
    if kind == "seeded":
        columns["seed"] = [7] * len(wall)
    payload = encode_records(kind, columns)
    RecordKeeper(folder).keep(kind, payload, {"module": module, "runtime": "r-1", **about})


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for device in ("kitchen", "attic"):
        for engine, spans in (("one", [1000, 2000, 3000, 4000]), ("two", [500, 700])):
            for file in ("x/fib.wasm", "x/gcd.wasm"):
                keep(folder, f"{device}{engine}{file[2]}", spans, device=device, file=file,
                     engine=engine, args={"argv": ["9"]})  # fmt: skip
    # Of the same program again, and without what nobody knew.
    keep(folder, "again", [5000], kind="seeded", device="attic", file="x/fib.wasm", engine="one",
         args={"argv": ["9"]})  # fmt: skip
    keep(folder, "bare", [10])
    RecordKeeper(folder).keep("opcodes", bytes(8 * 256), {"module": "m"})
    return folder


def test_the_same_program_is_put_together(kept: Path) -> None:
    found = read_measured(kept)
    assert [(one.device, one.program, one.engine, len(one.wall)) for one in found] == [
        ("attic", "x/fib.wasm 9", "one", 5), ("attic", "x/fib.wasm 9", "two", 2),
        ("attic", "x/gcd.wasm 9", "one", 4), ("attic", "x/gcd.wasm 9", "two", 2),
        ("kitchen", "x/fib.wasm 9", "one", 4), ("kitchen", "x/fib.wasm 9", "two", 2),
        ("kitchen", "x/gcd.wasm 9", "one", 4), ("kitchen", "x/gcd.wasm 9", "two", 2),
        ("r-1", "bare", "", 1),
    ]  # fmt: skip
    assert found[0].summary() == {
        "device": "attic", "program": "x/fib.wasm 9", "engine": "one", "runs": 5,
        "median": 0.003, "lower_quartile": 0.002, "upper_quartile": 0.004,
        "least": 0.001, "greatest": 0.005, "cpu_median": 0.001501,
    }  # fmt: skip


def test_what_people_and_scripts_get(kept: Path) -> None:
    shown = CliRunner().invoke(report, [str(kept)], standalone_mode=False)
    assert shown.exception is None and "0.002 to 0.004" in shown.stdout
    rows = CliRunner().invoke(report, [str(kept), "--json"], standalone_mode=False).stdout
    assert [json.loads(row)["runs"] for row in rows.splitlines()] == [5, 2, 4, 2, 4, 2, 4, 2, 1]


@pytest.mark.parametrize(
    "damage",
    [
        b"{", b"[]", b"[" * 100_000, b"\xff",
        b'{"kind": "benchmarking"}',
        b'{"kind": "benchmarking", "records": []}',
        b'{"kind": "benchmarking", "records": {"wall": [1], "user": [1], "system": []}}',
        b'{"kind": "benchmarking", "records": {"wall": [-1], "user": [1], "system": [1]}}',
        b'{"kind": "benchmarking", "records": {"wall": [true], "user": [1], "system": [1]}}',
        b'{"kind": "benchmarking", "records": {"wall": [1.5], "user": [1], "system": [1]}}',
        b'{"kind": "benchmarking", "records": {"wall": [1e999], "user": [1], "system": [1]}}',
    ],
)  # fmt: skip
def test_damaged_files_are_named(kept: Path, damage: bytes) -> None:
    (kept / "bad.json").write_bytes(damage)
    with pytest.raises(FleetError, match=r"bad\.json"):
        read_measured(kept)


def test_folders_without_times(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="nowhere"):
        read_measured(tmp_path / "nowhere")
    RecordKeeper(tmp_path).keep("opcodes", bytes(8 * 256), {"module": "m"})
    (tmp_path / "strange.json").write_text('{"kind": ["x"], "records": 1}')
    with pytest.raises(FleetError, match="no records of times"):
        read_measured(tmp_path)


def test_a_picture_needs_a_name_that_says_its_format(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"times\.gif"):
        draw_report(read_measured(kept), tmp_path / "times.gif")


@pytest.mark.full
def test_the_picture(kept: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    for number in range(MOST_IN_PANEL + 2):
        keep(kept, f"n{number}", [0, 5], device="attic", file=f"$x_{number}$<&\u202e", engine="$e$")
    measured = read_measured(kept)
    for name, start in (("t.png", b"\x89PNG"), ("t.svg", b"<?xml"), ("t.PDF", b"%PDF")):
        draw_report(measured, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(FleetError, match="No such file"):
        draw_report(measured, tmp_path / "no" / "t.svg")
