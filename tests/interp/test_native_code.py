"""What native code may do, instruction by instruction: disassembled, whatever the template.

Every access is to the frame, to the thread and what its pointers lead to, or to the program's
memory behind a comparison with its size; indices into tables are checked; every way back polls; and
no template has an instruction for the system.
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
WAYS = ("ja", "jb", "jae", "jbe")
FAMILIES = {
    alias: f"r{name}"
    for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
    for alias in (f"r{name}", f"e{name}", name, f"{name[0]}l", f"{name}l")
} | {f"r{n}{suffix}": f"r{n}" for n in range(8, 16) for suffix in ("", "d", "w", "b")}
HARMLESS = ("lea", "nop")


class Violation(AssertionError):
    """An instruction that no template may have."""


class Segment:
    """The code of one cell, or all rare code, read from its start to its end.

    Attributes:
        known: What is known of registers.
        targets: Of the branch table at its end, if there is one.
        checked: The end of an access has just been compared with the memory's size.
        polls: There is a comparison of the request to pause.
    """

    def __init__(self, code: bytes, start: int) -> None:
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
        self.checked = self.polls = False
        self.accesses = 0

    def name(self, instruction: Any, register: int) -> str:
        text = instruction.reg_name(register) if register else ""
        return FAMILIES.get(text, text)

    def read(self) -> None:
        """Judge all instructions."""
        before = None
        for i in self.instructions:
            if before is not None and before.mnemonic == "cmp" and "rcx" in before.op_str:
                self.checked |= i.mnemonic in WAYS
            if any(i.group(g) for g in (capstone.CS_GRP_INT, capstone.CS_GRP_PRIVILEGE)):
                raise Violation(f"{i.mnemonic} {i.op_str}")
            memory = [o for o in i.operands if o.type == x86.X86_OP_MEM]
            for operand in memory:
                if i.mnemonic not in HARMLESS:
                    self.access(i, operand)
            if i.mnemonic == "jmp" and i.operands[0].type == x86.X86_OP_REG:
                self.demand(i, self.known.get(self.name(i, i.operands[0].reg)) == POINTER)
            self.learn(i, memory[0] if memory else None)
            before = i

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
            self.demand(i, self.checked and index in ("", "rax"))
            self.checked = False
        else:
            self.demand(i, self.known.get(base) == POINTER)
            self.demand(i, not index or self.known.get(index) == NUMBER)

    def learn(self, i: Any, memory: Any) -> None:
        """Note what the instruction says of the register that it writes."""
        written = [self.name(i, register) for register in i.regs_access()[1]]
        to = self.name(i, i.operands[0].reg) if i.operands and i.operands[0].type == 1 else ""
        for register in written:
            if register == "rax" and i.mnemonic not in ("movabs", "mov"):
                self.checked &= i.mnemonic == "cmp"
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
    for segment in (*segments, rare):
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


def jumps(segment: Segment) -> Iterator[tuple[int, int]]:
    """From where to where it jumps."""
    for i in segment.instructions:
        if i.mnemonic.startswith("j") and i.operands[0].type == x86.X86_OP_IMM:
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
        "498b0419",  # mov rax, [r9 + rbx]
        "48890425",  # cut off
        "ffe0",  # jmp rax
        "4889042e",  # mov [rsi + rbp], rax
    ],
)
def test_what_is_forbidden_is_found(bad: str) -> None:
    with pytest.raises(AssertionError):
        Segment(bytes.fromhex(bad), 0).read()
