"""Imports point one way, up the flow of data, and the start of the command line is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

LEVELS = (
    ("_ffi",),
    ("record", "small_files"),
    ("realtime",),
    ("reserve",),
    ("errors", "telemetry"),
    ("interp",),
    ("wasi", "channels"),
    ("mem",),
    ("snapshot",),
    ("snapshot.store",),
    ("tier",),
    ("runspec",),
    ("program",),
    ("library",),
    ("executor", "debug"),
    ("ownership",),
    ("migrate",),
    ("node",),
    ("jobs", "fleet", "elements", "sandbox"),
    ("rpc", "mqtt", "http", "ssh", "mcp", "kernel"),
    ("cli",),
)
"""The order of the rooms: a room imports from itself and from the levels before its own.

Rooms that are not built yet have their places here, so that what is built fits.
"""

LEVEL = {room: number for number, level in enumerate(LEVELS) for room in level}

ONLY_IN = {
    "grpc": {"rpc"},
    "google": {"rpc"},
    **{name: {"mqtt"} for name in ("paho", "aiomqtt", "gmqtt")},
    **{name: {"http"} for name in ("http", "httpx", "requests", "urllib3", "etcd3gw")},
    "aiohttp": {"http", "jobs"},
    "asyncssh": {"ssh"},
    "prometheus_client": {"http"},
    "opentelemetry": {"http"},
    "msgpack": {"executor", "snapshot", "snapshot.store", "migrate", "rpc"},
    "zstandard": {"snapshot", "snapshot.store"},
    "cryptography": {"node", "snapshot"},
    "fsspec": {"snapshot.store", "jobs"},
    **{name: {"mcp"} for name in ("mcp", "mcp_types", "starlette", "uvicorn")},
    **{name: {"kernel"} for name in ("jupyter_core", "traitlets")},
    **{name: {"kernel", "cli"} for name in ("jupyter_client", "zmq")},
    "anyio": {"mcp", "cli"},
    "jsonschema": {"fleet", "jobs"},
    "wasmtime": {"interp"},
    "yaml": {"elements", "jobs"},
    "elftools": {"debug"},
    "matplotlib": {"fleet"},
    "ray": {"jobs"},
    "click": {"cli"},
    "rich": {"cli", "snapshot"},
    "cffi": set(),
}
"""Packages, and the rooms that may import them: transports stay in `rpc`, `mqtt` and `http`."""


def room_of(parts: Sequence[str]) -> str | None:
    """Return the room of a module below `wasmsr`, given as the parts of its name."""
    dotted = ".".join(parts[:2])
    return dotted if dotted in LEVEL else parts[0] if parts and parts[0] in LEVEL else None


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (room, file) of every Python file of the package."""
    package = root / "wasmsr"
    for path in sorted(package.rglob("*.py")):
        room = room_of(path.relative_to(package).with_suffix("").parts)
        if room is not None:
            yield room, path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of everything that a file imports, wherever in it."""
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
            other = room_of(parts[1:])
            where = f"{path.relative_to(root)}:{line}: imports {name}"
            if other is None:
                # The facade (wasmsr/__init__.py) is above all rooms; only its version is for all.
                if parts[1] != "__version__":
                    wrong.append(where)
            elif other != room and LEVEL[other] >= LEVEL[room]:
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


CORE_USERS = {
    "wasmsr/cli/words/version.py",
    "wasmsr/executor/server_process.py",
    "wasmsr/node/workers/sandbox_calls.py",
    "wasmsr/snapshot/memory/page_calls.py",
    "wasmsr/snapshot/memory/page_engine.py",
}
"""Files outside `interp` and `wasi` that call C: the version, functions over pages, sandboxes,
heaps."""


def test_the_core_is_reached_through_interp(root: Path) -> None:
    found = {
        path.relative_to(root).as_posix()
        for room, path in modules(root)
        if room not in ("interp", "wasi")
        for name, _ in imports(path)
        if name.startswith("wasmsr._ffi")
    }
    assert found == CORE_USERS, "use Store.state for what a snapshot needs"


OUTSIDE = {"__init__", "__main__", "_ffi_build"}
"""Files of the package outside the order: the facade, the command, the extension's build."""


def test_every_room_is_known(root: Path) -> None:
    package = root / "wasmsr"
    found = {path.stem for path in package.glob("*.py")}
    found |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert found - OUTSIDE <= set(LEVEL), "a new room needs its place in the order"


def test_the_order_sees_wings() -> None:
    assert room_of(["snapshot", "store", "packs"]) == "snapshot.store"
    assert room_of(["snapshot", "state"]) == "snapshot"
    assert room_of(["elsewhere", "state"]) is None
    assert LEVEL["rpc"] == LEVEL["http"] > LEVEL["migrate"] > LEVEL["executor"] > LEVEL["program"]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_is_light(words: list[str]) -> None:
    heavy = ["grpc", "google.protobuf", "wasmtime", "zstandard", "msgpack"]
    heavy += ["yaml", "jsonschema", "fsspec", "aiohttp", "botocore", "sqlite3"]
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
