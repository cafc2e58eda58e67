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
        stdin: bytes | None = None,
        after: int | None = None,
        to: str = "",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end, or until it was saved after so many instructions."""
        environment = dict(os.environ)
        if after is not None:
            environment |= {"WASMSR_SNAPSHOT_AFTER": str(after), "WASMSR_SNAPSHOT_TO": to}
        return subprocess.run(
            [*self.command, str(module), *folders],
            input=b"" if stdin is None else stdin,
            capture_output=True,
            env=environment,
            timeout=LEG_SECONDS,
        )


WASMTIME = Engine("wasmtime", (sys.executable, "-m", "tests.anywhere.wasmtime_engine"))
NODE = Engine(
    "node",
    ("node", "--no-warnings", "--no-turbo-fast-api-calls", str(HERE / "node_engine.mjs")),
)
"""Node 20 collects garbage in calls of WASI that V8 has made fast; it must not, and crashes."""


def needed(engine: Engine) -> Engine:
    """Return an engine that is here; otherwise the test skips."""
    if engine is NODE and shutil.which("node") is None:
        pytest.skip("needs node (Debian: nodejs)")
    if engine is WASMTIME:
        pytest.importorskip("wasmtime", reason="Wasmtime runs what is exported")
    return engine


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


def wasmsr(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Run our command line, without input."""
    return subprocess.run(
        [sys.executable, "-m", "wasmsr", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LEG_SECONDS,
    )
