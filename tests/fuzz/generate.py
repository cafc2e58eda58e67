"""Random valid modules in the text format: structured control flow, locals, memory, calls, a table.

The same numbers from the source give the same module. Loops count down from small constants, calls
go to functions with higher numbers only, so that every run ends; traps are welcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TYPES = ("i32", "i64", "f32", "f64")
Choose = Callable[[int], int]
"""A number from 0 up to, and without, the given one: `random.Random.randrange`, or Hypothesis."""


def _w(words: str) -> list[str]:
    return words.split()


_BINARY = {
    "i32": _w("add sub mul div_s div_u rem_s rem_u and or xor shl shr_s shr_u rotl rotr"),
    "f32": _w("add sub mul div min max copysign"),
}
_BINARY["i64"], _BINARY["f64"] = _BINARY["i32"], _BINARY["f32"]
_UNARY = {
    "i32": _w("clz ctz popcnt eqz extend8_s extend16_s"),
    "i64": _w("clz ctz popcnt extend8_s extend16_s extend32_s"),
    "f32": _w("abs neg ceil floor trunc nearest sqrt"),
}
_UNARY["f64"] = _UNARY["f32"]
_CONVERT = {
    "i32": [
        ("wrap_i64", "i64"),
        ("trunc_f64_s", "f64"),
        ("trunc_sat_f32_u", "f32"),
        ("reinterpret_f32", "f32"),
    ],
    "i64": [
        ("extend_i32_s", "i32"),
        ("extend_i32_u", "i32"),
        ("trunc_sat_f64_s", "f64"),
        ("reinterpret_f64", "f64"),
    ],
    "f32": [("convert_i32_s", "i32"), ("convert_i64_u", "i64"), ("demote_f64", "f64")],
    "f64": [("convert_i64_s", "i64"), ("convert_i32_u", "i32"), ("promote_f32", "f32")],
}
_LOADS = {
    "i32": _w("load load8_s load16_u"),
    "i64": _w("load load8_u load32_s"),
    "f32": ["load"],
    "f64": ["load"],
}
_STORES = {"i32": ["store", "store8"], "i64": ["store", "store32"], "f32": ["store"]}
_STORES["f64"] = ["store"]
_COMPARE = {"i32": _w("eq ne lt_s lt_u gt_s le_u ge_s"), "f32": _w("eq ne lt gt le ge")}
_COMPARE["i64"], _COMPARE["f64"] = _COMPARE["i32"], _COMPARE["f32"]
_NUMBERS = {
    "i32": _w("0 1 -1 2 7 255 65535 65536 2147483647 -2147483648 123456789"),
    "i64": _w("0 1 -1 3 4294967296 9223372036854775807 -9223372036854775808 81985529216486895"),
    "f32": _w("0 -0 1 -1.5 1e10 -1e-20 inf nan 16777217 0x1p-149"),
    "f64": _w("0 -0 1 -2.25 1e300 -1e-200 -inf nan 4294967296.5 0x1p-1074"),
}


@dataclass
class _Function:
    params: list[str]
    results: list[str]
    locals: list[str]


class Generator:
    """One module after another from a source of choices."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.functions: list[_Function] = []
        self.number = 0
        self.budget = 0
        self.labels: list[list[str]] = []
        self.counters = 0

    def pick(self, choices: list[str] | tuple[str, ...]) -> str:
        return choices[self.choose(len(choices))]

    def module(self) -> str:
        """A module that exports `f`, which takes nothing, a memory, and globals g0 to g3."""
        count = 1 + self.choose(3)
        self.functions = [_Function([], [self.pick(TYPES) for _ in range(1 + self.choose(2))], [])]
        for _ in range(count - 1):
            params = [self.pick(TYPES) for _ in range(self.choose(4))]
            results = [self.pick(TYPES) for _ in range(self.choose(3))]
            self.functions.append(_Function(params, results, []))
        lines = [
            "(module",
            '(memory (export "memory") 1 3)',
            '(data (i32.const 8) "\\01\\80abcdefgh")',
        ]
        lines.append('(data $passive "passive data")')
        lines += [
            f'(global $g{i} (export "g{i}") (mut {t}) ({t}.const {i}))' for i, t in enumerate(TYPES)
        ]
        lines.append(f"(table {count + 1} funcref)")
        lines.append(f"(elem (i32.const 0) {' '.join(f'$f{i}' for i in range(count))})")
        for number in range(count):
            lines.append(self._function(number))
        return "\n".join((*lines, ")"))

    def _function(self, number: int) -> str:
        self.number, self.counters = number, 0
        self.budget = 10 + self.choose(50)
        f = self.functions[number]
        f.locals = [*f.params, *(self.pick(TYPES) for _ in range(self.choose(5)))]
        self.labels = [f.results]
        body = self._block(f.results, 0)
        name = f'$f{number} (export "f")' if number == 0 else f"$f{number}"
        signature = "".join(f" (param {t})" for t in f.params)
        signature += "".join(f" (result {t})" for t in f.results)
        local = "".join(f" (local {t})" for t in f.locals[len(f.params) :])
        counters = "".join(f" (local $c{i} i32)" for i in range(self.counters))
        return f"(func {name}{signature}{local}{counters}\n{body})"

    def _block(self, results: list[str], depth: int) -> str:
        """Instructions that leave exactly these results."""
        lines = [self._statement(depth) for _ in range(self.choose(5))]
        if self.choose(8) == 0:
            lines.append(self._leave())
        lines += [self._value(t, 0) for t in results]
        return "\n".join(lines)

    def _leave(self) -> str:
        """What does not come back: the code behind it is unreachable."""
        kind = self.choose(5)
        label = self.choose(len(self.labels))
        types = self.labels[-1 - label]
        values = " ".join(self._value(t, 1) for t in types)
        if kind == 0:
            return "unreachable" if self.choose(4) == 0 else "nop"
        if kind == 1:
            whole = " ".join(self._value(t, 1) for t in self.labels[0])
            return f"{whole} return"
        if kind == 2:
            targets = [i for i, t in enumerate(reversed(self.labels)) if t == types]
            some = " ".join(str(targets[self.choose(len(targets))]) for _ in range(3))
            return f"{values} {self._value('i32', 1)} br_table {some}"
        return f"{values} br {label}"

    def _statement(self, depth: int) -> str:
        self.budget -= 1
        kind = self.choose(12) if depth < 4 and self.budget > 0 else self.choose(6)
        local = self._local
        if kind == 0:
            t = self.pick(TYPES)
            store = f"{t}.{self.pick(_STORES[t])} offset={self.choose(9)}"
            return f"{self._address()} {self._value(t, 0)} {store}"
        if kind <= 2:
            t = self.pick(TYPES)
            found = local(t)
            return f"{self._value(t, 0)} " + ("drop" if found is None else f"local.set {found}")
        if kind == 3:
            g = self.choose(4)
            return f"{self._value(TYPES[g], 0)} global.set $g{g}"
        if kind == 4:
            if self.choose(3) == 0:
                return f"{self._value('i32', 2)} memory.grow drop"
            name = self.pick(("fill", "copy", "init $passive"))
            size = f"(i32.const {self.choose(40)})"
            second = self._address() if name == "copy" else "(i32.const 1)"
            return f"{self._address()} {second} {size} memory.{name}"
        if kind == 5:
            return self._branch_if()
        if kind <= 7:
            return self._if(depth)
        if kind == 8:
            return self._loop(depth)
        if kind == 9:
            return self._inner("block", depth)
        return self._call()

    def _branch_if(self) -> str:
        label = self.choose(len(self.labels))
        types = self.labels[-1 - label]
        values = " ".join(self._value(t, 1) for t in types)
        drops = " drop" * len(types)
        return f"{values} {self._value('i32', 1)} br_if {label}{drops}"

    def _inner(self, opening: str, depth: int) -> str:
        results = [self.pick(TYPES) for _ in range(self.choose(2))]
        self.labels.append(results)
        body = self._block(results, depth + 1)
        self.labels.pop()
        signature = "".join(f" (result {t})" for t in results)
        return f"{opening}{signature}\n{body}\nend{' drop' * len(results)}"

    def _if(self, depth: int) -> str:
        test = self._value("i32", 0)
        results = [self.pick(TYPES) for _ in range(self.choose(2))]
        self.labels.append(results)
        then, other = self._block(results, depth + 1), self._block(results, depth + 1)
        self.labels.pop()
        signature = "".join(f" (result {t})" for t in results)
        tail = f"\nelse\n{other}" if results or self.choose(2) else ""
        return f"{test} if{signature}\n{then}{tail}\nend{' drop' * len(results)}"

    def _loop(self, depth: int) -> str:
        counter, self.counters = self.counters, self.counters + 1
        self.labels += [[], []]  # of the block around it, and its own
        body = "\n".join(self._statement(depth + 1) for _ in range(1 + self.choose(3)))
        del self.labels[-2:]
        # Every branch to the loop passes here, and each time the counter goes down.
        guard = (
            f"local.get $c{counter} i32.const 1 i32.add local.tee $c{counter}\n"
            f"i32.const {1 + self.choose(12)} i32.gt_u br_if 1"
        )
        again = "br 0" if self.choose(4) else f"{self._value('i32', 1)} br_if 0"
        return f"block\nloop\n{guard}\n{body}\n{again}\nend\nend"

    def _call(self) -> str:
        above = range(self.number + 1, len(self.functions))
        if not above:
            return "nop"
        callee = above[self.choose(len(above))]
        f = self.functions[callee]
        arguments = " ".join(self._value(t, 1) for t in f.params)
        drops = " drop" * len(f.results)
        if self.choose(3):
            return f"{arguments} call $f{callee}{drops}"
        signature = "".join(f" (param {t})" for t in f.params)
        signature += "".join(f" (result {t})" for t in f.results)
        return f"{arguments} (i32.const {callee}) call_indirect{signature}{drops}"

    def _address(self) -> str:
        if self.choose(6) == 0:
            return self._value("i32", 2)
        return f"(i32.and {self._value('i32', 2)} (i32.const 4095))"

    def _local(self, type_: str) -> int | None:
        """A local of that type, if the function has one; counters of loops are none."""
        own = self.functions[self.number].locals
        found = [i for i, t in enumerate(own) if t == type_]
        return found[self.choose(len(found))] if found else None

    def _value(self, type_: str, depth: int) -> str:
        kind = self.choose(11) if depth < 4 else self.choose(3)
        if kind <= 1:
            found = self._local(type_)
            if found is not None:
                return f"(local.get {found})"
        if kind <= 2:
            return f"({type_}.const {self.pick(_NUMBERS[type_])})"
        if kind <= 4:
            a, b = self._value(type_, depth + 1), self._value(type_, depth + 1)
            return f"({type_}.{self.pick(_BINARY[type_])} {a} {b})"
        if kind == 5:
            return f"({type_}.{self.pick(_UNARY[type_])} {self._value(type_, depth + 1)})"
        if kind == 6:
            name, source = _CONVERT[type_][self.choose(len(_CONVERT[type_]))]
            return f"({type_}.{name} {self._value(source, depth + 1)})"
        if kind == 7:
            if type_ == "i32":
                t = self.pick(TYPES)
                a, b = self._value(t, depth + 1), self._value(t, depth + 1)
                return f"({t}.{self.pick(_COMPARE[t])} {a} {b})"
            return f"(global.get $g{TYPES.index(type_)})"
        if kind == 8:
            return f"({type_}.{self.pick(_LOADS[type_])} offset={self.choose(9)} {self._address()})"
        if kind == 9:
            a, b, c = (self._value(t, depth + 1) for t in (type_, type_, "i32"))
            return f"(select {a} {b} {c})"
        found = self._local(type_)
        value = self._value(type_, depth + 1)
        return value if found is None else f"(local.tee {found} {value})"
