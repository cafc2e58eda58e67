"""Logistic regression in three steps over one memory equals a plain run of the algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

numpy = pytest.importorskip("numpy", reason="needs numpy")
pytest.importorskip("yaml", reason="needs pyyaml")

from tests.elements.folders import written  # noqa: E402
from tests.elements.test_runs import Runs  # noqa: E402

ALGORITHM = '''
import numpy

ROWS, FOLDS, ROUNDS, RATE = 400, 5, 4, 0.1


def made():
    """Rows with eight values and a 0 or 1 that follows from them, with noise."""
    random = numpy.random.default_rng(17)
    values = random.normal(size=(ROWS, 8)) * [1, 50, 3, 10, 2, 7, 90, 4] + 5
    truth = (values - 5) @ [1, -0.02, 0.1, 0.05, 0, 0, 0.01, -0.3]
    wanted = (truth + random.normal(size=ROWS) > 0).astype(float)
    return numpy.column_stack([values, wanted])


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
    array = RemoteArray.create(action.get_transport("m", "rdma"), scaled(made()))
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
    addr = loaded["end"] + action.index * weights.nbytes
    return RemoteArray.create(memory, weights, addr=addr, page=256).metadata()
"""

SCORES = """type: compute
parents: [train]
dependents: []
corunning: {m: {trans: m, type: rdma}}
import: [algorithm.py]
---
from wasmsr.mem.array import RemoteArray

def main(params, action):
    memory = action.get_transport("m", "rdma")
    rows = RemoteArray.open(memory, {"addr": 0, "shape": [ROWS, 9], "dtype": "<f8"}).materialize()
    weights = [RemoteArray.open(memory, one).materialize() for one in params["train"]]
    found = [score(fold(rows, at), one) for at, one in enumerate(weights)]
    return {"scores": found, "weights": [list(one) for one in weights]}
"""


def test_three_steps_equal_a_plain_run(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    memory = "type: memory\ncorunning: [load, train, scores]\nlimits: {mem: 1 MB}"
    folder = written(tmp_path / "lr", load=FIRST, train=TRAIN, scores=SCORES, m=memory)
    (folder / "algorithm.py").write_text(ALGORITHM)
    found = runs.result("run", "lr")

    plain: dict[str, Any] = {}
    exec(ALGORITHM, plain)
    rows = plain["scaled"](plain["made"]())
    weights = [plain["trained"](plain["others"](rows, at)) for at in range(5)]
    scores = [plain["score"](plain["fold"](rows, at), one) for at, one in enumerate(weights)]
    assert numpy.abs(numpy.array(found["weights"]) - weights).max() < 1e-9
    assert found["scores"] == pytest.approx(scores, abs=1e-9)
    assert min(scores) > 60  # it has learnt something
