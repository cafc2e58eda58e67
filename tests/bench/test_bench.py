"""The bench: what it makes of the times it takes. The measuring itself is not for a test."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import build, outside, peers, plot, suite, superinstructions
from bench.build import Missing

TIMES: bench.Times = {
    "gemm": {"wasmsr": [1.0, 1.2, 1.1], "wasm3": [2.0, 2.4, 2.0]},
    "lua": {"wasmsr": [3.0, 2.0, 2.0], "wasm3": [1.0, 1.0, 1.0]},
}
PROGRAMS = [
    outside.Program("gemm", Path("gemm.wasm")),
    outside.Program("lua", Path("lua.wasm"), kernel=True, suite=False),
]


def test_ratios_of_minima_and_of_rounds() -> None:
    found = bench.ratios(TIMES, "wasm3")
    assert found["gemm"]["wasmsr"] == (0.5, 0.5, 0.5, 0.55)
    assert found["lua"]["wasmsr"] == (2.0, 2.0, 2.0, 3.0)
    assert found["lua"]["wasm3"] == (1.0, 1.0, 1.0, 1.0)
    assert bench.mean([0.5, 2.0]) == pytest.approx(1.0)


def test_means_hold_only_their_programs() -> None:
    table = suite.table(bench.ratios(TIMES, "wasm3"), PROGRAMS, markdown=True).splitlines()
    assert table[2:] == [
        "| gemm | 0.500 | 1.000 | 0.500 (0.500..0.550) |",
        "| lua | 2.000 | 1.000 | 2.000 (2.000..3.000) |",
        "| mean of the suite (1) | 0.500 | 1.000 |  |",
        "| mean of the kernels (1) | 2.000 | 1.000 |  |",
        "| mean of all (2) | 1.000 | 1.000 |  |",
    ]


def test_an_engine_that_cannot_run_all_has_no_mean() -> None:
    partial: bench.Times = {**TIMES, "gemm": {**TIMES["gemm"], "pywasm3": [1.0, 1.0, 1.0]}}
    table = suite.table(bench.ratios(partial, "wasm3"), PROGRAMS, markdown=True).splitlines()
    assert table[3].endswith("| 1.000 |  | 2.000 (2.000..3.000) |")
    assert table[-1] == "| mean of all (2) | 1.000 | 1.000 |  |  |"


def test_a_process_is_timed_and_its_failure_is_an_error() -> None:
    busy = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.1: pass"
    seconds, printed = suite.process([sys.executable, "-c", busy + "\nprint(7)"])
    assert 0.1 < seconds < 10
    assert printed == b"7\n"
    with pytest.raises(suite.Failed, match="exit code 3"):
        suite.process([sys.executable, "-c", "raise SystemExit(3)"])


def say(monkeypatch: pytest.MonkeyPatch, **codes: str) -> list[str]:
    """Replaces the engines by Python programs; returns their names."""
    for name, code in codes.items():
        words = [sys.executable, "-c", code]
        monkeypatch.setitem(outside.ENGINES, name, lambda program, words=words: words)
    monkeypatch.setattr(suite, "empty", lambda: outside.Program("nothing", Path("nothing.wasm")))
    return list(codes)


def test_an_engine_that_prints_something_else_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = say(monkeypatch, wasmsr="print(1)", wasm3="print(1)", wasmi="print(2)")
    seconds, failures = suite.run_program(PROGRAMS[0], names, 2)
    assert set(seconds) == {"wasmsr", "wasm3"}
    assert all(len(values) == 2 for values in seconds.values())
    assert failures == {"wasmi": r"prints b'2\n', another engine b'1\n'"}
    seconds, failures = suite.run_program(PROGRAMS[0], ["wasmsr", "wasmi"], 1)
    assert not seconds
    assert set(failures) == {"wasmsr", "wasmi"}


def test_a_peer_that_fails_costs_only_its_own_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ends with an error, hangs, is not there: the others keep their times."""
    gone = tmp_path / "gone"
    gone.touch()
    once = f"import os; os.remove({str(gone)!r}); print(1)"  # a second start fails
    hangs = "import time; time.sleep(60)"
    names = say(monkeypatch, wasmsr="print(1)", wasm3="print(1)", wasmi=once, silverfir=hangs)
    found = suite.measure(PROGRAMS, names, 1, timeout=2)
    assert {name: set(by) for name, by in found.times.items()} == {
        "gemm": {"wasmsr", "wasm3"},
        "lua": {"wasmsr", "wasm3"},
    }
    assert "no end within 2 s" in found.failures["nothing"]["silverfir"]
    assert "exit code 1" in found.failures["gemm"]["wasmi"]
    assert "gemm" in capsys.readouterr().err


def test_what_was_measured_before_an_interrupt_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    names = say(monkeypatch, wasmsr="print(1)", wasm3="print(1)")
    real = suite.run_program

    def interrupted(program: outside.Program, *rest: Any) -> object:
        if program.name == "lua":
            raise KeyboardInterrupt
        return real(program, *rest)

    monkeypatch.setattr(suite, "run_program", interrupted)
    assert list(suite.measure(PROGRAMS, names, 1).times) == ["gemm"]


def test_a_program_without_the_base_has_no_ratio() -> None:
    partial: bench.Times = {"gemm": TIMES["gemm"], "lua": {"wasmsr": [1.0]}}
    found = bench.ratios(partial, "wasm3")
    assert list(found) == ["gemm"]
    lines = suite.table(found, PROGRAMS, markdown=True).splitlines()
    assert lines[-1] == "| mean of all (2) |  |  |  |"
    assert "nothing to compare" in suite.table({}, PROGRAMS, markdown=True)


class Broken(peers.Peer):
    """A peer that compiles and then fails."""

    name = "broken"

    def prepare(self, kernel: object) -> peers.Run:
        def run() -> int:
            raise RuntimeError("no luck")

        return run


class Constant(peers.Peer):
    """A peer that gives the same result for every kernel."""

    def __init__(self, name: str, result: int) -> None:
        self.name = name
        self.result = result

    def prepare(self, kernel: object) -> peers.Run:
        return lambda: self.result


def test_a_kernel_goes_on_without_the_peers_that_fail() -> None:
    kernel = build.Kernel("gemm", Path("gemm.wasm"), Path("gemm.so"), 1)
    those: list[peers.Peer] = [
        Constant("wasmsr", 7),
        Constant("pywasm3", 7),
        Constant("wrong", 8),
        Broken(),
    ]
    runs, failures = bench.prepared(kernel, those)
    assert set(runs) == {"wasmsr", "pywasm3"}
    assert failures["broken"] == "RuntimeError: no luck"
    assert failures["wrong"].startswith("its result is 8")
    table = bench.table(
        {"gemm": {"wasmsr": [1.0], "pywasm3": [2.0]}, "lua": {"pywasm3": [1.0]}}, "pywasm3"
    )
    assert table.splitlines()[-1].split() == ["geometric", "mean", "1.000"]


@pytest.mark.full
def test_dispatches_are_counted_and_sequences_chosen(tmp_path: Path) -> None:
    """Both tools, on a program of a few million instructions, in a build that counts."""
    if shutil.which("nm") is None:
        pytest.skip("the names of handlers are read by nm, from binutils")
    try:
        module, _ = build.training("integers")
    except Missing as reason:
        pytest.skip(str(reason))
    words = [sys.executable, "-m", "bench.dispatches", "--single", "--json", "--"]
    words += ["--invoke", "run", str(module), "20"]
    done = subprocess.run(words, cwd=build.HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    counted = sum(sum(line[len(line) // 2 :]) for line in found["lines"])
    assert counted == found["dispatches"] > 100_000
    assert found["instructions"] > found["dispatches"]

    output = tmp_path / "sequences.h"
    words = [sys.executable, "-m", "bench.superinstructions", "--pairs", "5", "--longer", "5"]
    words += ["--output", str(output), "integers"]
    done = subprocess.run(words, cwd=build.HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^SUPERINSTRUCTION_\d\(", output.read_text(), re.MULTILINE)
    assert 5 <= len(rows) <= 10


def test_a_choice_from_some_programs_is_not_written_into_the_core(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        superinstructions.main(["integers"])
    assert "needs --output" in capsys.readouterr().err


def test_without_the_folder_the_suite_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(outside.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(Missing, match="set WASMSR_PEERS"):
        outside.folder()


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib, which is optional")
    target = tmp_path / "ratios.png"
    gap = {name: dict(by_engine) for name, by_engine in bench.ratios(TIMES, "wasm3").items()}
    del gap["lua"]["wasmsr"]  # an engine that cannot run every program
    plot.draw(gap, "wasm3", str(target))
    assert target.read_bytes().startswith(b"\x89PNG")
    assert target.stat().st_size > 5000


def test_without_matplotlib_the_plot_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    plot.draw(bench.ratios(TIMES, "wasm3"), "wasm3", str(tmp_path / "none.png"))
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
