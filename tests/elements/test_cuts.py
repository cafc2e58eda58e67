"""Gangs that are saved while they run, and go on from there: together, or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="needs pyyaml")

from tests.elements.folders import written
from tests.elements.gangs import SECONDS, Going, gang, journal, right
from tests.elements.test_runs import MAIN, children
from wasmsr.elements.engine.cutting import GangCut
from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.engine.units import UnitCut
from wasmsr.elements.failures import ElementError, ElementFailed
from wasmsr.elements.folder.reading import read_folder
from wasmsr.errors import SnapshotError
from wasmsr.executor.saving import read_checkpoint
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.mem.guest_memory import MemoryGrant
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.run_spec import RunSpec


def test_a_gang_is_saved_while_it_runs(tmp_path: Path) -> None:
    """Cuts change nothing of the result, and each has both copies and the memory."""
    going = Going.begin(gang(tmp_path / "g"))
    going.until(lambda: len(going.cuts()) >= 3)
    for entry in going.cuts():
        (cut,) = entry["cuts"]
        assert [one[:2] for one in cut["saved"]] == [["a", 0], ["b", 0]]
        assert set(entry["images"]) == {"m@0"}
    going.open_gate()
    right(going.end())
    assert going.logs() == ["begun\n"] * 2 and not going.warnings
    assert not list((going.run.path / "saved").iterdir())  # nobody needs them any more


def test_a_gang_goes_on_from_its_last_cut_when_a_copy_is_killed(tmp_path: Path) -> None:
    going = Going.begin(gang(tmp_path / "g", retries=1))
    going.until(lambda: going.cuts() and going.number(0) > 50)
    region = going.region
    pids = children(going.going._forker._process.pid)
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    going.until(lambda: going.is_anew(region))
    assert going.region.epoch > region.epoch  # whoever is left of the old gang is refused
    going.open_gate()
    right(going.end())
    assert going.logs() == ["begun\n"] * 2  # neither began again
    assert sum(note[0] == "retry" for note in going.notes) == 1


@pytest.mark.full
def test_a_gang_goes_on_from_its_last_cut_after_the_end_of_its_run(tmp_path: Path) -> None:
    """The scheduler is killed, twice; the third one ends the run."""
    graph, _ = read_folder(gang(tmp_path / "g"))
    run = RunFolder.create(tmp_path / "runs", graph, {})
    run.give_back()
    file = tmp_path / "go"
    words = [sys.executable, "-m", "tests.elements.gangs", str(run.path), "0.05", str(file)]
    root = Path(__file__).parents[2]
    for more in (1, 2):
        with subprocess.Popen(words, cwd=root) as process:
            wait = Waiting(run.path, process)
            wait.until(lambda wait=wait, more=more: len(wait.cuts()) >= 2 * more)
            process.kill()
    file.touch()
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    right(json.loads(done.stdout))
    assert [run.log(name, 0).read_text() for name in "ab"] == ["begun\n"] * 2
    begun = [entry["begun"] for entry in journal(run.path) if "begun" in entry]
    assert begun == [1, 2, 3]


class Waiting:
    """Waits for a run in another process."""

    def __init__(self, run: Path, process: subprocess.Popen[bytes]) -> None:
        self.run, self.process = run, process

    def cuts(self) -> list[object]:
        return [entry for entry in journal(self.run) if "cuts" in entry]

    def until(self, condition) -> None:
        import time

        ends = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None and time.monotonic() < ends
            time.sleep(0.01)


@pytest.mark.full
def test_a_stopped_run_is_saved_last(tmp_path: Path) -> None:
    going = Going.begin(gang(tmp_path / "g"), every=3600)
    going.until(lambda: going.number(0) > 20)
    going.stop()
    assert len(going.cuts()) == 1
    again = going.again(every=None)  # it goes on from there also without an option
    again.until(lambda: again.number(8))
    again.open_gate()
    right(again.end())
    assert again.logs() == ["begun\n"] * 2


@pytest.mark.full
def test_a_copy_that_had_ended_does_not_run_again(tmp_path: Path) -> None:
    """A gang has ended when all of it has; until then a cut has the results that are there."""
    folder = gang(tmp_path / "g")
    quick = '(module (import "env" "mem_open" (func (param i32 i32) (result i32))) QUICK)'
    say = COMMAND.replace("TEXT", "7").replace("SAY", "ran\\0a")
    (folder / "q.o.yaml").write_text("type: compute\ndependents: [check]\ncorunning: [a, m]")
    (folder / "q.o.wasm").write_bytes(assemble(quick.replace("QUICK", say).encode()))
    for name, old, new in (
        ("a.o.yaml", "[b, m]", "[b, q, m]"),
        ("m.o.yaml", "[a, b, check]", "[a, b, check, q]"),
        ("check.o.py", "parents: [a, b]", "parents: [a, b, q]"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    going = Going.begin(folder)
    going.until(lambda: any(one["ended"] for entry in going.cuts() for one in entry["cuts"]))
    going.stop()
    again = going.again()
    again.until(lambda: again.number(8))
    again.open_gate()
    right(again.end())
    assert again.run.log("q", 0).read_text() == "ran\n"
    assert ("end", "q", 0) in again.notes


COMMAND = """
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "TEXT") (data (i32.const 100) "SAY")
  (func (export "_start")
    (i32.store (i32.const 200) (i32.const 0)) (i32.store (i32.const 204) (i32.const 1))
    (drop (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 220)))
    (i32.store (i32.const 200) (i32.const 100)) (i32.store (i32.const 204) (i32.const 4))
    (drop (call $fd_write (i32.const 2) (i32.const 200) (i32.const 1) (i32.const 220))))"""


@pytest.mark.full
def test_a_result_counts_together_with_a_cut_of_who_shares_its_memory(tmp_path: Path) -> None:
    """Two counters without a gang share a memory: a third one ends while they run."""
    third = (
        "type: compute\ncorunning: [m]\ndependents: [check]" + MAIN
        + "    m = action.get_transport('m', 'rdma')\n    m.reg(4)\n    m.buf[:] = b'kept'\n"
        "    while True:\n        m.read(1, addr=0)\n        if m.buf[0] > 5:\n            break\n"
        "    m.buf[:] = b'kept'\n    m.write(4, addr=100_000)\n    return 3\n"
    )  # fmt: skip
    folder = gang(tmp_path / "g", together=False, third=third)
    check = (folder / "check.o.py").read_text()
    (folder / "check.o.py").write_text(check.replace("parents: [a, b]", "parents: [a, b, third]"))
    going = Going.begin(folder, every=3600)
    going.until(lambda: any("ended" in entry for entry in going.cuts()))
    (entry,) = [entry for entry in going.cuts() if "ended" in entry]
    assert [one["element"] for one in entry["ended"]] == ["third"]
    assert sorted(one["saved"][0][0] for one in entry["cuts"]) == ["a", "b"]
    going.going._cuts._every = None  # no last cut
    going.stop()
    again = going.again(every=None)
    again.until(lambda: again.number(8))
    assert bytes(again.region.buffer[100_000:100_004]) == b"kept"
    again.open_gate()
    right(again.end())
    assert again.logs() == ["begun\n"] * 2
    assert ("start", "third", 0) not in again.notes


@pytest.mark.full
def test_a_copy_fails_while_the_first_cut_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who shares its memory goes back to that cut too, and has not failed itself."""
    made: list[GangCut] = []
    asked = threading.Event()
    plain_run, plain_join = GangCut.run, GangCut.join

    def run(self: GangCut) -> None:
        plain_run(self)
        made.append(self)
        asked.wait(SECONDS)  # the thread has not ended yet

    def join(self: GangCut) -> None:
        asked.set()
        plain_join(self)

    monkeypatch.setattr(GangCut, "run", run)
    monkeypatch.setattr(GangCut, "join", join)
    folder = gang(tmp_path / "g", retries=1, together=False)
    text = (folder / "b.o.yaml").read_text()
    (folder / "b.o.yaml").write_text(text.replace("retries: 1", "retries: 0"))
    going = Going.begin(folder, every=1)
    going.until(lambda: made and len(made[0].copies) == 2)
    assert not made[0].why
    region, counted = going.region, [going.number(at) for at in (0, 8)]
    going.until(lambda: going.number(0) > counted[0] and going.number(8) > counted[1])
    (pid,) = [
        pid for pid in children(going.going._forker._process.pid)
        if f"{going.run.path}/results/a@0.out" in descriptors(pid)
    ]  # fmt: skip
    os.kill(pid, signal.SIGKILL)
    going.until(lambda: going.is_anew(region))
    going.open_gate()
    right(going.end())
    assert [note for note in going.notes if note[0] in ("retry", "fail")] == [("retry", "a", 0)]


@pytest.mark.full
def test_a_gang_with_a_step_in_python_begins_again(tmp_path: Path) -> None:
    """It is said that it cannot be saved; after a failure its memories are as they were."""
    folder = gang(tmp_path / "g", retries=1)
    (folder / "b.o.wasm").unlink()
    (folder / "b.o.yaml").unlink()
    written(
        folder,
        b="type: compute\ndependents: [check]\ncorunning: [a, m]" + MAIN
        + "    m = action.get_transport('m', 'rdma')\n    m.reg(4)\n"
        "    while True:\n        m.read(4, addr=64)\n        if m.buf[0]:\n            break\n"
        "    m.buf[:] = bytes([5, 0, 0, 0])\n    m.write(4, addr=8)\n    m.write(4, addr=12)\n"
        "    return [1, 2]\n",
    )  # fmt: skip
    going = Going.begin(folder)
    going.until(lambda: going.warnings and going.number(0) > 20)
    assert going.warnings == [
        "a, b are not saved while they run, because b cannot be: it is in Python; they begin again "
        "if one fails"
    ]
    assert not going.cuts()
    (pid,) = [
        pid for pid in children(going.going._forker._process.pid)
        if list((going.run.path / "results").glob("a@0.out"))
        and f"{going.run.path}/results/a@0.out" in descriptors(pid)
    ]  # fmt: skip
    region = going.region
    os.kill(pid, signal.SIGKILL)
    going.until(lambda: going.is_anew(region))
    going.open_gate()
    right(going.end())
    assert going.logs()[0] == "begun\nbegun\n"


def descriptors(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.full
def test_one_of_a_gang_alone_is_refused(tmp_path: Path) -> None:
    going = Going.begin(gang(tmp_path / "g"), every=3600)
    going.until(lambda: going.number(0) > 20)
    going.stop()
    ((cut,),) = [entry["cuts"] for entry in going.cuts()]
    saved = going.run.saved("a", 0)
    state = read_checkpoint(os.fspath(saved), bytes.fromhex(cut["saved"][0][2]), RunSpec())
    module = Module((tmp_path / "g" / "a.o.wasm").read_bytes())
    grant = MemoryGrant({"m": "tcp://127.0.0.1:1"})
    with pytest.raises(SnapshotError, match="one of a gang"):
        Program.resume(state, module=module, grants=HostGrants(memories=grant))
    other = MemoryGrant({"m": "tcp://127.0.0.1:1"}, cut="r-00000000/1")
    with pytest.raises(SnapshotError, match="one of a gang"):
        Program.resume(state, module=module, grants=HostGrants(memories=other))
    words = ["run", str(tmp_path / "g" / "a.o.wasm"), "--from-snapshot", str(saved),
             "--remote-memory", "m=tcp://127.0.0.1:1"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "wasmsr", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 123 and "one of a gang" in done.stderr


@pytest.mark.full
def test_a_damaged_state_is_an_error_and_no_beginning(tmp_path: Path) -> None:
    going = Going.begin(gang(tmp_path / "g"), every=3600)
    going.until(lambda: going.number(0) > 20)
    going.stop()
    for path in going.run.saved("a", 0).glob("checkpoint-*"):
        path.write_bytes(path.read_bytes()[:1000])
    again = going.again()
    with pytest.raises(ElementFailed, match="checkpoint"):
        again.end()


@pytest.mark.full
def test_a_cut_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory cannot be written for a while; what counts is the cut before."""
    from wasmsr.mem.serving.memory_images import MemoryImages

    going = Going.begin(gang(tmp_path / "g"))
    going.until(lambda: len(going.cuts()) >= 1)
    with monkeypatch.context() as patch:

        def fails(*_: object) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr(MemoryImages, "_save", fails)
        going.until(lambda: going.warnings)
        assert "No space left" in going.warnings[0]
        count = len(going.cuts())
        at = going.number(0)
        going.until(lambda: going.number(0) > at)  # it runs on
        assert len(going.cuts()) == count
    going.until(lambda: len(going.cuts()) > count)
    going.stop()
    again = going.again()
    again.until(lambda: again.number(8))
    again.open_gate()
    right(again.end())


@pytest.mark.full
def test_a_short_campaign(tmp_path: Path) -> None:
    from tests.elements.campaign import campaign

    found = campaign(tmp_path, 4, seed=17)
    assert sum(found["faults"].values()) == 4


CUT = {"cut": "r-1/2", "saved": [["a", 0, "ab", 3]], "ended": [], "memories": ["m"]}


@pytest.mark.parametrize(
    "entry",
    [
        {**CUT, "saved": [["a", 0, "no hex", 3]]},
        {**CUT, "saved": [["a", 0, "ab", -1]]},
        {**CUT, "saved": [["a", "0", "ab", 3]]},
        {**CUT, "saved": [["a", 0]]},
        {**CUT, "ended": [{"element": "b"}]},
        {**CUT, "ended": [7]},
        {"cut": "r-1/2"},
    ],
)
def test_entries_that_are_no_cuts(entry: dict[str, object]) -> None:
    assert UnitCut.read(CUT).entry() == CUT
    with pytest.raises((LookupError, TypeError, ValueError)):
        UnitCut.read(entry)


def test_a_damaged_cut_in_a_journal(tmp_path: Path) -> None:
    graph, _ = read_folder(gang(tmp_path / "g"))
    run = RunFolder.create(tmp_path / "runs", graph, {})
    run.note([{"cuts": [{**CUT, "saved": 7}]}])
    with pytest.raises(ElementError, match="journal is damaged"):
        Going(run).end()
