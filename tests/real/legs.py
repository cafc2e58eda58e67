"""Runs a program whole, and in legs: stopped at random moments, each time resumed by a new process.

Between `fetch`, which gets the programs, and the tests, which say what to run and what is right.
Everything goes through the command line, as a user would do it.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

STOPPED = 120
"""Exit code: stopped with a snapshot."""
STOPS = 20
METERED = 10**15
"""Fuel that never ends; with it the number of executed instructions is known."""
LEG_SECONDS = 600


@dataclass(frozen=True)
class Job:
    """A program with its arguments.

    Attributes:
        module: the module's file.
        args: the program's own arguments.
        mounts: read-only inputs, (host folder, guest path).
        output: guest path of an empty folder that the program may write into, or None.
        env: variables for the program.
        inputs: files laid into the output folder first, name to content.
    """

    module: Path
    args: tuple[str, ...]
    mounts: tuple[tuple[Path, str], ...] = ()
    output: str | None = None
    env: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)

    def options(self, folder: Path, mode: str = "host") -> list[str]:
        """The options that every leg is given; `folder` is what the program writes into."""
        options = [f"--dir={host}::{guest}" for host, guest in self.mounts]
        if self.output is not None:
            options.append(f"--dir={folder}::{self.output}::{mode}")
        return options

    def variables(self) -> list[str]:
        """The options that only a start is given: a snapshot holds the environment."""
        return [f"--env={variable}" for variable in self.env]


@dataclass(frozen=True)
class Result:
    """What a program left behind: exit code, standard output, files of its folder by name."""

    code: int
    stdout: bytes
    files: dict[str, bytes]


def whole(job: Job, folder: Path) -> tuple[Result, int]:
    """Runs `job` at one go in `folder` (made new); also the number of executed instructions."""
    prepare(job, folder)
    command = ["--json", f"--fuel={METERED}", *job.variables(), *job.options(folder)]
    command += [str(job.module), *job.args]
    done = _wasmsr(command)
    # The object has a line of its own, begun anew: what stands before that is the program's.
    stdout, _, last = done.stdout.removesuffix(b"\n").rpartition(b"\n")
    executed = json.loads(last)["executed"]
    assert isinstance(executed, int) and executed > 0, last
    return Result(done.returncode, stdout, files_of(folder)), executed


def in_legs(
    job: Job, folder: Path, *, executed: int, seed: int, stops: int = STOPS, carry: bool = False
) -> Result:
    """Runs `job` in `folder` (made new), stopped at `stops` instructions drawn from `executed`.

    Each leg is a process of its own and has nothing of the one before but the snapshot file and
    the folder. With `carry` it has not even that: the files come out of the snapshot into a folder
    that was not there, and the one of the leg before is removed.
    """
    mode = "carry" if carry else "host"
    prepare(job, folder)
    snapshot = folder.with_name(f"{folder.name}.snapshot")
    first = folder.name
    cuts = sorted(random.Random(seed).sample(range(1, executed), stops))
    stdout = b""
    for leg, (start, cut) in enumerate(zip([0, *cuts], [*cuts, None], strict=False)):
        if carry and leg > 0:
            shutil.rmtree(folder)
            folder = folder.with_name(f"{first}-{leg}")
        options = job.options(folder, mode)
        if cut is not None:
            options += [f"--snapshot-at={cut - start}", f"--snapshot-file={snapshot}"]
        if leg > 0:
            options.append(f"--from-snapshot={snapshot}")
        else:
            options += job.variables()
        args = job.args if leg == 0 else ()
        done = _wasmsr([*options, str(job.module), *args])
        stdout += done.stdout
        where = f"leg {leg}, from instruction {start} to {cut}: {done.stderr.decode()}"
        if cut is not None:
            assert done.returncode == STOPPED, where
            assert snapshot.exists(), where
    return Result(done.returncode, stdout, files_of(folder))


def prepare(job: Job, folder: Path) -> None:
    """Makes `folder` with the job's input files in it."""
    folder.mkdir()
    for name, content in job.inputs.items():
        (folder / name).write_text(content)


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file under `folder`, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _wasmsr(options: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "wasmsr", "run", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LEG_SECONDS,
    )
