"""The four queries of examples/elements equal plain loops over the same data, and pyarrow alone."""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="needs numpy")
pytest.importorskip("pyarrow", reason="needs pyarrow")
pytest.importorskip("yaml", reason="needs pyyaml")

from tests.elements.test_runs import Runs

ROWS = 8000


def examples() -> Any:
    path = Path(__file__).parents[2] / "examples" / "elements" / "queries.py"
    spec = importlib.util.spec_from_file_location("element_queries", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_eight_steps_each() -> None:
    queries = examples()
    assert {len(row[0]) for row in queries.QUERIES.values()} == {8}


@pytest.mark.full
@pytest.mark.parametrize("query", ["q1", "q16", "q94", "q95"])
def test_a_query_equals_plain_loops(tmp_path: Path, query: str) -> None:
    queries = examples()
    queries.write(query, tmp_path / "steps", large="16 MB")
    runs = Runs(tmp_path)
    found = runs.result("run", "--input", f'{{"rows": {ROWS}}}', "steps")
    assert found == queries.plain(query, ROWS) == loops(queries, query)


def loops(queries: Any, query: str) -> Any:
    """The result of a query, row by row."""
    _, kind, company, seed = queries.QUERIES[query]
    if query == "q1":
        return returns(queries)
    lines = [
        one for at in queries.chunks(ROWS) for one in queries.sales(ROWS, seed, *at).to_pylist()
    ]
    back = set(queries.returned(ROWS, seed)["order"].to_pylist())
    states = {row["address"]: row["state"] for row in queries.addresses().to_pylist()}
    companies = {row["site"]: row["company"] for row in queries.sites().to_pylist()}
    warehouses: dict[int, set[int]] = defaultdict(set)
    for row in lines:
        warehouses[row["order"]].add(row["warehouse"])
    wanted = [
        row
        for row in lines
        if queries.FIRST_DAY <= row["day"] <= queries.LAST_DAY
        and states[row["address"]] == "GA"
        and companies[row["site"]] == company
        and len(warehouses[row["order"]]) > 1
        and (row["order"] in back) == (kind == "left semi")
    ]
    assert len(wanted) > 3
    return {
        "orders": len({row["order"] for row in wanted}),
        "cost": sum(row["cost"] for row in wanted),
        "profit": sum(row["profit"] for row in wanted),
    }


def returns(queries: Any) -> list[str]:
    totals: Counter[tuple[int, int]] = Counter()
    years = {row["day"]: row["year"] for row in queries.dates().to_pylist()}
    states = {row["store"]: row["state"] for row in queries.stores().to_pylist()}
    for at in queries.chunks(ROWS):
        for row in queries.store_returns(ROWS, *at).to_pylist():
            if years[row["day"]] == 2000:
                totals[row["customer"], row["store"]] += row["amount"]
    of_store: dict[int, list[int]] = defaultdict(list)
    for (_, store), total in totals.items():
        of_store[store].append(total)
    names = [
        f"AAAA{customer:08d}"
        for (customer, store), total in totals.items()
        if states[store] == "TN" and 5 * total * len(of_store[store]) > 6 * sum(of_store[store])
    ]
    assert len(names) > 10
    return sorted(names)[: queries.MOST_NAMES]
