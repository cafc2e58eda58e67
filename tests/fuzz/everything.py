"""Random valid modules with everything that this engine has: vectors, several memories and tables
with 32- and 64-bit addresses, segments, references, calls by reference.

On top of `stacks`, whose instructions remain: here are more types, more places and more steps, all
numeric and vector instructions from THE table among them. Exports: `run` calls the first function
and leaves the bits of its results in i64 globals, `peek` does so for the other globals (also after
a trap); all memories `m0`… and tables `t0`… .
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.fuzz.generate import TYPES, Choose
from tests.fuzz.stacks import FUEL, Function, Label, Stacks, _types
from wasmsr.interp.instruction_set.features import DEFAULT
from wasmsr.interp.instruction_set.instructions import INSTRUCTIONS, Instruction

ALL = (*TYPES, "v128")
_ON = [i for i in INSTRUCTIONS if not i.feature or i.feature in DEFAULT]
OPERATIONS = [i for i in _ON if i.kind == "numeric"]
VECTORS = [
    i
    for i in _ON
    if i.kind == "vector" and i.immediates in ("", "lane", "lanes") and "madd" not in i.name
]
"""All but the relaxed multiply-adds: they round the product here, in Wasmtime only the sum, and the
specification allows both."""
ATOMICS = [i for i in _ON if i.kind == "atomic"]
ACCESSES = [i for i in _ON if i.immediates in ("memarg", "memarg lane") and i.kind != "atomic"]
LANES = {"i8x16": 16, "i16x8": 8, "i32x4": 4, "f32x4": 4, "i64x2": 2, "f64x2": 2}
VECTOR_NUMBERS = (
    "i32x4 0 0 0 0",
    "i32x4 -1 -1 -1 -1",
    "i8x16 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
    "i8x16 -128 127 -1 0 64 -64 15 16 200 3 99 -99 31 32 33 255",
    "i16x8 -32768 32767 -1 0 1 255 256 4660",
    "i64x2 -9223372036854775808 81985529216486895",
    "f32x4 0 -0 inf nan",
    "f32x4 1.5 -2.25 3e9 -1e-40",
    "f64x2 -0 nan",
    "f64x2 1e300 -4294967296.5",
)


@dataclass
class Place:
    """A memory or a table: its name and the type of its addresses."""

    name: str
    address: str


class Everything(Stacks):
    """One module after another from a source of choices."""

    types: Sequence[str] = ALL
    """What values may be of."""
    TO_BITS: Mapping[str, str] = {
        "i32": "i64.extend_i32_u",
        "i64": "",
        "f32": "i32.reinterpret_f32 i64.extend_i32_u",
        "f64": "i64.reinterpret_f64",
    }
    """Code that makes an i64 of a value, except a v128."""

    def __init__(self, choose: Choose) -> None:
        super().__init__(choose)
        self.memories: list[Place] = []
        self.tables: list[Place] = []

    def some(self, most: int) -> list[str]:
        return [self.pick(self.types) for _ in range(self.choose(most + 1))]

    def _first(self) -> list[str]:
        """Definitions that the others build on."""
        return []

    def _last(self) -> list[str]:
        """Definitions that need to know of all functions."""
        return []

    # -- the module --------------------------------------------------------------------------------

    def module(self) -> str:
        """The next module, in the text format."""
        self.functions = [Function([], [self.pick(self.types), *self.some(2)])]
        self.functions += [Function(self.some(4), self.some(3)) for _ in range(self.choose(4))]
        addresses = ("i32", "i32", "i64")
        self.memories = [Place(f"$m{i}", self.pick(addresses)) for i in range(1 + self.choose(3))]
        # The first table is the one that `stacks` calls through.
        self.tables = [Place("$t0", "i32"), Place("$t1", "i64"), Place("$t2", self.pick(addresses))]
        count = len(self.functions)
        names = " ".join(f"$f{i}" for i in range(count))
        lines = ["(module", *self._first()]
        lines += [
            f"(type $s{i} (func{function.signature()}))"
            for i, function in enumerate(self.functions)
        ]
        lines += [
            f'(memory {m.name} (export "{m.name[1:]}") {m.address} 1 {1 + self.choose(3)})'
            for m in self.memories
        ]
        lines += [
            f'(table $t{i} (export "t{i}") {table.address} {count + 1} {count + 4} funcref)'
            for i, table in enumerate(self.tables)
        ]
        lines += [f"(elem (table $t{i}) ({self.tables[i].address}.const 0) func {names})"
                  for i in range(2)]  # fmt: skip
        lines.append(f"(elem $e func {names})")
        lines.append(f'(data ({self.memories[0].address}.const 8) "\\01\\80abcdefgh")')
        lines.append('(data $d "passive data\\ff\\7f\\80")')
        lines.append(f"(global $fuel (mut i32) (i32.const {FUEL}))")
        lines += [f"(global $g{i} (mut {t}) ({t}.const {i}))" for i, t in enumerate(TYPES)]
        lines.append("(global $g4 (mut v128) (v128.const i32x4 4 4 4 4))")
        for self.number in range(count):
            lines.append(self._function())
        lines += self._last()
        lines.append(self._observer("run", "r", "call $f0", self.functions[0].results))
        getters = " ".join(f"global.get {self._global_of(t)}" for t in self._kept())
        lines.append(self._observer("peek", "p", getters, self._kept()))
        return "\n".join((*lines, ")"))

    def _kept(self) -> Sequence[str]:
        """The types of which there is a global."""
        return ALL

    def _global_of(self, t: str) -> str:
        return f"$g{ALL.index(t)}"

    def _observer(self, name: str, letter: str, code: str, types: Sequence[str]) -> str:
        """An export that makes values and keeps their bits in globals of its own."""
        out, places = [], 0
        for t in reversed(types):
            if t == "v128":
                out.append(
                    f"local.tee 0 i64x2.extract_lane 0 global.set ${letter}{places} "
                    f"local.get 0 i64x2.extract_lane 1 global.set ${letter}{places + 1}"
                )
                places += 2
            else:
                out.append(f"{self.TO_BITS[t]} global.set ${letter}{places}")
                places += 1
        globals_ = "".join(
            f'(global ${letter}{i} (export "{letter}{i}") (mut i64) (i64.const 0))\n'
            for i in range(places)
        )
        return f'{globals_}(func (export "{name}") (local v128) {code} {" ".join(out)})'

    def _function(self) -> str:
        f = self.functions[self.number]
        f.locals = [*f.params, *self._locals()]
        self.budget = 20 + self.choose(120)
        self.code, self.stack = [], []
        self.labels, self.results = [Label(f.results, 0)], [f.results]
        self._body()
        local = _types("local", f.locals[len(f.params) :])
        return f"(func $f{self.number}{f.signature()}{local}\n" + "\n".join(self.code) + ")"

    def _locals(self) -> list[str]:
        """Types of the locals that a function declares."""
        return [*ALL, *self.some(4)]

    # -- steps -------------------------------------------------------------------------------------

    def _steps(self) -> list[Callable[[], None]]:
        return [
            *[self._any] * 5,
            *[self._set] * 6,
            *[self._operate] * 6,
            *[self._row] * 3,
            *[self._vector] * 4,
            self._select,
            *[self._access] * 7,
            self._atomic,
            self._global,
            *[self._block] * 3,
            *[self._branch_if] * 3,
            *[self._call] * 2,
            self._bulk,
            self._table,
            self._reference,
        ]

    def _any(self) -> None:
        self._push(self.pick(self.types))

    def _push(self, t: str) -> None:
        if t != "v128":
            super()._push(t)
            return
        found = self._local(t)
        kind = self.choose(5)
        if kind < 3 and found is not None:
            self.emit(f"local.get {found}", 0, [t])
        elif kind == 3:
            self.emit("global.get $g4", 0, [t])
        else:
            self.emit(f"v128.const {self.pick(VECTOR_NUMBERS)}", 0, [t])

    def _operate(self) -> None:
        if not self.own:
            self._push(self.pick(TYPES))
        if self.own[-1] == "v128":
            self._vector()
        else:
            super()._operate()

    def _global(self) -> None:
        if not self.own:
            self._any()
        if self.own[-1] in self._kept():
            self.emit(f"global.set {self._global_of(self.own[-1])}", 1)

    def _row(self) -> None:
        self._apply(OPERATIONS[self.choose(len(OPERATIONS))])

    def _vector(self) -> None:
        self._apply(VECTORS[self.choose(len(VECTORS))])

    def _apply(self, row: Instruction) -> None:
        """An instruction of the table with whatever operands it needs."""
        params = row.params.split()
        self._need(params)
        immediates = ""
        if row.immediates == "lane":
            immediates = f" {self.choose(LANES[row.name.split('.')[0]])}"
        elif row.immediates == "lanes":
            immediates = "".join(f" {self.choose(32)}" for _ in range(16))
        self.emit(row.name + immediates, len(params), row.results.split())

    def _address(self, place: Place) -> None:
        """An address on top: small for the most part, and in the forms that compilers write."""
        t = place.address
        self._push(t)
        if self.choose(30):
            self.code.append(f"{t}.const {(1 << (3 + self.choose(13))) - 1} {t}.and")
        kind = self.choose(6)
        if kind == 0:
            lowest = 0 if self.choose(8) else -20
            self.code.append(f"{t}.const {self.choose(99) + lowest} {t}.add")
        elif kind == 1 and self.choose(4) == 0:
            self.code.append(f"{t}.const {self.choose(9)} {t}.sub")
        elif kind == 2:
            self._push(t)
            self.code.append(f"{t}.const 255 {t}.and {t}.add")
            self.stack.pop()
        elif kind == 3:
            self.emit("drop", 1)
            self.emit(f"{t}.const {self.choose(5000)}", 0, [t])

    def _memarg(self, memory: Place) -> str:
        offset = self.choose(4) * self.choose(9)
        if self.choose(60) == 0:
            large = (0xFFFFFFFF, 65536, 1 << 32, (1 << 64) - 9)
            offset = large[self.choose(4 if memory.address == "i64" else 2)]
        return f"{memory.name} offset={offset}"

    def _access(self) -> None:
        row = ACCESSES[self.choose(len(ACCESSES))]
        memory = self.memories[self.choose(len(self.memories))]
        lane = ""
        if row.immediates == "memarg lane":
            bits = int("".join(c for c in row.name.split(".")[1] if c.isdigit()))
            lane = f" {self.choose(128 // bits)}"
        self._address(memory)
        params = [memory.address, *row.params.split()[1:]]
        for t in params[1:]:
            self._push(t)
        if len(params) > 1 and params[1] != "v128" and self.choose(3) == 0:
            self._operate()  # a value that has just been computed
            if self.own[-1] != params[1]:
                self.emit("drop", 1)
                if len(self.own) < 1 or self.own[-1] != memory.address:
                    return
                self._push(params[1])
            if self.own[-2:] != params:
                return
        self.emit(f"{row.name} {self._memarg(memory)}{lane}", len(params), row.results.split())

    def _atomic(self) -> None:
        row = ATOMICS[self.choose(len(ATOMICS))]
        memory = self.memories[self.choose(len(self.memories))]
        if not row.width:
            self.code.append(row.name)
            return
        t = memory.address
        self._address(memory)
        if self.choose(20) == 0 or (".wait" in row.name and self.choose(9) == 0):
            # Traps; not one of two traps in an order that engines are free to choose.
            self.code.append(f"drop {t}.const {1000 + self.choose(8)}")
        elif ".wait" in row.name:
            self.code.append("drop")
            self.stack.pop()
            return
        else:
            self.code.append(f"{t}.const {-row.width} {t}.and")
        params = [t, *row.params.split()[1:]]
        for needed in params[1:]:
            self._push(needed)
        offset = 8 * self.choose(9)
        self.emit(f"{row.name} {memory.name} offset={offset}", len(params), row.results.split())

    def _length(self, t: str) -> None:
        self.emit(f"{t}.const {self.choose(40)}", 0, [t])

    def _bulk(self) -> None:
        memory, other = (self.memories[self.choose(len(self.memories))] for _ in range(2))
        t = memory.address
        kind = self.choose(8)
        if kind == 0:
            self.emit(f"memory.size {memory.name}", 0, [t])
        elif kind == 1:
            self.emit(f"{t}.const {self.choose(3)} memory.grow {memory.name}", 0, [t])
        elif kind == 2:
            self.code.append("data.drop $d")
        elif kind == 3:
            self._address(memory)
            self.emit(f"i32.const {self.choose(12)} i32.const {self.choose(6)}", 0, ["i32", "i32"])
            self.emit(f"memory.init {memory.name} $d", 3)
        elif kind < 6:
            self._address(memory)
            self._push("i32")
            self._length(t)
            self.emit(f"memory.fill {memory.name}", 3)
        else:
            self._address(memory)
            self._address(other)
            self._length("i64" if t == other.address == "i64" else "i32")
            self.emit(f"memory.copy {memory.name} {other.name}", 3)

    def _index(self, table: Place) -> str:
        most = len(self.functions) + 4
        index = self.choose(most) if self.choose(9) else self.choose(1000)
        return f"{table.address}.const {index}"

    def _table(self) -> None:
        # Only the last is written: calls are made through the others, to functions further on.
        kind = self.choose(9)
        table = self.tables[self.choose(3)] if kind in (0, 2) else self.tables[2]
        other = self.tables[self.choose(3)]
        t, index = table.address, self._index(table)
        if kind == 0:
            self.emit(f"table.size {table.name}", 0, [t])
        elif kind == 1:
            self.emit(f"{self._function_reference()} {t}.const 1 table.grow {table.name}", 0, [t])
        elif kind == 2:
            self.emit(f"{index} table.get {table.name} ref.is_null", 0, ["i32"])
        elif kind == 3:
            self.code.append(f"{index} {self._function_reference()} table.set {table.name}")
        elif kind == 4:
            size = f"{t}.const {self.choose(3)}"
            self.code.append(f"{index} {self._function_reference()} {size} table.fill {table.name}")
        elif kind == 5:
            self.code.append(
                f"{index} i32.const {self.choose(3)} i32.const {self.choose(3)} "
                f"table.init {table.name} $e"
            )
        elif kind == 6:
            length = "i64" if t == other.address == "i64" else "i32"
            self.code.append(
                f"{index} {self._index(other)} {length}.const {self.choose(4)} "
                f"table.copy {table.name} {other.name}"
            )
        elif kind == 7 and self.choose(4) == 0:
            self.code.append("elem.drop $e")
        else:
            self._indirect()

    def _function_reference(self) -> str:
        number = self.choose(len(self.functions))
        return "ref.null func" if self.choose(3) == 0 else f"ref.func $f{number}"

    def _reference(self) -> None:
        above = range(self.number + 1, len(self.functions))
        if not above or self.choose(3) == 0:
            self.emit(f"{self._function_reference()} ref.is_null", 0, ["i32"])
            return
        callee = above[self.choose(len(above))]
        f = self.functions[callee]
        self._need(f.params)
        null = self.choose(20) == 0
        reference = f"ref.null $s{callee}" if null else f"ref.func $f{callee}"
        if self.choose(3) == 0:
            reference += " ref.as_non_null"
        self.code.append(f"{reference} call_ref $s{callee}")
        self.emit("nop", len(f.params), f.results)

    def _indirect(self) -> None:
        """A call through the table with 64-bit indices."""
        above = range(self.number + 1, len(self.functions))
        if not above:
            return
        callee = above[self.choose(len(above))]
        f = self.functions[callee]
        self._need(f.params)
        far = 1 << 32 if self.choose(20) == 0 else 0
        self.code.append(f"i64.const {callee + far} call_indirect $t1{f.signature()}")
        self.emit("nop", len(f.params), f.results)


def source(choose: Choose) -> str:
    """One module."""
    return Everything(choose).module()
