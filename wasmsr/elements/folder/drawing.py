"""Drawings of a graph: lines for a terminal, and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from wasmsr.elements.folder.element import Element, ElementGraph
from wasmsr.errors import printable

STATES = {"waits": "·", "runs": "▶", "ended": "✓", "failed": "✗", "stopped": "■"}
"""States of an element, each with its sign."""
COLOURS = {"waits": "#ffffff", "runs": "#fff3bf", "ended": "#d3f9d8", "failed": "#ffc9c9",
           "stopped": "#e9ecef"}  # fmt: skip
WIDTH, HEIGHT, GAP = 150, 44, 40
"""Of a box and between boxes, in pixels."""


def levels_of(graph: ElementGraph) -> list[list[Element]]:
    """Return the computing elements by the length of the longest way from a root.

    The graph has no cycle.
    """
    depth: dict[str, int] = {}
    waiting = graph.computes
    while waiting:
        later = []
        for one in waiting:
            parents = [name for name in graph.parents_of(one) if name in graph.elements]
            if all(name in depth for name in parents):
                depth[one.name] = max((depth[name] + 1 for name in parents), default=0)
            else:
                later.append(one)
        if len(later) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = later
    found: list[list[Element]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for one in graph.computes:
        found[depth[one.name]].append(one)
    return found


def drawn(graph: ElementGraph, states: Mapping[str, str] | None = None) -> list[str]:
    """Return the graph as lines: an element under those that it waits for.

    Args:
        graph: The graph; it has no cycle.
        states: A key of `STATES` for each element that has one.
    """
    lines: list[str] = []
    for depth, level in enumerate(levels_of(graph)):
        for one in level:
            memories = [f"{printable(memory.name)}{_copies(memory)}"
                        for memory in graph.memories_of(one)]  # fmt: skip
            parents = [printable(name) for name in graph.parents_of(one)]
            with_ = f" = {', '.join(memories)}" if memories else ""
            after = f" <- {', '.join(parents)}" if parents else ""
            name = f"{'  ' * depth}{printable(one.name)}{_copies(one)}"
            lines.append(f"{_sign(one, states)}{name}{after}{with_}")
    unused = [one for one in graph.memories if not graph.users_of(one)]
    lines += [f"{_sign(one, states)}[{printable(one.name)}{_copies(one)}]" for one in unused]
    return lines


def _copies(one: Element) -> str:
    return f" x{one.copies}" if one.copies > 1 else ""


def _sign(one: Element, states: Mapping[str, str] | None) -> str:
    if states is None:
        return ""
    return f"{STATES.get(states.get(one.name, 'waits'), '?')} "


def svg(graph: ElementGraph, states: Mapping[str, str] | None = None) -> str:
    """Return the graph as SVG: boxes compute, rounded boxes are memory; arrows are results.

    Args:
        graph: The graph; it has no cycle.
        states: A key of `STATES` for each element that has one.
    """
    rows = [*levels_of(graph), graph.memories]
    place = {
        one.name: (GAP + column * (WIDTH + GAP), GAP + row * (HEIGHT + GAP))
        for row, level in enumerate(rows)
        for column, one in enumerate(level)
    }
    wide = GAP + max(map(len, rows)) * (WIDTH + GAP)
    high = GAP + len(rows) * (HEIGHT + GAP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
        f'viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="end" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    for one in graph.computes:
        x, y = place[one.name]
        for name in graph.parents_of(one):
            if name in place:
                px, py = place[name]
                out.append(_line(px + WIDTH / 2, py + HEIGHT, x + WIDTH / 2, y, 'stroke="black" '
                                 'marker-end="url(#end)"'))  # fmt: skip
        for memory in graph.memories_of(one):
            mx, my = place[memory.name]
            out.append(_line(x + WIDTH / 2, y + HEIGHT, mx + WIDTH / 2, my,
                             'stroke="#868e96" stroke-dasharray="4 3"'))  # fmt: skip
    for one in graph:
        x, y = place[one.name]
        state = "waits" if states is None else states.get(one.name, "waits")
        round_ = HEIGHT // 2 if one.is_memory else 3
        out.append(
            f"<g><title>{escape(printable(one.name))}: {escape(state)}</title>"
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="{round_}" '
            f'fill="{COLOURS.get(state, "#ffffff")}" stroke="black"/>'
            f'<text x="{x + WIDTH / 2}" y="{y + HEIGHT / 2 + 5}" text-anchor="middle">'
            f"{escape(printable(one.name, 20))}{_copies(one)}</text></g>"
        )
    return "\n".join([*out, "</svg>\n"])


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" {style}/>'
