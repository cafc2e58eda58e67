"""Programs that go on on another CPU: x86-64, s390x and aarch64 by turns, to the same result.

Each leg is a process of its own, which has nothing but the snapshot of the one before; the legs
take every way between two of the three. At each border the snapshot must be the one, byte for byte
but for its lineage, that a run which stayed here takes at that instruction. Needs `make cross`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.golden.running import EVERYTHING, EXECUTED, RESULTS, alive
from tests.lockstep import advance
from wasmsr import Finished, Module, Paused, Snapshot, Store
from wasmsr.snapshot.capture import capture

from .guests import ARM64, GUESTS, ROOT, S390X, Guest
from .leg import go_on

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
EXAMPLES = ROOT / "examples" / "snapshot"
HERE = None
ROUTE: tuple[Guest | None, ...] = (HERE, S390X, ARM64, HERE, ARM64, S390X, HERE)
"""Each way between two of the three once."""
ROUND = (ARM64, S390X, HERE, S390X, ARM64, HERE)
"""The same, for legs that begin with a snapshot from here."""
STOPPED = 120

NUMBERS = """(module
  (memory 2 4) (table $t 8 funcref) (table $x 2 externref)
  (global $sum (mut f64) (f64.const 0.1)) (global $g (mut i64) (i64.const -2))
  (elem (table $t) (i32.const 1) func $up $down)
  (data (i32.const 65530) "across a page of 64 KiB")
  (type $step (func (param f64 i32) (result f64)))
  (func $up (param $x f64) (param $i i32) (result f64)
    (f64.add (local.get $x) (f64.sqrt (f64.convert_i32_u (local.get $i)))))
  (func $down (param $x f64) (param $i i32) (result f64)
    (f64.div (local.get $x) (f64.sub (f64.const 3.7) (f64.convert_i32_s (local.get $i)))))
  (func $deep (param $n i32) (param $x f64) (result f64) (local $small f32) (local $wide i64)
    (local.set $small (f32.demote_f64 (local.get $x)))
    (local.set $wide (i64.xor (i64.reinterpret_f64 (local.get $x)) (global.get $g)))
    (if (result f64) (local.get $n)
      (then (f64.add (f64.promote_f32 (local.get $small))
        (call $deep (i32.sub (local.get $n) (i32.const 1)) (f64.mul (local.get $x)
          (f64.const 1.0000001)))))
      (else (f64.convert_i64_s (local.get $wide)))))
  (func (export "run") (param $n i32) (result f64 i64 i32)
    (local $i i32) (local $at i32) (local $v v128)
    (loop $next
      (local.set $v (f32x4.relaxed_madd (v128.const f32x4 0x1.000002p0 0.1 -3.3 0x1p-140)
        (f32x4.add (f32x4.nearest (local.get $v)) (v128.const f32x4 0x1.000002p0 7.7 1.5 2.5))
        (f32x4.relaxed_nmadd (f32x4.splat (f32.convert_i32_s (local.get $i)))
          (v128.const f32x4 0.7 0x1.000004p0 -0.0 nan) (local.get $v))))
      (local.set $v (i16x8.add_sat_s (local.get $v) (v128.const i64x2 1 0x7fff0001)))
      (global.set $sum (call_indirect $t (type $step) (global.get $sum) (local.get $i)
        (i32.add (i32.const 1) (i32.and (local.get $i) (i32.const 1)))))
      (local.set $at (i32.and (i32.mul (local.get $i) (i32.const 7919)) (i32.const 0x1ffc0)))
      (v128.store offset=21 (local.get $at) (local.get $v))
      (f64.store offset=3 (local.get $at) (global.get $sum))
      (i64.store16 offset=12 (local.get $at) (global.get $g))
      (global.set $g (i64.add (i64.rotl (global.get $g) (i64.const 13))
        (i64.load32_s offset=5 (local.get $at))))
      (f32.store offset=1 (local.get $at) (f32.div (f32.const 0) (f32.const 0)))
      (global.set $sum (call $deep (i32.rem_u (local.get $i) (i32.const 9)) (global.get $sum)))
      (if (i32.eq (local.get $i) (i32.const 300)) (then
        (drop (memory.grow (i32.const 1)))
        (table.set $t (i32.const 7) (ref.func $up))
        (drop (table.grow $x (ref.null extern) (i32.const 3)))
        (memory.copy (i32.const 131072) (i32.const 100) (i32.const 60000))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (local.get $n))))
    (global.get $sum) (global.get $g) (i32.load8_s (i32.const 131073))))"""


@dataclass(frozen=True)
class Journey:
    """A program as a command line.

    Attributes:
        module: its file.
        words: the program's own arguments; start: options for its start only.
        options: options for every leg.
    """

    module: Path
    words: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def _wasmsr(where: Guest | None, *words: str, code: int, cwd: Path) -> str:
    """`wasmsr run` here or in a guest; its standard output.

    Raises:
        AssertionError: it did not end with exit code `code`.
    """
    command = ("-m", "wasmsr", "run", "--deterministic", *words)
    if where is not None:
        return where.run(*command, cwd=cwd, code=code)
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, f"here: {done.returncode}: {done.stderr}"
    return done.stdout


def travel(
    journey: Journey, folder: Path, cuts: Sequence[int], route: Sequence[Guest | None]
) -> str:
    """Run along the route, over a border at each cut; what it printed on the way.

    Raises:
        AssertionError: a snapshot is not that of a run which stayed here.
    """
    printed = ""
    for leg, (start, cut) in enumerate(zip([0, *cuts], [*cuts, None], strict=True)):
        words = [*journey.options, f"--snapshot-file={folder / f'{leg}.bin'}"]
        words += [f"--from-snapshot={folder / f'{leg - 1}.bin'}"] if leg else journey.start
        words += [f"--snapshot-at={cut - start}"] if cut is not None else []
        words += [str(journey.module), *(() if leg else journey.words)]
        code = 0 if cut is None else STOPPED
        printed += _wasmsr(route[leg], *words, code=code, cwd=folder)
    return printed


def executed(journey: Journey, folder: Path) -> int:
    """How many instructions it has."""
    words = ("--json", f"--fuel={10**12}", *journey.start, *journey.options)
    words += (str(journey.module), *journey.words)
    return int(json.loads(_wasmsr(HERE, *words, code=0, cwd=folder).splitlines()[-1])["executed"])


@pytest.fixture(autouse=True)
def there() -> None:
    """Skips where a guest is not built."""
    for guest in GUESTS:
        if (absence := guest.absence()) is not None:
            pytest.skip(absence)


@pytest.fixture
def journeys(tmp_path: Path) -> dict[str, Journey]:
    """Programs by name; files that they write are relative to where they run."""
    numbers = tmp_path / "numbers.wasm"
    numbers.write_bytes(Module.from_text(NUMBERS).binary)
    return {
        "numbers": Journey(numbers, ("700",), start=("--invoke=run",)),
        "fib": Journey(EXAMPLES / "fib.wasm", ("15",), start=("--invoke=fib",)),
        "cat": Journey(EXAMPLES / "cat.wasm", options=(f"--dir={EXAMPLES}::.",)),
        "transcoding": Journey(
            EXAMPLES / "transcoding.wasm",
            ("--frames", "3", "/in/sample.y4m", "/w/out.avi"),
            options=(f"--dir={EXAMPLES}::/in", "--dir=.::/w"),
        ),
    }


@pytest.mark.parametrize("name", ["numbers", "fib", "cat", "transcoding"])
def test_around_three_cpus(name: str, journeys: dict[str, Journey], tmp_path: Path) -> None:
    journey = journeys[name]
    at_home, abroad = tmp_path / "home", tmp_path / "abroad"
    for folder in (at_home, abroad):
        folder.mkdir()
    length = executed(journey, at_home)
    cuts = sorted(random.Random(length).sample(range(1, length), len(ROUTE) - 1))
    wanted = travel(journey, at_home, cuts, [HERE] * len(ROUTE))
    assert travel(journey, abroad, cuts, ROUTE) == wanted
    for leg in range(len(cuts)):
        one, other = (Snapshot.load(folder / f"{leg}.bin") for folder in (at_home, abroad))
        assert one.content_digest() == other.content_digest(), f"after leg {leg} of {ROUTE}"
    files = {path.name for path in at_home.iterdir()} - {f"{leg}.bin" for leg in range(len(ROUTE))}
    assert {name: (abroad / name).read_bytes() for name in files} == {
        name: (at_home / name).read_bytes() for name in files
    }


def _leg(where: Guest | None, source: Path, target: Path, fuel: int | None) -> Any:
    """A leg here or in a guest; as `go_on`."""
    if where is None:
        return go_on(source, target, fuel)
    words = [str(source), str(target), *([] if fuel is None else [str(fuel)])]
    found = json.loads(where.run("-m", "tests.cross.leg", *words))
    return found if found is None else tuple(found)


def moments(sample: Path, first: int) -> list[int]:
    """The counts of instructions, from `first` on, at which every kind of state is alive."""
    found, executed = [], first
    with Snapshot.load(sample).restore() as store:
        while isinstance(store.run(fuel=1), Paused):
            executed += 1
            if alive(capture(store)) == EVERYTHING:
                found.append(executed)
    assert executed + 1 == EXECUTED
    return found


@pytest.mark.parametrize("how", ["everything alive", "anywhere"])
def test_every_kind_of_state_goes_around(how: str, tmp_path: Path) -> None:
    """The frozen program, twice around: vectors and exceptions as operands, a handler of the older
    kind with its exception, memories and tables of both widths, and references to functions."""
    sample, route = ROOT / "tests" / "golden" / "v2-running.bin", ROUND * 2
    first = Snapshot.load(sample).state.executed
    assert first is not None
    together = how == "everything alive"
    among = moments(sample, first) if together else range(first + 1, EXECUTED)
    cuts = sorted(random.Random(how).sample(among, len(route) - 1))
    found, stands = None, {"home": sample, "abroad": sample}
    for n, where in enumerate(route):
        assert found is None
        fuel = cuts[n] - (cuts[n - 1] if n else first) if n < len(cuts) else None
        after = {name: tmp_path / f"{n}-{name}.bin" for name in stands}
        go_on(stands["home"], after["home"], fuel)
        found = _leg(where, stands["abroad"], after["abroad"], fuel)
        abroad, home = (Snapshot.load(after[name]) for name in ("abroad", "home"))
        assert abroad.content_digest() == home.content_digest(), f"after leg {n} of {route}"
        assert fuel is None or not together or alive(abroad.state) == EVERYTHING
        stands = after
    assert found == RESULTS


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
def test_a_pause_in_fast_code_goes_on_there(guest: Guest, tmp_path: Path) -> None:
    """Stopped here in fast code, as a request stops it, at a call and at a loop's header."""
    module = Module.from_text(NUMBERS)
    binary = tmp_path / "numbers.wasm"
    binary.write_bytes(module.binary)
    for points, through_calls in ((2_001, False), (301, True)):
        store = Store(deterministic=True)
        function = store.instantiate(module).function("run")
        store.enqueue(function, 700)
        assert isinstance(advance(store, points, 0, through_calls=through_calls), Paused)
        Snapshot.of(store).save(tmp_path / "paused.bin")
        outcome = store.run()
        assert isinstance(outcome, Finished)
        words = ("--deterministic", "--json", f"--from-snapshot={tmp_path / 'paused.bin'}")
        answer = json.loads(guest.run("-m", "wasmsr", "run", *words, str(binary)).splitlines()[-1])
        assert answer["results"] == [[*outcome.results]], answer
