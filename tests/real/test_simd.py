"""C built with -msimd128: our transcoder and the kernels of `bench.simd`.

The transcoder must write the same film as the binary in the package, which has no vectors: whole,
and stopped at random instructions with a new process for each leg. The kernels run in fast and
precise code side by side. Last, a program whose vectors wait on the operand stack while it moves.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from bench.build import Missing, vectors
from bench.simd import REPEATS
from tests.lockstep import Pair, enqueue
from tests.real.legs import Job, in_legs, whole
from tests.real.twins import twins
from wasmsr import Module, Store
from wasmsr.errors import UnsupportedError
from wasmsr.interp.outcomes import Exited, Finished
from wasmsr.interp.types import ValType
from wasmsr.snapshot.format import load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "snapshot"


def _recipes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples_build", EXAMPLES / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def transcoding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example program, built with vectors."""
    recipes = _recipes()
    compilers = recipes.compilers()
    if not compilers:
        pytest.skip(f"no compiler for WASI here: {recipes.INSTALL}")
    made: Path = tmp_path_factory.mktemp("simd") / "transcoding.wasm"
    recipe = recipes.PROGRAMS["transcoding"]
    compilers[0].build(replace(recipe, features=(*recipe.features, "simd128")), made)
    with pytest.raises(UnsupportedError, match="simd"):
        Module.from_file(made, features="-simd")
    return made


def job(module: Path, folder: Path) -> Job:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "sample.y4m").write_bytes((EXAMPLES / "sample.y4m").read_bytes())
    words = ("--frames", "3", "/in/sample.y4m", "/w/out.avi")
    return Job(module, words, mounts=((folder / "in", "/in"),), output="/w")


def test_transcoding_in_legs(transcoding: Path, tmp_path: Path) -> None:
    scalar, more = whole(job(EXAMPLES / "transcoding.wasm", tmp_path), tmp_path / "scalar")
    made = job(transcoding, tmp_path)
    result, executed = whole(made, tmp_path / "whole")
    assert result == scalar and executed < more
    assert result == in_legs(made, tmp_path / "legs", executed=executed, seed=7, stops=6)


def test_transcoding_in_lockstep(transcoding: Path, tmp_path: Path) -> None:
    pair = twins(job(transcoding, tmp_path), tmp_path, counted=True)
    outcome = pair.run(most=1000, every=3000, seed=8)
    while not isinstance(outcome, (Exited, Finished)):
        outcome = pair.run(most=1000, every=100_000, seed=9)
    assert pair.same_snapshots()


@pytest.mark.parametrize("name", REPEATS)
def test_kernels_in_lockstep(name: str) -> None:
    try:
        module = Module.from_file(vectors(name, simd=True))
    except Missing as reason:
        pytest.skip(str(reason))
    for counted in (False, True):
        stores = [Store(deterministic=True) for _ in range(2)]
        for store in stores:
            store.instantiate(module)
        pair = Pair(stores[0], stores[1], counted=counted)
        enqueue(pair, "run", 2)
        assert not isinstance(pair.run(most=200, seed=1), Finished)
        assert isinstance(pair.run(most=10_000, every=500, seed=2), Finished)


STACKED = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $state (mut v128) (v128.const i32x4 1 2 3 4))
  (func $mix (param $x v128) (param $y v128) (result v128) (local $z v128)
    (local.set $z (i32x4.add (local.get $x) (local.get $y)))
    (v128.xor (i32x4.mul (local.get $x) (local.get $z))
      (v128.bitselect (local.get $y) (i8x16.swizzle (local.get $z) (local.get $x)) (local.get $z))))
  (func (export "_start") (local $n i32)
    (loop $next
      (global.set $state
        (i16x8.add_sat_s (i32x4.add (global.get $state) (i32x4.splat (local.get $n)))
          (call $mix (global.get $state)
            (call $mix (i32x4.splat (local.get $n)) (v128.const i64x2 5 0x123456789abcdef)))))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
        (i32.const 50))))
    (v128.store (i32.const 64) (global.get $state))
    (i64.store (i32.const 0) (i64.const 0x1000000040))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


def test_vectors_on_the_stack_move(tmp_path: Path) -> None:
    module = tmp_path / "stacked.wasm"
    module.write_bytes(Module.from_text(STACKED).binary)
    made = Job(module, ())
    result, executed = whole(made, tmp_path / "whole")
    assert len(result.stdout) == 16
    waiting = 0
    for seed in range(6):
        folder = tmp_path / f"legs{seed}"
        assert in_legs(made, folder, executed=executed, seed=seed, stops=1) == result
        frames = load(folder.with_name(f"{folder.name}.snapshot")).thread.frames
        waiting += any(ValType.V128 in frame.types[frame.locals :] for frame in frames)
    assert waiting >= 2
