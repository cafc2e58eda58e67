"""The trace: a line an instruction, with the state before it, and nothing else changed by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wasmsr.interp.instruction_set.instructions import disassemble
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.interp.outcomes import Finished, Outcome, Trapped
from wasmsr.interp.store.store import Store
from wasmsr.interp.tracer import Tracer

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

Path_ = Callable[[str], str]

TEXT = """(module
    (global $g (mut i32) (i32.const 40))
    (func $inner (param i32) (result f64)
      (global.set $g (i32.add (global.get $g) (local.get 0)))
      (f64.const 0.5))
    (func (export "outer") (result f64)
      (local $l i64)
      (local.set $l (i64.const -7))
      (if (result f64) (i32.const 1)
        (then (call $inner (i32.const 2)))
        (else (f64.const 1))))
    (func (export "trap") (drop (ref.null func)) unreachable))"""

STATES = """\
outer i64.const -7 | locals l=i64:dead
outer local.set 0 | locals l=i64:dead  operands i64:-7
outer i32.const 1 | locals l=i64:dead
outer if f64 | locals l=i64:dead  operands i32:1
outer i32.const 2 | locals l=i64:dead
outer call 0 | locals l=i64:dead  operands i32:2
  inner global.get 0 | locals i32:2
  inner local.get 0 | locals i32:2  operands i32:40
  inner i32.add | locals i32:dead  operands i32:40 i32:2
  inner global.set 0 | locals i32:dead  operands i32:42  global g: i32:40 -> i32:42
  inner f64.const 0.5 | locals i32:dead"""


def traced(export: str, *, state: bool) -> tuple[list[str], Outcome, Module]:
    """The lines of a call, its outcome, the module."""
    module = Module(assemble(TEXT.encode()))
    store = Store()
    instance = store.instantiate(module)
    store.enqueue(instance.function(export))
    lines: list[str] = []
    tracer = Tracer(lines.append, state=state)
    outcome = tracer.step(store)
    while not isinstance(outcome, (Finished, Trapped)):
        outcome = tracer.step(store)
    assert all(line.endswith("\n") for line in lines)
    assert store.executed == len(lines)
    return [line.rstrip("\n") for line in lines], outcome, module


def test_every_instruction_once() -> None:
    lines, outcome, module = traced("outer", state=False)
    assert outcome == Finished((0.5,), (0x3FE0000000000000,))
    expected = [line.partition(" | ")[0] for line in STATES.splitlines()]
    assert len(lines) == len(expected)
    for line, wanted in zip(lines, expected, strict=True):
        indent = len(line) - len(line.lstrip())
        name, offset, *instruction = line.split()
        assert " " * indent + " ".join([name, *instruction]) == wanted
        # The offset is where that instruction stands in the binary.
        mnemonic, immediates, _ = disassemble(module.binary, int(offset, 16))
        assert " ".join([mnemonic, immediates]).split() == instruction


def test_state_before_each() -> None:
    lines, _, _ = traced("outer", state=True)
    for line, wanted in zip(lines, STATES.splitlines(), strict=True):
        assert line.partition("locals")[2] == wanted.partition("locals")[2]


def test_names_cannot_write_to_the_terminal() -> None:
    source = '(module (func $ABCD (export "f") (local $EFGH i32) unreachable))'
    binary = assemble(source.encode()).replace(b"ABCD", b"\x1b[2J").replace(b"EFGH", b"\x1b[1m")
    store = Store()
    store.enqueue(store.instantiate(Module(binary)).function("f"))
    lines: list[str] = []
    outcome = Tracer(lines.append, state=True).step(store)
    assert isinstance(outcome, Trapped)
    (shown,) = lines
    assert shown.startswith("\\x1b[2J 0x") and shown.endswith("locals \\x1b[1m=i32:dead\n")
    assert outcome.trap.backtrace[0].function == "\x1b[2J"
    assert str(outcome.trap.backtrace[0]).startswith("\\x1b[2J (function 0")


def test_trap_is_shown() -> None:
    lines, outcome, _ = traced("trap", state=True)
    assert isinstance(outcome, Trapped)
    assert lines[-1].split()[2] == "unreachable"
    assert lines[-2].split()[-2:] == ["operands", "funcref:null"]


def test_on_the_command_line(cli: Cli) -> None:
    outcome = cli("run", "--trace", "fib", "3")
    assert outcome.stdout == "2\n"
    lines = outcome.stderr.splitlines()
    assert len(lines) == cli.json("--fuel", "1G", "fib", "3")["executed"]
    assert lines[0].startswith("fib 0x")
    # Beneath the first call there are two more.
    assert max(len(line) - len(line.lstrip()) for line in lines) == 4
    again = cli("run", "--trace-state", "--trace-file", "trace.txt", "fib", "3")
    assert (again.stdout, again.stderr) == ("2\n", "")
    written = (cli.folder / "trace.txt").read_text().splitlines()
    assert len(written) == len(lines)
    for short, long in zip(lines, written, strict=True):
        assert long.startswith(short)
        assert "locals i32:" in long


def test_with_the_other_options(cli: Cli) -> None:
    outcome = cli("run", "--trace", "--snapshot-at", "5", "fib")
    assert outcome.returncode == 120
    assert len(outcome.stderr.splitlines()) == 5 + 2
    outcome = cli("run", "--trace", "fib", "--from-snapshot", "snapshot.bin", "--fuel", "3")
    assert outcome.returncode == 121
    assert len(outcome.stderr.splitlines()) == 3 + 1
    hopped = cli("run", "--trace", "--hop", "4", "fib", "5")
    assert hopped.stderr == cli("run", "--trace", "fib", "5").stderr


def test_host_calls_are_in_order(cli: Cli) -> None:
    outcome = cli("run", "--trace", "cat", "--fuel", "1200")
    assert outcome.returncode == 121
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1200 + 1
    assert sum(line.split()[2:3] == ["call"] for line in lines) > 5
