"""Engines that nobody here wrote, and a job that goes through them in legs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.legs import LEG_SECONDS, STOPPED, Job, Result, files_of, prepare

HERE = Path(__file__).resolve().parent
NOTHING = Path(os.devnull)


@dataclass(frozen=True)
class Engine:
    """A way to run WASI commands.

    Attributes:
        name: Its name.
        command: What to run, before the file of the module and the folders `HOST::GUEST`.
    """

    name: str
    command: tuple[str, ...]

    def run(
        self,
        module: Path,
        folders: Sequence[str] = (),
        *,
        source: Path = NOTHING,
        after: int | None = None,
        to: str = "",
        when: str = "",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end, or until it was saved: after so many instructions, or when a
        file is there. `source` is its standard input."""
        told = {"AFTER": "" if after is None else str(after), "TO": to, "WHEN": when}
        environment = {f"WASMSR_SNAPSHOT_{name}": value for name, value in told.items() if value}
        with open(source, "rb") as stdin:
            return subprocess.run(
                [*self.command, str(module), *folders],
                stdin=stdin,
                capture_output=True,
                env=os.environ | environment,
                timeout=LEG_SECONDS,
            )


NODE_OPTIONS = ("--no-warnings", "--no-turbo-fast-api-calls")
"""With fast calls from WebAssembly into its WASI, Node 20 crashes or loses objects."""
WASMTIME = Engine("wasmtime", (sys.executable, "-m", "tests.anywhere.wasmtime_engine"))
NODE = Engine("node", ("node", *NODE_OPTIONS, str(HERE / "node_engine.mjs")))


def needed(engine: Engine) -> Engine:
    """Return an engine that is here; otherwise the test skips."""
    if engine is NODE and shutil.which("node") is None:
        pytest.skip("needs node (Debian: nodejs)")
    if engine is WASMTIME:
        pytest.importorskip("wasmtime", reason="Wasmtime runs what is exported")
    return engine


def one_quick(quick: Engine) -> pytest.MarkDecorator:
    """Both engines, one of them in the quick tests."""
    rows = [
        pytest.param(one, id=one.name, marks=() if one is quick else pytest.mark.full)
        for one in (WASMTIME, NODE)
    ]
    return pytest.mark.parametrize("engine", rows)


def through_engines(
    job: Job, folder: Path, engines: Sequence[Engine | None], *, executed: int, seed: int
) -> Result:
    """Run a job in legs: first here, then in each of the engines; None is here too.

    Each leg ends at a random instruction, the last one with the program. A leg has nothing of the
    one before but its snapshot or state, and the folder.
    """
    prepare(job, folder)
    work = folder.with_name(f"{folder.name}.work")
    work.mkdir()
    module, last = work / "resume.wasm", work / "none"
    cuts = sorted(random.Random(seed).sample(range(1, executed), len(engines)))
    stdout = b""
    folders = [f"{host}::{guest}" for host, guest in job.mounts]
    if job.output is not None:
        folders.append(f"{folder}::{job.output}")
    for leg, engine in enumerate([None, *engines]):
        start, cut = ([0, *cuts])[leg], ([*cuts, None])[leg]
        before, last = last, work / f"{leg}.state"
        if engine is None:
            options = [f"--dir={one}" for one in folders]
            if leg == 0:
                options += [*job.variables(), "--deterministic"]
            else:
                options.append(f"--from-snapshot={before}")
            if cut is not None:
                options += [f"--snapshot-at={cut - start}", f"--snapshot-file={last}"]
            words = [*options, str(job.module), *(job.args if leg == 0 else ())]
            done = wasmsr("run", *words)
        else:
            module.unlink(missing_ok=True)
            words = ["--runnable", str(before), "--program", str(job.module), "-o", str(module)]
            made = wasmsr("snapshot", "export", *words)
            assert made.returncode == 0, made.stderr.decode()
            after = None if cut is None else cut - start
            given = [*folders, f"{work}::/work"]
            done = engine.run(module, given, after=after, to=f"/work/{last.name}")
        stdout += done.stdout
        said = done.stderr.decode()[-2000:]
        where = f"leg {leg}, {engine}, {start} to {cut}, exit code {done.returncode}: {said}"
        assert cut is None or done.returncode == STOPPED, where
    return Result(done.returncode, stdout, files_of(folder))


def wasmsr(*words: str, source: Path = NOTHING) -> subprocess.CompletedProcess[bytes]:
    """Run our command line; `source` is its standard input."""
    with open(source, "rb") as stdin:
        return subprocess.run(
            [sys.executable, "-m", "wasmsr", *words],
            stdin=stdin,
            capture_output=True,
            timeout=LEG_SECONDS,
        )
