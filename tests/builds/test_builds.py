"""Other builds do the same: with the portable loop, with clang, and as compilers without gcc's
extensions would have it. Every state at every stop is compared byte for byte, by its digest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from bench.build import REPEATS, Missing, kernel
from tests.builds.variants import CLANG, PORTABLE, SWITCH, Unbuilt, Variant
from tests.spec import suite

HOPPED = (
    *("address", "br", "br_if", "br_table", "call_indirect", "endianness", "fac", "float_memory"),
    *("float_misc", "global", "if", "loop", "memory_fill", "memory_grow", "return_call", "select"),
)
"""Scripts whose states are compared; together they are some 10,000."""


def _output(variant: Variant | None, *words: str) -> Any:
    """What a module of the tests prints as JSON, in a variant or in the build of this tree."""
    if variant is not None:
        return json.loads(variant.python("-m", *words))
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=suite.ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


@cache
def _kernels() -> tuple[str, ...]:
    """The kernels of the bench as `states` takes them, each of a millisecond or so."""
    try:
        return tuple(f"{kernel(name).wasm}={max(2, n // 500)}" for name, n in REPEATS.items())
    except Missing as reason:
        pytest.skip(str(reason))


def built(variant: Variant) -> Variant:
    """The variant, made."""
    try:
        variant.build()
    except Unbuilt as reason:
        pytest.skip(str(reason))
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{variant.name} does not compile:\n{error.stderr}")
    loop = "tail calls" if variant is CLANG else "portable"
    code = "import wasmsr._ffi as e; print(e.__file__, e.ffi.string(e.lib.wsr_variant()).decode())"
    assert variant.python("-c", code).split(" ", 1) == [
        str(variant.library / "wasmsr" / "_ffi.abi3.so"),
        f"{loop}\n",
    ]
    return variant


VARIANTS = pytest.mark.parametrize(
    "variant", [PORTABLE, CLANG, SWITCH], ids=lambda variant: variant.name
)


@pytest.mark.full
@VARIANTS
def test_kernels_and_random_modules_have_the_same_states(variant: Variant) -> None:
    words = ("tests.builds.states", "--stops=120", "--modules=300", *_kernels())
    wanted, found = _output(None, *words), _output(built(variant), *words)
    assert len(wanted) == 300 + len(REPEATS)
    assert sum(map(len, wanted.values())) > 2000
    assert [name for name in wanted if wanted[name] != found[name]] == []


@pytest.mark.full
@pytest.mark.skipif(suite.absence() is not None, reason=suite.absence() or "")
@VARIANTS
def test_scripts_pass(variant: Variant) -> None:
    found = _output(built(variant), "tests.spec.runner", "--json")
    assert [script["failures"] for script in found["scripts"] if script["failures"]] == []
    passed = {s["script"]: s["assertions"].get("passed", 0) for s in found["scripts"]}
    floor = suite.floor()
    assert {name: passed[name] for name in floor if passed[name] < floor[name]} == {}


@pytest.mark.full
@pytest.mark.skipif(suite.absence() is not None, reason=suite.absence() or "")
@pytest.mark.parametrize("variant", [PORTABLE, CLANG], ids=lambda variant: variant.name)
def test_scripts_have_the_same_states(variant: Variant) -> None:
    words = ("tests.spec.runner", "--hopped", "--json", *HOPPED)
    wanted, found = _output(None, *words)["numbers"], _output(built(variant), *words)["numbers"]
    assert wanted["stops"] > 5_000
    # How many went on in fast code is what differs.
    assert wanted.pop("entered") == wanted["stops"]
    assert found.pop("entered") == (wanted["stops"] if variant is CLANG else 0)
    assert found == wanted


@pytest.mark.full
def test_assembly_by_clang() -> None:
    """What tests/interp/test_assembly.py says of gcc's handlers holds of clang's."""
    library = built(CLANG).library
    words = ("-p", "no:cacheprovider", "-o", f"pythonpath={library} {suite.ROOT} {library}")
    output = CLANG.python("-m", "pytest", *words, "-q", "tests/interp/test_assembly.py")
    assert " passed" in output and "skipped" not in output and "failed" not in output
