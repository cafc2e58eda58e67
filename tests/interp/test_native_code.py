"""What native code may do, instruction by instruction: disassembled, whatever the template.

Every access is to the frame, to the thread and what its pointers lead to, or to the program's
memory behind a comparison of its end, or of a further one, with the memory's size; indices into
tables are checked; every way back polls; and no template has an instruction for the system.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fuzz.everything import Everything
from tests.fuzz.generate import Generator
from tests.fuzz.vectors import Vectors
from tests.interp.test_both_codes import FOLDS, MIXED, PAIRS, SWITCH, TAIL, TRAPS
from tests.interp.test_native import NUMERIC, STATES, program
from wasmsr.errors import WasmsrError
from wasmsr.interp import tier
from wasmsr.interp.instruction_set.instructions import INSTRUCTIONS
from wasmsr.interp.modules.module import Module
from wasmsr.interp.modules.native_listing import Listing, listing

if os.environ.get("WASMSR_SANITIZED") == "1":  # an abort, not an error that pytest could report
    reason = "capstone opens its library with RTLD_DEEPBIND, at which AddressSanitizer aborts"
    pytest.skip(reason, allow_module_level=True)
capstone = pytest.importorskip("capstone")
x86 = pytest.importorskip("capstone.x86")
pytestmark = pytest.mark.skipif(tier.refusal() is not None, reason="no native code here")

POINTER, NUMBER, MASK = "a pointer of ours", "a number in bounds", "all ones or zero"
FAMILIES = {
    alias: f"r{name}"
    for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
    for alias in (f"r{name}", f"e{name}", name, f"{name[0]}l", f"{name}l")
} | {f"r{n}{suffix}": f"r{n}" for n in range(8, 16) for suffix in ("", "d", "w", "b")}
HARMLESS = ("lea", "nop")


class Violation(AssertionError):
    """An instruction that no template may have."""


class Bounds:
    """What comparisons with the memory's size say of addresses, along a function's code.

    Registers and slots have values. A value of 32 bits that was compared may be the index of an
    access up to the compared end, as long as control comes from nowhere else.
    """

    def __init__(self, labels: set[int]) -> None:
        self.labels = labels
        self.skipped: dict[int, list[Any]] = {}  # by target of a jump within a cell: what it knew
        self.values: dict[Any, Any] = {}
        self.ends: dict[Any, int] = {}
        self.compared: tuple[Any, int] | None = None

    def arrive(self, address: int) -> None:
        """Come to an instruction, from the one before it and by jumps within a cell."""
        if address in self.labels:
            self.forget()
        for values, ends in self.skipped.pop(address, ()):
            self.values = {k: v for k, v in self.values.items() if values.get(k) == v}
            self.ends = {k: min(v, ends.get(k, 0)) for k, v in self.ends.items()}

    def forget(self) -> None:
        """Control can come from elsewhere."""
        self.values, self.ends, self.compared = {}, {}, None

    def value(self, place: Any) -> Any:
        return self.values.setdefault(place, ("unknown", object()))

    def place(self, segment: Segment, i: Any, operand: Any) -> Any:
        """A register's name, a slot's offset, or None."""
        if operand.type == x86.X86_OP_REG:
            return segment.name(i, operand.reg)
        if operand.type == x86.X86_OP_MEM and segment.name(i, operand.mem.base) == "rsi":
            return None if operand.mem.index else operand.mem.disp
        return None

    def allows(self, segment: Segment, i: Any, operand: Any) -> bool:
        """Whether an access at rdx is within a compared end."""
        index = segment.name(i, operand.mem.index)
        end = operand.mem.disp + operand.size
        if not index:
            return bool(operand.mem.disp >= 0 and end <= self.ends.get("constant", 0))
        kind, value = self.value(index)
        if kind == "constant":
            return index == "rax" and bool(value + end <= self.ends.get("constant", 0))
        far = self.ends.get((kind, value), 0)
        return index == "rax" and kind == "small" and bool(end <= far)

    def step(self, segment: Segment, i: Any) -> None:
        """Note what the instruction does."""
        before, self.compared = self.compared, None
        if before is not None and i.mnemonic in ("ja", "jb"):
            self.ends[before[0]] = max(self.ends.get(before[0], 0), before[1])
        operands = i.operands
        first = self.place(segment, i, operands[0]) if operands else None
        second = self.place(segment, i, operands[-1]) if operands else None
        if i.mnemonic == "cmp":
            self.compared = self.comparison(i, operands, first, second)
            return
        made = self.result(segment, i, operands, second)
        for register in i.regs_access()[1]:
            name = segment.name(i, register)
            self.values.pop(name, None)
            if name == "rsi":  # another frame
                self.values = {k: v for k, v in self.values.items() if isinstance(k, str)}
        if isinstance(first, int) and i.mnemonic not in ("test", "jmp", "call"):
            for slot in range(first & ~7, first + operands[0].size, 8):
                self.values.pop(slot, None)
        if made is not None and first is not None:
            self.values[first] = made

    def comparison(self, i: Any, operands: Any, first: Any, second: Any) -> Any:
        if second == "rcx" and i.op_str.endswith(", rcx"):
            kind, value = self.value(first)
            if kind == "sum":
                return value
            return ("constant", value) if kind == "constant" else None
        if first == "rcx" and operands[1].type == x86.X86_OP_IMM and operands[1].imm >= 0:
            return "constant", operands[1].imm
        return None

    def result(self, segment: Segment, i: Any, operands: Any, second: Any) -> Any:
        if not operands or operands[0].type not in (x86.X86_OP_REG, x86.X86_OP_MEM):
            return None
        size = operands[0].size
        if i.mnemonic == "xor" and operands[0].type == operands[1].type == x86.X86_OP_REG:
            return ("constant", 0) if operands[0].reg == operands[1].reg else None
        if i.mnemonic in ("mov", "movabs") and operands[1].type == x86.X86_OP_IMM:
            value = operands[1].imm & (1 << 64) - 1
            return ("constant", value) if operands[0].type == x86.X86_OP_REG else None
        if i.mnemonic == "mov" and size == 8 and second is not None:
            return self.value(second)
        if i.mnemonic == "mov" and size == 4 and operands[0].type == x86.X86_OP_REG:
            if second is None:
                return "small", object()
            known = self.value(second)
            return known if known[0] == "small" else ("small", ("low half", known))
        if i.mnemonic == "lea" and size == 8 and not operands[1].mem.index:
            known = self.value(segment.name(i, operands[1].mem.base))
            small = known[0] == "small" and operands[1].mem.disp >= 0
            return ("sum", (known, operands[1].mem.disp)) if small else None
        if i.mnemonic == "add" and size == 8 and segment.name(i, operands[0].reg) == "rax":
            both = self.value("rax")[0], self.value(second)[0]  # less than 2 ** 33
            return ("small", object()) if both == ("small", "constant") else None
        if size == 4 and operands[0].type == x86.X86_OP_REG and i.mnemonic in ("lea", "add"):
            return "small", object()
        return None


class Segment:
    """The code of one cell, or all rare code, read from its start to its end.

    Attributes:
        known: What is known of registers.
        targets: Of the branch table at its end, if there is one.
        bounds: What is known of addresses.
        polls: There is a comparison of the request to pause.
    """

    def __init__(self, code: bytes, start: int) -> None:
        self.bounds = Bounds(set())
        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        engine.detail = True
        self.instructions: list[Any] = []
        self.targets: list[int] = []
        size = 0
        for i in engine.disasm(code, start):
            self.instructions.append(i)
            size += i.size
            if i.mnemonic == "jmp" and i.operands[0].type == x86.X86_OP_REG:  # distances follow
                for (distance,) in struct.iter_unpack("<i", code[size:]):
                    self.targets.append(start + size + distance)
                size = len(code)
                break
        assert size == len(code), "not all is code"
        self.known: dict[str, str] = {}
        self.polls = False
        self.accesses = 0

    def name(self, instruction: Any, register: int) -> str:
        text = instruction.reg_name(register) if register else ""
        return FAMILIES.get(text, text)

    def read(self) -> None:
        """Judge all instructions."""
        for i in self.instructions:
            self.bounds.arrive(i.address)
            if any(i.group(g) for g in (capstone.CS_GRP_INT, capstone.CS_GRP_PRIVILEGE)):
                raise Violation(f"{i.mnemonic} {i.op_str}")
            memory = [o for o in i.operands if o.type == x86.X86_OP_MEM]
            for operand in memory:
                if i.mnemonic not in HARMLESS:
                    self.access(i, operand)
            if i.mnemonic == "jmp" and i.operands[0].type == x86.X86_OP_REG:
                self.demand(i, self.known.get(self.name(i, i.operands[0].reg)) == POINTER)
            self.learn(i, memory[0] if memory else None)
            self.bounds.step(self, i)
            if i.mnemonic.startswith("j") and self.stays(i):
                known = dict(self.bounds.values), dict(self.bounds.ends)
                self.bounds.skipped.setdefault(i.operands[0].imm, []).append(known)

    def stays(self, jump: Any) -> bool:
        """Whether a jump goes forward within the cell, or to its end."""
        last = self.instructions[-1]
        to = jump.operands[0].imm if jump.operands[0].type == x86.X86_OP_IMM else -1
        return bool(jump.address < to <= last.address + last.size)

    def demand(self, instruction: Any, holds: bool) -> None:
        if not holds:
            raise Violation(
                f"{instruction.address:#x}: {instruction.mnemonic} {instruction.op_str}"
            )

    def access(self, i: Any, operand: Any) -> None:
        base, index = self.name(i, operand.mem.base), self.name(i, operand.mem.index)
        if base == "r8":
            self.demand(i, not index)
            self.polls |= i.mnemonic == "cmp" and operand.size == 4
        elif base == "rsi":
            self.demand(i, not index and operand.mem.disp >= 0)
        elif base == "rdx":
            self.accesses += 1
            self.demand(i, self.bounds.allows(self, i, operand))
        else:
            self.demand(i, self.known.get(base) == POINTER)
            self.demand(i, not index or self.known.get(index) == NUMBER)

    def learn(self, i: Any, memory: Any) -> None:
        """Note what the instruction says of the register that it writes."""
        written = [self.name(i, register) for register in i.regs_access()[1]]
        to = self.name(i, i.operands[0].reg) if i.operands and i.operands[0].type == 1 else ""
        last = i.operands[-1] if i.operands else None
        source = self.name(i, last.reg) if last is not None and last.type == x86.X86_OP_REG else ""
        fact = self.fact(i, memory, to, source)
        for register in written:
            self.known.pop(register, None)
        if to and fact is not None:
            self.known[to] = fact

    def fact(self, i: Any, memory: Any, to: str, source: str) -> str | None:
        base = self.name(i, memory.mem.base) if memory is not None else ""
        ours = base == "r8" or self.known.get(base) == POINTER
        old, other = self.known.get(to), self.known.get(source)
        if i.mnemonic in ("mov", "movsxd") and memory is not None and ours:
            return POINTER if memory.size == 8 else NUMBER
        if i.mnemonic == "movabs":
            return POINTER
        if i.mnemonic == "mov":
            return other if source else NUMBER if memory is None else None
        if i.mnemonic == "lea":
            if base == "rsi" or (base == "rip" and not memory.mem.index):
                return POINTER
            return self.known.get(base) if self.known.get(base) == NUMBER else None
        if i.mnemonic == "sbb" and to == source:
            return MASK
        if i.mnemonic == "and":
            return NUMBER if other == MASK else None
        if i.mnemonic == "cmovae":
            return NUMBER if other == NUMBER else None
        if i.mnemonic in ("cmove", "cmovne"):
            return POINTER if old == other == POINTER else None
        if i.mnemonic == "add":
            return POINTER if ours or POINTER in (old, other) else None
        return old if i.mnemonic in ("shl", "sub") else None


def judge(listed: Listing) -> int:
    """Judge the native code of a function; how often it accesses the memory."""
    accesses, start = 0, len(listed.entry)
    segments = [Segment(listed.entry, 0)]
    for cell in listed.cells:
        segments.append(Segment(cell.code, start))
        start += len(cell.code)
    rare = Segment(listed.rare, start)
    labels = {to for segment in (*segments, rare) for _, to in jumps(segment, leaving=True)}
    bounds = Bounds(labels)
    for segment in (*segments, rare):
        segment.bounds = bounds
        if segment is rare:
            bounds.forget()
        try:
            segment.read()
        except Violation as found:
            raise Violation(f"{listed.name}: {found}") from None
        accesses += segment.accesses
    ways = {i.address: i for i in rare.instructions}
    for segment in segments:
        for from_, to in jumps(segment):
            arrived, polls = end_of(to, ways)
            if 0 <= arrived <= from_ and not segment.polls and not polls:
                raise Violation(f"{listed.name}: {from_:#x} goes back without a poll")
    return accesses


def jumps(segment: Segment, *, leaving: bool = False) -> Iterator[tuple[int, int]]:
    """From where to where it jumps; `leaving`: without jumps forward within the cell."""
    for i in segment.instructions:
        if i.mnemonic.startswith("j") and i.operands[0].type == x86.X86_OP_IMM:
            if leaving and segment.stays(i):
                continue
            yield i.address, i.operands[0].imm
    for target in segment.targets:
        yield segment.instructions[-1].address, target


def end_of(place: int, ways: dict[int, Any]) -> tuple[int, bool]:
    """Where a jump arrives, -1 for a handler; and whether code on the edge polls."""
    polls = False
    while place in ways:
        i = ways[place]
        if i.mnemonic == "jmp" and i.operands[0].type == x86.X86_OP_IMM:
            to = int(i.operands[0].imm)
            return (-1 if to in ways else to), polls
        polls |= i.mnemonic == "cmp" and "dword ptr [r8" in i.op_str
        place += i.size
    return place, polls


def listings(module: Module) -> Iterator[Listing]:
    """The listings of all its functions that can have native code."""
    for index in range(module.counts.imported_functions, module.counts.functions):
        try:
            yield listing(module, index)
        except WasmsrError as error:
            assert "too large" in str(error)


@pytest.mark.parametrize("busy", [False, True], ids=["registers", "slots"])
def test_numerics(busy: bool) -> None:
    for row in NUMERIC[:: 8 if busy else 1]:
        for listed in listings(Module.from_text(program(row, busy=busy))):
            assert judge(listed) >= 4, row.name
            assert sum(cell.native for cell in listed.cells) > 10, row.name


def test_loads_and_stores() -> None:
    numbers = {"i32", "i64", "f32", "f64", ""}
    for row in INSTRUCTIONS:
        taken, given = row.params.split(), row.results
        if row.kind not in ("load", "store") or not {*taken, given} <= numbers:
            continue
        value = f"({taken[1]}.const 3)" if len(taken) > 1 else ""
        addresses = ("(local.get 0)", "(i32.const 77)", "(i32.add (local.get 0) (local.get 1))",
            "(i32.add (local.get 0) (i32.const 8))")  # fmt: skip
        offsets = ("", "offset=9", "offset=4294967295")
        uses = [f"({row.name} {o} {a} {value})" for a in addresses for o in offsets]
        body = " ".join(f"(drop {use})" if given else use for use in uses)
        code = Module.from_text(f"(module (memory 1) (func (param i32 i32) {body}))")
        (listed,) = listings(code)
        assert judge(listed) >= 10


@pytest.mark.parametrize("code", [MIXED, SWITCH, TAIL, TRAPS, PAIRS], ids=str)
def test_programs(code: Module) -> None:
    assert list(map(judge, listings(code)))


def test_small_programs() -> None:
    for text in (*FOLDS.values(), *STATES.values()):
        head = "" if "(memory" in text else "(memory 1)"
        code = f"(module {head} (table funcref (elem)) (global $g (mut i32) (i32.const 3)) {text})"
        assert list(map(judge, listings(Module.from_text(code))))


def test_random_programs() -> None:
    accesses = 0
    for seed in range(12):
        for make in (Generator, Vectors, Everything):
            text = make(random.Random(seed).randrange).module()
            accesses += sum(map(judge, listings(Module.from_text(text))))
    assert accesses > 100


@pytest.mark.parametrize(
    "bad",
    [
        "488b0402",  # mov rax, [rdx + rax]: no check
        "488b46040f05",  # syscall
        "8b46088b4c0208",  # mov eax, [rsi + 8]; mov ecx, [rdx + rax + 8]
        "4c8d50044939ca77008b440208",  # a check of another register's value and a nearer end
        "498b0419",  # mov rax, [r9 + rbx]
        "48890425",  # cut off
        "ffe0",  # jmp rax
        "4889042e",  # mov [rsi + rbp], rax
    ],
)
def test_what_is_forbidden_is_found(bad: str) -> None:
    with pytest.raises(AssertionError):
        Segment(bytes.fromhex(bad), 0).read()
