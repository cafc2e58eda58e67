"""Logistic regression in three steps over one memory equals a plain run of the algorithm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

numpy = pytest.importorskip("numpy", reason="needs numpy")
pytest.importorskip("yaml", reason="needs pyyaml")

from tests.elements.folders import written  # noqa: E402
from tests.elements.test_runs import Runs  # noqa: E402
from wasmsr.interp.modules.module import assemble  # noqa: E402

ALGORITHM = '''
import numpy

FOLDS, ROUNDS, RATE = 5, 4, 0.1


def made():
    """Rows with eight values and a 0 or 1 that follows from them, with noise."""
    random = numpy.random.default_rng(17)
    values = random.normal(size=(400, 8)) * [1, 50, 3, 10, 2, 7, 90, 4] + 5
    truth = (values - 5) @ [1, -0.02, 0.1, 0.05, 0, 0, 0.01, -0.3]
    wanted = (truth + random.normal(size=400) > 0).astype(float)
    return numpy.column_stack([values, wanted])


def shipped(file):
    """Months of Stocks.csv of matplotlib: five shares, and whether the S&P 500 rose with them."""
    prices = numpy.genfromtxt(file, delimiter=",", skip_header=2, usecols=(1, 2, 3, 4, 8, 9))
    prices = prices[~numpy.isnan(prices).any(axis=1)]
    moves = prices[1:] / prices[:-1] - 1
    rows = numpy.column_stack([moves[:, :5], moves[:, 5] > 0])
    return rows[: len(rows) // FOLDS * FOLDS]


def scaled(rows):
    low, high = rows.min(axis=0), rows.max(axis=0)
    return (rows - low) / (high - low)


def predicted(row, weights):
    return 1 / (1 + numpy.exp(-(weights[0] + row[:-1] @ weights[1:])))


def trained(rows):
    """Stochastic gradient descent, one row after the other."""
    weights = numpy.zeros(rows.shape[1])
    for _ in range(ROUNDS):
        for row in rows:
            found = predicted(row, weights)
            step = RATE * (row[-1] - found) * found * (1 - found)
            weights[0] += step
            weights[1:] += step * row[:-1]
    return weights


def fold(rows, at):
    size = len(rows) // FOLDS
    return rows[at * size : (at + 1) * size]


def others(rows, at):
    return numpy.concatenate([fold(rows, other) for other in range(FOLDS) if other != at])


def score(rows, weights):
    return 100 * float(numpy.mean([round(predicted(row, weights)) == row[-1] for row in rows]))
'''

FIRST = """type: compute
dependents: [train]
corunning: {m: {trans: m, type: rdma}}
import: [algorithm.py]
---
from wasmsr.mem.array import RemoteArray

def main(params, action):
    rows = scaled(shipped(params["file"]) if "file" in params else made())
    array = RemoteArray.create(action.get_transport("m", "rdma"), rows)
    return {"rows": array.metadata(), "end": array.end}
"""

TRAIN = """type: compute
parents: [load]
dependents: [scores]
parallelism: 5
corunning: {m: {trans: m, type: rdma}}
import: [algorithm.py]
---
from wasmsr.mem.array import RemoteArray

def main(params, action):
    memory, (loaded,) = action.get_transport("m", "rdma"), params["load"]
    rows = RemoteArray.open(memory, loaded["rows"]).materialize()
    weights = trained(others(rows, action.index))
    addr = WEIGHTS + action.index * weights.nbytes
    made = RemoteArray.create(memory, weights, addr=addr, page=256).metadata()
    return {"weights": made, "rows": loaded["rows"]}
"""

SCORES = """type: compute
parents: [train]
dependents: []
corunning: {m: {trans: m, type: rdma}}
import: [algorithm.py]
---
from wasmsr.mem.array import RemoteArray

def main(params, action):
    memory, trained = action.get_transport("m", "rdma"), params["train"]
    rows = RemoteArray.open(memory, trained[0]["rows"]).materialize()
    weights = [RemoteArray.open(memory, one["weights"]).materialize() for one in trained]
    found = [score(fold(rows, at), one) for at, one in enumerate(weights)]
    return {"scores": found, "weights": [list(one) for one in weights]}
"""


WEIGHTS = 128 << 10
"""Address of the weights of the first fold; those of the others follow."""

HITS = """(module
  (import "env" "mem_open" (func $mem_open (param i32 i32) (result i32)))
  (import "env" "mem_read" (func $mem_read (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2) (data (i32.const 0) "m")
  (global $out (mut i32) (i32.const 64))
  (func $char (param $code i32)
    (i32.store8 (global.get $out) (local.get $code))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  (func $number (param $n i32)
    (if (i32.ge_u (local.get $n) (i32.const 10))
      (then (call $number (i32.div_u (local.get $n) (i32.const 10)))))
    (call $char (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
  (func $read (param $addr i32) (param $to i32) (param $size i32)
    (if (i32.ne (call $mem_read (i32.const 0) (i64.extend_i32_u (local.get $addr)) (local.get $to)
                                (local.get $size)) (local.get $size)) (then unreachable)))
  (func (export "_start") (local $fold i32) (local $row i32) (local $at i32) (local $hits i32)
        (local $value i32) (local $sum f64)
    (if (call $mem_open (i32.const 0) (i32.const 1)) (then unreachable))
    (call $char (i32.const 91))
    (loop $folds
      (call $read (i32.add (i32.const WEIGHTS) (i32.mul (local.get $fold) (i32.const WIDTH)))
                  (i32.const 1024) (i32.const WIDTH))
      (call $read (i32.mul (local.get $fold) (i32.const SIZE)) (i32.const 4096) (i32.const SIZE))
      (local.set $hits (i32.const 0)) (local.set $row (i32.const 4096))
      (loop $rows
        (local.set $sum (f64.load (i32.const 1024)))
        (local.set $value (i32.const 0))
        (loop $values
          (local.set $sum (f64.add (local.get $sum) (f64.mul
            (f64.load (i32.add (local.get $row) (local.get $value)))
            (f64.load offset=1032 (local.get $value)))))
          (local.set $value (i32.add (local.get $value) (i32.const 8)))
          (br_if $values (i32.lt_u (local.get $value) (i32.const LABEL))))
        (local.set $hits (i32.add (local.get $hits) (i32.eq
          (f64.gt (local.get $sum) (f64.const 0))
          (f64.gt (f64.load offset=LABEL (local.get $row)) (f64.const 0.5)))))
        (local.set $row (i32.add (local.get $row) (i32.const WIDTH)))
        (br_if $rows (i32.lt_u (local.get $row) (i32.add (i32.const 4096) (i32.const SIZE)))))
      (call $number (local.get $hits))
      (local.set $fold (i32.add (local.get $fold) (i32.const 1)))
      (if (i32.lt_u (local.get $fold) (i32.const 5))
        (then (call $char (i32.const 44)) (br $folds))))
    (call $char (i32.const 93))
    (i32.store (i32.const 32) (i32.const 64))
    (i32.store (i32.const 36) (i32.sub (global.get $out) (i32.const 64)))
    (drop (call $fd_write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40)))))"""
"""Counts for each fold how many rows its weights predict; the sign decides, so it needs no exp."""


def plain_run(rows_of: str, *given: str) -> tuple[Any, list[Any], list[float]]:
    """Return rows, weights and scores of the algorithm without elements."""
    plain: dict[str, Any] = {}
    exec(ALGORITHM, plain)
    rows = plain["scaled"](plain[rows_of](*given))
    weights = [plain["trained"](plain["others"](rows, at)) for at in range(5)]
    scores = [plain["score"](plain["fold"](rows, at), one) for at, one in enumerate(weights)]
    return rows, weights, scores


def graph(folder: Path, **more: str) -> Path:
    memory = "type: memory\ncorunning: [load, train, scores]\nlimits: {mem: 1 MB}"
    folder = written(folder, load=FIRST, train=TRAIN, m=memory, **more)
    (folder / "algorithm.py").write_text(f"{ALGORITHM}\nWEIGHTS = {WEIGHTS}\n")
    return folder


def test_three_steps_equal_a_plain_run(tmp_path: Path) -> None:
    graph(tmp_path / "lr", scores=SCORES)
    found = Runs(tmp_path).result("run", "lr")
    _, weights, scores = plain_run("made")
    assert numpy.abs(numpy.array(found["weights"]) - weights).max() < 1e-9
    assert found["scores"] == pytest.approx(scores, abs=1e-9)
    assert min(scores) > 60  # it has learnt something


@pytest.mark.full
@pytest.mark.parametrize("kind", ["python", "wasm"])
def test_data_that_a_package_ships(tmp_path: Path, kind: str) -> None:
    """The last step is in Python or in WebAssembly."""
    matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib, which has the data")
    file = Path(matplotlib.get_data_path()) / "sample_data" / "Stocks.csv"
    rows, weights, scores = plain_run("shipped", str(file))
    assert rows.shape[1] == 6 and len(rows) > 250 and min(scores) > 55
    folder = graph(tmp_path / "lr", scores=SCORES if kind == "python" else SCORES_YAML)
    if kind == "wasm":
        size = rows.shape[1] * 8
        numbers = {"WEIGHTS": WEIGHTS, "WIDTH": size, "SIZE": len(rows) // 5 * size,
                   "LABEL": size - 8}  # fmt: skip
        text = HITS
        for name, number in numbers.items():
            text = text.replace(name, str(number))
        (folder / "scores.o.wasm").write_bytes(assemble(text.encode()))
    found = Runs(tmp_path).result("run", "--input", json.dumps({"file": str(file)}), "lr")
    if kind == "python":
        assert numpy.abs(numpy.array(found["weights"]) - weights).max() < 1e-9
        assert found["scores"] == pytest.approx(scores, abs=1e-9)
    else:
        assert [100 * hits / (len(rows) // 5) for hits in found] == pytest.approx(scores, abs=1e-9)


SCORES_YAML = "type: compute\nparents: [train]\ncorunning: {m: {trans: m, type: rdma}}"
