"""Atomic memory instructions on the memories of one thread: every row in both codes and in every
kind of memory, against Wasmtime and Python's integers; alignment, bounds, waiting; refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest
import wasmtime

from tests.interp.machines import hop
from tests.lockstep import Pair
from wasmsr import (
    Finished,
    InvalidError,
    MalformedError,
    Module,
    Paused,
    Store,
    Trap,
    Trapped,
    UnsupportedError,
)
from wasmsr.interp.instruction_set.atomics import ATOMICS, PREFIX, Atomic
from wasmsr.interp.instruction_set.instructions import disassemble

PLACED = [row for row in ATOMICS if row.bits]
WAITS = [row for row in PLACED if row.form == "wait"]
ACCESSES = [row for row in PLACED if row.form not in ("wait", "notify")]

MEMORIES = {
    "first": ("(memory 1 1)", "0", "i32"),
    "second": ("(memory 2) (memory 1 1)", "1", "i32"),
    "wide": ("(memory i64 1 1)", "0", "i64"),
    "second wide": ("(memory 2) (memory i64 1 1)", "1", "i64"),
}
"""Memories of a module, which of them is meant, and the type of its addresses; it has one page."""

VALUES = {
    "i32": (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, (1 << 32) - 1),
    "i64": (0, 1, 0x80, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1),
}


def signed(value: int, type_: str) -> int:
    bits = int(type_[1:])
    return value - (1 << bits) if value >> (bits - 1) else value


def source(memories: str, memory: str, address: str, offset: int = 0) -> str:
    """A module that exports one function for each row, and the memory."""
    functions = []
    for row in PLACED:
        params = [address, *row.params.split()[1:]]
        operands = " ".join(f"(local.get {i})" for i in range(len(params)))
        result = f"(result {row.results})" if row.results else ""
        functions.append(
            f'(func (export "{row.name}") (param {" ".join(params)}) {result}'
            f" ({row.name} {memory} offset={offset} {operands}))"
        )
    return f'(module {memories} (export "memory" (memory {memory})) {" ".join(functions)})'


@pytest.fixture(scope="module")
def engine() -> Any:
    config = wasmtime.Config()
    config.wasm_threads = config.wasm_memory64 = config.wasm_multi_memory = True
    config.memory_reservation = 1 << 20
    config.memory_guard_size = 1 << 16
    return wasmtime.Engine(config)


class Peer:
    """The same module in Wasmtime."""

    def __init__(self, module: Module, engine: Any) -> None:
        self.store = wasmtime.Store(engine)
        peer = wasmtime.Module(engine, module.binary)
        self.exports: Any = wasmtime.Instance(self.store, peer, []).exports(self.store)

    def call(self, name: str, *arguments: int) -> Any:
        """The result, or the trap's message."""
        try:
            return self.exports[name](self.store, *arguments)
        except wasmtime.Trap as trap:
            return trap.message.rpartition("wasm trap: ")[2].strip()

    def place(self, at: int, data: bytes | None = None) -> bytes:
        memory = self.exports["memory"]
        if data is not None:
            memory.write(self.store, data, at)
        return bytes(memory.read(self.store, at, at + 8))


def expected(row: Atomic, before: int, operands: tuple[int, ...]) -> tuple[int | None, int]:
    """The result, and what stands in the place afterwards, of numbers without sign."""
    mask = (1 << row.bits) - 1
    if row.form == "load":
        return before, before
    b = operands[0] & mask
    if row.form == "store":
        return None, b
    if row.form == "exchange":
        return before, operands[1] & mask if before == b else before
    operation = row.name.split(".")[-1].removesuffix("_u")
    after = {
        "add": before + b,
        "sub": before - b,
        "and": before & b,
        "or": before | b,
        "xor": before ^ b,
        "xchg": b,
    }[operation]
    return before, after & mask


# ---- rows


def test_there_are_all() -> None:
    assert (
        len(ATOMICS) == len({row.code for row in ATOMICS}) == len({r.name for r in ATOMICS}) == 67
    )
    assert [row.form for row in ATOMICS].count("modify") == 42


@pytest.mark.parametrize("row", ATOMICS, ids=lambda row: row.name)
def test_row_is_what_the_assembler_says(row: Atomic) -> None:
    params = row.params.split()
    result = f"(result {row.results})" if row.results else ""
    operands = " ".join(f"(local.get {i})" for i in range(len(params)))
    offset = "offset=5" if row.bits else ""
    text = (
        f"(module (memory 1) (func (param {row.params}) {result} {operands} {row.name} {offset}))"
    )
    binary = bytes(wasmtime.wat2wasm(text))
    before = b"".join(bytes([0x20, i]) for i in range(len(params)))
    at = binary.index(before + bytes([PREFIX, row.code])) + len(before)
    module = Module(binary)
    assert module.needed_features == {"threads"}
    immediates = f"offset=5 align={row.bits // 8}" if row.bits else ""
    assert disassemble(binary, at) == (row.name, immediates, len(binary) - at - 1)


# ---- what they do


@pytest.mark.parametrize("kind", MEMORIES)
def test_results(kind: str, engine: Any) -> None:
    module = Module.from_text(source(*MEMORIES[kind], offset=24))
    instance = Store().instantiate(module)
    memory, peer = instance.memory("memory"), Peer(module, engine)
    draw = random.Random(kind)
    for row in ACCESSES:
        function = instance.function(row.name)
        types = row.params.split()[1:]
        sizes = row.bits // 8
        for _ in range(25):
            address = draw.randrange(0, 100) * sizes
            before = draw.choice(
                [draw.randbytes(8), draw.choice(VALUES["i64"]).to_bytes(8, "little")]
            )
            operands = tuple(draw.choice(VALUES[t]) for t in types)
            if row.form == "exchange" and draw.random() < 0.7:  # equal, or in the low bits only
                there = int.from_bytes(before[:sizes], "little")
                above = draw.choice(VALUES[types[0]]) << row.bits
                full = (1 << int(types[0][1:])) - 1
                operands = ((there | above) & full, operands[1])
            memory.write(address + 24, before)
            peer.place(address + 24, before)
            given = (address, *map(signed, operands, types))
            result = function(*given)
            assert result == peer.call(row.name, *given), (row.name, given, before)
            there = int.from_bytes(before[:sizes], "little")
            wanted, after = expected(row, there, operands)
            assert result == (None if wanted is None else signed(wanted, row.results))
            changed = after.to_bytes(sizes, "little") + before[sizes:]
            assert memory.read(address + 24, 8) == changed == peer.place(address + 24), row.name


def everything(memories: str, memory: str, address: str) -> Module:
    """A loop over all accesses, with operands in locals, constants, registers and below others that
    wait, whose results are mixed into one i64."""
    lines = []
    for row in ACCESSES:
        at = f"({address}.shl (local.get $p) ({address}.const 3))"
        values = []
        for index, type_ in enumerate(row.params.split()[1:]):
            value = "(local.get $sum)" if type_ == "i64" else "(i32.wrap_i64 (local.get $sum))"
            values.append(value if index == 0 else f"({type_}.const -77)")
        operation = f"({row.name} {memory} offset=16 {at} {' '.join(values)})"
        if not row.results:
            lines.append(operation)
            continue
        wide = operation if row.results == "i64" else f"(i64.extend_i32_u {operation})"
        lines.append(
            "(local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 0x9E3779B97F4A7C15))"
            f" (i64.rotl (atomic.fence) {wide} (i64.extend_i32_u (local.get $n)))))"
        )
    return Module.from_text(
        f"""(module {memories} (func (export "f") (param $n i32) (result i64)
          (local $p {address}) (local $sum i64)
          (loop $again
            {" ".join(lines)}
            (drop (memory.atomic.notify {memory} (local.get $p) (local.get $n)))
            (local.set $p ({address}.add (local.get $p) ({address}.const 4)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
          (local.get $sum)))"""
    )


@pytest.mark.parametrize("kind", MEMORIES)
def test_both_codes_agree_at_every_point(kind: str) -> None:
    module = everything(*MEMORIES[kind])
    for counted in (False, True):
        stores = []
        for _ in range(2):
            store = Store()
            store.enqueue(store.instantiate(module).function("f"), 40)
            stores.append(store)
        pair = Pair(*stores, counted=counted)
        assert isinstance(pair.run(most=1000, seed=1), Finished)
        assert pair.compared >= 40


def test_all_memories_and_a_journey_through_bytes_give_the_same(engine: Any) -> None:
    results = set()
    for kind in MEMORIES.values():
        module = everything(*kind)
        results.add(Store().instantiate(module).function("f")(30))
        store = Store()
        store.enqueue(store.instantiate(module).function("f"), 30)
        while isinstance(outcome := store.run(fuel=331), Paused):
            store = hop(store)
        assert isinstance(outcome, Finished)
        results.add(outcome.results[0])
        results.add(Peer(module, engine).call("f", 30))
    assert len(results) == 1


# ---- traps

SAME = {"atomic wait on non-shared memory": "expected shared memory"}


def ends(module: Module, name: str, *arguments: int) -> str | None:
    """The trap of both codes, None where both finish."""
    stores = []
    for _ in range(2):
        store = Store()
        store.enqueue(store.instantiate(module).function(name), *arguments)
        stores.append(store)
    outcome = Pair(*stores, counted=True).run(most=3)
    return outcome.trap.code if isinstance(outcome, Trapped) else None


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("offset", [0, 1, 8, 65528])
def test_alignment_comes_before_bounds(kind: str, offset: int, engine: Any) -> None:
    module = Module.from_text(source(*MEMORIES[kind], offset=offset))
    instance, peer = Store().instantiate(module), Peer(module, engine)
    top = -1 if MEMORIES[kind][2] == "i32" else -(1 << 32)
    for row in PLACED:
        width = row.bits // 8
        zeros = (0,) * (len(row.params.split()) - 1)
        for base in (0, 1, 2, 3, 4, 7, 8, 65527, 65528, 65532, 65535, 65536, top):
            address = base - offset if base >= offset else base
            wanted = None
            at = address % (1 << (32 if top == -1 else 64)) + offset
            if at % width:
                wanted = "unaligned atomic"
            elif row.form == "wait":  # whatever the bounds; Wasmtime looks at these first
                # as it does where the sum does not fit 32 bits
                wanted = "expected shared memory"
            elif at + width > 65536:
                wanted = "out of bounds memory access"
            try:
                instance.function(row.name)(address, *zeros)
                trap = None
            except Trap as error:
                trap = error.code
            assert trap == wanted, (row.name, address)
            if at < 1 << 32 and (row.form != "wait" or at + width <= 65536):
                said = peer.call(row.name, address, *zeros)
                assert (SAME.get(said, said) if isinstance(said, str) else None) == wanted


@pytest.mark.parametrize("kind", MEMORIES)
def test_traps_in_both_codes(kind: str) -> None:
    module = Module.from_text(source(*MEMORIES[kind], offset=8))
    for row in PLACED:
        zeros = (0,) * (len(row.params.split()) - 1)
        waits = "expected shared memory" if row.form == "wait" else None
        assert ends(module, row.name, 0, *zeros) == waits
        assert ends(module, row.name, 65528, *zeros) == (waits or "out of bounds memory access")
        if row.bits > 8:
            assert ends(module, row.name, 1, *zeros) == "unaligned atomic"


def test_a_sum_beyond_64_bits_is_out_of_bounds() -> None:
    memories, memory, address = MEMORIES["wide"]
    module = Module.from_text(source(memories, memory, address, offset=(1 << 64) - 8))
    for row in PLACED:
        zeros = (0,) * (len(row.params.split()) - 1)
        wanted = "expected shared memory" if row.form == "wait" else "out of bounds memory access"
        assert ends(module, row.name, 8, *zeros) == wanted
        assert ends(module, row.name, -16, *zeros) == wanted


def test_a_trap_in_the_midst_of_a_block_counts_what_was_executed() -> None:
    module = Module.from_text("""(module (memory 1) (func (export "f") (result i32)
      (drop (i32.add (i32.const 1) (i32.atomic.load (i32.const 0))))
      (i32.atomic.rmw.add (i32.const 2) (i32.const 1))
      (drop (i32.const 5)) (drop (i32.const 6)) (i32.const 7) (i32.add)))""")
    store = Store()
    store.enqueue(store.instantiate(module).function("f"))
    outcome = store.run(fuel=1000)
    assert isinstance(outcome, Trapped) and outcome.trap.code == "unaligned atomic"
    assert store.executed == 8


# ---- what is refused


def test_notify_finds_nobody() -> None:
    module = Module.from_text(source(*MEMORIES["first"]))
    notify = Store().instantiate(module).function("memory.atomic.notify")
    assert notify(0, 0) == notify(65532, -1) == 0


def test_a_fence_needs_no_memory() -> None:
    module = Module.from_text('(module (func (export "f") (result i32) i32.const 3 atomic.fence))')
    assert Store().instantiate(module).function("f")() == 3
    fence = bytes([PREFIX, 3, 0])
    with pytest.raises(MalformedError, match="zero byte expected"):
        Module(module.binary.replace(fence, fence[:2] + b"\x01"))


@pytest.mark.parametrize("row", PLACED, ids=lambda row: row.name)
def test_only_natural_alignment_is_valid(row: Atomic) -> None:
    binary = Module.from_text(source(*MEMORIES["first"])).binary
    natural = (row.bits // 8).bit_length() - 1
    found = bytes([PREFIX, row.code, natural, 0])
    assert binary.count(found) == 1
    for align in range(6):
        changed = binary.replace(found, bytes([PREFIX, row.code, align, 0]))
        if align == natural:
            Module(changed)
            continue
        with pytest.raises(InvalidError, match="alignment must"):
            Module(changed)


@pytest.mark.parametrize("row", PLACED, ids=lambda row: row.name)
def test_operands_are_checked(row: Atomic) -> None:
    params = row.params.split()
    zeros = [f"({p}.const 0)" for p in params]
    end = "(drop)" if row.results else ""
    assert Module.from_text(f"(module (memory 1) (func {' '.join(zeros)} {row.name} {end}))")
    with pytest.raises(InvalidError, match="memory"):
        Module.from_text(f"(module (func {' '.join(zeros)} {row.name} {end}))")
    for index, type_ in enumerate(params):
        other = "i64" if type_ == "i32" else "i32"
        wrong = [*zeros[:index], f"({other}.const 0)", *zeros[index + 1 :]]
        with pytest.raises(InvalidError, match=f"expected {type_}, found {other}"):
            Module.from_text(f"(module (memory 1) (func {' '.join(wrong)} {row.name} {end}))")


def test_what_is_beyond_is_no_instruction() -> None:
    binary = Module.from_text('(module (func (export "f") atomic.fence))').binary
    for code in (0x04, 0x0F, 0x4F, 0x7F):
        with pytest.raises(MalformedError, match="illegal opcode"):
            Module(binary.replace(bytes([PREFIX, 3, 0]), bytes([PREFIX, code, 0])))


def test_a_shared_memory_is_refused_by_name() -> None:
    for text in ("(module (memory 1 1 shared))", '(module (import "a" "b" (memory 1 2 shared)))'):
        with pytest.raises(UnsupportedError, match='"shared-memory"') as caught:
            Module.from_text(text)
        assert caught.value.feature == "shared-memory"


def test_atomic_instructions_can_be_switched_off() -> None:
    with pytest.raises(UnsupportedError, match='"threads", which is switched off'):
        Module.from_text("(module (func atomic.fence))", features="-threads")
