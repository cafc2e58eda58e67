"""Imports point one way, up the flow of data, and the start of the command line is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = (
    "_ffi",
    "record",
    "realtime",
    "reserve",
    "errors",
    "interp",
    "wasi",
    "snapshot",
    "program",
    "migrate",
    "rpc",
    "cli",
)
"""A room imports only from itself and from those before it."""

ONLY_IN = {
    "grpc": {"rpc"},
    "google": {"rpc"},
    "msgpack": {"snapshot", "migrate", "rpc"},
    "zstandard": {"snapshot"},
    "wasmtime": {"interp"},
    "click": {"cli"},
    "rich": {"cli", "snapshot"},
    "cffi": set(),
}
"""Third-party packages, and the rooms that may import them."""


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(room, file) of every Python file of the package."""
    package = root / "wasmsr"
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] in ROOMS:
            yield parts[0], path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def test_imports_point_one_way(root: Path) -> None:
    wrong = []
    for room, path in modules(root):
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] != "wasmsr" or len(parts) == 1:
                continue
            other = parts[1]
            where = f"{path.relative_to(root)}:{line}: imports {name}"
            if other not in ROOMS:
                # The facade (wasmsr/__init__.py) stands on top; only its version is for all.
                if other != "__version__":
                    wrong.append(where)
            elif ROOMS.index(other) > ROOMS.index(room):
                wrong.append(where)
    assert not wrong, "\n".join(wrong)


def test_packages_stay_in_their_rooms(root: Path) -> None:
    wrong = [
        f"{path.relative_to(root)}:{line}: imports {name}"
        for room, path in modules(root)
        for name, line in imports(path)
        if room not in ONLY_IN.get(name.split(".")[0], {room})
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_is_known(root: Path) -> None:
    found = {p.name for p in (root / "wasmsr").iterdir() if (p / "__init__.py").exists()}
    assert found <= set(ROOMS), "a new room needs its place in the order"


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_is_light(words: list[str]) -> None:
    heavy = ["grpc", "google.protobuf", "wasmtime", "zstandard", "msgpack"]
    code = (
        "import sys\n"
        "from wasmsr.cli import main\n"
        f"code = main({words!r})\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "sys.exit(f'{loaded}' if loaded else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: wasmsr")
