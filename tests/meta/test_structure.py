"""The structure of the tree: no import circles, short functions, rooms with wings, distinct names.

Each rule has a list of the exceptions that still exist. A list may only shrink: an exception that
is gone must leave its list, and a new one fails.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.meta.test_tree import generated, tracked

CIRCLES: tuple[str, ...] = ()
"""Import circles inside rooms that still exist: the files of each, without `wasmsr/` and `.py`.

A circle that is there may have fewer files than its entry, not others.
"""

FUNCTION = 80
"""Lines that a function may have."""

LONG_FUNCTIONS = {
    "wasmsr/core/precise/loop.h:RUN": "the loop of precise code: one case for each instruction",
}
"""Functions that are longer, as `file:name`. Loops may be; one without a reason waits for a cut."""

ROOM = 12
"""Source files that a room or a wing may have, `__init__.py` not counted."""

LARGE_ROOMS: set[str] = set()
"""Rooms that have more files."""

SHARED_NAMES: set[str] = set()
"""Names that two public classes still share."""


# ---- what the tree has ---------------------------------------------------------------------------


def python_files(root: Path, *folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the Python files below folders, with their syntax trees."""
    for path in tracked(root):
        if path.suffix == ".py" and path.relative_to(root).parts[0] in folders:
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def import_graph(files: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return which module imports which, lazy and TYPE_CHECKING imports included.

    Args:
        files: Syntax trees by dotted module name; imports of other modules are left out.
    """
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                while target and target not in files:
                    target = target.rpartition(".")[0]
                if target and target != name:
                    graph[name].add(target)
    return graph


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Return the sets of modules that reach each other: strongly connected components.

    Source: R. Tarjan, "Depth-first search and linear graph algorithms", 1972. The recursion is as
    deep as the longest chain of imports.
    """
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.add(frozenset(component))

    for node in graph:
        if node not in number:
            visit(node)
    return found


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield name and length in lines of each function of a C file in our clang-format."""
    start, name = None, ""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line == "}" and start is not None:
            yield name, number - start + 1
            start = None
        elif start is None and line[:1].isalpha() and "(" in line:
            body = number
            while body < len(lines) and not lines[body].endswith(("{", ";")):
                body += 1
            match = re.search(r"(\w+)\(", line)
            if body < len(lines) and lines[body].endswith(") {") and match is not None:
                start, name = number, match[1]


def differences(found: set[str], listed: set[str], rule: str) -> list[str]:
    """Return a line for each thing that is new and for each that has left the tree."""
    new = [f"{rule}: {name}" for name in sorted(found - listed)]
    gone = [f"no longer so, remove it from the list: {name}" for name in sorted(listed - found)]
    return new + gone


# ---- the rules -----------------------------------------------------------------------------------


def test_no_import_circle_inside_a_room(root: Path) -> None:
    files: dict[str, ast.Module] = {}
    for path, tree in python_files(root, "wasmsr"):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if name != "wasmsr":  # the facade is above all rooms: see test_imports.py
            files[name] = tree
    found = [
        {name.removeprefix("wasmsr.").replace(".", "/") for name in circle}
        for circle in circles(import_graph(files))
    ]
    listed = [set(circle.split()) for circle in CIRCLES]
    new = [sorted(circle) for circle in found if not any(circle <= known for known in listed)]
    gone = [sorted(known) for known in listed if not any(circle <= known for circle in found)]
    assert not new, f"import circles: {new}"
    assert not gone, f"these circles are gone; remove them from the list: {gone}"


def test_functions_fit_on_a_screen(root: Path) -> None:
    found: dict[str, int] = {}
    for path, tree in python_files(root, "wasmsr", "scripts", "bench", "proto", "tests"):
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION:
                    found[f"{path.relative_to(root)}:{node.name}"] = lines
    for path in tracked(root):
        if path.suffix in (".c", ".h") and path.relative_to(root).parts[0] == "wasmsr":
            text = path.read_text(encoding="utf-8")
            if not generated(text):
                for name, lines in c_functions(text):
                    if lines > FUNCTION:
                        found[f"{path.relative_to(root)}:{name}"] = lines
    wrong = differences(set(found), set(LONG_FUNCTIONS), f"more than {FUNCTION} lines")
    assert not wrong, "\n".join(wrong)


def test_large_rooms_have_wings(root: Path) -> None:
    count: dict[str, int] = defaultdict(int)
    for path in tracked(root):
        folder = path.parent.relative_to(root)
        if folder.parts[:1] == ("wasmsr",) and path.suffix in (".py", ".c", ".h"):
            count[str(folder)] += path.name != "__init__.py"
    found = {folder for folder, files in count.items() if files > ROOM}
    wrong = differences(found, LARGE_ROOMS, f"more than {ROOM} files and no wings")
    assert not wrong, "\n".join(wrong)


def test_no_two_public_classes_share_a_name(root: Path) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in python_files(root, "wasmsr"):
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(root)))
    found = {name for name, files in places.items() if len(files) > 1}
    wrong = differences(found, SHARED_NAMES, "two public classes of this name")
    assert not wrong, "\n".join(wrong) + f"\n{ {name: places[name] for name in found} }"


# ---- the rules see what they should --------------------------------------------------------------


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"f"}, "f": {"e"}}
    assert circles(graph) == {frozenset("abc"), frozenset("ef")}
    sources = {
        "room.one": "def f():\n    from room.two import g\n",
        "room.two": "if TYPE_CHECKING:\n    import room.one\n",
        "room.three": "from room import one\n",
    }
    parsed = {name: ast.parse(source) for name, source in sources.items()}
    assert import_graph(parsed) == {
        "room.one": {"room.two"}, "room.two": {"room.one"}, "room.three": {"room.one"},
    }  # fmt: skip


def test_lengths_of_c_functions() -> None:
    text = (
        "static int one(int a) {\n  return a;\n}\nint declared(void);\n"
        "int two(int a,\n        int b) {\n  {\n  }\n}\nstruct x {\n  int y;\n};\n"
    )
    assert list(c_functions(text)) == [("one", 3), ("two", 5)]


LONG_LINES = {"CHANGELOG.md"}
"""Documents that still have lines of more than 100 columns outside tables and code."""


def test_lines_of_documents_fit(root: Path) -> None:
    """ruff and clang-format have the rule for Python and C; tables and code may be wider."""
    found = set()
    for path in tracked(root):
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
            lines = [line for line in prose.splitlines() if not line.startswith(("|", "    "))]
            if any(len(line) > 100 for line in lines) and "Generated by" not in text[:300]:
                found.add(str(path.relative_to(root)))
    wrong = differences(found, LONG_LINES, "lines of more than 100 columns")
    assert not wrong, "\n".join(wrong)


def test_lines_of_c_shell_and_make_fit(root: Path) -> None:
    wrong, looked = [], 0
    for path in tracked(root):
        shell = not path.suffix and path.is_file() and path.read_bytes().startswith(b"#!")
        if shell or path.suffix in (".c", ".h", ".inc", ".sh") or path.name == "Makefile":
            text = path.read_text(encoding="utf-8")
            looked += 1
            long = any(len(line) > 100 for line in text.splitlines())
            if long and "enerated by" not in text[:300]:
                wrong.append(path.relative_to(root).as_posix())
    assert looked > 100
    assert not wrong, f"lines of more than 100 columns: {', '.join(sorted(wrong))}"
