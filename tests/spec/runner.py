"""`python -m tests.spec.runner`: run the official scripts and print what came of them.

scripts ──execute──▶ tallies ──report──▶ terminal, JSON, docs/conformance.md
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from . import report, suite
from .engine import Numbers, Session
from .execute import Runner, Tally

Result = tuple[Tally, Numbers]


def run_script(name: str, mode: str = "straight") -> Result:
    """Run one script in one of the modes "straight", "restored", "hopped" and "oracle" (Wasmtime
    instead of our engine); the numbers are zero but in restored and hopped mode."""
    began = time.perf_counter()
    script, numbers = suite.load(name), Numbers()
    session: Session
    # Imported here, so that Wasmtime alone can be run where our engine is not built.
    if mode == "oracle":
        from .wasmtime_session import WasmtimeSession

        session = WasmtimeSession()
    elif mode in ("restored", "hopped"):
        from .hopped import HoppedSession
        from .restored import RestoredSession

        kind = HoppedSession if mode == "hopped" else RestoredSession
        # Modules of a script that registers none cannot reach each other's state.
        restored = kind(apart="(register" not in script.text)
        session, numbers = restored, restored.numbers
    else:
        from .ours import WasmsrSession

        session = WasmsrSession()
    tally = Runner(script, session).run()
    tally.seconds = time.perf_counter() - began
    return tally, numbers


def _write(tallies: list[Tally]) -> None:
    """Write docs/conformance.md and raise the floor; it sinks by hand only."""
    suite.CONFORMANCE.parent.mkdir(exist_ok=True)
    suite.CONFORMANCE.write_text(report.markdown(tallies))
    old = suite.floor() if suite.FLOOR.exists() else {}
    new = {t.script: max(t.assertions["passed"], old.get(t.script, 0)) for t in tallies}
    suite.FLOOR.write_text(json.dumps(old | new, indent=0, sort_keys=True) + "\n")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.spec.runner", description=__doc__)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="names; default: all")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--restored", action="store_true", help="put the state away between instructions"
    )
    how.add_argument(
        "--hopped", action="store_true", help="likewise at canonical points, in fast code"
    )
    how.add_argument("--oracle", action="store_true", help="run Wasmtime instead of wasmsr")
    parser.add_argument("--json", action="store_true", help="print tallies as JSON")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md")
    parser.add_argument("--check", action="store_true", help="compare docs/conformance.md")
    options = parser.parse_args(argv)
    options.mode = next(
        (mode for mode in ("restored", "hopped", "oracle") if getattr(options, mode)), "straight"
    )
    partly = options.scripts or options.mode != "straight"
    if partly and (options.write or options.check):
        parser.error("--write and --check are for all scripts in straight mode")
    unknown = sorted(set(options.scripts) - set(suite.names()))
    if unknown:
        parser.error(f"no such script: {', '.join(unknown)}")
    return options


def _watched(results: Iterable[Result]) -> Iterator[Result]:
    """Pass results on, and name on standard error each script that took long."""
    for tally, numbers in results:
        if tally.seconds > 2:
            print(f"{tally.script}: {tally.seconds:.1f} s", file=sys.stderr, flush=True)
        yield tally, numbers


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code: 0, 1 where something failed."""
    if (absence := suite.absence()) is not None:
        print(absence, file=sys.stderr)
        return 1
    options = _parse(argv)
    mode = options.mode
    chosen = options.scripts or suite.names()
    run = partial(run_script, mode=mode)
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            results = list(_watched(pool.map(run, chosen)))
    else:
        results = list(_watched(map(run, chosen)))
    tallies = [tally for tally, _ in results]
    numbers = Numbers()
    for _, some in results:
        numbers.add(some)
    failures = report.total(tallies).failures
    if options.json:
        content = {"mode": mode, "scripts": [report.as_json(tally) for tally in tallies]}
        print(json.dumps(content | {"numbers": vars(numbers)}, indent=1))
    else:
        print(report.table(tallies))
        print(*failures, sep="\n")
        print(report.summary(tallies))
        if numbers.invocations:
            print(report.numbers_sentence(numbers))
    if options.write and not failures:
        _write(tallies)
    if options.check and suite.CONFORMANCE.read_text() != report.markdown(tallies):
        print("docs/conformance.md is stale: python -m tests.spec.runner --write", file=sys.stderr)
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
