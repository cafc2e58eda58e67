"""Random valid modules with the old exception instructions, and the same with the new ones.

Wasmtime never ran `try`, `catch`, `catch_all`, `delegate` and `rethrow`. So each module comes in
two forms, `old` (for wabt's assembler) and `new`, where each is put in other words: a body that may
be delegated to stands in a block that is given the exception and throws it again at its end,
outside of what the body's own tries catch; each handler keeps its exception in a local.
On top of `stacks`; exports are those of `everything`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.everything import Everything
from tests.fuzz.generate import TYPES, Choose
from tests.fuzz.stacks import FUEL, Function, Label, Stacks, _types


class Both(str):
    """An instruction in the old form, which has another one in `new`."""

    new: str

    def __new__(cls, old: str, new: str) -> Both:
        made = super().__new__(cls, old)
        made.new = new
        return made


def _keep(letter: str, types: Sequence[str]) -> str:
    """Code that puts the bits of operands into globals."""
    return " ".join(
        f"{Everything.TO_BITS[t]} global.set ${letter}{i}" for i, t in reversed([*enumerate(types)])
    )


def in_new_form(code: str) -> str:
    return code.new if isinstance(code, Both) else code


class Legacy(Stacks):
    """One program after another from a source of choices."""

    def __init__(self, choose: Choose) -> None:
        super().__init__(choose)
        self.tags: list[list[str]] = []
        self.delegated: set[str] = set()
        self.caught: dict[str, str] = {}
        self.exceptions = 0

    def pair(self) -> tuple[str, str]:
        """The next program, in the old and in the new form."""
        self.functions = [Function([], [self.pick(TYPES), *self.some(2)])]
        self.functions += [Function(self.some(4), self.some(3)) for _ in range(self.choose(4))]
        self.tags = [[], ["i32"], self.some(3)]
        results = self.functions[0].results
        first = [
            '(module (memory (export "m0") 1 3)',
            *(f"(tag $e{i}{_types('param', tag)})" for i, tag in enumerate(self.tags)),
            f"(global $fuel (mut i32) (i32.const {FUEL}))",
            *(f"(global $g{i} (mut {t}) ({t}.const {i}))" for i, t in enumerate(TYPES)),
            *(
                f'(global ${letter}{i} (export "{letter}{i}") (mut i64) (i64.const 0))'
                for letter, n in (("r", len(results)), ("p", len(TYPES)))
                for i in range(n)
            ),
            f"(table {len(self.functions) + 1} funcref)",
            f"(elem (i32.const 0) {' '.join(f'$f{i}' for i in range(len(self.functions)))})",
        ]
        old, new = list(first), list(first)
        for number in range(len(self.functions)):
            self.number = number
            one, other = self._forms()
            old.append(one)
            new.append(other)
        keep = _keep("r", results)
        peek = " ".join(f"global.get $g{i}" for i in range(len(TYPES)))
        peek = f'(func (export "peek") {peek} {_keep("p", TYPES)}))'
        old.append('(func (export "run") try call $f0 ' + keep)
        old += ["catch $e1 global.set $g0 catch_all unreachable end)", peek]
        new.append('(func (export "run") block $h (result i32) block $a try_table (catch $e1 $h)')
        new += [f"(catch_all $a) call $f0 {keep} end return end unreachable end"]
        new += ["global.set $g0)", peek]
        return "\n".join(old), "\n".join(new)

    def _forms(self) -> tuple[str, str]:
        f = self.functions[self.number]
        f.locals = [*f.params, *TYPES, *self.some(4)]
        self.budget = 20 + self.choose(100)
        self.code, self.stack, self.exceptions = [], [], 0
        self.labels, self.results = [Label(f.results, 0, False, "$f")], [f.results]
        self.code.append(f"block $f{_types('result', f.results)}")
        self._body()
        self.code.append("end")
        local = _types("local", f.locals[len(f.params) :]) + " (local $p i32) (local $q i32)"
        old = f"(func $f{self.number}{f.signature()}{local}\n"
        kept = "".join(f" (local $x{i} exnref)" for i in range(self.exceptions))
        new = old[:-1] + kept + "\n"
        return old + "\n".join(self.code) + ")", new + "\n".join(map(in_new_form, self.code)) + ")"

    # -- bodies ------------------------------------------------------------------------------------

    def _body(self) -> None:
        """As there; a body to which something was delegated gets a block in the new form."""
        label, results = self.labels[-1], self.results[-1]
        params = self.stack[label.base :]
        start = len(self.code)
        self.code.append("nop")
        super()._body()
        if label.name not in self.delegated:
            return
        self.delegated.remove(label.name)
        to, out = f"$d{label.name[1:]}", f"$o{label.name[1:]}"
        given = _types("param", params)
        self.code[start] = Both(
            "nop",
            f"block {out}{given}{_types('result', results)}\nblock {to}{given} (result exnref)",
        )
        self.code.append(Both("nop", f"br {out}\nend\nthrow_ref\nend"))

    def _steps(self) -> list[Callable[[], None]]:
        return [*super()._steps(), *[self._try] * 4, *[self._throw_if] * 3]

    # -- exceptions --------------------------------------------------------------------------------

    def _try(self) -> None:
        if len(self.labels) > 5:
            return
        n = self.choose(min(3, len(self.own)) + 1)
        params, results = self.own[len(self.own) - n :], self.some(2)
        name, base = self._name(), len(self.stack) - n
        signature = _types("param", params) + _types("result", results)
        tags = [self.choose(len(self.tags)) for _ in range(self.choose(3))]
        catch_all = bool(self.choose(2))
        if self.choose(3) == 0:
            self._delegated(name, signature, base, results)
            return
        handlers: list[int | None] = [*tags, *[None] * catch_all]
        start = len(self.code)
        self.code.append("")
        self.labels.append(Label(results, base, False, name))
        self.results.append(results)
        self._body()
        blocks = [f"block {name}{signature}"]
        clauses: list[str] = []
        for k, tag in reversed(list(enumerate(handlers))):
            given = ["exnref"] if tag is None else [*self.tags[tag], "exnref"]
            blocks.append(f"block {name}_{k}{_types('param', params)}{_types('result', given)}")
            word = "catch_all_ref" if tag is None else f"catch_ref $e{tag}"
            clauses.insert(0, f"({word} {name}_{k})")
        blocks.append(f"try_table{signature} {' '.join(clauses)}")
        self.code[start] = Both(f"try {name}{signature}", "\n".join(blocks))
        close = f"end\nbr {name}"
        for tag in handlers:
            kept = f"$x{self.exceptions}"
            self.exceptions += 1
            word = "catch_all" if tag is None else f"catch $e{tag}"
            self.code.append(Both(word, f"{close}\nend\nlocal.set {kept}"))
            self.stack.extend([] if tag is None else self.tags[tag])
            self.caught[name] = kept
            self._body()
            del self.caught[name]
            close = f"br {name}"
        self.code.append(Both("end", f"{close}\nend"))
        self.labels.pop()
        self.results.pop()
        self.stack.extend(results)

    def _delegated(self, name: str, signature: str, base: int, results: list[str]) -> None:
        to = self.labels[-1 - self._branch()].name
        self.delegated.add(to)
        self.code.append(
            Both(
                f"try {name}{signature}",
                f"try_table {name}{signature} (catch_all_ref $d{to[1:]})",
            )
        )
        self.labels.append(Label(results, base, False, name))
        self.results.append(results)
        self._body()
        self.labels.pop()
        self.results.pop()
        self.code.append(Both(f"delegate {to}", "end"))
        self.stack.extend(results)

    def _throw_if(self) -> None:
        height = len(self.stack)
        self._push("i32")
        self.code.append("if")
        tag = self.choose(len(self.tags) + 1)
        if tag == len(self.tags) and self.caught:
            names = list(self.caught)
            name = names[self.choose(len(names))]
            self.code.append(Both(f"rethrow {name}", f"local.get {self.caught[name]} throw_ref"))
        else:
            tag %= len(self.tags)
            for t in self.tags[tag]:
                self._push(t)
            self.code.append(f"throw $e{tag}")
        self.code.append("end")
        del self.stack[height:]


def assemble(text: str) -> bytes | None:
    """The binary of a module in the old form; None where wabt is not installed.

    Raises:
        AssertionError: wabt refuses it.
    """
    program = shutil.which("wat2wasm")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "old.wat"), Path(folder, "old.wasm")
        source.write_text(text)
        options = ["--enable-exceptions", "--enable-tail-call"]
        done = subprocess.run(
            [program, *options, str(source), "-o", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return target.read_bytes()


def pair(choose: Choose) -> tuple[str, str]:
    """One program in both forms."""
    return Legacy(choose).pair()
