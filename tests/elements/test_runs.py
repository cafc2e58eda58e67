"""Runs of graphs on this machine: results, failures, retries, ends and resumes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml", reason="needs pyyaml")

from tests.elements.folders import as_recorded, steps, written
from tests.elements.test_folders import recorded_graphs
from tests.mem.test_memory_wire import recorded
from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.engine.scheduling import ElementRun
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.reading import read_folder
from wasmsr.interp.modules.module import assemble

PATIENCE = 60.0

MAIN = "\n---\ndef main(params, action):\n"


class Runs:
    """The commands, with a folder of their own for the state of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "wasmsr", "dag", *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words(*words), cwd=self.folder, env=self.variables,
                              capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip

    def begin(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.words(*words), cwd=self.folder, env=self.variables, stdout=pipe, stderr=pipe,
            text=True,
        )  # fmt: skip

    def result(self, *words: str) -> Any:
        done = self(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def last(self) -> Path:
        (found,) = (self.folder / "state" / "wasmsr" / "runs").glob("r-*")
        return found

    def wrote(self, copy: str, words: str) -> bool:
        """Whether a copy of the run has written something."""
        files = (self.folder / "state").glob(f"wasmsr/runs/r-*/logs/{copy}.log")
        return any(words in file.read_text() for file in files)

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.last / "journal.jsonl").read_text().splitlines()]

    def ended(self) -> list[str]:
        """The elements of copies that have ended, as the journal has them."""
        return [one["element"] for entry in self.journal() for one in entry.get("ended", ())]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def until(condition) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_two_steps_and_a_memory(runs: Runs) -> None:
    steps(runs.folder / "steps")
    assert runs.result("run", "steps") == {"sum": 2997}
    shown = runs("show", runs.last.name).stdout.splitlines()
    assert shown == ["✓ first = numbers", "✓   second <- first = numbers"]
    row = json.loads(runs("runs", "--json").stdout)
    assert (row["ended"], row["elements"], row["running"]) == (2, 2, False)
    assert runs.result("resume", "r-") == {"sum": 2997}
    assert runs.ended() == ["first", "second"]


def test_a_graph_as_json_runs_too(runs: Runs) -> None:
    steps(runs.folder / "steps")
    runs("gen", "-o", "graph.json", "steps")
    assert runs.result("run", "graph.json") == {"sum": 2997}


@recorded
@pytest.mark.parametrize(
    "name", ["dependent-2-node", pytest.param("simple_dependent", marks=pytest.mark.full)]
)
def test_recorded_graphs_run(runs: Runs, name: str) -> None:
    (dag,) = [one for one in recorded_graphs() if one["functions"][0]["name"] == name]
    as_recorded(runs.folder, dag)
    assert runs.result("run", name) == {}


def test_copies_have_indexes_and_results_their_order(runs: Runs) -> None:
    written(
        runs.folder / "g",
        a="type: compute\nparallelism: 12\ndependents: [b]\ncorunning: [m]" + MAIN
        + "    import os\n"
        "    m = action.get_transport('m', 'rdma')\n"
        "    m.reg(1)\n"
        "    m.buf[0] = action.index + 1\n"
        "    m.write(1, addr=action.index)\n"
        "    return [action.index, int(os.environ['__OW_PAR'])]\n",
        b="type: compute\nparents: [a]\ncorunning: [m]" + MAIN
        + "    m = action.get_transport('m', 'rdma')\n"
        "    m.reg(12)\n"
        "    m.read(12, addr=0)\n"
        "    return {'of a': params['a'], 'memory': list(m.buf)}\n",
        m="type: memory\ncorunning: [a, b]\nlimits: {mem: 64 KB}",
    )  # fmt: skip
    found = runs.result("run", "g")
    assert found == {"of a": [[at, at] for at in range(12)], "memory": list(range(1, 13))}


def test_copies_of_a_memory(runs: Runs) -> None:
    written(
        runs.folder / "g",
        a="type: compute\nparallelism: 4\ncorunning: {m: {trans: mine, type: rdma}}" + MAIN
        + "    own = action.get_transport('mine', 'rdma')\n"
        "    own.reg(1)\n"
        "    own.buf[0] = 7 + action.index\n"
        "    own.write(1, addr=0)\n"
        "    same = action.get_transport(f'mine@{action.index % 2}', 'rdma')\n"
        "    same.reg(1)\n"
        "    same.read(1, addr=0)\n"
        "    return same.buf[0] in (7 + action.index, 7 + (action.index + 2) % 4)\n",
        m="type: memory\nparallelism: 2\ncorunning: [a]\nlimits: {mem: 4096}",
    )  # fmt: skip
    assert runs.result("run", "g") == [True] * 4


def test_roots_get_the_input_and_many_leaves_a_map(runs: Runs) -> None:
    written(
        runs.folder / "g",
        a="type: compute" + MAIN + "    return params['rows']\n",
        b="type: compute" + MAIN + "    return 2\n",
    )
    assert runs.result("run", "--input", '{"rows": 5}', "g") == {"a": 5, "b": 2}
    assert "it is no JSON" in runs("run", "--input", "{", "g").stderr


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("    print('almost')\n    raise ValueError('no rows')\n", "ValueError: no rows"),
        pytest.param("    import sys; sys.exit(3)\n", "ended by exit(3)", marks=pytest.mark.full),
        pytest.param("    import os; os._exit(4)\n", "exit code 4", marks=pytest.mark.full),
        ("    import os; os.kill(os.getpid(), 11)\n", "signal 11"),
        pytest.param("    return {1}\n", "no JSON", marks=pytest.mark.full),
        pytest.param(
            "    action.get_transport('m', 'rdma')\n", "no memory m", marks=pytest.mark.full
        ),
    ],
)
def test_a_failure_says_which_element_and_its_last_lines(
    runs: Runs, source: str, sentence: str
) -> None:
    written(runs.folder / "g", first="type: compute" + MAIN + source)
    done = runs("run", "g")
    assert done.returncode != 0 and not done.stdout
    assert "element first@0" in done.stderr and sentence in done.stderr, done.stderr
    assert "Traceback (most recent call last):\n  File" not in done.stderr.replace("\n  ", "\n", 1)
    assert "dag logs" in done.stderr


def test_siblings_are_stopped_and_said(runs: Runs) -> None:
    written(
        runs.folder / "g",
        a="type: compute" + MAIN
        + f"    import os, time\n    while not os.path.exists({str(runs.folder / 'b')!r}):"
        "\n        time.sleep(0.01)\n    raise KeyError('a')\n",
        b="type: compute" + MAIN
        + f"    import time\n    open({str(runs.folder / 'b')!r}, 'w')\n    time.sleep(600)\n",
    )  # fmt: skip
    done = runs("run", "--cpus", "2", "g")
    assert "element a@0" in done.stderr and "stopped with it: b@0" in done.stderr


def test_retries(runs: Runs) -> None:
    tries = runs.folder / "tries"
    written(
        runs.folder / "g",
        a="type: compute\nretries: 2" + MAIN
        + f"    open({str(tries)!r}, 'a').write('x')\n"
        "    if action.runtime.attempt < 3:\n"
        "        raise RuntimeError\n"
        "    return action.runtime.attempt\n",
    )  # fmt: skip
    assert runs.result("run", "g") == 3
    assert tries.read_text() == "xxx"


def test_a_gang_starts_together(runs: Runs) -> None:
    """Each waits for the other: in turns they would wait for ever."""
    talk = (
        "    import time\n"
        "    m = action.get_transport('m', 'rdma')\n"
        "    m.reg(2)\n"
        "    m.buf[0] = 1\n"
        "    m.write(1, addr=ME)\n"
        "    while True:\n"
        "        m.read(1, addr=1 - ME, offset=1)\n"
        "        if m.buf[1]:\n"
        "            return True\n"
        "        time.sleep(0.001)\n"
    )
    written(
        runs.folder / "g",
        a="type: compute\ncorunning: [b, m]" + MAIN + talk.replace("ME", "0"),
        b="type: compute\ncorunning: [a, m]" + MAIN + talk.replace("ME", "1"),
        m="type: memory\ncorunning: [a, b]\nlimits: {mem: 4096}",
    )
    assert runs.result("run", "--cpus", "2", "g") == {"a": True, "b": True}
    done = runs("run", "--cpus", "1", "g")
    assert done.returncode == 2
    assert "a, b, m must be together" in done.stderr and "need 2 CPUs" in done.stderr


def test_a_gang_fails_and_starts_again_as_one(runs: Runs) -> None:
    """What its copies wrote before is gone, or the number would be twice too large."""
    add = (
        "    import time\n"
        "    m = action.get_transport('m', 'rdma')\n"
        "    m.reg(3)\n"
        "    m.read(3, addr=0)\n"
        "    m.buf[0] += 1\n"
        "    m.write(1, addr=0)\n"
    )
    wait = "    while not m.buf[AT]:\n        time.sleep(0.001)\n        m.read(3, addr=0)\n"
    written(
        runs.folder / "g",
        first="type: compute\ndependents: [a, b]\ncorunning: [m]" + MAIN + add + "    return 0\n",
        a="type: compute\nparents: [first]\ncorunning: [b, m]" + MAIN + add
        + "    m.buf[1] = 1\n    m.write(1, addr=1, offset=1)\n" + wait.replace("AT", "2")
        + "    return [m.buf[0], action.runtime.attempt]\n",
        b="type: compute\nparents: [first]\ncorunning: [a, m]\nretries: 1" + MAIN
        + "    import time\n    m = action.get_transport('m', 'rdma')\n"
        "    m.reg(3)\n    m.read(3, addr=0)\n"
        + wait.replace("AT", "1")
        + "    if action.runtime.attempt == 1:\n        raise RuntimeError('once')\n"
        "    m.buf[2] = 1\n    m.write(1, addr=2, offset=2)\n    return action.runtime.attempt\n",
        m="type: memory\ncorunning: [first, a, b]\nlimits: {mem: 4096}",
    )  # fmt: skip
    assert runs.result("run", "--cpus", "2", "g") == {"a": [2, 2], "b": 2}
    assert sorted(runs.ended()) == ["a", "b", "first"]
    assert len([entry for entry in runs.journal() if "ended" in entry]) == 2  # a gang is one line


def test_more_memory_than_the_machine_has(runs: Runs) -> None:
    written(runs.folder / "g", a="type: compute\nlimits: {mem: 60T}" + MAIN + "    return 1\n")
    done = runs("run", "g")
    assert done.returncode == 2 and "do not fit on this machine" in done.stderr


WAITS = (
    "type: compute\ndependents: [b]\ncorunning: [m]" + MAIN
    + "    m = action.get_transport('m', 'rdma')\n    m.reg(4)\n    m.buf[:] = b'kept'\n"
    "    m.write(4, addr=60000)\n    print('first', flush=True)\n    return 1\n"
)  # fmt: skip


def waiting(runs: Runs) -> Path:
    """A graph whose second step waits for a file."""
    file = runs.folder / "go"
    written(
        runs.folder / "g",
        a=WAITS,
        b="type: compute\nparents: [a]\ncorunning: [m]" + MAIN
        + f"    import os, time\n    print('second', flush=True)\n"
        f"    while not os.path.exists({str(file)!r}):\n        time.sleep(0.01)\n"
        "    m = action.get_transport('m', 'rdma')\n    m.reg(4)\n    m.read(4, addr=60000)\n"
        "    return bytes(m.buf).decode()\n",
        m="type: memory\ncorunning: [a, b]\nlimits: {mem: 1 MB}",
    )  # fmt: skip
    return file


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.full),
        pytest.param(signal.SIGINT, marks=pytest.mark.full),
        signal.SIGKILL,
    ],
)
def test_a_run_goes_on_after_its_end(runs: Runs, number: signal.Signals) -> None:
    file = waiting(runs)
    with runs.begin("run", "g") as process:
        until(lambda: runs.wrote("b@0", "second"))
        (pid,) = [int(one) for one in processes(runs.last.name)]
        process.send_signal(number)
        code = process.wait(PATIENCE)
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    until(lambda: not alive(pid))
    assert runs.ended() == ["a"]
    with (runs.last / "journal.jsonl").open("a") as journal:
        journal.write('{"element": "b", "ind')  # a line that the machine did not write whole
    file.touch()
    assert runs.result("resume", runs.last.name) == "kept"
    assert runs("logs", "r-", "a").stdout == "first\n"  # it did not run again
    assert [entry.get("begun") for entry in runs.journal() if "begun" in entry] == [1, 2]


def processes(run: str) -> list[str]:
    """The processes that fork elements of a run."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue
        children = [b"forker" in words, run.encode() in words]
        if all(children) and Path("/proc", pid, "stat").read_text().split()[3] != "1":
            found.append(pid)
    parents = {pid: Path("/proc", pid, "stat").read_text().split()[3] for pid in found}
    return [pid for pid in found if parents[pid] not in found]


def alive(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_stop_and_a_second_runner(runs: Runs) -> None:
    file = waiting(runs)
    with runs.begin("run", "g") as process:
        until(lambda: runs.wrote("b@0", "second"))
        refused = runs("resume", "r-")
        assert refused.returncode == 2 and "running in another process" in refused.stderr
        assert "▶   b <- a = m" in runs("show", "r-").stdout
        assert runs("stop", "r-").returncode == 0
        assert process.wait(PATIENCE) == 143
    assert "does not run" in runs("stop", "r-").stderr
    file.touch()
    assert runs.result("resume", "r-") == "kept"


def test_a_damaged_journal(runs: Runs) -> None:
    steps(runs.folder / "steps")
    runs.result("run", "steps")
    path = runs.last / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"result"', b'"resu}t', 1))
    done = runs("resume", "r-")
    assert done.returncode == 2 and "line 2 of its journal is damaged" in done.stderr


def test_a_damaged_run_hides_no_others(runs: Runs) -> None:
    steps(runs.folder / "steps")
    runs.result("run", "steps")
    (runs.last.parent / "r-00000000").mkdir()
    done = runs("runs")
    assert done.returncode == 0 and "ended" in done.stdout
    assert "r-00000000" in done.stderr and "graph.json" in done.stderr


def test_a_run_is_there_when_it_is_whole(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph, _ = read_folder(steps(runs.folder / "steps"))

    def fails(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("wasmsr.small_files.create", fails)
        with pytest.raises(ElementError, match="No space left"):
            RunFolder.create(tmp_path / "runs", graph, {})
    assert not list((tmp_path / "runs").glob("r-*"))
    made = RunFolder.create(tmp_path / "runs", graph, {})
    assert made.graph().elements.keys() == graph.elements.keys()
    made.give_back()


def test_who_asks_for_the_runner_does_not_hold_the_run(runs: Runs, tmp_path: Path) -> None:
    graph, _ = read_folder(steps(runs.folder / "steps"))
    made = RunFolder.create(tmp_path / "runs", graph, {})
    made.give_back()
    asking = os.open(made.path / "taken", os.O_RDWR)
    fcntl.flock(asking, fcntl.LOCK_EX)
    threading.Timer(0.05, os.close, [asking]).start()  # as `runner` does, but slower
    made.take()
    with pytest.raises(ElementError, match="running in another process"):
        RunFolder(made.path).take()
    made.give_back()


def test_a_forker_that_does_not_start_is_said(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, _ = read_folder(steps(runs.folder / "steps"))
    begin = subprocess.Popen
    for words, seconds in ((["/bin/false"], 60.0), (["/bin/sleep", "60"], 0.1)):
        begun = list[Any]()

        def other(_: Any, words: list[str] = words, begun: list[Any] = begun, **more: Any) -> Any:
            begun.append(begin(words, **more))
            return begun[0]

        monkeypatch.setattr("wasmsr.elements.engine.forker_link.START_SECONDS", seconds)
        going = ElementRun(RunFolder.create(tmp_path / "runs", graph, {}))
        with monkeypatch.context() as patch:
            patch.setattr("wasmsr.elements.engine.forker_link.subprocess.Popen", other)
            with pytest.raises(ElementError, match="did not start"):
                going.go()
        assert begun[0].returncode is not None  # nothing is left of it


def test_a_run_waits_for_copies_of_a_scheduler_that_was_killed(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may still write to its files."""
    graph, _ = read_folder(steps(runs.folder / "steps"))
    made = RunFolder.create(tmp_path / "runs", graph, {})
    held = made.lock_copies(0)  # as a copy has it
    with monkeypatch.context() as patch:
        patch.setattr("wasmsr.elements.engine.forker_link.END_SECONDS", 0.0)
        with pytest.raises(ElementError, match="still run"):
            ElementRun(made).go()
    again = RunFolder(made.path)
    made.give_back()
    again.take()
    threading.Timer(0.05, os.close, [held]).start()
    assert ElementRun(again).go() == {"sum": 2997}


def test_unknown_runs(runs: Runs) -> None:
    for words in (["resume", "r-1"], ["logs", "r-1"], ["stop", "r-1"], ["show", "r-1"]):
        done = runs(*words)
        assert done.returncode == 2 and "no run begins with r-1" in done.stderr
    steps(runs.folder / "steps")
    runs.result("run", "steps")
    assert "has no element third" in runs("logs", "r-", "third").stderr


ECHO = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
"""A step whose result is its parameters."""


def test_a_step_in_webassembly(runs: Runs) -> None:
    folder = written(
        runs.folder / "g",
        a="type: compute\ndependents: [b]" + MAIN + "    return {'x': 1}\n",
        b="type: compute\nparents: [a]",
    )
    (folder / "b.o.wasm").write_bytes(assemble(ECHO.encode()))
    assert runs.result("run", "g") == {"a": [{"x": 1}]}
    runs("gen", "g")
    (folder / "b.o.yaml").unlink()
    assert "nothing says what it is" in runs("check", "g").stdout


@pytest.mark.parametrize("who", ["scheduler", "forker", "copy"])
def test_a_step_in_webassembly_does_not_outlive_its_run(runs: Runs, who: str) -> None:
    folder = written(runs.folder / "g", a="type: compute")
    (folder / "a.o.wasm").write_bytes(
        assemble(b'(module (func (export "_start") (loop $again (br $again))))')
    )
    with runs.begin("run", "g") as process:
        until(lambda: bool(list((runs.folder / "state").glob("wasmsr/runs/r-*/logs/a@0.log"))))
        until(lambda: bool(processes(runs.last.name)))
        (forker,) = [int(one) for one in processes(runs.last.name)]
        until(lambda: bool(children(forker)))
        (copy,) = children(forker)
        until(lambda: bool(list(runs.last.glob("results/a@0.out"))))  # its program begins
        os.kill({"scheduler": process.pid, "forker": forker, "copy": copy}[who], signal.SIGKILL)
        process.wait(PATIENCE)
    for pid in (forker, copy):
        until(lambda pid=pid: not alive(pid))


def children(parent: int) -> list[int]:
    """The processes that a process has made, and that live."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            state, by = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[:2]
            if int(by) == parent and state != "Z":
                found.append(int(pid))
    return found


def test_a_step_in_webassembly_reads_what_another_has_written(runs: Runs) -> None:
    from tests.mem.test_guest_memory import counter

    file = written(
        runs.folder / "g",
        a="type: compute\ndependents: [b]\ncorunning: [m]",
        b="type: compute\nparents: [a]\ncorunning: [m]" + MAIN
        + "    m = action.get_transport('m', 'rdma')\n    m.reg(4)\n    m.read(4, addr=8)\n"
        "    return int.from_bytes(m.buf, 'little')\n",
        m="type: memory\ncorunning: [a, b]\nlimits: {mem: 4096}",
    )  # fmt: skip
    (file / "a.o.yaml").write_text(
        "type: compute\ndependents: [b]\ncorunning: {m: {trans: numbers, type: rdma}}"
    )
    (file / "a.o.wasm").write_bytes(assemble(counter(20).encode()))
    assert runs.result("run", "g") == 20
