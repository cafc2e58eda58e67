"""Native code computes what precise code computes, in every state that can be seen.

Small programs in lockstep, every numeric instruction over values at the edges with its operands
in registers and in slots, traps at their positions, ways between native code and handlers, and
machines on which there is no native code.
"""

from __future__ import annotations

import gc
import itertools
import random
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.interp.machines import hop
from tests.interp.test_both_codes import FOLDS, MIXED, PAIRS, SWITCH, TAIL, TRAPS, lockstep, module
from tests.lockstep import PRECISE, Pair, advance, enqueue
from wasmsr._ffi import ffi, lib
from wasmsr.errors import Trap, WasmsrError
from wasmsr.interp import tier
from wasmsr.interp.instruction_set.instructions import INSTRUCTIONS, Instruction
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Finished, Limits, Outcome, Trapped
from wasmsr.interp.perf_map import perf_map
from wasmsr.interp.store.externs import Function, Memory
from wasmsr.interp.store.instance import Instance
from wasmsr.interp.store.store import Store
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.format import content_digest

refused = tier.refusal()
needs_native = pytest.mark.skipif(refused is not None, reason=f"no native code here: {refused}")


@pytest.fixture(autouse=True)
def _native() -> Iterator[None]:
    tier.choose("native")
    yield
    tier.choose(None)


def native_bytes(store: Store, *, counts: bool = False) -> dict[int, bytes]:
    """The native code of the functions that have some, by address; or that with counts."""
    view = ffi.new("wsr_native_view *")
    found = {}
    for address in range(1000):
        if lib.wsr_native_code(store.c, address, counts, view):
            found[address] = bytes(ffi.buffer(view.code, view.bytes))
    return found


def exported(instance: Instance, name: str = "run") -> Function:
    """An export that is a function."""
    function = instance.exports[name]
    assert isinstance(function, Function)
    return function


def end_of(outcome: Outcome) -> object:
    """The bits of the results, or the trap and where it was."""
    if isinstance(outcome, Finished):
        return outcome.raw
    assert isinstance(outcome, Trapped)
    return outcome.trap.code, outcome.trap.backtrace


def ran(code: Module, *args: int, name: str = "run") -> tuple[object, Store]:
    """The results of an export, or the trap's code and place, in native code."""
    store = Store()
    function = exported(store.instantiate(code), name)
    try:
        return function(*args), store
    except Trap as trap:
        return (trap.code, trap.backtrace), store


# ---- lockstep ----


@needs_native
@pytest.mark.parametrize(
    ("code", "argument"),
    [(MIXED, 100), (SWITCH, 200), (TAIL, 500), (TRAPS, 40), (PAIRS, 3)],
    ids=["mixed", "switch", "tail", "traps", "pairs"],
)
def test_small_programs(code: Module, argument: int) -> None:
    assert native_bytes(ran(code, argument)[1])
    assert lockstep(code, "run", argument) > 3


@needs_native
@pytest.mark.parametrize("body", FOLDS.values(), ids=FOLDS)
def test_folding(body: str) -> None:
    lockstep(module(f"(module (memory 1) (table funcref (elem)) (global $g (mut i32) (i32.const 3))"
                    f" {body})"), "run", 3)  # fmt: skip


STATES = {
    "a local is read at the beginning of a loop, and never used": """
      (func (export "run") (param $n i32) (result i32) (local $x i32) (local $y i32)
        (local.set $x (i32.mul (local.get $n) (i32.const 7)))
        (loop $l
          (drop (local.get $x))
          (local.set $x (i32.const 5))
          (local.set $y (i32.add (local.get $y) (local.get $x)))
          (local.set $x (i32.add (local.get $y) (local.get $n)))
          (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $y))""",
    "operands wait below a loop and below calls": """
      (func $f (param i32) (result i32) (i32.add (local.get 0) (i32.const 3)))
      (func (export "run") (param $n i32) (result i32) (local $x i32)
        (i32.mul (local.get $n) (i32.const 9))
        (i64.extend_i32_u (local.get $n))
        (f64.convert_i32_u (local.get $n))
        (loop $l
          (local.set $x (i32.add (call $f (local.get $x)) (call $f (local.get $n))))
          (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (drop) (drop) (i32.add (local.get $x)))""",
    "a slot holds an integer, then a float": """
      (func (export "run") (param $n i32) (result f64) (local $x f64) (local $y f32)
        (loop $l
          (local.set $x (f64.add (f64.mul (f64.convert_i32_s (i32.mul (local.get $n)
            (i32.const 3))) (f64.const 0.5)) (f64.sqrt (local.get $x))))
          (local.set $y (f32.demote_f64 (f64.sub (local.get $x) (f64.promote_f32 (local.get $y)))))
          (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (f64.add (local.get $x) (f64.promote_f32 (local.get $y))))""",
    "loops in loops, with other registers in each": """
      (memory 1)
      (func (export "run") (param $n i32) (result i32)
        (local $i i32) (local $j i32) (local $k i32) (local $a i32) (local $b i32) (local $c i32)
        (local $d i32) (local $e i32) (local $s f32)
        (loop $o
          (local.set $j (i32.const 3))
          (loop $m
            (local.set $k (i32.const 2))
            (local.set $a (i32.add (local.get $a) (local.get $j)))
            (loop $p
              (local.set $b (i32.xor (local.get $b) (i32.shl (local.get $k) (local.get $j))))
              (local.set $c (i32.add (local.get $c) (i32.mul (local.get $b) (i32.const 5))))
              (local.set $d (i32.rotl (local.get $d) (local.get $k)))
              (local.set $e (i32.sub (local.get $c) (local.get $e)))
              (local.set $s (f32.add (local.get $s) (f32.convert_i32_s (local.get $k))))
              (i32.store (i32.and (local.get $c) (i32.const 0xffc)) (local.get $e))
              (br_if $p (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
            (local.set $d (i32.add (local.get $d) (local.get $a)))
            (br_if $m (local.tee $j (i32.sub (local.get $j) (i32.const 1)))))
          (br_if $o (i32.lt_s (local.tee $i (i32.add (local.get $i) (i32.const 1)))
            (local.get $n))))
        (i32.add (i32.trunc_sat_f32_s (local.get $s)) (i32.xor (local.get $d) (local.get $e))))""",
    "a table leads back and forth with operands": """
      (func (export "run") (param $n i32) (result i32) (local $s i32)
        (i32.const 1)
        (loop $l (param i32) (result i32)
          (local.set $s)
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (if (i32.le_s (local.get $n) (i32.const 0)) (then (return (local.get $s))))
          (block $b (result i32)
            (block $c (result i32)
              (i32.const 77)
              (i32.add (i32.mul (local.get $s) (i32.const 3)) (local.get $n))
              (br_table $l $c $b $l (i32.and (local.get $n) (i32.const 3))))
            (i32.mul (i32.const 5)))
          (br $l)))""",
}


@needs_native
@pytest.mark.parametrize("body", STATES.values(), ids=STATES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_states(body: str, n: int) -> None:
    lockstep(module(f"(module {body})"), "run", n)


@needs_native
def test_locals_that_are_not_live_hold_values_of_their_types() -> None:
    """They are zero at first, also where an earlier frame left something else."""
    code = module("""(module
      (func $fill (param i64 i64 i64 i64 i64 i64) (result i64) (i64.xor (local.get 0)
        (local.get 5)))
      (func $f (param $n i32) (result i32) (local $a i32) (local $b i32) (local $c f32)
        (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.set $a (i32.const 1)) (local.set $b (local.get $a)) (local.set $c (f32.const 1))
        (i32.add (local.get $b) (i32.trunc_sat_f32_s (local.get $c))))
      (func (export "run") (param $n i32) (result i32)
        (drop (call $fill (i64.const -1) (i64.const -1) (i64.const -1) (i64.const -1)
          (i64.const -1) (i64.const -1)))
        (call $f (local.get $n))))""")
    store = Store()
    store.enqueue(exported(store.instantiate(code)), 100)
    for _ in range(5):
        advance(store, 1, 0, through_calls=True)
        store.check()


# ---- numerics ----

INTEGERS = (0, 1, 2, 3, 7, 31, 33, 63, 0x7F, 0x80, 0xFFFF8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
WIDE = (*INTEGERS, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x123456789ABCDEF0)
SINGLES = (0, 1 << 31, 0x3F800000, 0xBF000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
    0xFFC12345, 0xFF812345, 1, 0x4F000000, 0xCF000000, 0x4EFFFFFF, 0x5F000000, 0xBF7FFFFF,
    0x4F7FFFFF, 0x42F6E979)  # fmt: skip
DOUBLES = (0, 1 << 63, 0x3FF0000000000000, 0xBFE0000000000000, 0x7FF0000000000000,
    0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001, 0xFFF8000000012345,
    0xFFF0000000012345, 1, 0x41E0000000000000, 0xC1E0000000200000, 0x41DFFFFFFFC00000,
    0x43E0000000000000, 0xC3E0000000000000, 0x41EFFFFFFFE00000, 0x405EDD2F1A9FBE77,
    0x36A0000000000000, 0x47EFFFFFF0000000)  # fmt: skip
VALUES = {"i32": INTEGERS, "i64": WIDE, "f32": SINGLES, "f64": DOUBLES}
CHANGE = {"i32": "(i32.xor {} (i32.const 5))", "i64": "(i64.xor {} (i64.const 5))",
    "f32": "(f32.neg {})", "f64": "(f64.neg {})"}  # fmt: skip
NUMERIC = [i for i in INSTRUCTIONS if i.kind == "numeric" and set(i.params.split()) <= set(VALUES)]
BUSY = "i32 " * 7 + "f64 " * 9


def uses(i: Instruction, a: str, b: str) -> list[str]:
    """The instruction with its operands in all places: each an expression."""
    taken = i.params.split()
    change = CHANGE[taken[0]]
    if len(taken) == 1:
        return [f"({i.name} {a})", f"({i.name} {change.format(a)})"]
    k = f"({taken[1]}.const {'5' if taken[1][0] == 'i' else '-0x1.8p1'})"
    z = f"({taken[1]}.const 0)"
    return [f"({i.name} {x} {y})" for x, y in (
        (a, b), (a, k), (b, a), (change.format(a), b), (a, change.format(b)),
        (change.format(a), k), (a, z))]  # fmt: skip


def program(i: Instruction, *, busy: bool) -> str:
    """A module that stores what the instruction gives for each pair of the values in its memory."""
    taken, kind = i.params.split(), i.results
    a, b = "(local.get $a)", "(local.get $b)"
    lines = []
    for number, use in enumerate(uses(i, a, b)):
        lines += [f"({kind}.store offset={16 * number} (local.get $o) {use})",
            f"(local.set $r {use})",
            f"({kind}.store offset={16 * number + 8} (local.get $o) (local.get $r))"]  # fmt: skip
        if i.results == "i32":
            place = f"offset={16 * number + 4} (local.get $o)"
            lines += [f"(if {use} (then (i32.store8 {place} (i32.const 1))))",
                f"(block $no (br_if $no (i32.eqz {use}))"
                f" (i32.store8 {place.replace('=', '=1', 0)} (i32.const 3)))"]  # fmt: skip
    for n in range(16 if busy else 0):
        of = "i32" if n < 7 else "f64"
        lines += [f"(local.set {3 + n} ({of}.add (local.get {3 + n}) ({of}.const 1)))"] * 9
    n = len(VALUES[taken[0]])
    busy_locals = f"(local {BUSY})" if busy else ""
    return f"""(module (memory (export "memory") 16)
      (func (export "run") (param $i i32) (param $j i32) (param $o i32)
      {busy_locals} (local $a {taken[0]}) (local $b {taken[-1]}) (local $r {kind})
      (local.set $o (i32.const 4096))
      (loop $outer
        (local.set $j (i32.const 0))
        (local.set $a ({taken[0]}.load (i32.shl (local.get $i) (i32.const 3))))
        (loop $inner
          (local.set $b ({taken[-1]}.load (i32.shl (local.get $j) (i32.const 3))))
          {" ".join(lines)}
          (local.set $o (i32.add (local.get $o) (i32.const 128)))
          (br_if $inner (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1)))
            (i32.const {n}))))
        (br_if $outer (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
          (i32.const {n}))))))"""


@needs_native
@pytest.mark.parametrize("busy", [False, True], ids=["registers", "slots"])
def test_numerics(busy: bool) -> None:
    """NaNs included: which of two NaNs an operation gives is the same as in precise code."""
    for i in NUMERIC:
        if i.traps:
            continue
        code = Module.from_text(program(i, busy=busy))
        memories = []
        for how in (None, PRECISE):
            store = Store()
            instance = store.instantiate(code)
            memory = instance.exports["memory"]
            assert isinstance(memory, Memory)
            for n, value in enumerate(VALUES[i.params.split()[0]]):
                memory.write(8 * n, struct.pack("<Q", value))
            store.enqueue(exported(instance), 0, 0, 0)
            outcome = store.run() if how is None else advance(store, 1 << 40, how)
            assert isinstance(outcome, Finished)
            memories.append(memory.read(0, 128 * 500))
        if memories[0] != memories[1]:
            at = next(n for n in range(len(memories[0])) if memories[0][n] != memories[1][n])
            pair, use = divmod(at - 4096, 128)
            got, wanted = (data[at & ~7 :][:8].hex() for data in memories)
            pytest.fail(f"{i.name}, pair {pair}, use {use // 16}: {got}, precise {wanted}")


@needs_native
@pytest.mark.parametrize("i", [i for i in NUMERIC if i.traps], ids=lambda i: i.name)
def test_numerics_that_trap(i: Instruction) -> None:
    taken = i.params.split()
    parameters = " ".join(taken)
    places = uses(i, "(local.get 0)", f"(local.get {len(taken) - 1})")
    functions = "".join(
        f'(func (export "{n}") (param {parameters}) (result {i.results}) {use})'
        f'(func (export "l{n}") (param {parameters}) (result {i.results}) (local $r {i.results})'
        f" (loop $l (local.set $r {use}) (br_if $l (i32.const 0))) (local.get $r))"
        for n, use in enumerate(places)
    )
    code = Module.from_text(f"(module {functions})")
    values = VALUES[taken[0]]
    given = list(itertools.product(values, values)) if len(taken) == 2 else [(v,) for v in values]
    stores = Store(), Store()
    for store in stores:
        store.instantiate(code)
    for name in stores[0].instances[-1].exports:
        for slots in given:
            ends = []
            for store, how in zip(stores, (None, PRECISE), strict=True):
                function = exported(store.instances[-1], name)
                store.enqueue(function, *(_value(t, v) for t, v in zip(taken, slots, strict=True)))
                outcome = store.run() if how is None else advance(store, 1 << 40, how)
                ends.append(end_of(outcome))
            assert ends[0] == ends[1], (name, slots)


def _value(kind: str, bits: int) -> int | float:
    """Of these bits; a NaN that Python cannot carry is another NaN."""
    if kind == "f32":
        return float(struct.unpack("<f", struct.pack("<I", bits))[0])
    if kind == "f64":
        return float(struct.unpack("<d", struct.pack("<Q", bits))[0])
    return bits


# ---- memory ----


@needs_native
def test_bounds_of_every_load_and_store() -> None:
    """The last byte is in reach and the next is not, whatever the address is made of."""
    functions = []
    for i in INSTRUCTIONS:
        if i.kind not in ("load", "store") or "v128" in i.params + i.results:
            continue
        value = "" if i.kind == "load" else f"({i.params.split()[1]}.const 1)"
        for n, address in enumerate((
            "(local.get 0)", "(i32.add (local.get 0) (i32.const 8))",
            "(i32.add (local.get 0) (local.get 1))", "(i32.xor (local.get 0) (local.get 1))",
            "(i32.add (i32.xor (local.get 0) (local.get 1)) (i32.const -1))",
            "(i32.add (local.get 0) (i32.xor (local.get 1) (i32.const 1)))",
        )):  # fmt: skip
            for offset in (0, 5, 65532, 0x7FFFFFFC, 0xFFFFFFFF):
                body = f"({i.name} offset={offset} {address} {value})"
                body = f"(drop {body})" if i.kind == "load" else body
                functions.append(f'(func (export "{i.name}-{n}-{offset}") (param i32 i32) {body})')
        for at in (65528, 65529, 65533, 65535, 65536, 0xFFFFFFFF):
            body = f"({i.name} offset=0 (i32.const {at}) {value})"
            body = f"(drop {body})" if i.kind == "load" else body
            functions.append(f'(func (export "{i.name}-c-{at}") (param i32 i32) {body})')
    code = Module.from_text(f"(module (memory 1) {''.join(functions)})")
    store, precise = Store(), Store()
    instances = [s.instantiate(code) for s in (store, precise)]
    for name in instances[0].exports:
        for a in (0, 1, 65520, 65527, 65528, 65529, 65532, 65535, 65536, 0x80000000, 0xFFFFFFF8):
            ends = []
            for s, instance in zip((store, precise), instances, strict=True):
                s.enqueue(exported(instance, name), a, 0)
                outcome = s.run() if s is store else advance(s, 1 << 40, PRECISE)
                ends.append(end_of(outcome))
            assert ends[0] == ends[1], (name, a)


# ---- ways in and out ----


def test_accesses_that_share_a_check() -> None:
    """The first compares the end of the furthest; each traps where it should, or does its work."""
    body = """(module (memory 1) (func (export "run") (param $p i32) (result i32)
      (i32.store offset=4 (local.get $p) (i32.const 7))
      (i32.store offset=100 (local.get $p) (i32.const 9))
      (i32.store8 offset=60 (local.get $p) (i32.const 3))
      (local.set $p (i32.add (i32.load offset=4 (local.get $p))
        (i32.load8_u offset=60 (local.get $p))))
      (i32.store offset=200 (local.get $p) (local.get $p))
      (i32.add (i32.load offset=200 (local.get $p)) (i32.load offset=8 (local.get $p)))))"""
    code = module(body)
    for a in (0, 64, *range(65536 - 104, 65536 + 4), 0x7FFFFFFF, 0xFFFFFFFF):
        ends = []
        for chosen in ("interpreter", "native"):
            tier.choose(chosen)
            end, store = ran(code, a)
            ends.append((end, bytes(store.memory_view(0))))
        assert ends[0] == ends[1], a
        assert isinstance(ends[0][0], int) == (a + 104 <= 65536), a


@needs_native
def test_recursion_ends_where_the_frames_do() -> None:
    code = module("""(module (func $f (export "run") (param $n i32) (result i32)
      (if (result i32) (local.get $n)
        (then (i32.add (i32.const 1) (call $f (i32.sub (local.get $n) (i32.const 1)))))
        (else (i32.const 0)))))""")
    store = Store(limits=Limits(stack_frames=1000))
    run = exported(store.instantiate(code))
    assert run(999) == 999
    with pytest.raises(Trap, match="exhausted"):
        run(1000)
    assert run(10) == 10


@needs_native
def test_host_calls_between_native_frames() -> None:
    code = module("""(module (import "h" "f" (func $h (param i32) (result i32)))
      (func $deep (param $n i32) (result i32) (local $s i32)
        (if (i32.eqz (local.get $n)) (then (return (call $h (i32.const 1)))))
        (local.set $s (call $deep (i32.sub (local.get $n) (i32.const 1))))
        (i32.add (local.get $s) (call $h (local.get $n))))
      (func (export "run") (param $n i32) (result i32) (call $deep (local.get $n))))""")
    store = Store()
    instance = store.instantiate(code, {"h": {"f": lambda n: n * 3}})
    assert exported(instance)(50) == 3 + sum(3 * n for n in range(1, 51))


@needs_native
def test_random_pauses_and_restores() -> None:
    """Another thread asks; what is saved goes on to the same end."""
    straight, _ = ran(MIXED, 20_000)
    draw = random.Random(14)
    store = Store()
    store.enqueue(exported(store.instantiate(MIXED)), 20_000)
    pauses = 0
    while True:
        timer = threading.Timer(draw.random() * 0.002, store.pause)
        timer.start()
        outcome = store.run()
        timer.join()
        if isinstance(outcome, Finished):
            break
        pauses += 1
        store = hop(store) if pauses % 2 else store
    assert outcome.results[0] == straight


@needs_native
def test_copies_and_stores_without_native_code_share_modules() -> None:
    native = Store()
    assert native.tier == "native"
    assert native.copied().tier == "native"
    tier.choose("interpreter")
    plain = Store()
    assert plain.tier == "interpreter"
    for store in (native, plain):
        assert exported(store.instantiate(MIXED))(100) == 12
    assert native_bytes(native)
    assert not native_bytes(plain)


@needs_native
def test_a_child_makes_code_of_its_own() -> None:
    script = """
import os
from tests.interp.test_native import MIXED, SWITCH, exported, native_bytes, ran, tier
tier.choose("native")
before, store = ran(SWITCH, 100)
child = os.fork()
if child == 0:
    again = exported(store.instances[0])(100)
    other, made = ran(MIXED, 50)
    writable = [line for line in open("/proc/self/maps") if "wasmsr-code" in line and " rw" in line]
    os._exit(0 if again == before and native_bytes(made) and len(writable) == 1 else 1)
mine, _ = ran(MIXED, 50)
_, status = os.waitpid(child, 0)
assert exported(store.instances[0])(100) == before
print("child", os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "child 0\n", done.stderr


@needs_native
@pytest.mark.parametrize("budget", [64 << 10, 256 << 20])
def test_a_child_runs_code_that_its_parent_frees(budget: int) -> None:
    """Each round forks a child that runs a module's code after the parent has freed the module and
    made other code. The small budget makes the parent take new memory for code again and again."""
    script = f"""
import gc, os
from tests.interp.test_native import MIXED, SWITCH, Module, Store, exported, native_bytes, ran, tier
tier.choose("native")
tier.limit({budget})
right, _ = ran(Module(MIXED.binary), 3000)
gc.collect()
for _ in range(30):
    found, store = ran(Module(MIXED.binary), 3000)
    assert found == right and native_bytes(store), "the parent has no native code"
    go, gone = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        again = exported(store.instances[0])(3000)
        other, made = ran(Module(MIXED.binary), 3000)
        os._exit(0 if again == other == right and native_bytes(made) else 1)
    del store
    gc.collect()
    for _ in range(3):
        found, kept = ran(Module(SWITCH.binary), 100)
    os.write(gone, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(go), os.close(gone)
spaces = [line for line in open("/proc/self/maps") if "wasmsr-code" in line]
writable = [line for line in spaces if " rw" in line]
print("bounded", len(writable) <= 2)  # the newest, and one with code of `kept`
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "bounded True\n", done.stderr


# ---- the choice ----


def test_a_tier_that_is_none() -> None:
    with pytest.raises(WasmsrError, match="one of interpreter, native, auto"):
        tier.choose("fastest")


def test_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    tier.choose(None)
    monkeypatch.delenv(tier.VARIABLE, raising=False)
    assert tier.chosen() == "interpreter"
    monkeypatch.setenv(tier.VARIABLE, "auto")
    assert tier.chosen() == "auto"
    monkeypatch.setenv(tier.VARIABLE, "most")
    with pytest.raises(WasmsrError, match="WASMSR_TIER is 'most'"):
        Store()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
@pytest.mark.parametrize("how", ["mdwe", "no memory"])
def test_where_code_may_not_be_made_the_interpreter_runs(how: str) -> None:
    """Under PR_SET_MDWE a page that is written cannot become code: ours never does."""
    script = f"""
import ctypes, resource
from wasmsr import Module, Store
from wasmsr.interp import tier
if {how!r} == "mdwe":
    print(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0))
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tier.choose("native")
code = Module.from_text('(module (func (export "run") (result i32) (i32.const 7)))')
store = Store()
print(store.instantiate(code).exports["run"](), store.tier, tier.refusal())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if how == "no memory":
        why = refused or "this system does not let programs make code"
        assert done.stdout == f"7 interpreter {why}\n"
    elif done.stdout.startswith("0\n") and refused is None:
        assert done.stdout == "0\n7 native None\n"


# ---- how much code there may be ----


@needs_native
def test_functions_over_the_budget_run_in_the_interpreter() -> None:
    text = '(module (func (export "run") (param i32) (result i32) (i32.add (local.get 0) {})))'
    few, many = (Module.from_text(text.format(f"(i32.const {n})")) for n in (101, 102))
    try:
        tier.limit(0)
        got, store = ran(few, 1)
        assert (got, native_bytes(store)) == (102, {})
        tier.limit(tier.code_bytes() + (1 << 20))
        got, store = ran(many, 1)
        assert got == 103
        assert native_bytes(store)
    finally:
        tier.limit(256 << 20)


@needs_native
def test_code_of_freed_modules_is_free_again() -> None:
    before = tier.code_bytes()
    kept = ran(Module.from_text(KEPT.format(7)), 5)[1]
    made = [ran(Module.from_text(KEPT.format(n)), 5) for n in range(20, 28)]
    assert tier.code_bytes() > before
    with_all = tier.code_bytes()
    while made:
        made.pop(len(made) // 2)
        gc.collect()
    assert tier.code_bytes() < with_all
    again = [ran(Module.from_text(KEPT.format(n)), 5) for n in range(30, 38)]
    assert [got for got, _ in again] == [5 * n for n in range(30, 38)]
    assert tier.code_bytes() <= with_all
    assert exported(kept.instances[0])(3) == 21


KEPT = """(module (func $f (param i32) (result i32) (i32.mul (local.get 0) (i32.const {})))
  (func (export "run") (param i32) (result i32) (call $f (local.get 0))))"""


@needs_native
def test_perf_map() -> None:
    store = ran(Module.from_text(KEPT.format(9)), 5)[1]
    lines = [line.split(maxsplit=2) for line in perf_map(store)]
    assert [name for _, _, name in lines] == ["f\n", "run\n"]
    assert all(int(start, 16) and int(size, 16) for start, size, _ in lines)


# ---- what the code may touch ----

JUMPS = ("ja", "jb", "jae", "jbe")


@needs_native
def test_memory_is_accessed_behind_checks_only() -> None:
    """Disassembled: the memory is accessed at RAX, which has 32 bits, or at a constant, behind a
    comparison with its size; all else is a frame, the thread or what belongs to it."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("objdump is not installed")
    loads = [i for i in INSTRUCTIONS if i.kind in ("load", "store") and "v128" not in i.params +
             i.results]  # fmt: skip
    body = []
    for i in loads:
        value = "" if i.kind == "load" else f"({i.params.split()[1]}.const 1)"
        for address in ("(local.get 0)", "(i32.const 40)", "(i32.add (local.get 0) (local.get 1))"):
            use = f"({i.name} offset=9 {address} {value})"
            body.append(f"(drop {use})" if i.kind == "load" else use)
            body.append("(local.set 0 (i32.rotl (local.get 0) (local.get 2)))")  # another address
    code = Module.from_text(
        '(module (memory 1) (func (export "run") (param i32 i32) (local i32)'
        f" (loop $l {' '.join(body)}"
        " (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"
    )
    store = ran(code, 50, 2)[1]
    accesses = 0
    for machine_code in native_bytes(store).values():
        lines = _disassembled(objdump, machine_code)
        for n, line in enumerate(lines):
            if "lea" in line or "rdx" not in line.partition("[")[2]:
                continue
            accesses += 1
            place = line.partition("[")[2].partition("]")[0]
            before = lines[max(0, n - 4) : n]
            checks = [w for w in before if "cmp" in w and "rcx" in w]
            assert checks, (line, before)
            assert any(word.split()[0] in JUMPS for word in before[before.index(checks[-1]) :])
            assert place.startswith(("rdx+rax*1", "rdx+0x")) or place == "rdx", line
    assert accesses >= 3 * len(loads)


def _disassembled(objdump: str, machine_code: bytes) -> list[str]:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "code"
        file.write_bytes(machine_code)
        command = [objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel"]
        command += ["--no-show-raw-insn", str(file)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.split("\t", 1)[1] for line in out.stdout.splitlines() if "\t" in line]


@needs_native
def test_lockstep_notices_a_difference() -> None:
    """The comparison itself: a state that was changed is found."""
    pair = Pair(Store(), Store())
    for store in (pair.fast, pair.precise):
        store.instantiate(MIXED)
    enqueue(pair, "run", 100)
    pair.run(most=5, seed=1)
    Memory(pair.fast, 0).write(0, b"\x07")
    with pytest.raises(AssertionError, match="differs"):
        pair.run(most=5, seed=1)


# ---- counts ----


@needs_native
def test_fuel_ends_at_each_instruction() -> None:
    """Precise code does the last instructions; native code has done all before."""
    draw = random.Random(3)
    straight, store = counted(MIXED, 200, None)
    total = store.executed
    assert total is not None
    assert native_bytes(store, counts=True)
    for fuel in [1, 999, 1000, 1001, *draw.sample(range(1002, total), 40), total]:
        end, native = counted(MIXED, 200, fuel)
        tier.choose("interpreter")
        other, plain = counted(MIXED, 200, fuel)
        tier.choose("native")
        assert end == other
        assert native.executed == plain.executed == fuel
        assert content_digest(capture(native)) == content_digest(capture(plain))
    assert straight == ran(MIXED, 200)[0]


def counted(code: Module, argument: int, fuel: int | None) -> tuple[object, Store]:
    """The end of a run with so much fuel, or with plenty."""
    store = Store()
    store.enqueue(exported(store.instantiate(code)), argument)
    outcome = store.run(fuel=10**9 if fuel is None else fuel)
    return outcome.results[0] if isinstance(outcome, Finished) else outcome, store
