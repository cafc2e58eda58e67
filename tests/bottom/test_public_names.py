"""The public names of the library: each is there, and each is listed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wasmsr


@pytest.mark.parametrize("name", wasmsr.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(wasmsr, name) is not None


def test_names_are_found_lazily_and_listed() -> None:
    code = "import wasmsr; print(sorted(set(wasmsr.__all__) - set(dir(wasmsr))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = wasmsr.nothing_of_this_name
