"""The bench: what it makes of the times it takes. The measuring itself is not for a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import outside, plot, suite
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


def test_engines_that_print_different_things_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says = {"wasmsr": "1", "wasm3": "2"}
    for name, text in says.items():
        words = [sys.executable, "-c", f"print({text})"]
        monkeypatch.setitem(outside.ENGINES, name, lambda program, words=words: words)
    with pytest.raises(suite.Failed, match=r"gemm: wasm3 prints b'2\\n'"):
        suite.one_round(PROGRAMS[0], list(says), set())


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
