"""What the compiler made of the handlers of fast code: jumps, no calls, nothing on the stack.

The tail-called loop is right only if every handler ends in a jump to the next (otherwise the native
stack grows with each instruction), and fast only if the accumulators and the rest stay in their
registers. Reads the built extension with objdump; a build without symbols or without fast code
skips. EXCEPTIONS names the handlers that may do more, and why.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from wasmsr import Module, Store, _ffi
from wasmsr._ffi import ffi, lib
from wasmsr.interp.outcomes import Finished

MACHINE = platform.machine()
JUMP = {"x86_64": r"^(notrack )?jmp\s+\*", "aarch64": r"^br\s"}.get(MACHINE, "")
CALL = {"x86_64": r"^call", "aarch64": r"^blr?\s"}.get(MACHINE, "")
STACK = {"x86_64": r"^(push|pop|leave|enter)|%[er]sp", "aarch64": r"\bsp\b"}.get(MACHINE, "")

ROUNDING = [f"F{n}_{name}" for n in (32, 64) for name in ("CEIL", "FLOOR", "TRUNC", "NEAREST")]
EXCEPTIONS = {
    "slow": "calls what does the work: memories, tables, segments",
    "atomic": "likewise: atomic instructions",
    "vector_memory": "likewise: vectors in other memories than the first",
    **dict.fromkeys(ROUNDING, "calls the C library where the CPU need not have SSE 4.1"),
    **dict.fromkeys(("I32_POPCNT", "I64_POPCNT"), "as above"),
}
"""Handlers that are rare or long in themselves."""

DIVISION = [f"I{n}_{name}" for n in (32, 64) for name in ("DIV_S", "DIV_U", "REM_S", "REM_U")]
SUM_LOADS = [
    f"{load}_SS_{written}"
    for load in (
        *("I32_LOAD", "I32_LOAD8_S", "I32_LOAD8_U", "I32_LOAD16_S", "I32_LOAD16_U", "I64_LOAD"),
        *("I64_LOAD8_S", "I64_LOAD8_U", "I64_LOAD16_S", "I64_LOAD16_U", "I64_LOAD32_S"),
        "I64_LOAD32_U",
    )
    for written in "AW"
]
STACK_ONLY = {
    **dict.fromkeys(DIVISION, "x86 divides in two fixed registers, both of them taken"),
    **dict.fromkeys(("I32_SHR_S", "F64_COPYSIGN"), "gcc 12 runs out of registers in some classes"),
    **dict.fromkeys(SUM_LOADS, "likewise, for the sum of two slots"),
    **dict.fromkeys(("F32_LOAD", "F64_LOAD"), "likewise: one push and pop, to be got rid of"),
    **dict.fromkeys(
        ("call", "call_own", "call_ref", "call_indirect"), "one register, by clang only"
    ),
    "tail_call": "entering a function needs more registers than there are",
    "tail_call_ref": "likewise",
    "tail_call_indirect": "likewise",
    "return_n": "copies the results, in a loop of its own by clang",
    "table_copy_s": "copies the label's operands",
    "table_copy_a": "likewise",
    **dict.fromkeys(("set_s", "set_f", "set_add"), "one register, by clang only"),
}
"""Handlers that save registers, but call nothing."""

if MACHINE == "aarch64":  # which has registers enough, and an instruction for each of the others
    computing = {*ROUNDING, "I32_POPCNT", "I64_POPCNT"}
    EXCEPTIONS = {name: why for name, why in EXCEPTIONS.items() if name not in computing}
    STACK_ONLY = {}

SPILLING_SEQUENCES = {"x86_64": 0.1}
"""Which share of the sequences may use the stack though no step of theirs may: by gcc 12 it is 118
of 2,000, for one register each. None where no share is given."""

LATER = "every CPU of x86-64 level 2 has a better handler"
WIDE = [f"I64X2_{name}" for name in ("EQ", "NE", "LT_S", "GT_S", "LE_S", "GE_S")]
BYTES = ["I8X16_SWIZZLE", "I8X16_RELAXED_SWIZZLE", "I8X16_SHUFFLE", "I16X8_NARROW_I32X4_U"]
LOADS = [
    "",
    "32_SPLAT",
    "64_SPLAT",
    "32_ZERO",
    "64_ZERO",
    "16_LANE",
    "32_LANE",
    "64_LANE",
    "8_LANE",
]
VECTOR_STACK = {
    **dict.fromkeys((*WIDE, *BYTES), LATER),
    **{f"I64X2_EXTMUL_{half}_I32X4_S": LATER for half in ("LOW", "HIGH")},
    **{f"V128_LOAD{name}": "gcc 12 runs out of registers in some classes" for name in LOADS},
}
"""Handlers of vectors that use the stack, but call nothing."""
VECTOR_CALLS = {"I8X16_SHUFFLE": "clang leaves the lanes out of line where the CPU cannot shuffle"}
"""Handlers of vectors that call."""


@dataclass(frozen=True)
class Handler:
    """One handler: its name in handlers.c, and the instructions of its hot part."""

    name: str
    code: tuple[str, ...]

    @property
    def row(self) -> str:
        """The name without operand classes, or what is compiled for newer CPUs."""
        name = self.name.removesuffix("_v2")
        return re.sub(r"_[SAC]{1,3}(_?[AW]|_[01](_back)?)?$", "", name)


def names(root: Path) -> set[str]:
    """The names of all handlers, from what they are made of."""
    regular = (root / "wasmsr/core/fast/handlers_regular.inc").read_text(encoding="utf-8")
    header = (root / "wasmsr/core/fast/fast.h").read_text(encoding="utf-8")
    listed = re.search(r"#define WSR_EACH_SPECIAL\(X\)(.*?)\n\n", header, re.DOTALL)
    assert listed
    found = set(re.findall(r"X\((\w+)\)", listed[1]))
    return found | set(re.findall(r"^(?:STEP|END)\((\w+)", regular, re.MULTILINE))


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def functions_of(library: Path, source: str) -> dict[str, tuple[int, int]]:
    """Address and size of the functions of one source file: names are static, so not unique."""
    found, file = {}, ""
    for line in _lines("readelf", "-s", "-W", str(library)):
        words = line.split()
        if len(words) < 8:
            continue
        if words[3] == "FILE":
            file = words[7]
        elif words[3] == "FUNC" and file == source:
            found[words[7]] = (int(words[1], 16), int(words[2], 0))
    return found


def disassembled(library: Path) -> dict[int, str]:
    """Every instruction by address."""
    found = {}
    for line in _lines("objdump", "-d", "--no-show-raw-insn", "-w", str(library)):
        if match := re.match(r"\s+([0-9a-f]+):\s+(.*)", line):
            found[int(match[1], 16)] = match[2].strip()
    return found


def built() -> Path:
    """The extension, where its handlers can be read; skips otherwise."""
    if ffi.string(lib.wsr_variant()) != b"tail calls":
        pytest.skip("fast code is not built here: this compiler or CPU has the portable loop")
    if not JUMP:
        pytest.skip(f"not known for {MACHINE}: what a jump looks like")
    for tool in ("readelf", "objdump"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, of binutils")
    library = Path(_ffi.__file__)
    if not functions_of(library, "handlers.c"):
        pytest.skip("the extension has no symbols: it was stripped")
    return library


def _code(instructions: dict[int, str], start: int, size: int) -> tuple[str, ...]:
    return tuple(instructions[at] for at in range(start, start + size) if at in instructions)


@pytest.fixture(scope="module")
def handlers(root: Path) -> list[Handler]:
    library = built()
    functions, instructions = functions_of(library, "handlers.c"), disassembled(library)
    wanted = names(root)
    missing = sorted(wanted - set(functions))
    assert not missing, f"not in the extension: {missing[:10]} ({len(missing)} in all)"
    found = []
    for name in sorted(wanted):
        found.append(Handler(name, _code(instructions, *functions[name])))
    return found


def _all_of(source: str, name: str) -> list[Handler]:
    """The functions of this source file whose names are wholly of this form."""
    library = built()
    functions, instructions = functions_of(library, source), disassembled(library)
    return [
        Handler(found, _code(instructions, *place))
        for found, place in sorted(functions.items())
        if re.fullmatch(name, found)
    ]


@pytest.fixture(scope="module")
def sequences() -> list[Handler]:
    """What is made of core/fast/superinstructions.inc."""
    return _all_of("handlers.c", r"\w+?__\w+")


@pytest.fixture(scope="module")
def far() -> list[Handler]:
    """All handlers of handlers_other_memories.c."""
    return _all_of("handlers_other_memories.c", r"\w+")


@pytest.fixture(scope="module")
def vectors() -> list[Handler]:
    """All handlers of handlers_simd.c: what is all capitals there."""
    return _all_of("handlers_simd.c", r"[A-Z0-9_]+(_v2)?")


def broken(handlers: list[Handler], pattern: str, allowed: dict[str, str]) -> list[str]:
    """The handlers that hold such an instruction and may not."""
    return [
        f"{handler.name}: {line}"
        for handler in handlers
        if handler.name not in allowed and handler.row not in allowed
        for line in handler.code
        if re.search(pattern, line)
    ]


def test_there_are_many(handlers: list[Handler]) -> None:
    assert len(handlers) > 1000
    assert all(handler.code for handler in handlers)


def test_every_handler_ends_in_a_jump(handlers: list[Handler]) -> None:
    # What leaves the loop for good returns; `unreachable` goes to the common way out of a trap.
    leaving = {"unreachable", "not_here", "raise"}
    # Where two handlers are the same, the compiler may make one of them a jump to the other.
    same = re.compile(r"^(jmp|b)\s+[0-9a-f]+ <([A-Z]\w+)>$")
    wrong = [
        handler.name
        for handler in handlers
        if handler.name not in leaving
        and not any(re.search(JUMP, line) for line in handler.code)
        and not same.match(handler.code[0])
    ]
    assert not wrong, wrong


def test_no_handler_calls(handlers: list[Handler]) -> None:
    assert not broken(handlers, CALL, EXCEPTIONS)


def test_no_handler_uses_the_stack(handlers: list[Handler]) -> None:
    assert not broken(handlers, STACK, EXCEPTIONS | STACK_ONLY)


def test_far_memories_need_no_calls(far: list[Handler]) -> None:
    assert len(far) == 14 * 14 + 9 * 7
    assert not [h.name for h in far if not any(re.search(JUMP, line) for line in h.code)]
    assert not broken(far, CALL, {})
    if MACHINE == "aarch64":
        assert not broken(far, STACK, {})


def test_sequences_are_as_their_steps(root: Path, sequences: list[Handler]) -> None:
    text = (root / "wasmsr" / "core" / "fast" / "superinstructions.inc").read_text(encoding="utf-8")
    listed = re.findall(r"^SUPERINSTRUCTION_\d\((.*)\)$", text, re.MULTILINE)
    wanted = {"__".join(names.split(", ")) for names in listed}
    assert {h.name for h in sequences} == wanted and len(wanted) > 500
    assert not [h.name for h in sequences if not any(re.search(JUMP, line) for line in h.code)]
    assert not broken(sequences, CALL, {})
    steps = {h.name: [Handler(step, ()) for step in h.name.split("__")] for h in sequences}
    allowed = {
        name: "as one of its steps"
        for name, parts in steps.items()
        if any({part.name, part.row} & STACK_ONLY.keys() for part in parts)
    }
    spilling = {line.partition(":")[0] for line in broken(sequences, STACK, allowed)}
    assert len(spilling) <= len(sequences) * SPILLING_SEQUENCES.get(MACHINE, 0), spilling


def test_vectors_are_leaves_too(vectors: list[Handler]) -> None:
    assert len(vectors) > 1500
    assert not [v.name for v in vectors if not any(re.search(JUMP, line) for line in v.code)]
    assert not broken(vectors, CALL, VECTOR_CALLS)
    if MACHINE == "x86_64":  # elsewhere the compiler has the lanes alone, and some need the stack
        assert not broken(vectors, STACK, VECTOR_STACK | VECTOR_CALLS)


def test_exceptions_are_handlers(handlers: list[Handler]) -> None:
    rows = {handler.row for handler in handlers} | {handler.name for handler in handlers}
    assert set(EXCEPTIONS) | set(STACK_ONLY) <= rows


LOOP = """(module (memory 1) (table funcref (elem $g))
  (func $g (param i64) (result i64)
    (i64.add (local.get 0) (i64.extend_i32_s (i32.trunc_sat_f64_s (f64.floor (f64.const 1.5))))))
  (func (export "run") (param $n i64) (result i64) (local $sum i64)
    (loop $next
      (local.set $sum (i64.add (local.get $sum) (call $g (local.get $n))))
      (local.set $sum (call_indirect (param i64) (result i64) (local.get $sum) (i32.const 0)))
      (i64.store (i32.const 8) (local.get $sum))
      (block $a (block $b (br_table $a $b (i32.wrap_i64 (local.get $n)))))
      (br_if $next (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))
    (i64.add (local.get $sum) (i64.load (i32.const 8)))))"""


def test_a_million_operations_in_a_small_stack() -> None:
    """Where handlers called each other, this would need a hundred megabytes of stack."""
    store = Store()
    function = store.instantiate(Module.from_text(LOOP)).function("run")
    ended: list[object] = []

    def run() -> None:
        store.enqueue(function, 1_000_000)
        ended.append(store.run())

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    (outcome,) = ended
    assert isinstance(outcome, Finished)
    # The sum of 1 to a million, and twice one for each turn; `i64.load` reads it once more.
    assert outcome.results == (2 * (500_000_500_000 + 2 * 1_000_000),)
