"""Random valid modules that throw: on top of `everything`, exceptions with fields of all types,
handlers at any label, references to exceptions and to functions of known types, wide arithmetic.

An exception that no function catches is caught by `run`, which leaves a number made of its tag and
fields; `peek` leaves such numbers of the exceptions in globals. Throws go through calls and tail
calls, by any way that a call can be made. A loop that catches spends fuel at its head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tests.fuzz.everything import ALL, VECTOR_NUMBERS, Everything
from tests.fuzz.generate import _NUMBERS, Choose
from tests.fuzz.leaves import (
    GLOBALS,
    LEAVES,
    NULLABLE,
    REFERENCES,
    TABLE,
    heap_type,
    is_reference,
)
from tests.fuzz.stacks import Label, _types

FEATURES = "+wide-arithmetic"


class Throwing(Everything):
    """One module after another from a source of choices."""

    types: Sequence[str] = (*ALL, *ALL, *REFERENCES)
    TO_BITS: Mapping[str, str] = {
        **Everything.TO_BITS,
        **dict.fromkeys(REFERENCES, "ref.is_null i64.extend_i32_u"),
        "exnref": "call $look",
        "(ref exn)": "call $look",
    }

    def __init__(self, choose: Choose) -> None:
        super().__init__(choose)
        self.tags: list[list[str]] = []
        self.guarded: set[str] = set()
        self.tries = 0

    # -- the module --------------------------------------------------------------------------------

    def _first(self) -> list[str]:
        self.tags = [[], ["i32"], self.some(3), ["exnref", "i64"], self.some(2)]
        lines = [
            f"(type ${k} (func{_types('param', params)}{_types('result', results)}))"
            for k, (params, results, _) in LEAVES.items()
        ]
        lines += [f"(tag $e{i}{_types('param', tag)})" for i, tag in enumerate(self.tags)]
        lines += [
            f"(global {name} (mut {t}) (ref.null {heap_type(t)}))" for t, name in GLOBALS.items()
        ]
        leaves = [f"${k}_{i}" for k in LEAVES for i in range(len(LEAVES[k][2]))]
        lines.append(f"(elem declare func {' '.join(leaves)})")
        for k, (_, _, bodies) in LEAVES.items():
            lines += [f"(func ${k}_{i} (type ${k}) {body})" for i, body in enumerate(bodies)]
        return lines

    def _last(self) -> list[str]:
        return [
            self._look(),
            f"(table $tx {TABLE} {TABLE + 2} exnref)",
            f"(table $tk {TABLE} {TABLE + 2} (ref null $k0))",
            f"(table $tn {TABLE} {TABLE} (ref $k0) (ref.func $k0_0))",
            "(elem (table $tk) (i32.const 0) (ref null $k0) (ref.func $k0_0) (ref.func $k0_1)",
            "  (ref.func $k0_3) (ref.null $k0))",
            "(elem $ek (ref null $k0) (ref.func $k0_3) (ref.null $k0) (ref.func $k0_4))",
            "(elem $ex exnref (ref.null exn) (ref.null exn))",
        ]

    def _kept(self) -> Sequence[str]:
        return (*ALL, *GLOBALS)

    def _global_of(self, t: str) -> str:
        return GLOBALS.get(t) or super()._global_of(t)

    def _locals(self) -> list[str]:
        more = [t for t in self.some(4) if t not in REFERENCES or t in NULLABLE]
        return [*ALL, *NULLABLE, *more]

    def _function(self) -> str:
        self.guarded, self.tries = set(), 0
        head, tail = super()._function().split("\n", 1)
        # Of what has no default value, one more local, which is set right before it is read.
        return f"{head} (local $nk0 (ref $k0)) (local $nk2 (ref $k2)) (local $nx (ref exn))\n{tail}"

    def _observer(self, name: str, letter: str, code: str, types: Sequence[str]) -> str:
        if name != "run":
            return super()._observer(name, letter, code, types)
        text = super()._observer("inner", letter, code, types).replace('(export "inner")', "$inner")
        return (
            text + f'\n(global ${letter}99 (export "{letter}99") (mut i64) (i64.const 0))'
            '\n(func (export "run") block $h (result exnref)'
            " try_table (catch_all_ref $h) call $inner end return end"
            f" call $look global.set ${letter}99)"
        )

    def _look(self) -> str:
        """A number made of an exception's tag and fields."""
        blocks, cases = [], []
        for i, tag in enumerate(self.tags):
            blocks.append(f"block $t{i}{_types('result', tag)}")
            case = "end"
            for t in reversed(tag):
                if t == "v128":
                    case += " local.tee $v i64x2.extract_lane 0 local.get $v i64x2.extract_lane 1"
                    case += " i64.const 7 i64.rotl i64.xor"
                else:
                    case += f" {self.TO_BITS[t]}"
                case += " local.get $h i64.const 31 i64.mul i64.add local.set $h"
            cases.append(f"{case} local.get $h i64.const {i + 1} i64.add return")
        catches = " ".join(f"(catch $e{i} $t{i})" for i in range(len(self.tags)))
        lines = [
            "(func $look (param $x exnref) (result i64) (local $h i64) (local $v v128)",
            "local.get $x ref.is_null if i64.const -1 return end",
            *blocks,
            f"try_table {catches} local.get $x throw_ref end unreachable",
            *reversed(cases),
        ]
        return "\n".join((*lines, "unreachable)"))

    def _body(self) -> None:
        if len(self.labels) == 1:  # a function's: or all references would be null for long
            f = self.functions[self.number]
            for i in range(len(f.params), len(f.locals)):
                t = f.locals[i]
                if t in NULLABLE and self.choose(5):
                    self._make(t)
                    self.emit(f"local.set {i}", 1)
        super()._body()

    # -- values ------------------------------------------------------------------------------------

    def _push(self, t: str) -> None:
        if not is_reference(t):
            super()._push(t)
            return
        kind, found, heap = self.choose(6), self._local(t), heap_type(t)
        if kind < 3 and found is not None:
            self.emit(f"local.get {found}", 0, [t])
        elif kind == 3 and t in GLOBALS:
            self.emit(f"global.get {GLOBALS[t]}", 0, [t])
        elif kind == 4 and t in ("exnref", "(ref null $k0)", "(ref $k0)"):
            table = {"exnref": "$tx", "(ref $k0)": "$tn"}.get(t, "$tk")
            self.emit(f"i32.const {self.choose(TABLE)} table.get {table}", 0, [t])
        elif t in NULLABLE and self.choose(4) == 0:
            self.emit(f"ref.null {heap}", 0, [t])
        else:
            self._make(t)

    def _make(self, t: str) -> None:
        """A reference that is not null."""
        heap = heap_type(t)
        if heap == "exn":
            self._fresh(t)
        elif heap == "func":
            self.emit(f"ref.func $f{self.choose(len(self.functions))}", 0, [t])
        else:
            self.emit(f"ref.func {heap}_{self.choose(len(LEAVES[heap[1:]][2]))}", 0, [t])

    def _constant(self, t: str) -> str:
        if t == "v128":
            return f"v128.const {self.pick(VECTOR_NUMBERS)}"
        if t == "(ref exn)":
            return (
                "block (result (ref exn)) try_table (catch_all_ref 0) throw $e0 end unreachable end"
            )
        if not is_reference(t):
            return f"{t}.const {self.pick(_NUMBERS[t])}"
        heap = heap_type(t)
        return f"ref.null {heap}" if t in NULLABLE else f"ref.func {heap}_0"

    def _fresh(self, t: str) -> None:
        """A reference to an exception that has just been thrown."""
        name, tag = self._name(), self.choose(len(self.tags))
        fields = []
        for field in self.tags[tag]:
            found = self._local(field)
            use = found is not None and self.choose(3)
            fields.append(f"local.get {found}" if use else self._constant(field))
        result = f"(result {t})"
        self.emit(
            f"block {name} {result} try_table (catch_all_ref {name}) {' '.join(fields)}"
            f" throw $e{tag} end unreachable end",
            0,
            [t],
        )

    # -- steps -------------------------------------------------------------------------------------

    def _steps(self) -> list[Callable[[], None]]:
        return [
            *super()._steps(),
            *[self._try] * 3,
            *[self._throw_if] * (2 if self.tries else 1),
            *[self._reference_operation] * 3,
            *[self._leaf] * 2,
            self._wide,
            self._reference_table,
        ]

    def _wide(self) -> None:
        if self.choose(2):
            self._need(["i64"] * 4)
            self.emit(f"i64.{self.pick(('add128', 'sub128'))}", 4, ["i64", "i64"])
        else:
            self._need(["i64"] * 2)
            self.emit(f"i64.mul_wide_{self.pick('su')}", 2, ["i64", "i64"])

    def _operate(self) -> None:
        if self.own and is_reference(self.own[-1]):
            self._reference_operation()
        else:
            super()._operate()

    def _select(self) -> None:
        if not self.own or not is_reference(self.own[-1]):
            super()._select()
            return
        t = self.own[-1]
        self._push(t)
        self._push("i32")
        self.emit(f"select (result {t})", 2)

    def _reference_operation(self) -> None:
        if not self.own or not is_reference(self.own[-1]):
            self._push(self.pick(REFERENCES))
        t = self.own[-1]
        heap, never_null = heap_type(t), t not in NULLABLE
        kind = self.choose(8)
        if kind == 0:
            self.emit("ref.is_null", 1, ["i32"])
        elif kind == 1 and (never_null or self.choose(4) == 0):
            self.emit("ref.as_non_null", 1, [f"(ref {heap})"])
        elif kind == 2:
            self._branch_on_null(heap)
        elif kind == 3:
            self._branch_on_non_null(heap)
        elif kind == 4:  # what is a subtype counts as its supertype
            wider = {"(ref exn)": "exnref", "(ref $k0)": "(ref null $k0)"}.get(t)
            if wider is None and heap != "exn":
                wider = "funcref"
            if wider:
                self.emit("nop", 1, [wider])
        elif kind == 5 and t in ("(ref $k0)", "(ref $k2)", "(ref exn)"):
            name = {"(ref exn)": "$nx"}.get(t, f"$n{heap[1:]}")
            self.code.append(f"local.set {name}")
            self.stack.pop()
            self.emit(f"local.get {name}", 0, [t])
        elif heap[1:] in LEAVES and f"(ref null {heap})" in NULLABLE:
            self._call_reference(heap)
        else:
            self.emit("drop", 1)

    def _call_reference(self, heap: str) -> None:
        """Call what is on top of the stack."""
        params, results, _ = LEAVES[heap[1:]]
        null = f"(ref null {heap})"
        if null not in NULLABLE:
            return
        found = self._local(null)
        self.emit(f"local.set {found}", 1)
        self._need(params)
        self.emit(f"local.get {found} call_ref {heap}", len(params), results)

    def _branch_on_null(self, heap: str) -> None:
        fit = [i for i, label in enumerate(reversed(self.labels)) if not label.loop]
        if not fit:
            return
        number = fit[self.choose(len(fit))]
        types = self.labels[-1 - number].types
        reference = self.stack.pop()
        null = reference in NULLABLE
        keep = self._local(reference) if null else None
        if keep is None:
            self.code.append("drop")
        else:
            self.code.append(f"local.set {keep}")
        self._need(types)
        if keep is None:
            self._push(reference)
        else:
            self.emit(f"local.get {keep}", 0, [reference])
        self.emit(f"br_on_null {self._to(number)}", 1, [f"(ref {heap})"])
        if f"(ref {heap})" not in REFERENCES:
            self.emit("drop", 1)

    def _branch_on_non_null(self, heap: str) -> None:
        """Out of a block that takes the reference, or, as here, what its fallthrough gives."""
        fit = [
            i
            for i, label in enumerate(reversed(self.labels))
            if not label.loop
            and label.types
            and is_reference(label.types[-1])
            and heap_type(label.types[-1]) == heap
        ]
        if fit and self.choose(2):
            number = fit[self.choose(len(fit))]
            types = self.labels[-1 - number].types
            self.emit("drop", 1)
            self._need(types[:-1])
            null = next(t for t in (*NULLABLE, "(ref null $k2)") if heap_type(t) == heap)
            if null not in NULLABLE:
                self.emit(f"ref.func {heap}_0", 0, [f"(ref {heap})"])
            else:
                self._push(null)
            self.emit(f"br_on_non_null {self._to(number)}", 1)
            return
        t, name = f"(ref {heap})", self._name()
        if t not in REFERENCES:
            self.emit("drop", 1)
            return
        reference = self.stack.pop()
        other = self._constant(t)
        self.code.append(
            f"block {name} (param {reference}) (result {t}) br_on_non_null {name} {other} end"
        )
        self.stack.append(t)

    def _leaf(self) -> None:
        """A call of one of the small functions, in one of the ways to call."""
        k = self.pick(list(LEAVES))
        params, results, bodies = LEAVES[k]
        self._need(params)
        kind, number = self.choose(4), self.choose(len(bodies))
        if kind == 0:
            call = f"ref.func ${k}_{number} call_ref ${k}"
        elif kind == 1 and k == "k0":
            table = self.pick(("$tk", "$tn"))
            call = f"i32.const {self.choose(TABLE)} call_indirect {table} (type $k0)"
        else:
            call = f"call ${k}_{number}"
        self.emit(call, len(params), results)

    def _reference_table(self) -> None:
        table, t = (("$tx", "exnref"), ("$tk", "(ref null $k0)"))[self.choose(2)]
        index = f"i32.const {self.choose(TABLE if self.choose(9) else 99)}"
        kind = self.choose(6)
        if kind == 0:
            self._push("i32")
            self.emit(f"i32.const 3 i32.and table.get {table}", 1, [t])
        elif kind == 1:
            self._push(t)
            self.emit(f"i32.const 1 table.grow {table}", 1, ["i32"])
        elif kind == 2:
            self.code.append(index)
            self._push(t)
            self.emit(f"i32.const {self.choose(3)} table.fill {table}", 1)
        elif kind == 3:
            segment = {"$tx": "$ex", "$tk": "$ek"}[table]
            self.code.append(f"{index} i32.const 0 i32.const {self.choose(3)}")
            self.code.append(f"table.init {table} {segment}")
        elif kind == 4:
            other = "$tn" if table == "$tk" and self.choose(2) else table
            self.code.append(f"{index} i32.const {self.choose(3)} i32.const {self.choose(3)}")
            self.code.append(f"table.copy {table} {other}")
        else:
            self.code.append(index)
            self._push(t)
            self.emit(f"table.set {table}", 1)

    # -- exceptions --------------------------------------------------------------------------------

    def _header(self, label: Label) -> None:
        if self.choose(2):
            return
        self.guarded.add(label.name)
        self.code.append("global.get $fuel i32.const 1 i32.sub global.set $fuel")
        self.code.append("global.get $fuel i32.const -50 i32.lt_s if unreachable end")

    def _clause(self) -> tuple[str, list[list[str]]]:
        """A catch without its label, and what labels it may give its values to."""
        kind, fields, tag = self.choose(4), [], ""
        if kind < 2:
            number = self.choose(len(self.tags))
            fields, tag = self.tags[number], f" $e{number}"
        name = ("catch", "catch_ref", "catch_all", "catch_all_ref")[kind]
        if kind % 2 == 0:
            return name + tag, [fields]
        return name + tag, [[*fields, "exnref"], [*fields, "(ref exn)"]]

    def _fits(self, given: list[list[str]]) -> list[int]:
        """Labels, counted outward, that take what a catch gives."""
        return [
            i
            for i, label in enumerate(reversed(self.labels))
            if label.types in given and (not label.loop or label.name in self.guarded)
        ]

    def _try(self) -> None:
        """A block that is a handler, in it a try_table, which may also catch to outer labels."""
        if len(self.labels) > 5:
            return
        clause, ways = self._clause()
        given = ways[self.choose(len(ways))]
        name, base = self._name(), len(self.stack)
        self.code.append(f"block {name}{_types('result', given)}")
        self.labels.append(Label(given, base, False, name))
        self.results.append(given)
        clauses = [f"({clause} {name})"]
        for _ in range(self.choose(4)):
            other, gives = self._clause()
            if fits := self._fits(gives):
                place = self.choose(len(clauses) + 1)
                clauses.insert(place, f"({other} {self._to(fits[self.choose(len(fits))])})")
        params, results = self.some(2), self.some(2)
        self._need(params)
        inner = self._name()
        self.code.append(
            f"try_table {inner}{_types('param', params)}{_types('result', results)} "
            + " ".join(clauses)
        )
        self.labels.append(Label(results, len(self.stack) - len(params), False, inner))
        self.results.append(results)
        self.tries += 1
        self._body()
        self.tries -= 1
        self.labels.pop()
        self.results.pop()
        self.emit("end", 0, results)
        self._settle(given)
        del self.stack[base:]
        self.labels.pop()
        self.results.pop()
        self.emit("end", 0, given)

    def _throw_if(self) -> None:
        self._push("i32")
        before = len(self.stack) - 1
        self.code.append("if")
        self.stack.pop()
        self.labels.append(Label([], len(self.stack), False, ""))
        if self.choose(4) == 0:
            self._push("exnref") if self.choose(3) == 0 else self._make("exnref")
            self.code.append("throw_ref")
        else:
            tag = self.choose(len(self.tags))
            for t in self.tags[tag]:
                self._push(t)
            self.code.append(f"throw $e{tag}")
        self.labels.pop()
        self.code.append("end")
        del self.stack[before:]

    def _leave(self) -> bool:
        kind = self.choose(6)
        if kind == 0:
            tag = self.choose(len(self.tags))
            self._need(self.tags[tag])
            self.code.append(f"throw $e{tag}")
            return True
        if kind == 1:
            if self.choose(2):
                self._need(["exnref"])
            else:
                self._make("exnref")
            self.code.append("throw_ref")
            return True
        if kind > 2:
            return super()._leave()
        wanted = self.functions[self.number].results
        fit = [
            i
            for i in range(self.number + 1, len(self.functions))
            if self.functions[i].results == wanted
        ]
        if fit:
            callee = fit[self.choose(len(fit))]
            self._need(self.functions[callee].params)
            self.code.append(f"ref.func $f{callee} return_call_ref $s{callee}")
            return True
        same = [k for k in LEAVES if LEAVES[k][1] == wanted]
        if not same:
            return False
        k = self.pick(same)
        self._need(LEAVES[k][0])
        self.code.append(f"return_call ${k}_{self.choose(len(LEAVES[k][2]))}")
        return True


def source(choose: Choose) -> str:
    """One module."""
    return Throwing(choose).module()
