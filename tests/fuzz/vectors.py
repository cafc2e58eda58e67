"""Random valid modules of vector instructions, one by one from the operand stack, as `stacks` does.

Operands stay pending across locals that change under them, branches, and stores; every vector
instruction comes up. What is left at the end goes to memory, whose content is compared. Exports are
those of `generate`: `f`, `memory`, `g0` to `g3`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wasmsr.interp.instruction_set.simd import VECTORS
from wasmsr.interp.instruction_set.simd_row import SHAPES, Vector

TYPES = ("i32", "i64", "f32", "f64")
LOCALS = ("v128", "v128", "v128", "v128", "i32", "i32", "i64", "f32", "f64", "v128")
TURNS = 3
"""Of each loop."""
ROWS = tuple(row for row in VECTORS if row.feature == "simd")
"""Relaxed ones differ between engines."""
SPECIAL = ("0x7FC00001", "0x80000000", "0xFF800000", "0x7F800001", "0x3F800000", "0xFFFFFFFF")


class Vectors:
    """One module after another from a source of choices."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.choose = choose
        self.code: list[str] = []
        self.stack: list[str] = []
        self.floor = 0  # operands below belong to an outer block
        self.depth = 0

    def pick(self, choices: Sequence[str]) -> str:
        return choices[self.choose(len(choices))]

    def module(self, length: int = 120) -> str:
        """The next module, in the text format."""
        self.code, self.stack, self.floor, self.depth = [], [], 0, 0
        self.some(length)
        while self.stack:
            self.keep(self.stack.pop(), 40_000 + 16 * len(self.stack))
        for index, type_ in enumerate(LOCALS):
            self.code.append(f"local.get {index}")
            self.keep(type_, 50_000 + 16 * index)
        lines = [
            '(module (memory (export "memory") 1) (global $v (mut v128)',
            "  (v128.const i32x4 1 2 3 4))",
            *(f'  (global (export "g{i}") (mut {t}) ({t}.const {i}))' for i, t in enumerate(TYPES)),
            "  (func $pass (param v128 i32 v128) (result v128 v128)",
            "    local.get 2 local.get 0 local.get 1 i32x4.splat v128.xor)",
            f'  (func (export "f") (result i32) (local {" ".join(LOCALS)})',
            *(f"    (local $n{i} i32)" for i in range(8)),
            *(f"    {line}" for line in self.code),
            "    i32.const 7))",
        ]
        return "\n".join(lines)

    def keep(self, type_: str, at: int) -> None:
        """Store the topmost operand."""
        index = {"v128": 0, "i32": 4, "i64": 6, "f32": 7, "f64": 8}[type_]
        self.code += [f"local.set {index}", f"i32.const {at}", f"local.get {index}"]
        self.code.append(f"{type_}.store")

    def some(self, length: int) -> None:
        for _ in range(length):
            self.one()

    def need(self, types: Sequence[str]) -> None:
        """Let the stack end with operands of these types."""
        held = self.stack[self.floor :]
        if held[len(held) - len(types) :] == list(types) and len(held) >= len(types):
            return
        for type_ in types:
            self.push(type_)

    def push(self, type_: str) -> None:
        places = [i for i, t in enumerate(LOCALS) if t == type_]
        kind = self.choose(4)
        if kind < 2:
            self.code.append(f"local.get {places[self.choose(len(places))]}")
        elif type_ == "v128":
            lanes = " ".join(
                self.pick(SPECIAL) if self.choose(3) == 0 else str(self.choose(1 << 30))
                for _ in range(4)
            )
            self.code.append(f"v128.const i32x4 {lanes}" if kind == 2 else "global.get $v")
        else:
            self.code.append(f"{type_}.const {self.choose(1000)}")
        self.stack.append(type_)

    def one(self) -> None:
        kind = self.choose(24)
        if kind < 14:
            self.row(ROWS[self.choose(len(ROWS))])
        elif kind < 19:
            self.local()
        elif kind == 19:
            self.need(["v128", "v128", "i32"])
            self.code.append("select")
            del self.stack[-2:]
        elif kind == 20:
            self.need(["v128"])
            self.code.append("global.set $v")
            self.stack.pop()
        elif kind == 21:
            self.need(["v128", "i32", "v128"])
            self.code.append("call $pass")
            self.stack[-3:] = ["v128", "v128"]
        elif kind == 22:
            self.push("i32")
            self.push("i32")
            self.code.append("i32.add")
            self.stack.pop()
        elif self.depth < 3:
            self.block()

    def local(self) -> None:
        index = self.choose(len(LOCALS))
        kind = self.choose(3)
        if kind == 0:
            self.code.append(f"local.get {index}")
            self.stack.append(LOCALS[index])
            return
        self.need([LOCALS[index]])
        self.code.append(f"local.{'set' if kind == 1 else 'tee'} {index}")
        if kind == 1:
            self.stack.pop()

    def block(self) -> None:
        """A loop of few turns, or a block that a branch may leave with a vector."""
        floor, self.floor = self.floor, len(self.stack)
        self.depth += 1
        loop = self.choose(2) == 1
        count = f"$n{self.choose(8)}"
        self.code.append("loop" if loop else "block (result v128)")
        self.some(8)
        if loop:
            while len(self.stack) > self.floor:
                self.code.append("drop")
                self.stack.pop()
            self.code += [f"local.get {count}", "i32.const 1", "i32.add", f"local.tee {count}"]
            self.code += [f"i32.const {TURNS}", "i32.lt_u", "br_if 0"]
        else:
            self.push("v128")
            self.push("i32")
            self.code += ["i32.const 1", "i32.and", "br_if 0"]
            self.stack.pop()
            self.code.append("local.set 9")
            self.stack.pop()
            while len(self.stack) > self.floor:
                self.code.append("drop")
                self.stack.pop()
            self.code.append("local.get 9")
            self.stack.append("v128")
        self.code.append("end")
        self.depth -= 1
        self.floor = floor

    def row(self, row: Vector) -> None:
        """Any vector instruction; addresses of loads and stores are small."""
        params = row.params.split()
        text = row.name
        if row.width:
            offset = self.choose(64)
            text += f" offset={offset}"
        if row.immediates.endswith("lane"):
            lanes = 16 // (row.width or SHAPES[row.name.split(".")[0]] // 8)
            text += f" {self.choose(lanes)}"
        elif row.immediates == "lanes":
            text += "".join(f" {self.choose(32)}" for _ in range(16))
        elif row.immediates == "v128":
            text += " i64x2 {} {}".format(*(self.choose(1 << 40) for _ in range(2)))
        if row.width:
            self.address()
            for type_ in params[1:]:
                self.push(type_)
        else:
            self.need(params)
        if params:
            del self.stack[-len(params) :]
        self.code.append(text)
        if row.results:
            self.stack.append(row.results)

    def address(self) -> None:
        kind = self.choose(4)
        if kind == 0:
            self.code.append(f"i32.const {self.choose(1000)}")
        else:
            self.code += [f"local.get {4 + self.choose(2)}", f"i32.const {255 * 16}", "i32.and"]
            if kind == 2:
                self.code += [f"i32.const {self.choose(300)}", "i32.add"]
            elif kind == 3:
                self.code += [f"local.get {4 + self.choose(2)}", "i32.const 127", "i32.and"]
                self.code.append("i32.add")
        self.stack.append("i32")
