"""Guests for the tests: on a directory of their own, with and without snapshots between calls."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wasi.guest import Guest, on
from wasmsr.wasi import syscalls
from wasmsr.wasi.filesystem import path_resolution


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The mounted directory. What lies beside it is out of bounds."""
    directory = tmp_path / "outer" / "data"
    directory.mkdir(parents=True)
    (tmp_path / "outer" / "secret").write_text("secret")
    return directory


@pytest.fixture
def output() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture(params=[True, False], ids=["kernel", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """How paths are resolved: True by the kernel, False by the walk."""
    if request.param and not syscalls.can_open_beneath():
        pytest.skip("this kernel has no openat2, or a sandbox forbids it")
    monkeypatch.setattr(path_resolution, "BY_KERNEL", request.param)
    return bool(request.param)


@pytest.fixture(params=["straight", "hops", "carried"])
def guest(request: pytest.FixtureRequest, data: Path, output: io.BytesIO) -> Iterator[Guest]:
    """A guest on `data`; the second time its state goes through a snapshot before every call, the
    third time its files do too."""
    made = on(
        data,
        "carry" if request.param == "carried" else "host",
        args=["prog", "a b", "ü"],
        env={"A": "1", "B": "x=y"},
        stdout=output,
        stdin=b"input",
    )
    made.hops = request.param != "straight"
    yield made
    made.close()
