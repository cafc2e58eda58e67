"""The bench of moves: what it makes of notes and events, its lines, and one small run of it all."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.migrate import __main__ as main
from bench.migrate import cases, lines, markdown, moves, table, verdicts
from bench.migrate.bridge import Way
from bench.migrate.pair import Said
from bench.migrate.probes import Probe
from bench.migrate.subjects import writer
from wasmsr import Module, Mount
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants

PROBE = Probe(round_trip=0.04, rate=1e7, sync=0.002)


class ToldEnd:
    """An end that has said what the test says."""

    def __init__(
        self, name: str, folder: Path, notes: list[tuple[float, bool]], said: Said
    ) -> None:
        self.name = name
        self.notes = folder / f"{name}.notes"
        self.said = said
        begins = {"what": "begins", "when": 0.0, "pid": 1, "own": 0, "peer": 0}
        found = [begins]
        for when, runs in notes:
            what = "runs" if runs else "stands"
            found.append({**begins, "what": what, "when": when, "own": int(when * 1000)})
        self.notes.write_text("".join(json.dumps(line) + "\n" for line in found))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.said.events if event["event"] == kind]


def told(folder: Path) -> Any:
    """Two ends between which a program has moved once, after two short stops for rounds."""
    events = [
        {"event": "prepared", "when": 1.0},
        {"event": "round", "when": 1.5, "round": 1},
        {"event": "moved", "when": 2.2, "bytes": 3000, "bytes_raw": 8000, "bytes_last": 2000,
         "bytes_rest": 1000, "predicted": 0.12, "stopped_because": "downtime"},
    ]  # fmt: skip
    counts = [(when / 10, when * when if when > 10 else when * 10) for when in range(20)]
    notes = [(0.0, True), (1.0, False), (1.01, True), (1.5, False), (1.52, True), (2.0, False)]
    a = ToldEnd("a", folder, notes, Said(events, counts))
    b = ToldEnd("b", folder, [(2.1, True)], Said([{"event": "arrived", "when": 2.15}]))
    return SimpleNamespace(ends={"a": a, "b": b})


def test_a_move_is_from_the_last_to_the_first_instruction(tmp_path: Path) -> None:
    (move,) = moves.moves(told(tmp_path), 0.0)
    assert move.source == "a"
    assert move.downtime == pytest.approx(0.1)
    assert move.paused == pytest.approx(0.03)
    assert move.span == pytest.approx(1.0)
    assert move.before == pytest.approx(100)
    assert move.during is not None and move.during > 200
    assert move.written == (-2000, 2100)
    assert [event["round"] for event in move.rounds] == [1]
    assert not moves.moves(told(tmp_path), 2.05)


def test_the_last_set_is_counted_as_it_was_packed(tmp_path: Path) -> None:
    (move,) = moves.moves(told(tmp_path), 0.0)
    assert move.last_raw == 3000
    assert move.last == 2000 * (3000 - 1000) // 8000 + 1000
    old = moves.Move("a", 0, 0.1, (0, 0), {"bytes": 500}, {})
    assert (old.last, old.last_raw, old.predicted) == (500, 500, None)


def cell(mode: str, downtimes: list[float], predicted: float | None) -> table.Cell:
    said = {"bytes": 100_000, "predicted": predicted, "downtime_wire": 0.01}
    found = [moves.Move("a", 0, span, (5000, 1), said, {}) for span in downtimes]
    return table.Cell(
        "p", "line", 1, mode, PROBE, found, 50 << 20, {"a": 60 << 20, "b": 1}, 0.5, []
    )


def test_limits_and_ratios() -> None:
    limit = 1.5 * 0.04 + 0.01 + 3 * 0.002 + 0.01
    assert PROBE.limit(100_000) == pytest.approx(limit)
    slow = cell("rounds", [limit * 2, limit * 2, limit * 3], 2 * limit * 1.29)
    assert slow.ratio == pytest.approx(2)
    assert slow.foretold == (3, 3)
    assert cell("rounds", [0.5], 0.34).foretold == (0, 1)
    assert cell("rounds", [0.01], 0.029).foretold == (1, 1)
    assert "2.00!" in slow.row(200_000) and " 0.50 " in slow.row(200_000)
    assert "wire 10.0" in slow.beside()
    copy = cell("stop-and-copy", [limit * 20], None)
    assert table.against([slow, copy]) == [
        "p, line, --cores 1: downtime 1/10.0 of stop-and-copy",
    ]
    assert json.loads(json.dumps(slow.plain()))["worst"] == pytest.approx(limit * 3)


def test_what_is_missed_is_said() -> None:
    limit = PROBE.limit(100_000)
    good = cell("rounds", [limit * 0.9] * 20, limit * 0.9)
    for move in good.moves:
        move.said["stopped_because"] = "downtime"
    copy = cell("stop-and-copy", [limit], None)
    assert list(verdicts.misses([good, copy])) == []
    for move in good.moves[:3]:
        move.downtime, move.written = limit * 2, (0, 1 << 20)
    good.program = copy.program = "nextpnr"
    good.peaks["b"] = 120 << 20
    found = [text.partition(": ")[2] for text in verdicts.misses([good, copy])]
    assert [text.split(";")[0] for text in found] == [
        f"3 of 20 moves that converged are beyond the limit, by {limit * 1000:.1f} ms in the "
        "median",
        "1/1.1 of stop-and-copy, not 1/10",
        "17 of 20 predictions are within 30 % or 20 ms",
        "end b had 120 MiB at its peak, not 119",
        "3 of 20 moves wrote more to the disk in the downtime than the last set and 64 KiB, by up "
        "to 862 KiB (the source 5, the destination 0)",
    ]
    assert "wire 10.0" in found[0]
    for move in good.moves:
        move.said["stopped_because"] = "rounds"
        move.downtime = limit * 1.1
    assert "20 moves did not converge" in next(verdicts.misses([good, copy]))


def test_tables_for_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [cell("rounds", [0.02, 0.03, 0.2], 0.02), cell("stop-and-copy", [2.0], None)]
    for one in kept:
        one.program, one.line = "nextpnr", "loopback"
    kept[0].method = "userfaultfd"
    found = tmp_path / "found.json"
    found.write_text(json.dumps({"cells": [one.plain() for one in kept]}))
    assert markdown.main([str(found)]) == 0
    out = capsys.readouterr().out
    assert "Both ends on one core:" in out
    (row, costs) = [line for line in out.splitlines() if line.startswith("| nextpnr, loopback")]
    cells = [text.strip() for text in row.split("|")[1:-1]]
    assert cells[1:6] == ["2,000 / 2,000", "30.0 / 200", "86.0", "1/67", "–"]
    assert "wire 10.0" in cells[-1] and costs.split("|")[2].strip() == "3"
    heads = [line for line in out.splitlines() if line.startswith("| program")]
    assert heads[0].count("|") == row.count("|") and heads[1].count("|") == costs.count("|")
    found.write_text("{")
    assert markdown.main([str(found)]) == 1
    assert "without a table" in capsys.readouterr().err


def ended(text: str, *mounts: Mount) -> int:
    """Run a text as a program and return its exit code."""
    grants = HostGrants(mounts=mounts, stdin=None, stdout=io.BytesIO(), stderr=io.BytesIO())
    program = Program.launch(Module.from_text(text), argv=["writer"], grants=grants)
    program.start()
    outcome = program.wait(60)
    program.close()
    return getattr(outcome, "code", -1)


def test_the_writer_checks_itself() -> None:
    text = writer(2, 1000, 0.2)
    assert ended(text) == 0
    store = "(i64.store (local.get $at) (local.get $word))"
    assert store in text
    assert ended(text.replace(store, "(i64.store (local.get $at) (i64.const 7))")) == 1


def test_the_writer_ends_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    began = time.monotonic()
    assert ended(writer(1, 0), Mount(tmp_path, "/w")) == 0
    assert time.monotonic() - began < 30


def test_the_bridge_delays_and_limits() -> None:
    source, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    target, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with source, sender, target, receiver:
        source.setblocking(False)
        receiver.settimeout(0)
        way = Way(source.fileno(), target.fileno(), 0.05, 1e6)  # 1,024 bytes take 8.2 ms
        began = time.monotonic()
        for number in range(40):
            sender.send(bytes([number]) * 1000)
            way.take()
        got: list[tuple[float, int]] = []
        while way.due != float("inf"):
            way.give()
            try:
                got.append((time.monotonic() - began, receiver.recv(2000)[0]))
            except BlockingIOError:
                time.sleep(0.001)
    assert got[0][0] >= 0.058
    numbers = [number for _, number in got]
    assert numbers == sorted(numbers)
    assert 8 <= len(numbers) < 40, "what would wait too long is lost"
    assert got[-1][0] - got[0][0] >= (len(got) - 2) * 0.008


def test_what_a_dead_run_left_is_removed(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = tmp_path / f"{lines.PREFIX}-{child.pid}-x"
    ours = tmp_path / f"{lines.PREFIX}-{os.getpid()}-x"
    (left / "deep").mkdir(parents=True)
    ours.mkdir()
    (tmp_path / f"{lines.PREFIX}-else").mkdir()
    assert lines.sweep(tmp_path) == [left.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [ours.name, f"{lines.PREFIX}-else"]
    )


def spaces(process: int) -> list[str]:
    """The network namespaces that a run has made."""
    return [path.name for path in lines.SPACES.glob(f"{lines.PREFIX}-{process}-*")]


def test_a_cell_that_is_in_the_file_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--plan", "--cores", "2", "--json", str(tmp_path / "found.json"), "one page", "1 GiB"]
    assert main.main(words) == 0
    plan = capsys.readouterr().out.splitlines()
    assert plan and "one page, loopback, --cores 2, rounds" in plan[0]
    there = cell("rounds", [0.02], 0.03)
    method = plan[0].partition("rounds by ")[2]
    there.program, there.line, there.cores, there.method = "one page", "loopback", 2, method
    main._write(tmp_path / "found.json", [there], [], main.Absent())
    assert main._read(tmp_path / "found.json") == [there]
    assert main.main(words) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("loopback, --cores 2, stop-and-copy")
    assert main.main([*words, "--minutes", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) < len(plan)


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_run_on_all_lines(tmp_path: Path) -> None:
    """Each line is measured, or named with the reason why it is not there; nothing is left."""
    words = ["--moves", "2", "--cores", "2", "--json", "found.json", "--folder", "."]
    words += ["--mode", "rounds"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.migrate", *words, "one page"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    assert out.count("one page") >= len(found["cells"]) >= 1
    there = {one["line"] for one in found["cells"]}
    assert "loopback" in there
    for line in cases.WANTED:
        assert line in there or f"without {line}: " in err
    for one in found["cells"]:
        assert len(one["moves"]) == 2
        assert all(0.001 < move["downtime"] < 60 for move in one["moves"])
        if "20 ms" in one["line"]:
            assert one["probe"]["round_trip"] >= 0.04
            assert one["median"] >= 0.06
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    assert not spaces(process.pid)


def lives(process: int) -> bool:
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing(tmp_path: Path, number: int) -> None:
    words = ["--cores", "2", "--line", lines.LINES[1].name, "--folder", str(tmp_path), "one page"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.migrate", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/a.notes")):
        if process.poll() is not None and process.stderr is not None:
            pytest.skip(process.stderr.read())  # a line that cannot be had here
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pids = [
        json.loads(path.read_text().splitlines()[0])["pid"] for path in tmp_path.glob("*/*.notes")
    ]
    process.send_signal(number)
    process.communicate()
    if number == signal.SIGKILL:
        assert spaces(process.pid)
        lines.sweep(tmp_path)
    assert not spaces(process.pid)
    assert not list(tmp_path.iterdir())
    for pid in pids:
        while lives(pid):
            assert time.monotonic() < deadline, "an end lives on"
            time.sleep(0.1)
