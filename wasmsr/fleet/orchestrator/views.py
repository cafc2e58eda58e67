"""What an orchestrator answers to people: the tables of the REST interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wasmsr.fleet.failures import NotInFleet
from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.rows import FleetState, ModuleRow, RuntimeRow

NEAREST = 3
"""Names that an error about an unknown one shows."""
MOST_NAMES = 1000
"""Names that are compared with an unknown one."""
LONGEST_NAME = 64
"""Characters of a name that is compared: the time grows with their square, and anybody may ask."""


def page(results: Sequence[Any]) -> dict[str, Any]:
    """Return a list as the interface has lists: `{count, start, results}`."""
    return {"count": len(results), "start": 0, "results": list(results)}


def list_runtimes(fleet: FleetList) -> dict[str, Any]:
    """Return all runtimes that are alive, with their modules."""
    found: dict[str | None, dict[str, Any]] = {
        one.uuid: {
            "uuid": one.uuid,
            "name": one.name,
            "runtime_type": one.runtime_type,
            "children": [],
            "queued": [],
        }
        for one in fleet.in_state(RuntimeRow, FleetState.ALIVE)
    }
    states = (FleetState.ALIVE, FleetState.ENDING, FleetState.QUEUED)
    for module in fleet.in_state(ModuleRow, *states):
        if module.parent in found:
            where = "queued" if module.status is FleetState.QUEUED else "children"
            found[module.parent][where].append(_short(module))
    return page(list(found.values()))


def list_modules(fleet: FleetList) -> dict[str, Any]:
    """Return all modules that run, also those that are ending."""
    rows = fleet.in_state(ModuleRow, FleetState.ALIVE, FleetState.ENDING)
    return page([_short(one) for one in rows])


def list_queued(fleet: FleetList) -> dict[str, Any]:
    """Return the modules that wait for a place, in their order."""
    return page([_short(one) for one in fleet.in_state(ModuleRow, FleetState.QUEUED)])


def show_runtime(fleet: FleetList, query: str) -> dict[str, Any]:
    """Return everything of one runtime.

    Raises:
        NotInFleet: There is none, or more than one.
    """
    row: RuntimeRow = look_up(fleet, RuntimeRow, query)
    states = (FleetState.ALIVE, FleetState.ENDING)
    return row.wire() | {
        "seen": row.seen,
        "children": [show(one) for one in fleet.modules_of(row.uuid, *states)],
        "queued": [show(one) for one in fleet.modules_of(row.uuid, FleetState.QUEUED)],
    }


def show_module(fleet: FleetList, query: str) -> dict[str, Any]:
    """Return everything of one module.

    Raises:
        NotInFleet: There is none, or more than one.
    """
    return show(look_up(fleet, ModuleRow, query))


def look_up(fleet: FleetList, kind: Any, query: str) -> Any:
    """Return a row by its UUID, else by its name, else by the last digits of its UUID.

    A dead one is found by its UUID only.

    Raises:
        NotInFleet: There is none, or more than one.
    """
    row = fleet.get(kind, query)
    if row is not None:
        return row
    what = kind.__name__.removesuffix("Row").lower()
    for rows in (fleet.named(kind, query), fleet.ending_with(kind, query) if query else []):
        if len(rows) == 1:
            return rows[0]
        if rows:
            shown = ", ".join(one.uuid for one in rows[:NEAREST])
            raise NotInFleet(
                f"{query!r} is more than one {what}: {shown}", hint="give more of the UUID"
            )
    import difflib  # only for a mistake

    names = fleet.names(kind, MOST_NAMES)
    short = [one for one in names if len(one) <= LONGEST_NAME]
    near = difflib.get_close_matches(query[:LONGEST_NAME], short, NEAREST, 0.0)
    hint = f"there are {', '.join(near)}" if near else None
    if not names:
        hint = f"there is no {what} at all"
    raise NotInFleet(f"there is no {what} {query!r}", hint=hint)


def _short(row: ModuleRow) -> dict[str, Any]:
    return {"uuid": row.uuid, "name": row.name, "parent": row.parent, "file": row.file}


def show(row: ModuleRow) -> dict[str, Any]:
    """Return everything of a module, as the interface has it."""
    found = row.wire()
    del found["type"]
    leased = {"leased": row.program is not None, "heir": row.heir}
    return found | {"epoch": row.epoch, "ended": row.ended} | leased
