"""Random valid modules made from the operand stack: what folding operands finds hardest.

`generate` writes expressions; this writes instructions one by one and only knows the types on the
stack, so operands stay pending across everything: locals that change under values taken from them,
blocks and loops with parameters, branches and branch tables that carry values, calls, stores of
constants, unreachable code, functions with several results. Branches to loops spend a global, so
that every run ends. Exports are those of `generate`: `f`, `memory`, `g0` to `g3`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.fuzz.generate import (
    _BINARY,
    _COMPARE,
    _CONVERT,
    _LOADS,
    _NUMBERS,
    _STORES,
    _UNARY,
    TYPES,
    Choose,
)

FUEL = 150
"""Branches to loops in one run."""


@dataclass
class Label:
    """What a branch needs: `types` on the stack; `base` is the stack's height at the block, `name`
    what branches call it (those to a function's own label count blocks)."""

    types: list[str]
    base: int
    loop: bool = False
    name: str = ""


@dataclass
class Function:
    """Signature and all locals, parameters first."""

    params: list[str]
    results: list[str]
    locals: list[str] = field(default_factory=list)

    def signature(self) -> str:
        return _types("param", self.params) + _types("result", self.results)


def _types(word: str, types: Sequence[str]) -> str:
    return f" ({word} {' '.join(types)})" if types else ""


class Stacks:
    """One module after another from a source of choices."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.functions: list[Function] = []
        self.number = 0
        self.budget = 0
        self.code: list[str] = []
        self.stack: list[str] = []
        self.labels: list[Label] = []
        self.names = 0
        self.results: list[list[str]] = []

    def pick(self, choices: Sequence[str]) -> str:
        return choices[self.choose(len(choices))]

    def some(self, most: int) -> list[str]:
        return [self.pick(TYPES) for _ in range(self.choose(most + 1))]

    def module(self) -> str:
        """The next module, in the text format."""
        self.functions = [Function([], [self.pick(TYPES), *self.some(2)])]
        self.functions += [Function(self.some(4), self.some(3)) for _ in range(self.choose(4))]
        lines = [
            '(module (memory (export "memory") 1 3)',
            f"(global $fuel (mut i32) (i32.const {FUEL}))",
        ]
        lines += [
            f'(global $g{i} (export "g{i}") (mut {t}) ({t}.const {i}))' for i, t in enumerate(TYPES)
        ]
        count = len(self.functions)
        lines.append(f"(table {count + 1} funcref)")
        lines.append(f"(elem (i32.const 0) {' '.join(f'$f{i}' for i in range(count))})")
        for self.number in range(count):
            lines.append(self._function())
        return "\n".join((*lines, ")"))

    def _function(self) -> str:
        f = self.functions[self.number]
        f.locals = [*f.params, *TYPES, *self.some(4)]
        self.budget = 20 + self.choose(100)
        self.code, self.stack = [], []
        self.labels, self.results = [Label(f.results, 0)], [f.results]
        self._body()
        name = f'$f{self.number} (export "f")' if self.number == 0 else f"$f{self.number}"
        local = _types("local", f.locals[len(f.params) :]) + " (local $p i32) (local $q i32)"
        return f"(func {name}{f.signature()}{local}\n" + "\n".join(self.code) + ")"

    def emit(self, text: str, takes: int = 0, gives: Sequence[str] = ()) -> None:
        self.code.append(text)
        if takes:
            del self.stack[-takes:]
        self.stack.extend(gives)

    @property
    def own(self) -> list[str]:
        """What the block in hand has on the stack."""
        return self.stack[self.labels[-1].base :]

    def _body(self) -> None:
        """Instructions up to the end of the block in hand, whose label is on top."""
        label = self.labels[-1]
        results = self.results[-1]
        steps = 3 + self.choose(14)
        while steps and self.budget > 0:
            steps -= 1
            self.budget -= 1
            if self.choose(25) == 0 and self._leave():
                break
            self._step()
        else:
            self._settle(results)
        del self.stack[label.base :]

    def _settle(self, wanted: Sequence[str]) -> None:
        """Make what the block in hand has on the stack exactly this."""
        same = 0
        for have, want in zip(self.own, wanted, strict=False):
            if have != want:
                break
            same += 1
        while len(self.own) > same:
            t = self.own[-1]
            found = self._local(t)
            if found is not None and self.choose(2):
                self.emit(f"local.set {found}", 1)
            else:
                self.emit("drop", 1)
        for t in wanted[same:]:
            self._push(t)

    def _local(self, t: str) -> int | None:
        found = [i for i, have in enumerate(self.functions[self.number].locals) if have == t]
        return found[self.choose(len(found))] if found else None

    def _push(self, t: str) -> None:
        """One value from somewhere cheap."""
        found = self._local(t)
        kind = self.choose(5)
        if kind < 3 and found is not None:
            self.emit(f"local.get {found}", 0, [t])
        elif kind == 3:
            self.emit(f"global.get $g{TYPES.index(t)}", 0, [t])
        else:
            self.emit(f"{t}.const {self.pick(_NUMBERS[t])}", 0, [t])

    def _need(self, types: Sequence[str]) -> None:
        """Have these on top of the stack: what lies there, if it fits."""
        n = len(types)
        if n and self.own[-n:] == list(types) and len(self.own) >= n and self.choose(4):
            return
        for t in types:
            self._push(t)

    def _spend(self) -> None:
        """A test on top: whether another branch to a loop may be made."""
        self.code.append("global.get $fuel i32.const 1 i32.sub global.set $fuel")
        self.emit("global.get $fuel i32.const 0 i32.gt_s", 0, ["i32"])

    def _branch(self) -> int:
        """Some label, counted from within."""
        return self.choose(len(self.labels))

    def _to(self, number: int) -> str:
        """The label so many blocks outward, as a branch names it."""
        return self.labels[-1 - number].name or str(number)

    def _name(self) -> str:
        """A label's name that the module does not have yet."""
        self.names += 1
        return f"$l{self.names}"

    def _header(self, label: Label) -> None:
        """Right behind a loop's head."""

    def _leave(self) -> bool:
        """An instruction behind which nothing is reached; some code follows all the same."""
        kind = self.choose(5)
        number = self._branch()
        label = self.labels[-1 - number]
        if kind == 0:
            if self.choose(3):
                return False
            self.code.append("unreachable")
        elif kind == 1:
            self._need(self.functions[self.number].results)
            self.code.append("return")
        elif kind == 2:
            if label.loop:
                return False
            self._need(label.types)
            self.code.append(f"br {self._to(number)}")
        elif kind == 3:
            targets = [i for i, x in enumerate(reversed(self.labels)) if x.types == label.types]
            last = [i for i in targets if not self.labels[-1 - i].loop]
            if not last:
                return False
            chosen = [targets[self.choose(len(targets))] for _ in range(self.choose(5))]
            self._need([*label.types, "i32"])
            self.code.append("i32.const 7 i32.and")
            if any(self.labels[-1 - i].loop for i in chosen):
                self.emit("i32.const 99", 0, ["i32"])
                self._spend()
                self.emit("select", 2)
            self.code.append(" ".join(["br_table", *map(self._to, [*chosen, last[0]])]))
        else:
            above = [
                i
                for i in range(self.number + 1, len(self.functions))
                if self.functions[i].results == self.functions[self.number].results
            ]
            if not above:
                return False
            callee = above[self.choose(len(above))]
            self._need(self.functions[callee].params)
            if self.choose(2):
                self.code.append(f"return_call $f{callee}")
            else:
                signature = self.functions[callee].signature()
                self.code.append(f"i32.const {callee} return_call_indirect{signature}")
        if self.choose(3) == 0:
            self.code.append("i32.add i32.const 3 drop i32.eqz select drop")
        return True

    def _step(self) -> None:
        steps = self._steps()
        steps[self.choose(len(steps))]()

    def _steps(self) -> list[Callable[[], None]]:
        """What may come next; some more often."""
        return [
            *[self._any] * 6,
            *[self._set] * 6,
            *[self._operate] * 10,
            self._select,
            *[self._memory] * 3,
            *[self._pointer] * 5,
            self._global,
            *[self._block] * 3,
            *[self._branch_if] * 3,
            *[self._call] * 2,
            self._rare,
        ]

    def _any(self) -> None:
        self._push(self.pick(TYPES))

    def _set(self) -> None:
        if not self.own:
            self._any()
        t = self.own[-1]
        found = self._local(t)
        if found is None:
            self.emit("drop", 1)
        elif self.choose(2):
            self.code.append(f"local.tee {found}")
        else:
            self.emit(f"local.set {found}", 1)

    def _operate(self) -> None:
        if len(self.own) < 1:
            self._any()
        t = self.own[-1]
        kind = self.choose(4)
        if kind == 0:
            self.emit(f"{t}.{self.pick(_UNARY[t])}")
            return
        if kind == 1:
            made = [(to, name) for to in TYPES for name, source in _CONVERT[to] if source == t]
            to, name = made[self.choose(len(made))]
            self.emit(f"{to}.{name}", 1, [to])
            return
        if len(self.own) < 2 or self.own[-2] != t:
            self._push(t)
        if kind == 2:
            self.emit(f"{t}.{self.pick(_COMPARE[t])}", 2, ["i32"])
            if self.choose(3) == 0:
                self.code.append("i32.eqz")
        else:
            safe = [name for name in _BINARY[t] if not name.startswith(("div_", "rem_"))]
            self.emit(f"{t}.{self.pick(safe if self.choose(10) else _BINARY[t])}", 1)

    def _select(self) -> None:
        t = self.own[-1] if self.own else self.pick(TYPES)
        if not (len(self.own) >= 3 and self.own[-3:] == [t, t, "i32"]):
            self._need([t, t])
            self._push("i32")
        self.emit("select", 2)

    def _mask(self) -> None:
        if self.choose(40):
            self.code.append(f"i32.const {(1 << (3 + self.choose(13))) - 1} i32.and")

    def _memory(self) -> None:
        t = self.pick(TYPES)
        offset = self.choose(3) * self.choose(9)
        if self.choose(2):
            if not self.own or self.own[-1] != "i32":
                self._push("i32")
            self._mask()
            self.emit(f"{t}.{self.pick(_LOADS[t])} offset={offset}", 1, [t])
            return
        if not self.own or self.own[-1] != "i32" or self.choose(3) == 0:
            self._push("i32")
        self._mask()
        if self.choose(4) == 0:
            self.emit("drop", 1)
            self.emit(f"i32.const {self.choose(4096)}", 0, ["i32"])
        self._push(t)
        if self.choose(2):
            self._operate()
            if self.own[-1] != t:  # it became a comparison or a conversion
                self.emit("drop", 1)
                self._push(t)
        if self.own[-2:] != ["i32", t]:
            self.emit("drop", 1)
            return
        self.emit(f"{t}.{self.pick(_STORES[t])} offset={offset}", 2)

    def _pointer(self) -> None:
        """Loads and stores at addresses that stand in locals, as compilers write them."""
        pointer = self.pick(("$p", "$q"))
        offset = self.choose(4) * 4
        kind = self.choose(8)
        if kind < 5:
            self.emit(f"local.get {pointer} i32.load offset={offset}", 0, ["i32"])
            target: int | str | None = self._local("i32")
            if kind == 4:  # a chain: what is not stored is zero, all else may well be no address
                target = self.pick(("$p", "$q"))
            if kind > 1:
                if self.choose(3) == 0:
                    self.code.append(f"local.tee {target}")
                else:
                    self.emit(f"local.set {target}", 1)
        elif kind == 5:
            self._push("i32")
            self.emit("i32.const 4095 i32.and")
            self.emit(f"local.set {pointer}", 1)
        elif kind == 6:
            self.emit(f"local.get {pointer}", 0, ["i32"])
        else:
            self.code.append(f"local.get {pointer}")
            self._push("i32")
            self.emit(f"i32.const 1023 i32.and i32.store offset={offset}", 1)

    def _global(self) -> None:
        if not self.own:
            self._any()
        self.emit(f"global.set $g{TYPES.index(self.own[-1])}", 1)

    def _block(self) -> None:
        if len(self.labels) > 5:
            return
        kind = self.pick(("block", "loop", "if", "loop"))
        if kind == "if":
            self._need(["i32"])
            self.stack.pop()
        n = self.choose(min(3, len(self.own)) + 1)
        params, results = self.own[len(self.own) - n :], self.some(2)
        name, loop = self._name(), kind == "loop"
        self.code.append(f"{kind} {name}{_types('param', params)}{_types('result', results)}")
        base = len(self.stack) - n
        self.labels.append(Label(params if loop else results, base, loop, name))
        self.results.append(results)
        if loop:
            self._header(self.labels[-1])
        self._body()
        if kind == "if" and (self.choose(2) or params != results):
            self.code.append("else")
            self.stack.extend(params)
            self._body()
        self.labels.pop()
        self.results.pop()
        self.emit("end", 0, results)

    def _branch_if(self) -> None:
        number = self._branch()
        label = self.labels[-1 - number]
        if label.loop:
            self._need(label.types)
            self._spend()
            if self.choose(2):
                self._push("i32")
                self.emit("i32.and", 1)
        elif self.choose(2):
            self._need([*label.types, "i32"])
        else:
            self._need(label.types)
            t = self.pick(TYPES)
            self._push(t)
            self._push(t)
            self.emit(f"{t}.{self.pick(_COMPARE[t])}", 2, ["i32"])
            if self.choose(3) == 0:
                self.code.append("i32.eqz")
        self.emit(f"br_if {self._to(number)}", 1)

    def _call(self) -> None:
        above = range(self.number + 1, len(self.functions))
        if not above:
            return
        callee = above[self.choose(len(above))]
        f = self.functions[callee]
        self._need(f.params)
        if self.choose(3):
            self.emit(f"call $f{callee}", len(f.params), f.results)
            return
        # Rarely to a function of another type, or to none.
        index = callee if self.choose(15) else self.choose(len(self.functions) + 3)
        if index <= self.number:
            index = callee
        self.code.append(f"i32.const {index} call_indirect{f.signature()}")
        self.emit("nop", len(f.params), f.results)

    def _rare(self) -> None:
        kind = self.choose(4)
        if kind == 0:
            self.emit("memory.size", 0, ["i32"])
        elif kind == 1:
            self.emit("i32.const 1 memory.grow", 0, ["i32"])
        elif kind == 2:
            self._push("i32")
            self._mask()
            self.emit("i32.const 77 i32.const 9 memory.fill", 1)
        else:
            self.emit(
                f"ref.{self.pick(('null func', f'func $f{self.number}'))} ref.is_null", 0, ["i32"]
            )


def source(choose: Choose) -> str:
    """One module."""
    return Stacks(choose).module()
