"""Two rules of the C core: all state hangs from one struct without pointers, and nothing of a
program lives on the native stack, so there is no recursion."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.builds.variants import core_flags

SOURCES = ("_core.c", "core/**/*.c")


def sources(root: Path) -> list[Path]:
    return [path for pattern in SOURCES for path in sorted((root / "wasmsr").glob(pattern))]


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def saved_halves(root: Path) -> Iterator[tuple[str, str]]:
    """(file name, text) of each part that stands between the marks `saved: begin` and `end`."""
    for path in sorted((root / "wasmsr" / "core").rglob("*.h")):
        text = path.read_text(encoding="utf-8")
        for part in re.findall(r"/\* saved: begin \*/(.*?)/\* saved: end \*/", text, re.DOTALL):
            yield path.name, without_comments(part)


def test_saved_half_holds_no_pointers(root: Path) -> None:
    halves = list(saved_halves(root))
    assert halves, "no part of the core's headers is marked as saved"
    for name, text in halves:
        assert "struct" in text, f"{name}: a saved part without a struct"
        assert "*" not in text, f"{name}: a pointer in the saved half:\n{text}"
        for word in re.findall(r"\b(?:size_t|ptrdiff_t|u?intptr_t|long|int|unsigned)\b", text):
            pytest.fail(f"{name}: {word} differs between hosts; the saved half has fixed widths")


INDIRECT = "__indirect_call"


def call_graph(root: Path, folder: Path) -> dict[str, set[str]]:
    """Who calls whom in the core, as the compiler sees it without inlining.

    A call through a pointer may reach every static function of its file that nobody calls by name.
    """
    graph: dict[str, set[str]] = {}
    for source in sources(root):
        made = folder / f"{source.parent.name}-{source.stem}.o"
        command = ["gcc", *core_flags(), "-O0", "-fcallgraph-info", f"-I{root / 'wasmsr'}", "-c"]
        subprocess.run([*command, str(source), "-o", str(made)], check=True, capture_output=True)
        text = made.with_suffix(".ci").read_text(encoding="utf-8")
        calls: dict[str, set[str]] = {}
        for caller, callee in re.findall(r'sourcename: "([^"]+)" targetname: "([^"]+)"', text):
            calls.setdefault(caller, set()).add(callee)
        nodes = set(re.findall(r'node: \{ title: "([^"]+)"', text))
        called = {callee for callees in calls.values() for callee in callees}
        pointed_to = {node for node in nodes - called if node.startswith(f"{source}:")}
        for callees in calls.values():
            if INDIRECT in callees:
                callees |= pointed_to
        graph.update(calls)
    return graph


def cycle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """A cycle of the graph, or None."""
    done: set[str] = set()
    for start in graph:
        path = [start]
        pending = [iter(sorted(graph[start]))]
        while pending:
            following = next(pending[-1], None)
            if following is None:
                done.add(path.pop())
                pending.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                pending.append(iter(sorted(graph.get(following, ()))))
    return None


def test_cycle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c", "d"}, "d": {"b"}}) == ["b", "d", "b"]
    assert cycle({"a": {"a"}}) == ["a", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) is None


def test_no_native_recursion(root: Path, tmp_path: Path) -> None:
    gcc = shutil.which("gcc")
    if gcc is None or b"clang" in subprocess.run([gcc, "--version"], capture_output=True).stdout:
        pytest.skip("needs gcc, which can print the call graph")
    graph = call_graph(root, tmp_path)
    assert "wsr_run" in graph
    assert cycle(graph) is None
    # The loop itself calls nothing through a pointer, and leaving is a return value, never a jump.
    assert not [c for c in graph if "_core.c" in c and INDIRECT in graph[c]]
    jumps = {"longjmp", "_longjmp", "siglongjmp", "setjmp", "_setjmp", "sigsetjmp", "abort", "exit"}
    assert not jumps & {callee for callees in graph.values() for callee in callees}


def test_flags_stand_in_one_place(root: Path) -> None:
    """A copy of them lacks, one day, what a new CPU or compiler needed."""
    wanted = re.compile(r"-(ffp|fexcess)-\w|-std=c\d")
    places = [root / "setup.py", *root.glob("tests/**/*.py"), *root.glob("scripts/*.py")]
    found = [str(p.relative_to(root)) for p in places if wanted.search(p.read_text("utf-8"))]
    assert found == ["setup.py"]


def test_core_knows_no_python(root: Path) -> None:
    for path in [*sources(root), *sorted((root / "wasmsr" / "core").rglob("*.h"))]:
        assert "Python.h" not in path.read_text(encoding="utf-8"), path.name
