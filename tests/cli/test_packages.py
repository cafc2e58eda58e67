"""Where a package has no build for a machine, the command runs and says what is missing.

gRPC has no wheels for s390x, wasmtime has a package without its library there. Each is made
impossible to import here, in the ways in which that happens.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import wasmsr
from tests.cli.conftest import Cli, one_sentence
from wasmsr.errors import PACKAGES

NOT_THERE = "raise ImportError('No module named ' + repr(__name__), name=__name__)\n"
NO_LIBRARY = "raise RuntimeError('unsupported architecture for wasmtime: s390x')\n"
BROKEN = "raise OSError('libwasmtime.so: cannot open shared object file')\n"
ELSEWHERE = "from grpc._cython import cygrpc\n"  # the package without its extension


def block(folder: Path, **sources: str) -> str:
    """Puts modules with these sources before all others; returns the value of PYTHONPATH."""
    place = folder / "blocked"
    for name, source in sources.items():
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(source)
    return str(place)


@pytest.mark.parametrize("source", [NOT_THERE, NO_LIBRARY, BROKEN])
def test_text_without_wasmtime(cli: Cli, source: str) -> None:
    (cli.folder / "text.wat").write_text("(module)")
    outcome = cli("run", "text.wat", PYTHONPATH=block(cli.folder, wasmtime=source))
    assert outcome.returncode == 2
    assert "text format of WebAssembly needs the Python package wasmtime" in one_sentence(outcome)
    assert "pip install wasmtime" in outcome.stderr
    assert "wat2wasm" in outcome.stderr


@pytest.mark.parametrize("source", [NOT_THERE, ELSEWHERE])
def test_remote_without_grpc(cli: Cli, source: str) -> None:
    words = ["remote", "--port", "47311", "--peer", "47312", "--send", "fib"]
    outcome = cli(*words, PYTHONPATH=block(cli.folder, grpc=source))
    assert outcome.returncode == 2
    assert "needs the Python package grpcio" in one_sentence(outcome)
    assert "apt-get install python3-grpcio" in outcome.stderr


def test_the_rest_runs_without_both(cli: Cli) -> None:
    path = block(cli.folder, grpc=NOT_THERE, wasmtime=NOT_THERE)
    outcome = cli("run", "fib", "--invoke", "fib", "9", PYTHONPATH=path)
    assert (outcome.returncode, outcome.stdout) == (0, "34\n")
    assert cli("run", "fib", "--snapshot-at", "5", PYTHONPATH=path).returncode == 120
    assert cli("inspect", "snapshot.bin", PYTHONPATH=path).returncode == 0
    assert cli("run", "fib", "--from-snapshot", "snapshot.bin", PYTHONPATH=path).returncode == 0


def named_extras() -> Iterator[tuple[str | None, str]]:
    """Yield the package and the extra that hints name, where both stand in the source."""
    for path in Path(wasmsr.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingPackageError":
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                for word in node.keywords:
                    if word.arg == "extra" and isinstance(word.value, ast.Constant):
                        yield name, word.value.value


def test_hints_name_extras_that_bring_the_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="this Python reads no TOML")
    project = Path(wasmsr.__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = list(named_extras())
    assert len(found) >= 12
    for name, extra in found:
        assert extra in extras
        if name is not None:
            package = PACKAGES.get(name, (name, None))[0]
            assert any(one.startswith(package) for one in extras[extra]), f"{extra}: {package}"
