"""`make containers`: FFmpeg moves between two hosts every ten seconds, its files with it.

The hosts are containers, host-1 and host-2, of the first engine that answers: docker compose,
docker, podman; or, where none does, two network namespaces of this machine. They share nothing but
a network. Each has a certificate of an authority that is made for this, a read-only file system, no
capabilities, and takes programs of 1 GiB at most. The same work runs here unmoved, and in the end
the two results are compared; the exit code is 0 only if they are equal and the program moved often
enough. All that was made is removed, also after a failure or Ctrl-C. Where FFmpeg cannot be built
(this does what `make ffmpeg` does) the packaged transcoding moves.

    python -m scripts.containers [--engine NAME] [--base IMAGE] [--every SECONDS] [--moves N]
                                 [--program ffmpeg|transcoding]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from scripts.hosts import (
    ENGINES,
    Containers,
    Context,
    Failed,
    choose,
    make_certificates,
    say,
)

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "snapshot" / "sample.y4m"
FFMPEG = ROOT / ".cache" / "ffmpeg" / "ffmpeg.wasm"
RESULT = "transcoding.avi"
SPARE = 3
"""Moves that are planned beyond those that must be."""
TRIAL_SECONDS = 2.0
LATE = 8
"""Times as long as planned, then something is wrong."""


def wasmsr(*words: str) -> list[str]:
    """Return a command line of wasmsr."""
    return [sys.executable, "-m", "wasmsr", *words]


def computed() -> float:
    """Seconds of processor time that ended children took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Work:
    """What is computed: a film of so many frames, by FFmpeg or the packaged transcoding."""

    def __init__(self, ffmpeg: bool) -> None:
        self.ffmpeg = ffmpeg
        self.name = "FFmpeg" if ffmpeg else "transcoding"
        # By its file: the name stands for FFmpeg where that was built.
        self.program = FFMPEG if ffmpeg else SAMPLE.with_name("transcoding.wasm")

    def arguments(self, frames: int) -> list[str]:
        """Return the program's arguments. No program uses a clock, so there is one result."""
        if self.ffmpeg:
            head = ["-nostdin", "-hide_banner", "-loglevel", "error", "-y", "-stream_loop", "-1"]
            picture = ["-vf", "scale=512:384", "-c:v", "mpeg4", "-q:v", "4", "-bitexact"]
            head += ["-i", "film/sample.y4m", "-frames:v", str(frames)]
            return [*head, *picture, RESULT]
        progress = str(max(frames // 8, 1))
        head = ["--frames", str(frames), "--scale", "4", "--progress", progress]
        return [*head, "film/sample.y4m", RESULT]

    def alone(self, folder: Path, frames: int) -> list[str]:
        """Return the command that computes the result here, in `folder`, without moving."""
        film = ["--dir", f"{SAMPLE.parent}::film::ro"]
        words = ["run", str(self.program), "--dir", f"{folder}::.", *film]
        return wasmsr(*words, "--", *self.arguments(frames))

    def plan(self, folder: Path, seconds: float) -> int:
        """Return the number of frames that take about `seconds` of CPU time here."""
        frames = 8
        while True:
            before = computed()
            subprocess.run(
                self.alone(folder, frames),
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            took = computed() - before
            if took > TRIAL_SECONDS:
                return max(int(frames * seconds / took), 8)
            frames *= 3


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_ffmpeg(wanted: str) -> bool:
    """Whether FFmpeg moves; builds it where that can be done."""
    if wanted == "transcoding":
        return False
    if not FFMPEG.exists():
        say("FFmpeg is built once, which takes some minutes (.cache/ffmpeg keeps it)")
        done = subprocess.run([ROOT / "scripts" / "build-ffmpeg"], stdin=subprocess.DEVNULL)
        if done.returncode or not FFMPEG.exists():
            if wanted == "ffmpeg":
                raise Failed("FFmpeg cannot be built here")
            say("FFmpeg cannot be built here: the packaged transcoding moves in its place")
            return False
    return True


def run(options: argparse.Namespace, folder: Path) -> int:
    """Run everything in `folder` and return the exit code."""
    work = Work(find_ffmpeg(options.program))
    for name in ("trial", "alone", "context"):
        (folder / name).mkdir()
    seconds = options.every * (options.moves + SPARE)
    frames = work.plan(folder / "trial", seconds)
    context = Context(
        folder=folder / "context",
        keys=folder / "keys",
        base=options.base,
        every=options.every,
        program=work.program,
        arguments=work.arguments(frames),
        sample=SAMPLE,
        result=RESULT,
    )
    engine = choose(ENGINES, options.engine, context)
    make_certificates(
        context.keys, getattr(engine, "addresses", {}), readable=isinstance(engine, Containers)
    )
    say(f"{work.name} makes {frames} frames on two hosts by {engine.name}, and here unmoved")
    alone = subprocess.Popen(
        work.alone(folder / "alone", frames),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60 + LATE * seconds
        lines = engine.run(deadline)
        if alone.wait(max(1.0, deadline - time.monotonic())):
            raise Failed("the run that stays here failed")
        moved = engine.fetch(folder)
        return compare(options, lines, moved, folder / "alone" / RESULT)
    finally:
        if alone.poll() is None:
            alone.kill()
            alone.wait()
        say("removing what was made")
        engine.remove()


def compare(options: argparse.Namespace, lines: list[str], moved: Path, alone: Path) -> int:
    """Says what came of it; returns the exit code."""
    stood = sorted(
        float(match[1]) for line in lines if (match := re.search(r"downtime ([0-9.]+) s", line))
    )
    moves = sum("moved here from" in line for line in lines)
    if stood:
        say(f"moved {moves} times, standing still {stood[0]} to {stood[-1]} s")
    say(f"SHA-256 moved    {digest(moved)}")
    say(f"SHA-256 unmoved  {digest(alone)}")
    equal = digest(moved) == digest(alone)
    say("equal" if equal else "DIFFERENT")
    if moves < options.moves:
        say(f"but {options.moves} moves were to be shown, and {moves} were")
    return 0 if equal and moves >= options.moves else 1


def interrupted(number: int, _: object) -> NoReturn:
    """End the script on a signal."""
    # What cleans up is not to be interrupted again.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Moves a program between two containers.")
    parser.add_argument("--engine", choices=[kind.name for kind in ENGINES])
    parser.add_argument("--base", help="image to build on (default: python:3-slim, or a Debian)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds on each host")
    parser.add_argument("--moves", type=int, default=10, help="moves that are to be shown")
    parser.add_argument("--program", choices=["ffmpeg", "transcoding"], default="")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-containers-"))
    try:
        return run(options, folder)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        say(f"failed: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists() and os.path.isdir(folder):
            say(f"{folder} could not be removed whole")


if __name__ == "__main__":
    sys.exit(main())
