"""What holds for every test: which wasmsr is tested, and that it is the one that was meant.

`make asan` lays a sanitized build before the tree's own (see Makefile); if the tree's own were
imported all the same, the tests would pass without having tested anything.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to run when the wrong extension is imported.

    What is started from here gets signals as from a shell, even if the tests were started in the
    background by one without job control, or by nohup, where they are ignored.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("WASMSR_SANITIZED") != "1":
        return
    from wasmsr import _ffi

    built = ROOT / "build" / "asan" / "lib"
    if not Path(_ffi.__file__).is_relative_to(built):
        raise pytest.UsageError(f"meant to test {built}, but imported {_ffi.__file__}")


def pytest_collection_finish() -> None:
    """Take the tests themselves out of collections of garbage: there are ten thousand of them, and
    each whole collection would take half a second."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Says which package is tested."""
    import wasmsr

    kind = " (sanitized)" if os.environ.get("WASMSR_SANITIZED") == "1" else ""
    return [f"wasmsr: {Path(wasmsr.__file__).parent}{kind}"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, driven by Selenium; without both, the tests that need it are skipped."""
    from tests.chromium import chromium, installed

    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not installed():
        pytest.skip("chromium and chromium-driver are not installed")
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def native() -> Iterator[None]:
    """Stores of the test run native code, where this machine has it."""
    from wasmsr.interp import tier

    tier.choose("native")
    yield
    tier.choose(None)
