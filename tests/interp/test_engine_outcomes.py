"""How runs end: fuel to the instruction, pauses at canonical points, traps, limits, determinism."""

from __future__ import annotations

import struct
import threading
import time

import pytest

from tests.interp.machines import (
    encoded,
    hop,
    next_instruction,
    run_by_steps,
    run_with_request,
    text,
)
from wasmsr import (
    Exit,
    Exited,
    Finished,
    Instance,
    Interrupted,
    Limits,
    LinkError,
    ModuleError,
    Paused,
    Store,
    Trap,
    Trapped,
)
from wasmsr.interp.store.instance import Imports

COUNTED = """
(module
  (memory 3)
  (func $callee (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
  (func (export "straight") (result i32)
    nop (i32.const 1) (i32.const 2) i32.add)                       ;; 4
  (func (export "if") (param i32) (result i32)
    (if (result i32) (local.get 0) (then (i32.const 5)) (else (i32.const 6))))  ;; 3 either way
  (func (export "loop") (param i32) (result i32)
    (loop $again
      (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
      (br_if $again (local.get 0)))
    (local.get 0))                                                 ;; loop once, 6 a round, 1
  (func (export "call") (result i32) (call $callee (i32.const 1))) ;; 2 + 3
  (func (export "return") (result i32) (block (br 0)) (return (i32.const 1)))  ;; 2 + 2
  (func (export "fill")
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 196608)))  ;; 4, in three pieces
  (func (export "empty"))
  (func (export "table") (param i32) (result i32)
    (block (block (br_table 0 1 (local.get 0))) (return (i32.const 1))) (i32.const 2)))
"""

COUNTS = [
    ("straight", (), 4),
    ("if", (1,), 3),
    ("if", (0,), 3),
    ("loop", (1,), 1 + 6 + 1),
    ("loop", (5,), 1 + 5 * 6 + 1),
    ("call", (), 5),
    ("return", (), 4),
    ("fill", (), 4),
    ("empty", (), 0),
    ("table", (0,), 6),
    ("table", (9,), 5),
]


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS)
def test_fuel_is_exact(name: str, arguments: tuple[int, ...], count: int) -> None:
    module = text(COUNTED)

    def fresh() -> Store:
        store = Store()
        store.enqueue(store.instantiate(module).function(name), *arguments)
        return store

    store = fresh()
    end = store.run(fuel=1000)
    assert isinstance(end, Finished) and store.executed == count
    assert fresh().run() == end  # the same unmetered
    for fuel in range(count):
        store = fresh()
        assert store.run(fuel=fuel) == Paused("fuel")
        assert store.executed == fuel
        assert hop(store).run() == end
        assert store.run(fuel=count - fuel) == end, "what remains must be exactly enough"
        assert store.executed == count


def test_fuel_counts_what_traps_and_nothing_after() -> None:
    store = Store()
    store.enqueue(
        store.instantiate(text('(module (func (export "f") nop unreachable))')).function("f")
    )
    outcome = store.run(fuel=10)
    assert isinstance(outcome, Trapped) and store.executed == 2


def test_fuel_must_be_a_number_of_instructions() -> None:
    with pytest.raises(ValueError, match="fuel"):
        Store().run(fuel=-1)


def test_the_queue_is_run_in_order() -> None:
    store = Store()
    instance = store.instantiate(
        text('(module (func (export "f") (param i32) (result i32) local.get 0))')
    )
    for number in range(3):
        store.enqueue(instance.function("f"), number)
    assert store.run(fuel=1) == Paused("fuel")
    again = hop(store)
    for each in (store, again):
        assert each.run() == Finished((2,), (2,))


# ---- pauses ----

POINTS = """
(module
  (import "host" "request" (func $request))
  (type $v (func))
  (table 1 funcref) (elem (i32.const 0) $other)
  (memory 8)
  (func $other (global.set $n (i32.const 99)))
  (global $n (export "n") (mut i32) (i32.const 0))
  (func (export "loop") (param i32)
    (call $request)
    (loop $l
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (br_if $l (i32.lt_u (global.get $n) (local.get 0)))))
  (func (export "br") (call $request)
    (block $out (loop $l
      (br_if $out (global.get $n))
      (global.set $n (i32.const 1))
      (br $l))))
  (func (export "br_table") (call $request)
    (loop $l (block $out
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (br_table $l $out (i32.gt_u (global.get $n) (i32.const 1))))))
  (func (export "call") (call $request) (global.set $n (i32.const 1)) (call $other))
  (func (export "call_indirect") (call $request)
    (call_indirect (type $v) (i32.const 0)))
  (func (export "return_call") (call $request) (return_call $other))
  (func (export "return_call_indirect") (call $request)
    (return_call_indirect (type $v) (i32.const 0)))
  (func (export "host") (call $request) (call $request))
  (func (export "bulk") (call $request)
    (memory.fill (i32.const 0) (i32.const 7) (i32.const 200000)))
)
"""

QUIET: Imports = {"host": {"request": lambda: None}}

STANDS = {
    "loop": "global.get",
    "br": "global.get",
    "br_table": "block",
    "call": "call",
    "call_indirect": "call_indirect",
    "return_call": "return_call",
    "return_call_indirect": "return_call_indirect",
    "host": "call",
    "bulk": "memory.fill",
}


@pytest.mark.parametrize("name", STANDS)
@pytest.mark.parametrize("metered", [False, True])
def test_pauses_at_canonical_points(name: str, metered: bool) -> None:
    module = text(POINTS)
    arguments = (3,) if name == "loop" else ()
    straight = Store()
    straight.enqueue(straight.instantiate(module, QUIET).function(name), *arguments)
    straight.run(fuel=100)
    end = encoded_without_count(straight)

    store = Store()
    imports = {"host": {"request": store.pause}}
    store.enqueue(store.instantiate(module, imports).function(name), *arguments)
    assert store.run(fuel=100 if metered else None) == Paused("requested")
    store.check()
    assert next_instruction(store) == STANDS[name]
    restored = hop(store, QUIET)
    if metered:
        assert restored.executed == store.executed
        assert isinstance(restored.run(fuel=100), Finished)
        assert restored.executed == straight.executed, "a pause must not change the count"
    assert isinstance(restored.run(), Finished)
    assert encoded_without_count(restored) == end


def encoded_without_count(store: Store) -> bytes:
    kept, store.executed = store.executed, None
    try:
        return encoded(store)
    finally:
        store.executed = kept


def test_a_loop_is_paused_in_every_round() -> None:
    store = Store()
    store.enqueue(store.instantiate(text(POINTS), QUIET).function("loop"), 5)
    assert store.run(fuel=1) == Paused("fuel")  # behind the call, where a request would hold it
    positions = []
    while isinstance(outcome := run_with_request(store), Paused):
        positions.append(next_instruction(store))
        store = hop(store, QUIET)
    assert outcome == Finished()
    assert positions == ["global.get"] * 4
    assert store.instances[0].global_("n").value == 5


def test_pause_from_another_thread_is_prompt() -> None:
    store = Store()
    instance = store.instantiate(text('(module (func (export "f") (loop (br 0))))'))
    asked: list[float] = []
    delays: list[float] = []

    def ask() -> None:
        asked.append(time.perf_counter())
        store.pause()

    for _ in range(5):
        timer = threading.Timer(0.02, ask)
        if not store.frames():
            store.enqueue(instance.function("f"))
        timer.start()
        assert store.run() == Paused("requested")
        delays.append(time.perf_counter() - asked[-1])
        timer.join()
    assert min(delays) < 0.05


def test_a_paused_call_goes_on() -> None:
    store = Store()
    imports = {"host": {"request": store.pause}}
    call = store.instantiate(text(POINTS), imports).function("call")
    with pytest.raises(Interrupted):
        call()
    with pytest.raises(Exception, match="the store's thread is paused"):
        call()
    assert store.run() == Finished()
    assert store.instances[0].global_("n").value == 99
    store.pause()
    with pytest.raises(Interrupted):
        call()


# ---- bulk instructions in pieces ----

PIECE = 65536
BULK = """
(module
  (memory (export "memory") 8)
  (table $t (export "t") 40000 externref) (table $u (export "u") 40000 externref)
  (data $d "{data}")
  (func (export "fill") (param i32 i32 i32)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "copy") (param i32 i32 i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init") (param i32 i32 i32)
    (memory.init $d (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.fill") (param i32 externref i32)
    (table.fill $t (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.copy") (param i32 i32 i32)
    (table.copy $t $t (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.across") (param i32 i32 i32)
    (table.copy $u $t (local.get 0) (local.get 1) (local.get 2))))
""".replace("{data}", "".join(chr(97 + i * 7 % 26) for i in range(3 * PIECE + 5)))

SIZE = 3 * PIECE + 123


def bulk() -> tuple[Store, Instance]:
    store = Store()
    instance = store.instantiate(bulk_module)
    data = instance.memory().data
    data[:] = bytes((i * 31 + (i >> 8) * 7) & 0xFF for i in range(8 * PIECE))
    table = instance.table("t")
    objects = [f"object {i}" for i in range(50)]
    for i in range(0, 40000, 41):
        table[i] = objects[i // 41 % 50]
    return store, instance


bulk_module = text(BULK)


@pytest.mark.parametrize(
    ("name", "arguments", "pieces"),
    [
        ("fill", (100, 0x155, SIZE), 4),
        ("fill", (0, 1, 3 * PIECE), 3),
        ("fill", (8 * PIECE, 1, 0), 1),
        ("copy", (0, 40000, SIZE), 4),
        ("copy", (40000, 0, SIZE), 4),
        ("copy", (1, 0, SIZE), 4),
        ("copy", (0, 1, SIZE), 4),
        ("copy", (77, 77, SIZE), 4),
        ("copy", (8 * PIECE - SIZE, 0, SIZE), 4),
        ("init", (5, 3, 3 * PIECE), 3),
        ("table.fill", (3, "one", 20000), 3),
        ("table.copy", (0, 8000, 20000), 3),
        ("table.copy", (8000, 0, 20000), 3),
        ("table.copy", (1, 0, 39999), 5),
        ("table.across", (8000, 0, 20000), 3),
    ],
)
def test_interrupted_bulk_instructions(
    name: str, arguments: tuple[object, ...], pieces: int
) -> None:
    straight, instance = bulk()
    assert instance.function(name)(*arguments) is None
    store, instance = bulk()
    store.enqueue(instance.function(name), *arguments)
    count = 1
    while run_with_request(store) == Paused("requested"):
        store = hop(store)
        count += 1
    assert count == pieces
    assert store.instances[0].memory().data == straight.instances[0].memory().data
    for table in ("t", "u"):
        ours, theirs = store.instances[0].table(table), straight.instances[0].table(table)
        assert [ours[i] for i in range(40000)] == [theirs[i] for i in range(40000)]


@pytest.mark.parametrize("name", ["fill", "copy", "init", "table.fill", "table.copy"])
def test_bulk_instructions_out_of_bounds_do_nothing(name: str) -> None:
    store, instance = bulk()
    before = encoded(store)
    value = None if name == "table.fill" else 0
    with pytest.raises(Trap, match="out of bounds"):
        instance.function(name)(PIECE // 2, value, 8 * PIECE)
    assert encoded(store) == before


def test_a_bulk_instruction_is_counted_once() -> None:
    store, instance = bulk()
    store.enqueue(instance.function("fill"), 0, 0, SIZE)
    while run_with_request(store) == Paused("requested"):
        pass
    store.enqueue(instance.function("fill"), 0, 0, SIZE)
    threading.Timer(0.0, store.pause).start()
    while store.run(fuel=100) == Paused("requested"):
        pass
    assert store.executed == 4


# ---- traps and limits ----

RECURSION = """
(module (global $depth (export "depth") (mut i32) (i32.const 0))
  (func $f (export "f") (param i64 i64) (local i64)
    (global.set $depth (i32.add (global.get $depth) (i32.const 1)))
    (call $f (local.get 0) (local.get 1))))
"""


def depth_of(limits: Limits, every: int | None = None) -> int:
    store = Store(limits=limits)
    instance = store.instantiate(text(RECURSION))
    store.enqueue(instance.function("f"), 1, 2)
    if every is None:
        outcome = store.run()
    else:
        outcome, store = run_by_steps(store, every)
    assert isinstance(outcome, Trapped) and outcome.trap.code == "call stack exhausted"
    assert not store.frames()
    value = store.instances[0].global_("depth").value
    assert isinstance(value, int)
    return value


def test_deep_recursion_is_a_trap_in_model_units() -> None:
    assert depth_of(Limits(stack_frames=100)) == 100
    assert depth_of(Limits(stack_frames=1)) == 1
    assert depth_of(Limits()) == 65536
    by_slots = depth_of(Limits(stack_slots=1000))
    assert 100 < by_slots < 1000
    assert depth_of(Limits(stack_slots=1000), every=97) == by_slots
    assert depth_of(Limits(stack_frames=100), every=97) == 100


def test_no_frame_fits() -> None:
    store = Store(limits=Limits(stack_frames=0))
    function = store.instantiate(text('(module (func (export "f")))')).function("f")
    with pytest.raises(Trap, match="call stack exhausted"):
        function()


def test_backtraces_of_runaway_recursion_are_short() -> None:
    store = Store()
    with pytest.raises(Trap) as caught:
        store.instantiate(text(RECURSION)).function("f")(0, 0)
    assert len(caught.value.backtrace) == 50


def test_limits_of_memories_and_tables() -> None:
    limits = Limits(memory_pages=3, table_elements=10)
    module = text("""(module
      (memory (export "memory") 1) (table (export "t") 4 funcref)
      (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
      (func (export "grow_table") (param i32) (result i32)
        (table.grow (ref.null func) (local.get 0))))""")
    store = hop(_with(limits, module))
    grow, grow_table = map(store.instances[0].function, ("grow", "grow_table"))
    assert [grow(n) for n in (3, 2, 1, 0, -1)] == [-1, 1, -1, 3, -1]
    assert [grow_table(n) for n in (7, 6, 1, 0, -1)] == [-1, 4, -1, 10, -1]
    for source in ("(module (memory 4))", "(module (table 11 funcref))"):
        with pytest.raises(ModuleError, match="exceeds the limit"):
            Store(limits=limits).instantiate(text(source))
    with pytest.raises(ValueError, match="stack_slots"):
        Limits(stack_slots=-1)


def _with(limits: Limits, module: object) -> Store:
    store = Store(limits=limits)
    store.instantiate(module)  # type: ignore[arg-type]
    return store


def test_an_instance_that_cannot_be_made_leaves_no_trace() -> None:
    store = Store(limits=Limits(memory_pages=1))
    before = encoded(store)
    huge = text("(module (table 3 funcref) (global i32 (i32.const 1)) (func) (memory 2))")
    for _ in range(3):
        with pytest.raises(ModuleError, match="exceeds the limit"):
            store.instantiate(huge)
        assert encoded(store) == before
    instance = store.instantiate(
        text('(module (memory 1) (func (export "f") unreachable))'), name="second"
    )
    assert instance.index == 0
    with pytest.raises(Trap) as caught:
        instance.function("f")()
    assert caught.value.backtrace[0].module == "second"
    hop(store)


def test_missing_imports_are_named() -> None:
    module = text('(module (import "a" "b" (func (param i32))))')
    with pytest.raises(LinkError, match=r"a\.b of type func\(i32\)->\(\)"):
        Store().instantiate(module)


# ---- start functions, segments ----

START = """
(module (import "host" "stop" (func $stop))
  (global $n (export "n") (mut i32) (i32.const 0))
  (func $start (call $stop) (global.set $n (i32.const 1)) (call $stop))
  (start $start) (func (export "f") (result i32) (global.get $n)))
"""


def test_start_functions() -> None:
    calls: list[int] = []
    imports = {"host": {"stop": lambda: calls.append(1)}}
    instance = Store().instantiate(text(START), imports)
    assert instance.function("f")() == 1 and len(calls) == 2

    store = Store()
    instance = store.instantiate(text(START), imports, start=False)
    store.enqueue(instance.function("f"))
    assert instance.global_("n").value == 0
    outcome, _ = run_by_steps(store, 1, imports)
    assert outcome == Finished((1,), (1,))

    with pytest.raises(Trap, match="unreachable"):
        Store().instantiate(text("(module (func $f unreachable) (start $f))"))

    def leave() -> None:
        raise Exit(3)

    with pytest.raises(Exit):
        Store().instantiate(text(START), {"host": {"stop": leave}})
    store = Store()
    store.instantiate(text(START), {"host": {"stop": leave}}, start=False)
    assert store.run() == Exited(3)
    assert not store.frames() and not store.queue


def test_dropped_segments_stay_dropped() -> None:
    module = text("""(module (memory 1) (table 4 funcref) (func $g)
      (data $a "abc") (data $b "def") (data (i32.const 0) "active")
      (elem $e func $g) (elem $x func $g $g) (elem declare func $g)
      (func (export "drop") (data.drop $a) (elem.drop $x))
      (func (export "a") (memory.init $a (i32.const 0) (i32.const 0) (i32.const 1)))
      (func (export "b") (memory.init $b (i32.const 0) (i32.const 0) (i32.const 3)))
      (func (export "e") (table.init $e (i32.const 0) (i32.const 0) (i32.const 1)))
      (func (export "x") (table.init $x (i32.const 0) (i32.const 0) (i32.const 1))))""")
    store = Store()
    store.instantiate(module).function("drop")()
    instance = hop(store).instances[0]
    for name in "be":
        instance.function(name)()
    for name in "ax":
        with pytest.raises(Trap, match="out of bounds"):
            instance.function(name)()


# ---- determinism ----

NANS = """
(module
  (func (export "f32.{op}") (param f32 f32) (result i32)
    (i32.reinterpret_f32 (f32.{op} (local.get 0) (local.get 1))))
  (func (export "f64.{op}") (param f64 f64) (result i64)
    (i64.reinterpret_f64 (f64.{op} (local.get 0) (local.get 1)))))
"""


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "min", "max"])
def test_deterministic_nans(op: str) -> None:
    store = Store(deterministic=True)
    instance = hop(_with_instance(store, NANS.replace("{op}", op))).instances[0]
    odd = struct.unpack("<f", struct.pack("<I", 0xFFC12345))[0]
    infinity = float("inf")
    pairs = [(odd, 1.0), (1.0, odd), (odd, odd)]
    if op == "sub":
        pairs.append((infinity, infinity))
    if op == "div":
        pairs.append((0.0, 0.0))
    for pair in pairs:
        assert instance.function(f"f32.{op}")(*pair) == 0x7FC00000
        assert instance.function(f"f64.{op}")(*pair) == 0x7FF8000000000000


def _with_instance(store: Store, source: str) -> Store:
    store.instantiate(text(source))
    return store


def test_deterministic_keeps_what_is_exact() -> None:
    """neg, abs, copysign and moves keep every bit (specification, section 4.3.3)."""
    store = _with_instance(
        Store(deterministic=True),
        """(module (func (export "neg") (param i32) (result i32)
             (i32.reinterpret_f32 (f32.neg (f32.reinterpret_i32 (local.get 0))))))""",
    )
    assert store.instances[0].function("neg")(0x7FA12345) & 0xFFFFFFFF == 0xFFA12345
