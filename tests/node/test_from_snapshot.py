"""Programs of a node that begin in one snapshot: forks, which share its memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.node.programs import counting, warmed
from tests.node.test_node import Here, output, until
from wasmsr import Node, errors
from wasmsr.executor.forking import fork_number
from wasmsr.node.failures import SubmissionRefused
from wasmsr.rpc.control import control_messages as messages
from wasmsr.rpc.control.program_info import ProgramInfo

FORKS = 6


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    made.end()


def said(node: Node, program: ProgramInfo) -> bytes:
    """What a fork writes: 28 bytes."""
    until(lambda: len(output(node, program)) == 28)
    return output(node, program)


def test_forks_of_a_snapshot(here: Here, tmp_path: Path) -> None:
    binary, snapshot = warmed(tmp_path)
    first = here.node.submit(binary, from_snapshot=snapshot)
    with ThreadPoolExecutor(FORKS) as pool:
        more = pool.map(
            lambda _: here.node.submit(binary, from_snapshot=snapshot), range(FORKS - 1)
        )
        programs = [first, *more]
    found = [said(here.node, one) for one in programs]
    assert len({one[:16] for one in found}) == FORKS, "no two share random bytes"
    numbers = [fork_number(bytes.fromhex(one.program)) for one in programs]
    assert [int.from_bytes(one[16:24], "little") for one in found] == numbers
    assert all(one[24:] == b"\7\0\0\0" for one in found), "they have the memory of the snapshot"
    parents = here.supervisor._parents.processes()
    assert len(parents) == 1, "one parent for all"
    assert psutil.Process(*parents.values()).num_threads() == 1
    for one in programs:
        shown = psutil.Process(one.worker or 0).memory_full_info()
        assert shown.uss < 24 << 20, "the 4 MB are not its own"


def test_a_fork_is_saved_and_resumed(here: Here, tmp_path: Path) -> None:
    binary, snapshot = warmed(tmp_path)
    program = here.node.submit(binary, from_snapshot=snapshot)
    before = said(here.node, program)
    assert here.node.checkpoint(program.program).saved is not None
    psutil.Process(program.worker or 0).kill()
    until(lambda: here.node.ps()[0].standing == "resumable")
    here.node.resume(program.program)
    until(lambda: here.node.ps()[0].standing == "running")
    assert output(here.node, program) == before
    here.node.kill(program.program)


def test_a_fork_counts_to_its_end(here: Here, tmp_path: Path) -> None:
    """It begins where the snapshot is, and what was written before is not its output."""
    from tests.node.programs import COUNT, lines

    text = COUNT.replace("TOTAL", "50").replace("WAIT", "0")
    binary, snapshot = warmed(tmp_path, text, 3000)
    program = here.node.submit(binary, from_snapshot=snapshot)
    assert here.node.wait(program.program, 30).code == 7
    found = output(here.node, program)
    assert found and found == lines(int(found[:8]), 50)
    assert int(found[:8]) > 3


def test_what_is_refused(here: Here, tmp_path: Path) -> None:
    binary, snapshot = warmed(tmp_path)
    submit: Any = here.node.submit
    with pytest.raises(errors.SnapshotError, match="another module"):
        submit(counting(5), from_snapshot=snapshot)
    broken = tmp_path / "broken"
    data = bytearray(snapshot.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)
    with pytest.raises(errors.SnapshotError):
        submit(binary, from_snapshot=broken)
    for spec in ({"args": ["a"]}, {"env": ["A=B"]}, {"invoke": "x"}):
        with pytest.raises(errors.WasmsrError, match="already"):
            submit(binary, spec, from_snapshot=snapshot)
    digest = "ab" * 32
    begin = messages.SubmitBegin(spec=json.dumps({}), snapshot=digest)

    def parts() -> Iterator[Any]:
        yield messages.SubmitRequest(begin=begin)
        yield messages.SubmitRequest(piece=binary)
        yield messages.SubmitRequest(state=snapshot.read_bytes()[: 1 << 20])

    with pytest.raises(SubmissionRefused, match="another one than was named"):
        here.node._ask("Submit", parts)
    begin.digest = here.node.submit(binary).module
    with pytest.raises(SubmissionRefused, match="the node has no snapshot"):
        here.node._ask("Submit", [messages.SubmitRequest(begin=begin)])
    assert [one.standing for one in here.node.ps()] == ["running"]


def test_the_second_submission_sends_no_file(here: Here, tmp_path: Path) -> None:
    binary, snapshot = warmed(tmp_path)
    here.node.submit(binary, from_snapshot=snapshot)
    times = []
    for folder in ("modules", "snapshots"):
        (kept,) = (here.folder / "state" / folder).iterdir()
        times.append((kept, kept.stat().st_mtime_ns))
    time.sleep(0.02)
    here.node.submit(binary, from_snapshot=snapshot)
    assert [path.stat().st_mtime_ns for path, _ in times] == [time for _, time in times]
