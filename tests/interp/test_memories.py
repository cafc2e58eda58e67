"""Several memories, 64-bit addresses in memories and tables: in both codes and in snapshots."""

from __future__ import annotations

import pytest

from tests.interp.machines import hop
from tests.lockstep import Pair
from wasmsr import (
    Bounds,
    FormatError,
    InvalidError,
    LinkError,
    Memory,
    MemoryType,
    Module,
    ModuleError,
    Paused,
    Snapshot,
    Store,
    Table,
    TableType,
    Trap,
    Trapped,
    UnsupportedError,
    ValType,
)
from wasmsr.interp.outcomes import Finished, Limits
from wasmsr.snapshot.format import decode, encode

I32, I64 = ValType.I32, ValType.I64

KINDS = {
    "i32": ("load", "load8_s", "load8_u", "load16_s", "load16_u"),
    "i64": ("load", "load8_s", "load8_u", "load16_s", "load16_u", "load32_s", "load32_u"),
    "f32": ("load",),
    "f64": ("load",),
}
STORES = {
    "i32": ("store", "store8", "store16"),
    "i64": ("store", "store8", "store16", "store32"),
    "f32": ("store",),
    "f64": ("store",),
}
WHOLE = {
    "i32": "{}",
    "i64": "{}",
    "f32": "(i32.reinterpret_f32 {})",
    "f64": "(i64.reinterpret_f64 {})",
}


def every_access(memory: str, address: str) -> str:
    """A function that goes through all loads and stores of a memory, with addresses and values of
    all operand classes, and mixes what it reads into one i64."""
    lines = []
    here = "(local.get $p)"
    moved = f"({address}.add (local.get $p) ({address}.const 3))"
    double = f"({address}.shl (local.get $p) ({address}.const 1))"
    sums = (
        f"({address}.sub (local.get $p) ({address}.const 3))",
        f"({address}.add (local.get $p) (local.get $q))",
        f"({address}.add (local.get $p) {double})",
        f"({address}.add {double} (local.get $p))",
        f"({address}.add {double} ({address}.const 5))",
        f"({address}.const 77)",
    )
    for type_, kinds in STORES.items():
        value = {
            "i32": "(local.get $v)",
            "i64": "(i64.mul (i64.extend_i32_u (local.get $v)) (i64.const 0x123456789abcdef))",
            "f32": "(f32.convert_i32_s (local.get $v))",
            "f64": "(f64.const -1.5)",
        }[type_]
        for kind in kinds:
            fixed, kept = f"({type_}.const 77)", f"(local.get ${type_})"
            for at, one in (
                (here, value),
                (moved, fixed),
                (here, kept),
                (f"({address}.const 60)", fixed),
                (f"({address}.const 70)", value),
            ):
                lines.append(f"({type_}.{kind} {memory} offset=5 {at} {one})")
    for type_, kinds in KINDS.items():
        for kind in kinds:
            for at in (here, moved, *sums):
                read = WHOLE[type_].format(f"({type_}.{kind} {memory} offset=2 {at})")
                if type_ in ("i32", "f32"):
                    read = f"(i64.extend_i32_u {read})"
                lines.append(
                    f"(local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 7)) {read}))"
                )
                lines.append(f"(local.set ${type_} ({type_}.{kind} {memory} offset=2 {at}))")
    return f"""
      (local $p {address}) (local $q {address}) (local $sum i64) (local $i32 i32) (local $i64 i64)
      (local $f32 f32) (local $f64 f64)
      (local.set $p ({address}.const 40))
      (local.set $q ({address}.const -7))
      (loop $again
        {" ".join(lines)}
        (local.set $p ({address}.add (local.get $p) ({address}.const 5)))
        (br_if $again ({address}.lt_u (local.get $p) ({address}.const 200))))
      (local.get $sum)"""


def accesses(memories: str, memory: str, address: str) -> Module:
    return Module.from_text(
        f'(module {memories} (func (export "f") (param $v i32) (result i64)'
        f" {every_access(memory, address)}))"
    )


SAME = [
    ("(memory 1)", "0", "i32"),
    ("(memory 1) (memory 1)", "1", "i32"),
    ("(memory i64 1)", "0", "i64"),
    ("(memory i64 1) (memory 2) (memory i64 1)", "2", "i64"),
]


@pytest.mark.parametrize(("memories", "memory", "address"), SAME)
def test_every_access_gives_what_it_gives_in_memory_0(
    memories: str, memory: str, address: str
) -> None:
    module = accesses(memories, memory, address)
    plain = accesses("(memory 1)", "0", "i32")
    for value in (0, 1, -1, 123456789):
        results = []
        for one in (plain, module):
            results.append(Store().instantiate(one).function("f")(value))
            store = Store()
            store.enqueue(store.instantiate(one).function("f"), value)
            outcome = store.run(fuel=100)  # counted, in precise code and back
            while isinstance(outcome, Paused):
                store = hop(store)
                outcome = store.run(fuel=5000)
            assert isinstance(outcome, Finished)
            results.append(outcome.results[0])
        assert len(set(results)) == 1


@pytest.mark.parametrize(("memories", "memory", "address"), SAME)
def test_both_codes_agree_at_every_point(memories: str, memory: str, address: str) -> None:
    module = accesses(memories, memory, address)
    stores = []
    for _ in range(2):
        store = Store()
        store.enqueue(store.instantiate(module).function("f"), 99)
        stores.append(store)
    pair = Pair(*stores, counted=True)
    assert isinstance(pair.run(most=1000, seed=1, through_calls=False), Finished)
    assert pair.compared > 10


@pytest.mark.parametrize(
    "text",
    [
        "(module (memory 1 (pagesize 1)))",
        "(module (memory 1 2 (pagesize 65536)) (memory 1))",
        '(module (import "a" "b" (memory i64 5 9 (pagesize 1))))',
    ],
)
def test_page_sizes_are_refused_by_name(text: str) -> None:
    with pytest.raises(UnsupportedError, match='"custom-page-sizes"'):
        Module.from_text(text)


EDGES = """(module (memory {limits}) (memory {other})
  (func (export "load") (param {a}) (result i64) (i64.load {m} offset={offset} (local.get 0)))
  (func (export "store") (param {a}) (i64.store {m} offset={offset} (local.get 0) (i64.const 7)))
  (func (export "byte") (param {a}) (result i32) (i32.load8_u {m} offset={offset} (local.get 0)))
  (func (export "sum") (param {a} {a}) (result i32)
    (i32.load8_u {m} offset={offset} ({a}.add (local.get 0) (local.get 1)))))"""


@pytest.mark.parametrize("memory", [0, 1])
@pytest.mark.parametrize("offset", [0, 8, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1, (1 << 64) - 65536])
def test_bounds_are_exact_in_64_bits(memory: int, offset: int) -> None:
    limits = "i64 1 1"
    module = Module.from_text(
        EDGES.format(limits=limits, other=limits, a="i64", m=memory, offset=offset)
    )
    instance = Store().instantiate(module)
    for base in (0, 1, 65527, 65528, 65529, 65535, 65536, 1 << 32, (1 << 63), (1 << 64) - 8):
        for name, width in (("load", 8), ("store", 8), ("byte", 1), ("sum", 1)):
            arguments = (base, 0) if name == "sum" else (base,)
            function = instance.function(name)
            if base + offset + width <= 65536:  # no wrapping at 64 bits
                function(*arguments)
            else:
                with pytest.raises(Trap, match="out of bounds memory access"):
                    function(*arguments)
    with pytest.raises(Trap, match="out of bounds memory access"):
        instance.function("sum")((1 << 64) - 1, 0)
    if offset == 0:  # the sum of addresses wraps, as i64.add does
        assert instance.function("sum")((1 << 64) - 1, 1) == 7


BULK = """(module
  (memory $a 2) (memory $b i64 3) (memory $c 1 2)
  (table $t 20 funcref) (table $w i64 30 100 funcref)
  (data $d "0123456789")
  (elem $e func $f $f $f)
  (func $f)
  (func (export "to-wide") (param i64 i32 i32)
    (memory.copy $b $a (local.get 0) (local.get 1) (local.get 2)))
  (func (export "to-narrow") (param i32 i64 i32)
    (memory.copy $a $b (local.get 0) (local.get 1) (local.get 2)))
  (func (export "within") (param i64 i64 i64)
    (memory.copy $b $b (local.get 0) (local.get 1) (local.get 2)))
  (func (export "fill") (param i64 i32 i64)
    (memory.fill $b (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init") (param i64 i32 i32)
    (memory.init $b $d (local.get 0) (local.get 1) (local.get 2)))
  (func (export "drop") (data.drop $d))
  (func (export "size") (result i64 i32 i32) (memory.size $b) (memory.size $c) (memory.size $a))
  (func (export "grow") (param i64) (result i64) (memory.grow $b (local.get 0)))
  (func (export "grow-c") (param i32) (result i32) (memory.grow $c (local.get 0)))
  (func (export "t-init") (param i64 i32 i32)
    (table.init $w $e (local.get 0) (local.get 1) (local.get 2)))
  (func (export "t-copy") (param i32 i64 i32)
    (table.copy $t $w (local.get 0) (local.get 1) (local.get 2)))
  (func (export "t-fill") (param i64 i64)
    (table.fill $w (local.get 0) (ref.func $f) (local.get 1)))
  (func (export "t-grow") (param i64) (result i64)
    (table.grow $w (ref.null func) (local.get 0)))
  (func (export "t-size") (result i64) (table.size $w))
  (func (export "t-null") (param i64) (result i32)
    (ref.is_null (table.get $w (local.get 0))))
  (func (export "t-set") (param i64) (table.set $w (local.get 0) (ref.func $f)))
  (func (export "t-call") (param i64) (call_indirect $w (local.get 0)))
  (export "a" (memory $a)) (export "b" (memory $b)) (export "c" (memory $c))
  (export "t" (table $t)) (export "w" (table $w)))"""


@pytest.fixture(scope="module")
def bulk() -> Module:
    return Module.from_text(BULK)


def test_bulk_instructions_of_several_memories(bulk: Module) -> None:
    assert bulk.needed_features == {"multi-memory", "memory64"}
    instance = Store().instantiate(bulk)
    a, b, c = (instance.memory(name) for name in "abc")
    call = {name: instance.function(name) for name in instance.exports if len(name) > 1}
    a.write(0, bytes(range(1, 256)) * 300)
    call["to-wide"](100_000, 1, 70_000)
    assert b.read(100_000, 70_000) == a.read(1, 70_000)
    assert b.read(0, 100_000).count(0) == 100_000
    call["to-narrow"](5, 100_000, 10)
    assert a.read(5, 10) == b.read(100_000, 10)
    call["within"](100_001, 100_000, 70_000)
    assert b.read(100_001, 9) == bytes(range(2, 11))
    call["fill"](0, 0xAB, 65_537)
    assert b.read(65_535, 3) == b"\xab\xab\0"
    call["init"](10, 2, 5)
    assert b.read(9, 7) == b"\xab23456\xab"
    for name, arguments in (
        ("to-wide", (196_600, 0, 9)),
        ("to-wide", (0, 131_070, 3)),
        ("to-wide", (2**64 - 1, 0, 2)),
        ("to-narrow", (0, 2**64 - 2, 4)),
        ("within", (0, 1, 196_608)),
        ("within", (2**63, 2**63, 2**63)),
        ("fill", (1, 0, 2**64 - 1)),
        ("fill", (2**64 - 1, 0, 1)),
        ("init", (0, 9, 2)),
        ("init", (2**64 - 1, 0, 2)),
    ):
        before = b.read(0, 196_608)
        with pytest.raises(Trap, match="out of bounds memory access"):
            call[name](*arguments)
        assert b.read(0, 196_608) == before
    call["drop"]()
    call["init"](0, 0, 0)
    with pytest.raises(Trap):
        call["init"](0, 0, 1)
    assert call["size"]() == (3, 1, 2)
    assert call["grow"](2) == 3
    assert call["grow"](1 << 40) == -1
    assert call["grow"](-1) == -1
    assert call["grow-c"](1) == 1
    assert call["grow-c"](1) == -1
    assert call["size"]() == (5, 2, 2)
    assert (b.type, c.type) == (
        MemoryType(Bounds(5), I64),
        MemoryType(Bounds(2, 2)),
    )


def test_tables_with_64_bit_indices(bulk: Module) -> None:
    instance = Store().instantiate(bulk)
    call = {name: instance.function(name) for name in instance.exports if name[:2] == "t-"}
    t, w = instance.table("t"), instance.table("w")
    call["t-init"](20, 1, 2)
    assert [call["t-null"](i) for i in (19, 20, 21, 22)] == [1, 0, 0, 1]
    call["t-copy"](3, 19, 4)
    assert [t[i] is None for i in range(3, 7)] == [True, False, False, True]
    call["t-fill"](25, 5)
    call["t-set"](0)
    call["t-call"](0)
    call["t-call"](29)
    assert call["t-size"]() == 30
    assert call["t-grow"](70) == 30
    assert call["t-grow"](1) == -1
    assert call["t-grow"](2**63) == -1
    assert len(w) == 100
    assert w.type == TableType(ValType.FUNCREF, Bounds(100, 100), I64)
    for name, arguments, message in (
        ("t-call", (100,), "undefined element"),
        ("t-call", (1 << 32,), "undefined element"),
        ("t-call", (50,), "uninitialized element"),
        ("t-null", (1 << 32,), "out of bounds table access"),
        ("t-set", (2**64 - 1,), "out of bounds table access"),
        ("t-fill", (1, 2**64 - 1), "out of bounds table access"),
        ("t-copy", (0, 2**64 - 1, 2), "out of bounds table access"),
        ("t-init", (2**64 - 1, 0, 2), "out of bounds table access"),
    ):
        with pytest.raises(Trap, match=message):
            call[name](*arguments)


def test_all_of_it_is_in_a_snapshot(bulk: Module) -> None:
    store = Store()
    instance = store.instantiate(bulk)
    instance.memory("a").write(70_000, b"narrow")
    instance.memory("b").write(190_000, b"wide")
    instance.function("grow")(1)
    instance.function("t-set")(7)
    taken = Snapshot.of(store)
    assert [m.address64 for m in taken.state.memories] == [False, True, False]
    assert [t.address64 for t in taken.state.tables] == [False, True]
    data = b"".join(encode(taken.state))
    again = Snapshot(decode(data)).restore(modules=[bulk])
    assert Snapshot.of(again).content_digest() == taken.content_digest()
    b = again.instances[0].memory("b")
    assert b.read(190_000, 4) == b"wide"
    assert b.type == MemoryType(Bounds(4), I64)
    assert again.instances[0].function("size")() == (4, 1, 2)
    for change in ("memories", "tables"):
        wrong = decode(data)
        getattr(wrong, change)[1].address64 = False
        with pytest.raises(FormatError, match="other bounds"):
            Snapshot(wrong).restore(modules=[bulk])
    wrong = decode(data)
    wrong.limits.features.remove("memory64")
    with pytest.raises(FormatError, match="64-bit addresses and the feature memory64 was off"):
        b"".join(encode(wrong))


def test_a_bulk_instruction_is_left_in_the_middle(bulk: Module) -> None:
    store = Store()
    instance = store.instantiate(bulk)
    store.enqueue(instance.function("fill"), 3, 0x55, 190_000)
    store.pause()
    outcome = store.run()
    steps = 0
    while isinstance(outcome, Paused):
        store = hop(store)
        store.pause()
        outcome = store.run()
        steps += 1
        if steps > 4:
            break
    outcome = store.run() if isinstance(outcome, Paused) else outcome
    assert isinstance(outcome, Finished)
    assert steps > 2
    data = store.instances[0].memory("b").read(0, 190_004)
    assert data == b"\0" * 3 + b"\x55" * 190_000 + b"\0"


def test_a_memory_larger_than_4_gib() -> None:
    source = """(module (memory (export "m") i64 0)
      (func (export "grow") (param i64) (result i64) (memory.grow (local.get 0)))
      (func (export "put") (param i64 i64) (i64.store offset=16 (local.get 0) (local.get 1)))
      (func (export "get") (param i64) (result i64) (i64.load offset=16 (local.get 0))))"""
    module = Module.from_text(source)
    small = Store().instantiate(module)  # the default limit is 4 GiB
    assert small.function("grow")(65_536) == 0
    assert small.function("grow")(1) == -1
    store = Store(limits=Limits(memory_pages=1 << 20))  # 64 GiB of address space
    instance = store.instantiate(module)
    assert instance.function("grow")(70_000) == 0
    far = 70_000 * 65_536 - 24
    instance.function("put")(far, 42)
    instance.function("put")(0, 43)
    assert instance.function("get")(far) == 42
    with pytest.raises(Trap):
        instance.function("get")(far + 1)
    assert instance.memory("m").read(far + 16, 8) == (42).to_bytes(8, "little")
    assert instance.function("grow")(1 << 20) == -1


def test_bounds_of_64_bit_memories() -> None:
    head = b"\0asm\1\0\0\0\5"
    most = b"\4\x80\x80\x80\x80\x80\x80\x40"  # 2**48 pages
    assert Module(head + b"\x09\1" + most).needed_features == {"memory64"}
    with pytest.raises(InvalidError, match="at most 2\\*\\*48 pages"):
        Module(head + b"\x09\1" + b"\4\x81" + most[2:])
    with pytest.raises(ModuleError, match="exceeds the limit of 65536 pages"):
        Store().instantiate(Module(head + b"\x09\1" + most))


def test_modules_are_refused_without_the_feature() -> None:
    for text, feature in (
        ("(memory 1) (memory 1)", "multi-memory"),
        ("(memory i64 1)", "memory64"),
        ("(table i64 1 funcref)", "memory64"),
        ('(import "a" "b" (memory i64 1))', "memory64"),
        ('(import "a" "b" (memory 1)) (memory 1)', "multi-memory"),
    ):
        module = Module.from_text(f"(module {text})")
        assert feature in module.needed_features
        with pytest.raises(UnsupportedError) as caught:
            Module.from_text(f"(module {text})", features=f"-{feature}")
        assert caught.value.feature == feature


def test_imports_match_the_type_of_addresses() -> None:
    store = Store()
    narrow = Memory.new(store, MemoryType(Bounds(1, 2)))
    wide = Memory.new(store, MemoryType(Bounds(1, 2), I64))
    table = Table.new(store, TableType(ValType.FUNCREF, Bounds(3), I64))
    both = Module.from_text(
        '(module (import "m" "a" (memory 1)) (import "m" "b" (memory i64 1 2))'
        ' (import "m" "t" (table i64 3 funcref))'
        ' (func (export "f") (result i32) (i32.load8_u 1 (i64.const 5))))'
    )
    instance = store.instantiate(both, {"m": {"a": narrow, "b": wide, "t": table}})
    wide.write(5, b"\x07")
    assert instance.function("f")() == 7
    for wrong in ({"a": wide, "b": wide}, {"a": narrow, "b": narrow}):
        with pytest.raises(LinkError, match="incompatible import type"):
            store.instantiate(both, {"m": {**wrong, "t": table}})
    again = hop(store)
    assert Snapshot.of(again).content_digest() == Snapshot.of(store).content_digest()


def test_a_segment_at_a_64_bit_offset_that_does_not_fit() -> None:
    for text in (
        '(memory i64 1) (data (i64.const -1) "ab")',
        "(table i64 1 funcref) (elem (table 0) (i64.const -1) func $f $f) (func $f)",
    ):
        with pytest.raises(Trap, match="out of bounds"):
            Store().instantiate(Module.from_text(f"(module {text})"))


def test_a_trap_in_fast_code_names_its_place() -> None:
    module = Module.from_text(
        "(module (memory i64 1) (memory 1)"
        ' (func (export "wide") (drop (i32.load (i64.const -1))))'
        ' (func (export "far") (i32.store 1 (i32.const -1) (i32.const 0))))'
    )
    instance = Store().instantiate(module)
    places = set()
    for name in ("wide", "far"):
        with pytest.raises(Trap) as caught:
            instance.function(name)()
        places.add(caught.value.backtrace[0].offset)
        store = instance.store
        store.enqueue(instance.function(name))
        outcome = store.run(fuel=100)
        assert isinstance(outcome, Trapped)
        assert outcome.trap.backtrace == caught.value.backtrace
    assert len(places) == 2
