"""Four queries like numbers 1, 16, 94 and 95 of TPC-DS, each in eight steps over memories.

    python examples/elements/queries.py q95 q95             # writes a folder of elements
    wasmsr dag run --input '{"rows": 20000}' q95
    python examples/elements/queries.py --plain q95 20000   # pyarrow alone, for comparison

The data are made from random numbers, the same each time, and are not those of the TPC. Amounts are
whole cents, so that sums are equal in any order. Large tables are in four parts by their key; the
parts are in four memories, and steps that join them have four copies. Needs `wasmsr[elements]` and
`wasmsr[arrays]`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.compute as pc

PARTS = 4
"""Parts of a large table."""
SLOTS = 4
"""Places for tables in one memory."""
CHUNK = 1 << 20
"""Rows that are made at a time."""
DAYS, FIRST_DAY, LAST_DAY = 730, 400, 459
STATES = ["GA", "IL", "TX", "NY", "TN"]
COMPANIES = ["pri", "able", "ought"]
CUSTOMERS, ADDRESSES, STORES, SITES, WAREHOUSES = 2000, 1000, 40, 12, 5
MOST_NAMES = 100

# ---- the data ------------------------------------------------------------------------------------


def dates() -> pyarrow.Table:
    """Two years of days."""
    days = numpy.arange(DAYS)
    return pyarrow.table({"day": days, "year": 2000 + days // 365})


def addresses() -> pyarrow.Table:
    """Addresses, each in a state."""
    keys = numpy.arange(ADDRESSES)
    return pyarrow.table({"address": keys, "state": [STATES[key % 5] for key in keys]})


def sites() -> pyarrow.Table:
    """Web sites or call centers, each of a company."""
    keys = numpy.arange(SITES)
    return pyarrow.table({"site": keys, "company": [COMPANIES[key % 3] for key in keys]})


def stores() -> pyarrow.Table:
    """Stores, each in a state."""
    keys = numpy.arange(STORES)
    return pyarrow.table({"store": keys, "state": [STATES[key % 5] for key in keys]})


def customers() -> pyarrow.Table:
    """Customers by name."""
    keys = numpy.arange(CUSTOMERS)
    return pyarrow.table({"customer": keys, "name": [f"AAAA{key:08d}" for key in keys]})


def chunks(rows: int) -> list[tuple[int, int]]:
    """Return (number, rows) of the pieces in which a table is made."""
    return [(at, min(CHUNK, rows - at * CHUNK)) for at in range(-(-rows // CHUNK))]


def sales(rows: int, seed: int, at: int, count: int) -> pyarrow.Table:
    """A piece of the lines of orders: `count` lines of `rows`."""
    random = numpy.random.default_rng([seed, at])
    return pyarrow.table({
        "order": random.integers(0, rows // 4 + 1, count),
        "day": random.integers(0, DAYS, count),
        "address": random.integers(0, ADDRESSES, count),
        "site": random.integers(0, SITES, count),
        "warehouse": random.integers(0, WAREHOUSES, count),
        "cost": random.integers(100, 100_000, count),
        "profit": random.integers(-50_000, 100_000, count),
    })  # fmt: skip


def returned(rows: int, seed: int) -> pyarrow.Table:
    """Orders of which something was returned."""
    random = numpy.random.default_rng([seed, 1 << 20])
    return pyarrow.table({"order": random.integers(0, rows // 4 + 1, rows // 10)})


def store_returns(rows: int, at: int, count: int) -> pyarrow.Table:
    """A piece of what was returned in stores."""
    random = numpy.random.default_rng([1, at])
    return pyarrow.table({
        "store": random.integers(0, STORES, count),
        "customer": random.integers(0, CUSTOMERS, count),
        "day": random.integers(0, DAYS, count),
        "amount": random.integers(100, 100_000, count),
    })  # fmt: skip


def wanted_days(table: pyarrow.Table) -> pyarrow.Table:
    """The sixty days of a query, without other columns."""
    day = table["day"]
    found = pc.and_(pc.greater_equal(day, FIRST_DAY), pc.less_equal(day, LAST_DAY))
    return table.filter(found).select(["day"])


def equal(table: pyarrow.Table, column: str, value: Any, key: str) -> pyarrow.Table:
    """The keys of the rows with a value."""
    return table.filter(pc.equal(table[column], value)).select([key])


# ---- the steps -----------------------------------------------------------------------------------


class Memory:
    """A memory with a few places for tables, each for pieces of one table."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.slot_bytes = transport.size() // SLOTS // 64 * 64
        self.ends: dict[int, int] = {}

    def add(self, slot: int, table: pyarrow.Table) -> dict[str, int]:
        """Write a piece after the others of its place, and return what describes it."""
        from wasmsr.mem import frame

        addr = self.ends.get(slot, slot * self.slot_bytes)
        made = frame.write_table(self.transport, table, addr)
        self.ends[slot] = made.end
        assert made.end <= (slot + 1) * self.slot_bytes, "the memory is too small for these rows"
        return made.metadata()

    def table(self, found: list[dict[str, int]]) -> pyarrow.Table:
        """Return the table of some pieces."""
        from wasmsr.mem import frame

        return frame.merge_tables([frame.read_table(self.transport, one) for one in found])


def small(action: Any, slot: int, table: pyarrow.Table) -> dict[str, Any]:
    """A step that leaves a small table for others."""
    return {"table": [Memory(action.get_transport("small", "rdma")).add(slot, table)]}


def small_table(params: Any, action: Any, name: str) -> pyarrow.Table:
    """Return the small table of a step before."""
    return Memory(action.get_transport("small", "rdma")).table(params[name][0]["table"])


def in_parts(action: Any, slot: int, pieces: Any, key: str) -> dict[str, Any]:
    """A step that leaves a large table in parts: rows of one key are in one memory."""
    from wasmsr.mem import frame

    memories = [Memory(action.get_transport(f"large@{at}", "rdma")) for at in range(PARTS)]
    found: list[list[dict[str, int]]] = [[] for _ in memories]
    for piece in pieces:
        for at, part in enumerate(frame.partition(piece, key, PARTS)):
            found[at].append(memories[at].add(slot, part))
    return {"parts": found}


def part(params: Any, action: Any, name: str) -> pyarrow.Table:
    """Return the part of this copy of a large table."""
    memory = Memory(action.get_transport("large", "rdma"))
    return memory.table(params[name][0]["parts"][action.index])


def own(action: Any, slot: int, table: pyarrow.Table) -> dict[str, Any]:
    """A copy of a step leaves its own part of a table."""
    return {"part": [Memory(action.get_transport("large", "rdma")).add(slot, table)]}


def own_part(params: Any, action: Any, name: str) -> pyarrow.Table:
    """Return what the copy with this copy's index has left."""
    memory = Memory(action.get_transport("large", "rdma"))
    return memory.table(params[name][action.index]["part"])


def many_warehouses(lines: pyarrow.Table) -> pyarrow.Table:
    """Orders that come from more than one warehouse."""
    found = lines.group_by("order").aggregate([("warehouse", "count_distinct")])
    return found.filter(pc.greater(found["warehouse_count_distinct"], 1)).select(["order"])


def counted(lines: pyarrow.Table, days: Any, places: Any, companies: Any, orders: Any,
            back: Any, kind: str) -> dict[str, int]:  # fmt: skip
    """Count the orders, and add up their costs and profits.

    Args:
        lines: Lines of orders.
        days: The days that count.
        places: The addresses that count.
        companies: The sites that count.
        orders: The orders that count.
        back: The orders of which something was returned.
        kind: "left semi" counts only these, "left anti" only the others.
    """
    for keys, key in ((days, "day"), (places, "address"), (companies, "site"), (orders, "order")):
        lines = lines.join(keys, key, join_type="left semi")
    lines = lines.join(back, "order", join_type=kind)
    return {
        "orders": pc.count_distinct(lines["order"]).as_py(),
        "cost": pc.sum(lines["cost"]).as_py() or 0,
        "profit": pc.sum(lines["profit"]).as_py() or 0,
    }


def added(found: list[dict[str, int]]) -> dict[str, int]:
    """Add up what the copies have counted; no order is in two parts."""
    return {key: sum(one[key] for one in found) for key in found[0]}


def totals_of(lines: pyarrow.Table, days: pyarrow.Table) -> pyarrow.Table:
    """What each customer has returned in each store."""
    lines = lines.join(days, "day", join_type="left semi")
    found = lines.group_by(["customer", "store"]).aggregate([("amount", "sum")])
    return found.select(["customer", "store", "amount_sum"])


def averages_of(totals: pyarrow.Table) -> pyarrow.Table:
    """Sum and count of the totals of each store."""
    found = totals.group_by("store").aggregate([("amount_sum", "sum"), ("amount_sum", "count")])
    return found.select(["store", "amount_sum_sum", "amount_sum_count"])


def above_of(totals: Any, averages: Any, wanted: Any) -> list[int]:
    """Customers whose total is more than 1.2 of the average of a store that counts."""
    found = totals.join(wanted, "store", join_type="left semi").join(averages, "store")
    more = pc.greater(
        pc.multiply(pc.multiply(found["amount_sum"], 5), found["amount_sum_count"]),
        pc.multiply(found["amount_sum_sum"], 6),
    )
    return sorted(found.filter(more)["customer"].to_pylist())


def names_of(keys: list[int], people: pyarrow.Table) -> list[str]:
    """The first names of some customers, each as often as it is there."""
    names = dict(zip(people["customer"].to_pylist(), people["name"].to_pylist(), strict=True))
    return sorted(names[key] for key in keys)[:MOST_NAMES]


# ---- the graphs ----------------------------------------------------------------------------------

ORDERS = {
    "days": ([], 1, ["small"], 'small(action, 0, wanted_days(dates()))'),
    "places": ([], 1, ["small"], 'small(action, 1, equal(addresses(), "state", "GA", "address"))'),
    "companies": ([], 1, ["small"],
                  'small(action, 2, equal(sites(), "company", COMPANY, "site"))'),
    "lines": ([], 1, ["large"],
              'in_parts(action, 0, '
              '(sales(params["rows"], SEED, *one) for one in chunks(params["rows"])), "order")'),
    "back": ([], 1, ["large"], 'in_parts(action, 2, [returned(params["rows"], SEED)], "order")'),
    "many": (["lines"], PARTS, ["large"],
             'own(action, 3, many_warehouses(part(params, action, "lines")))'),
    "counts": (["days", "places", "companies", "lines", "back", "many"], PARTS, ["small", "large"],
               'counted(part(params, action, "lines"), '
               '*(small_table(params, action, name) for name in ("days", "places", "companies")), '
               'own_part(params, action, "many"), part(params, action, "back"), KIND)'),
    "all": (["counts"], 1, [], 'added(params["counts"])'),
}  # fmt: skip
"""For each step its parents, its copies, its memories and what it does."""

RETURNS = {
    "days": ([], 1, ["small"], 'small(action, 0, equal(dates(), "year", 2000, "day"))'),
    "places": ([], 1, ["small"], 'small(action, 1, equal(stores(), "state", "TN", "store"))'),
    "people": ([], 1, ["small"], 'small(action, 2, customers())'),
    "lines": ([], 1, ["large"],
              'in_parts(action, 0, '
              '(store_returns(params["rows"], *one) for one in chunks(params["rows"])), "store")'),
    "totals": (["days", "lines"], PARTS, ["small", "large"],
               'own(action, 2, '
               'totals_of(part(params, action, "lines"), small_table(params, action, "days")))'),
    "averages": (["totals"], PARTS, ["large"],
                 'own(action, 3, averages_of(own_part(params, action, "totals")))'),
    "above": (["totals", "averages", "places"], PARTS, ["small", "large"],
              'above_of(own_part(params, action, "totals"), own_part(params, action, "averages"), '
              'small_table(params, action, "places"))'),
    "names": (["above", "people"], 1, ["small"],
              'names_of(sum(params["above"], []), small_table(params, action, "people"))'),
}  # fmt: skip

QUERIES = {
    "q1": (RETURNS, "", "", 1),
    "q16": (ORDERS, "left anti", "able", 16),
    "q94": (ORDERS, "left anti", "pri", 94),
    "q95": (ORDERS, "left semi", "pri", 95),
}
"""For each query its graph, how orders with returns count, the company, the seed of its data."""


def write(query: str, folder: Path, *, large: str = "1 GB") -> Path:
    """Write the folder of a query.

    Args:
        query: "q1", "q16", "q94" or "q95".
        folder: Where it goes.
        large: Length of each of the memories for large tables.
    """
    graph, kind, company, seed = QUERIES[query]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "queries.py")
    for name, (parents, copies, memories, does) in graph.items():
        after = [other for other, row in graph.items() if name in row[0]]
        said = [
            "type: compute", f"parents: {json.dumps(parents)}", f"dependents: {json.dumps(after)}",
            f"corunning: {json.dumps(memories)}", "import: [queries.py]",
        ]  # fmt: skip
        said += [f"parallelism: {copies}"] if copies > 1 else []
        text = "".join(f"#@ {line}\n" for line in said)
        text += f"\nKIND, COMPANY, SEED = {kind!r}, {company!r}, {seed}\n"
        text += f"\n\ndef main(params, action):\n    return {does}\n"
        (folder / f"{name}.o.py").write_text(text)
    for memory, size, copies in (("small", "4 MB", 1), ("large", large, PARTS)):
        users = [name for name, row in graph.items() if memory in row[2]]
        text = f"type: memory\ncorunning: {json.dumps(users)}\nlimits: {{mem: {size}}}\n"
        text += f"parallelism: {copies}\n" if copies > 1 else ""
        (folder / f"{memory}.o.yaml").write_text(text)
    return folder


def plain(query: str, rows: int) -> Any:
    """Return the result of a query from whole tables, with pyarrow alone."""
    _, kind, company, seed = QUERIES[query]
    if query == "q1":
        lines = pyarrow.concat_tables([store_returns(rows, *one) for one in chunks(rows)])
        totals = totals_of(lines, equal(dates(), "year", 2000, "day"))
        found = above_of(totals, averages_of(totals), equal(stores(), "state", "TN", "store"))
        return names_of(found, customers())
    lines = pyarrow.concat_tables([sales(rows, seed, *one) for one in chunks(rows)])
    return counted(
        lines, wanted_days(dates()), equal(addresses(), "state", "GA", "address"),
        equal(sites(), "company", company, "site"), many_warehouses(lines), returned(rows, seed),
        kind,
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "--plain":
        print(json.dumps(plain(sys.argv[2], int(sys.argv[3]))))
    else:
        write(sys.argv[1], Path(sys.argv[2]))
