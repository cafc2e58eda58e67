"""Which locals are live: the core's data flow against a search of all paths, done in Python.

A local is live where some path from there reads it before it writes it. The functions are random
and structured; the search walks their instructions one by one, with no sets and no fixed point.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from tests.interp.machines import hop, text
from wasmsr import Paused, Store
from wasmsr.interp.instruction_set.instructions import disassemble

LOCALS = 4


@dataclass
class Node:
    """An instruction: its text, the local that it reads or writes, and where it may go."""

    text: str
    reads: int | None = None
    writes: int | None = None
    goes: list[int] = field(default_factory=list)


class Function:
    """A random function as text and as a graph whose nodes are its instructions in order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nodes: list[Node] = []
        self.lines: list[str] = []
        self.targets: list[int | list[tuple[int, int]]] = []
        """Labels, innermost last: a loop's node, or the branches that wait for a block's end."""
        self.ends: list[int] = []
        self._block(0)
        for at, node in enumerate(self.nodes):
            node.goes = [g for g in node.goes if g < len(self.nodes)]
            assert at not in node.goes or node.text.startswith("br")

    def _emit(self, line: str, **of: int) -> int:
        self.nodes.append(Node(line, of.get("reads"), of.get("writes"), [len(self.nodes) + 1]))
        self.lines.append(line)
        return len(self.nodes) - 1

    def _block(self, depth: int) -> None:
        for _ in range(self.random.randint(1, 4)):
            self._statement(depth)

    def _get(self) -> None:
        number = self.random.randrange(LOCALS)
        self._emit(f"local.get {number}", reads=number)

    def _statement(self, depth: int) -> None:
        kind = self.random.randrange(9 if depth < 3 else 4)
        number = self.random.randrange(LOCALS)
        if kind == 0:
            self._emit("i32.const 7")
            self._emit(f"local.set {number}", writes=number)
        elif kind == 1:
            self._get()
            self._emit("drop")
        elif kind == 2:
            self._get()
            self._emit(f"local.tee {number}", writes=number)
            self._emit("drop")
        elif kind == 3:
            if self.targets:
                self._get()
                self._branch("br_if")
        elif kind in (4, 5):
            self._emit("block")
            self._nest([], depth)
        elif kind == 6:
            at = self._emit("loop")
            self._nest(at, depth)
        elif kind == 7:
            self._if(depth)
        else:
            self._emit("block")
            self.targets.append([])
            self._block(depth + 1)
            self._get()
            self._table()
            self._end()

    def _nest(self, target: int | list[tuple[int, int]], depth: int) -> None:
        self.targets.append(target)
        self._block(depth + 1)
        self._end()

    def _end(self) -> None:
        self.lines.append("end")
        target = self.targets.pop()
        if isinstance(target, list):
            for node, edge in target:
                self.nodes[node].goes[edge] = len(self.nodes)

    def _branch(self, name: str) -> None:
        label = self.random.randrange(len(self.targets))
        at = self._emit(f"{name} {label}")
        self._edge(at, label)

    def _edge(self, at: int, label: int) -> None:
        target = self.targets[-1 - label]
        if isinstance(target, list):
            self.nodes[at].goes.append(-1)
            target.append((at, len(self.nodes[at].goes) - 1))
        else:
            self.nodes[at].goes.append(target)

    def _table(self) -> None:
        labels = [self.random.randrange(len(self.targets)) for _ in range(3)]
        at = self._emit("br_table " + " ".join(map(str, labels)))
        self.nodes[at].goes = []
        for label in labels:
            self._edge(at, label)

    def _if(self, depth: int) -> None:
        self._get()
        at = self._emit("if")
        waiting: list[tuple[int, int]] = []
        self.targets.append(waiting)
        self._block(depth + 1)
        if self.random.random() < 0.5:
            # What falls out of the first branch goes over the other to the end.
            self.lines.append("else")
            begin = len(self.nodes)
            self.nodes[at].goes.append(begin)
            falling = [i for i in range(at + 1, begin) if begin in self.nodes[i].goes]
            self._block(depth + 1)
            for node in falling:
                goes = self.nodes[node].goes
                for edge, to in enumerate(goes):
                    if to == begin:
                        goes[edge] = -1
                        waiting.append((node, edge))
        else:
            self.nodes[at].goes.append(-1)
            waiting.append((at, 1))
        self._end()

    def live(self, at: int, number: int) -> bool:
        """Whether some path from before node `at` reads the local before it writes it."""
        seen: set[int] = set()
        waiting = [at]
        while waiting:
            here = waiting.pop()
            if here in seen or here >= len(self.nodes):
                continue
            seen.add(here)
            node = self.nodes[here]
            if node.reads == number:
                return True
            if node.writes != number:
                waiting += node.goes
        return False

    def source(self) -> str:
        params = " ".join(["i32"] * LOCALS)
        body = "\n".join(self.lines)
        return f'(module (func (export "f") (param {params})\n{body}\n))'


def offsets(binary: bytes, begin: int, end: int) -> list[int]:
    """Where the counted instructions of a body stand, in order; it has no locals of its own."""
    found, at = [], begin + 1
    while at < end:
        name, _, length = disassemble(binary, at)
        if name not in ("end", "else"):
            found.append(at)
        at += length
    return found


@pytest.mark.parametrize("seed", range(60))
def test_live_locals(seed: int) -> None:
    function = Function(seed)
    module = text(function.source())
    where = offsets(module.binary, *module.body_range(0))
    assert len(where) == len(function.nodes)
    number_of = {offset: number for number, offset in enumerate(where)}
    draw = random.Random(seed)
    visited: set[int] = set()
    for _ in range(6):
        store = Store()
        arguments = [draw.choice((0, 1, 2, 5)) or draw.randrange(1, 100) for _ in range(LOCALS)]
        store.enqueue(store.instantiate(module).function("f"), *arguments)
        for step in range(60):
            if not isinstance(store.run(fuel=min(step, 1)), Paused):
                break
            shown = store.frame(-1, dead_locals=False)
            real = store.frame(-1)
            at = number_of[shown.offset]
            live = bytes(function.live(at, number) for number in range(LOCALS))
            assert shown.live == real.live == live
            assert module.live_locals(real.index, real.offset, waiting=False) == live
            visited.add(at)
            for number in range(LOCALS):
                if function.live(at, number):
                    assert shown.locals[number] == real.locals[number], (at, number)
                else:
                    assert shown.locals[number] == 0, (at, number)
            store = hop(store)
    assert visited or not function.nodes


def test_a_waiting_frame_stands_behind_its_call() -> None:
    """What only the call's arguments needed is dead while the call is made."""
    module = text("""(module
      (func $g (param i32) (result i32) nop nop local.get 0)
      (func (export "f") (param i32 i32) (result i32)
        (i32.add (call $g (local.get 0)) (local.get 1))))""")
    store = Store()
    store.enqueue(store.instantiate(module).function("f"), 11, 22)
    store.run(fuel=3)
    outer, inner = store.frames(dead_locals=False)
    assert (outer.locals, inner.locals) == ((0, 22), (11,))
    assert store.frames()[0].locals == (11, 22)
    assert [one.shown for one in store.frames()] == [(None, 22), (11,)]
    assert module.live_locals(1, outer.offset, waiting=True) == b"\0\1"
    for function, offset, waiting in ((1, outer.offset + 1, True), (0, 0, False), (9, 5, False)):
        assert module.live_locals(function, offset, waiting=waiting) is None
    assert hop(store).run() == store.run()
