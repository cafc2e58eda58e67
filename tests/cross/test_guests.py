"""wasmsr on other CPUs does what it does here: official scripts, states, unit and snapshot tests.

aarch64 has fast code as x86-64 has; s390x has the portable loop, the other byte order, and `char`
without sign. Everything here needs `make cross`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.build import REPEATS, Missing, kernel
from tests.spec import suite

from .guests import ARM64, BUILD, GUESTS, ROOT, Guest

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
EACH = pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
needs_scripts = pytest.mark.skipif(suite.absence() is not None, reason=suite.absence() or "")

HOPPED = ("fac", "return_call", "call_ref", "try_table", "legacy/try_catch", "memory_grow64")
"""Scripts whose states at canonical points are compared with those of this CPU."""
RESTORED = (
    "legacy/rethrow",
    "legacy/try_delegate",
    "throw_ref",
    "try_table",
    "br_on_null",
    "memory_copy1",
    "memory64",
    "table_fill64",
    "relaxed_madd_nmadd",
    "simd_f32x4_rounding",
    "simd_lane",
)
"""Scripts that are put away and taken out again at every instruction, some of each feature. Many
accesses to memory would take long: to reserve a memory takes qemu-user a tenth of a second."""
KERNEL_STOPS, MODULES = 40, 60
ELSEWHERE = (
    "tests/golden",
    "tests/snapshot",
    "tests/interp/test_engine_hosts.py",
    "tests/interp/test_engine_liveness.py",
    "tests/interp/test_engine_outcomes.py",
    "tests/interp/test_metering.py",
)
"""Tests that run in the guest. Left out are those that compare with Wasmtime, which is not made for
every CPU, and those of the interpreter's surroundings, which know nothing of CPUs."""


@pytest.fixture(autouse=True)
def there(request: pytest.FixtureRequest) -> None:
    """Skips where a guest is not built."""
    for wanted in [request.getfixturevalue("guest")] if "guest" in request.fixturenames else GUESTS:
        if (absence := wanted.absence()) is not None:
            pytest.skip(absence)


def _here(*words: str) -> Any:
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


@EACH
def test_it_is_another_cpu(guest: Guest) -> None:
    code = (
        "import sys, platform, wasmsr; from wasmsr._ffi import ffi, lib;"
        "print(platform.machine(), sys.byteorder, ffi.string(lib.wsr_variant()).decode())"
    )
    says = {"arm64": "aarch64 little tail calls\n", "s390x": "s390x big portable\n"}
    assert guest.run("-c", code) == says[guest.name]


@EACH
@needs_scripts
def test_scripts_pass(guest: Guest) -> None:
    found = json.loads(guest.run("-m", "tests.spec.runner", "--json"))
    assert [script["failures"] for script in found["scripts"] if script["failures"]] == []
    passed = {s["script"]: s["assertions"].get("passed", 0) for s in found["scripts"]}
    floor = suite.floor()
    assert {name: passed[name] for name in floor if passed[name] < floor[name]} == {}


@EACH
@needs_scripts
def test_scripts_have_the_same_states(guest: Guest) -> None:
    words = ("-m", "tests.spec.runner", "--hopped", "--json", *HOPPED)
    wanted, found = _here(*words)["numbers"], json.loads(guest.run(*words))["numbers"]
    assert wanted["stops"] > 1_000
    assert found.pop("entered") == (wanted["stops"] if guest is ARM64 else 0)
    assert wanted.pop("entered") == wanted["stops"]
    assert found == wanted


@EACH
@needs_scripts
def test_scripts_pass_restored(guest: Guest) -> None:
    found = json.loads(guest.run("-m", "tests.spec.runner", "--restored", "--json", *RESTORED))
    assert [script["failures"] for script in found["scripts"] if script["failures"]] == []
    assert found["numbers"]["restores"] > 1_500


@EACH
def test_kernels_and_random_modules_have_the_same_states(guest: Guest) -> None:
    try:
        kernels = [f"{kernel(name).wasm}={max(1, n // 5000)}" for name, n in REPEATS.items()]
    except Missing as reason:
        pytest.skip(str(reason))
    words = ("-m", "tests.builds.states", f"--stops={KERNEL_STOPS}", f"--modules={MODULES}")
    wanted, found = _here(*words, *kernels), json.loads(guest.run(*words, *kernels))
    assert len(wanted) == len(REPEATS) + MODULES
    assert [name for name in wanted if wanted[name] != found[name]] == []


@EACH
@pytest.mark.parametrize("tests", ELSEWHERE, ids=lambda path: Path(path).stem)
def test_tests_pass_there(tests: str, guest: Guest) -> None:
    library = guest.library
    words = ("-p", "no:cacheprovider", "-o", f"pythonpath={library} {ROOT} {library}")
    last = guest.run("-m", "pytest", *words, "-q", "--timeout=600", tests).splitlines()[-1]
    assert " passed" in last and "failed" not in last, last


def test_assembly_for_aarch64(tmp_path: Path) -> None:
    """No handler of fast code calls, or uses the stack: as tests/interp/test_assembly.py says, with
    what the binutils for that CPU read."""
    for tool in ("objdump", "readelf"):
        (tmp_path / tool).symlink_to(str(shutil.which(f"aarch64-linux-gnu-{tool}")))
    library = BUILD / "arm64" / "lib"
    words = ("-p", "no:cacheprovider", "-o", f"pythonpath={library} {ROOT} {library}")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = ARM64.run("-m", "pytest", *words, "-q", "tests/interp/test_assembly.py", env=env)
    assert " passed" in done and "skipped" not in done.splitlines()[-1], done
