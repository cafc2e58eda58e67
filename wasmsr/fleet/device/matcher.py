"""Which channels a topic reaches: filters with `+` and `#` (MQTT 5, section 4.7)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class TopicTable(Generic[T]):
    """Filters, each with those who want what it matches."""

    def __init__(self) -> None:
        self._exact: dict[str, set[T]] = {}
        self._wild: dict[tuple[str, ...], set[T]] = {}

    def add(self, text: str, who: T) -> bool:
        """Note that somebody wants what a filter matches; return whether nobody did before."""
        wild = "+" in text or "#" in text
        found = (
            self._wild.setdefault(tuple(text.split("/")), set())
            if wild
            else self._exact.setdefault(text, set())
        )
        found.add(who)
        return len(found) == 1

    def remove(self, text: str, who: T) -> bool:
        """Note that somebody wants that no more; return whether nobody does now."""
        parts = tuple(text.split("/"))
        found = self._wild.get(parts) or self._exact.get(text)
        if not found or who not in found:
            return False
        found.discard(who)
        if found:
            return False
        self._wild.pop(parts, None)
        self._exact.pop(text, None)
        return True

    def find(self, topic: str) -> Iterator[T]:
        """Yield those who want a topic, each once."""
        seen = set(self._exact.get(topic, ()))
        yield from seen
        if self._wild:
            parts = topic.split("/")
            for text, who in self._wild.items():
                if fits(text, parts):
                    yield from who - seen
                    seen |= who


def fits(text: tuple[str, ...], topic: list[str]) -> bool:
    """Return whether a topic fits a filter; wildcards at the beginning fit no topic with `$`."""
    if topic[0].startswith("$") and text[0] in ("+", "#"):
        return False
    for number, part in enumerate(text):
        if part == "#":
            return True
        if number >= len(topic) or part not in ("+", topic[number]):
            return False
    return len(text) == len(topic)


__all__ = ["TopicTable", "fits"]
