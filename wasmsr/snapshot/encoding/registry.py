"""All kinds of sections: what the wings of `wasmsr/snapshot/sections` declare."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

from wasmsr.snapshot import sections
from wasmsr.snapshot.encoding.section import Section

SECTIONS: list[Section] = []
"""The sections, in the order in which they are written: ascending by kind."""
BY_KIND: dict[int, Section] = {}
"""The same sections by their kind."""


def register(section: Section) -> None:
    """Add a section.

    Raises:
        ValueError: Another section has its kind or its name.
    """
    if any(section.kind == one.kind or section.name == one.name for one in SECTIONS):
        raise ValueError(f"there is a section of kind {section.kind} or name {section.name!r}")
    SECTIONS.append(section)
    SECTIONS.sort(key=lambda one: one.kind)
    BY_KIND[section.kind] = section


def unregister(section: Section) -> None:
    """Take a section away again."""
    SECTIONS.remove(section)
    del BY_KIND[section.kind]


def section_name(kind: int) -> str:
    """Return the name of any kind of section, known or not."""
    known = BY_KIND.get(kind)
    return f"kind {kind:#06x}" if known is None else known.name


for _file in walk_packages(sections.__path__, f"{sections.__name__}."):
    if not _file.ispkg:
        for _section in import_module(_file.name).SECTIONS:
            register(_section)
