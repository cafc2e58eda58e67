"""An element and a graph of them, as values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wasmsr.mem.sizes import parse_size

MEMORY_BYTES = "128 MB"
STORAGE_BYTES = "512 MB"
CPUS = 1.0
"""What an element needs if it does not say it; these are the peer's."""
MOST_COPIES = 10_000
"""Copies of one element."""


@dataclass(frozen=True)
class ElementLimits:
    """What an element needs.

    Attributes:
        cpu: CPUs.
        mem: Memory, as text with a unit; of a memory element its length.
        storage: Disk, as text with a unit.
    """

    cpu: float = CPUS
    mem: str = MEMORY_BYTES
    storage: str = STORAGE_BYTES

    @property
    def mem_bytes(self) -> int:
        """The memory in bytes. Raises ValueError."""
        return parse_size(self.mem)


@dataclass(frozen=True)
class Element:
    """One element of a graph.

    Attributes:
        name: Its name, which no other has.
        is_memory: Whether it is memory; otherwise it computes.
        corunning: Names of the elements with which it talks, and how: `{trans, type}` for each.
        parents: Names of the elements whose results it gets.
        dependents: Names of the elements that get its results.
        parallelism: How many copies there are; None is 1, and is not written.
        limits: What it needs.
        merged: Names of elements that were merged into it (the peer's `withMerged`).
        retries: How often a copy that failed is started again.
        kind: "python" or "wasm"; memory is "python", as in the peer's files.
        code: The source of a Python element, the bytes of a Wasm element.
    """

    name: str
    is_memory: bool
    corunning: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    dependents: tuple[str, ...] = ()
    parallelism: int | None = None
    limits: ElementLimits = ElementLimits()
    merged: tuple[str, ...] = ()
    retries: int = 0
    kind: str = "python"
    code: str | bytes = ""

    @property
    def copies(self) -> int:
        """How many copies there are."""
        return 1 if self.parallelism is None else self.parallelism

    def transport_name(self, memory: str) -> str:
        """Return the name under which this element asks for a memory."""
        trans = self.corunning.get(memory, {}).get("trans")
        return trans if isinstance(trans, str) else memory


class ElementGraph:
    """Elements and how they belong together.

    Attributes:
        name: The name of the folder.
        elements: The elements by name, in the order of their files.
    """

    def __init__(self, name: str, elements: Iterable[Element]) -> None:
        self.name = name
        self.elements = {element.name: element for element in elements}

    def __iter__(self) -> Iterator[Element]:
        return iter(self.elements.values())

    @property
    def computes(self) -> list[Element]:
        """The elements that compute."""
        return [one for one in self if not one.is_memory]

    @property
    def memories(self) -> list[Element]:
        """The elements that are memory."""
        return [one for one in self if one.is_memory]

    def parents_of(self, element: Element) -> list[str]:
        """Return whose results an element gets: what it says, and what its parents say."""
        return list(self._parents[element.name])

    def memories_of(self, element: Element) -> list[Element]:
        """Return the memories with which an element talks: it names them, or they name it."""
        links = self._links[element.name]
        return [one for one in self.memories if one.name in links] if links else []

    def users_of(self, memory: Element) -> list[Element]:
        """Return the elements that talk with a memory."""
        return [one for one in self.computes if one.name in self._links[memory.name]]

    def gang_of(self, element: Element) -> list[Element]:
        """Return the computing elements that start together with one, itself included.

        Elements that compute and name each other in `corunning` form a gang.
        """
        found, new = {element.name}, [element.name]
        while new:
            for other in self._near[new.pop()] - found:
                found.add(other)
                new.append(other)
        if len(found) == 1:
            return [element]
        return [one for one in self.computes if one.name in found]

    @cached_property
    def _near(self) -> dict[str, set[str]]:
        """For each element the others that name it in `corunning`, or that it names."""
        near: dict[str, set[str]] = {one.name: set() for one in self}
        for one in self:
            for other in one.corunning:
                if other in near and one.is_memory == self.elements[other].is_memory:
                    near[one.name].add(other)
                    near[other].add(one.name)
        return near

    @cached_property
    def _links(self) -> dict[str, set[str]]:
        """For each element the memories that it uses; for a memory the elements that use it."""
        links: dict[str, set[str]] = {one.name: set() for one in self}
        for one in self:
            for other in one.corunning:
                if other in links and one.is_memory != self.elements[other].is_memory:
                    links[one.name].add(other)
                    links[other].add(one.name)
        return links

    @cached_property
    def _parents(self) -> dict[str, dict[str, None]]:
        """For each element those whose results it gets, in order."""
        found: dict[str, dict[str, None]] = {
            one.name: dict.fromkeys(one.parents) for one in self
        }  # fmt: skip
        for one in self.computes:
            for name in one.dependents:
                if name in found:
                    found[name][one.name] = None
        return found

    def ancestors(self, element: Element) -> set[str]:
        """Return the names of all elements that must have ended before one starts."""
        found: set[str] = set()
        new = [element.name]
        while new:
            name = new.pop()
            known = self.elements.get(name)
            for parent in () if known is None else self.parents_of(known):
                if parent not in found:
                    found.add(parent)
                    new.append(parent)
        return found

    @property
    def leaves(self) -> list[Element]:
        """The computing elements whose results nobody gets."""
        taken = {name for one in self.computes for name in self.parents_of(one)}
        return [one for one in self.computes if one.name not in taken]
