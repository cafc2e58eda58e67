"""What is wrong with a graph: every fault, each as a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from wasmsr.elements.folder.element import MOST_COPIES, Element, ElementGraph
from wasmsr.errors import listed, printable

MOST_RETRIES = 1000
"""How often a copy may be started again."""


def faults_of(graph: ElementGraph) -> list[str]:
    """Return a sentence for each fault of a graph; a graph without any can be run."""
    found = [fault for element in graph for fault in _alone(graph, element)]
    return found + list(_together(graph))


def _alone(graph: ElementGraph, element: Element) -> Iterator[str]:
    """Yield what is wrong with one element."""
    name = printable(element.name)
    for key in ("corunning", "parents", "dependents"):
        for other in getattr(element, key):
            if other not in graph.elements:
                near = get_close_matches(other, graph.elements, 1)
                guess = f"; did you mean {printable(near[0])}?" if near else ""
                yield f"{name}: {key}: there is no element {printable(other)}{guess}"
            elif other == element.name:
                yield f"{name}: {key}: it names itself"
            elif key != "corunning" and graph.elements[other].is_memory:
                yield f"{name}: {key}: {printable(other)} is memory, which has no result"
    if element.is_memory and (element.parents or element.dependents):
        yield f"{name}: memory has no parents and no dependents"
    for parent in element.parents:
        known = graph.elements.get(parent)
        if known is not None and element.name not in known.dependents:
            yield f"{name} has {printable(parent)} as a parent, but is not in its dependents"
    for other in element.dependents:
        known = graph.elements.get(other)
        if known is not None and element.name not in known.parents:
            yield f"{name} has {printable(other)} in dependents, but is not in its parents"
    if element.parallelism is not None and not 1 <= element.parallelism <= MOST_COPIES:
        yield f"{name}: parallelism is 1 to {MOST_COPIES}, not {element.parallelism}"
    if not 0 <= element.retries <= MOST_RETRIES:
        yield f"{name}: retries is 0 to {MOST_RETRIES}, not {element.retries}"
    yield from _sizes(element)


def _sizes(element: Element) -> Iterator[str]:
    name = printable(element.name)
    if not 0 < element.limits.cpu < 1e6:
        yield f"{name}: limits: cpu is {element.limits.cpu}"
    for key in ("mem", "storage"):
        from wasmsr.mem.sizes import parse_size

        try:
            size = parse_size(getattr(element.limits, key))
        except ValueError as error:
            yield f"{name}: limits: {key}: {error}"
        else:
            if not size:
                yield f"{name}: limits: {key}: 0 bytes are too few"


def _together(graph: ElementGraph) -> Iterator[str]:
    """Yield what is wrong with the elements as a whole."""
    for memory in graph.memories:
        if not graph.users_of(memory):
            yield f"{printable(memory.name)}: memory that nobody uses"
    if not graph.computes:
        yield "no element computes"
        return
    order = {
        one.name: [name for name in graph.parents_of(one) if name in graph.elements]
        for one in graph.computes
    }
    try:
        TopologicalSorter(order).prepare()
    except CycleError as error:
        yield f"a cycle: {' -> '.join(printable(name) for name in error.args[1])}"
        if not any(not graph.parents_of(one) for one in graph.computes):
            yield "no root: every element has a parent"
        return
    for one in graph.computes:
        before = graph.ancestors(one)
        together = [other.name for other in graph.gang_of(one) if other.name in before]
        if together:
            yield (
                f"{printable(one.name)} starts together with {listed(together)} (corunning), and "
                "after it (parents)"
            )
