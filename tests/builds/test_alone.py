"""The core by itself, with another C library and no Python: built with musl's compiler, it runs a
program, and the frames that it hands out halfway go on elsewhere, as they do in the package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.builds.variants import ROOT, core_flags
from wasmsr import Finished, Module, Paused, Store

ARGUMENT, FUEL = 20, 50_000


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, linked with musl and with nothing else."""
    if shutil.which("musl-gcc") is None:
        pytest.skip("needs musl-gcc (Debian: musl-tools)")
    made = tmp_path_factory.mktemp("alone") / "alone"
    sources = [*ROOT.glob("wasmsr/core/**/*.c"), ROOT / "wasmsr/_core.c"]
    sources += [ROOT / "wasmsr/_sys.c", ROOT / "wasmsr/_sandbox.c"]
    command = ["musl-gcc", *core_flags(), "-Wall", "-Wextra", "-Werror", "-static"]
    command += ["-foptimize-sibling-calls", f"-I{ROOT / 'wasmsr'}", "-o", str(made)]
    command += [str(ROOT / "tests/builds/alone.c"), *map(str, sources), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.full
@pytest.mark.parametrize("fuel", [1, FUEL // 3, FUEL])
def test_musl(alone: Path, fuel: int) -> None:
    file = ROOT / "examples/snapshot/fib.wasm"
    with Store() as store:
        fib = store.instantiate(Module.from_file(file)).function("fib")
        store.enqueue(fib, ARGUMENT)
        assert store.run(fuel=fuel) == Paused("fuel")
        frames = len(store.frames())
        outcome = store.run(fuel=1 << 40)
        assert isinstance(outcome, Finished)
        expected = [frames, store.executed, outcome.results[0]]
    words = [str(alone), str(file), "0", str(ARGUMENT), str(fuel)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [int(word) for word in done.stdout.split()] == expected
