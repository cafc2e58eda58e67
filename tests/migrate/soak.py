"""Moves a program to and fro hundreds of times: it must end right, and the ends must not grow.

    python -m tests.migrate.soak [--moves 500] [--every SECONDS] [--log FILE] [PROGRAM…]
    python -m tests.migrate.soak --programs 8 [--seconds S] [--memory PAGES]

The second form moves so many programs at once between two ends (`many.py`): each must end right,
and the slowest of each volley may take twice as long as the median.

Programs: "writer", which checks itself (`bench/migrate/writer.wat`), and FFmpeg, whose film must be
that of an unmoved run. Memory after the last move may be at most 5 % more than after a tenth of
them; descriptors and threads must be as many. With `--log`, programs that are done are not done
again when the command is started again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.migrate.lines import LINES, scratch, sweep
from bench.migrate.pair import NAMES, End, Pair, Stuck, free_ports
from bench.migrate.subjects import Subject, writer
from bench.programs import CACHE, PROGRAMS

GROWTH = 1.05
"""What the memory of an end may be after the last move, by that after a tenth of the moves."""
LOOKS = 5
"""Visits at the first end whose figures count for one reading."""
SPARE = 2.0
"""How much longer a film is than the moves should take."""
TRIAL_FRAMES = 50, 300
"""Frames of two trials: what the second needs more shows how fast frames are made."""
FILM = "-nostdin -v error -f lavfi -i testsrc2=size=320x240:rate=25 -c:v mpeg4 -q:v 5 -bitexact"
PATIENCE = 900.0
"""Seconds until a program that has moved enough must have ended."""


class Wrong(AssertionError):
    """The program or the ends are not as they should be."""


@dataclass(frozen=True)
class Reading:
    """What the two ends hold, after some moves: the medians of several visits.

    Attributes:
        moves: After how many moves.
        memory: Resident bytes of each end.
        descriptors: Open descriptors of each end.
        threads: Threads of each end.
    """

    moves: int
    memory: tuple[int, int]
    descriptors: tuple[int, int]
    threads: tuple[int, int]


@dataclass(frozen=True)
class SoakResult:
    """How a program came through.

    Attributes:
        program: Its name.
        moves: How often it moved.
        early, late: The ends after a tenth of the moves, and after all.
        right: Whether the program itself ended right.
        seconds: How long it took.
    """

    program: str
    moves: int
    early: Reading
    late: Reading
    right: bool
    seconds: float

    def faults(self) -> list[str]:
        """Return sentences about what is wrong."""
        found = [] if self.right else [f"{self.program} did not end right"]
        for i, name in enumerate(NAMES):
            early, late = self.early.memory[i], self.late.memory[i]
            if late > early * GROWTH:
                found.append(
                    f"end {name} has {late >> 20} MiB after {self.late.moves} moves, "
                    f"{early >> 20} MiB after {self.early.moves}"
                )
            for what in ("descriptors", "threads"):
                before, after = getattr(self.early, what)[i], getattr(self.late, what)[i]
                if after > before:
                    found.append(f"end {name} has {after} {what}, and had {before}")
        return found


class SoakWriter:
    """The writer: it ends when there is a file `stop` in its folder, and its code says the rest."""

    name = "writer"
    memory = 256
    """Pages of 64 KiB."""

    def __init__(self, folder: Path, moves: int, every: float) -> None:
        self._files = folder / "mounted"
        self._files.mkdir()

    def subject(self) -> Subject:
        """Return it as a program of the bench."""
        return WriterWithFolder(self.name, 1, 1, memory=self.memory, rate=2000, folder=self._files)

    def finish(self) -> None:
        """Let it end."""
        (self._files / "stop").touch()

    def right(self, code: int) -> bool:
        """Return whether it ended right."""
        return code == 0


@dataclass(frozen=True)
class WriterWithFolder(Subject):
    """The writer with a folder at both ends."""

    folder: Path = Path()

    def prepared(self, folder: Path) -> tuple[list[str], list[str]]:
        path = folder / "writer.wat"
        path.write_text(writer(self.memory, self.rate))
        return [f"--dir={self.folder}::/w"], ["--program", str(path)]


@dataclass(frozen=True)
class FilmOfFrames(Subject):
    """FFmpeg with a film of so many frames, in a folder that both ends have."""

    frames: int = 0
    folder: Path = Path()

    def prepared(self, folder: Path) -> tuple[list[str], list[str]]:
        words = ["--program", str(CACHE / PROGRAMS["ffmpeg"].module), "--"]
        return [f"--dir={self.folder}::/w"], [*words, *film(self.frames)]


class SoakFilm:
    """FFmpeg: the film must be that of an unmoved run, which goes on beside it."""

    name = "FFmpeg"

    def __init__(self, folder: Path, moves: int, every: float) -> None:
        self._moved, self._alone = folder / "moved", folder / "alone"
        for path in (self._moved, self._alone, folder / "trial"):
            path.mkdir()
        few, many = (_seconds(unmoved(folder / "trial", frames)) for frames in TRIAL_FRAMES)
        rate = (TRIAL_FRAMES[1] - TRIAL_FRAMES[0]) / max(many - few, 0.1)
        self._frames = int(rate * every * moves * SPARE) + TRIAL_FRAMES[1]

    def subject(self) -> Subject:
        """Return it as a program of the bench."""
        return FilmOfFrames(self.name, 1, 1, counted=None, frames=self._frames, folder=self._moved)

    def finish(self) -> None:
        """Make the film that it is compared with; it ends by itself."""
        _run(unmoved(self._alone, self._frames))

    def right(self, code: int) -> bool:
        """Return whether its film is right."""
        films = [path / "out.avi" for path in (self._moved, self._alone)]
        one, two = (hashlib.sha256(path.read_bytes()).digest() for path in films)
        return code == 0 and one == two


SOAKED: dict[str, type[SoakWriter] | type[SoakFilm]] = {
    kind.name: kind for kind in (SoakWriter, SoakFilm)
}


def film(frames: int) -> list[str]:
    """Return FFmpeg's arguments for a film of so many frames."""
    return [*FILM.split(), "-frames:v", str(frames), "-y", "/w/out.avi"]


def unmoved(folder: Path, frames: int) -> list[str]:
    """Return the command that makes the film here."""
    words = [sys.executable, "-m", "wasmsr", "run", f"--dir={folder}::/w"]
    return [*words, str(CACHE / PROGRAMS["ffmpeg"].module), "--", *film(frames)]


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def _seconds(command: Sequence[str]) -> float:
    began = time.monotonic()
    _run(command)
    return time.monotonic() - began


class Readings:
    """Reads what the ends hold, always at the same moment of a visit at the first end.

    Args:
        pair: The ends.
        every: Seconds of a visit.
    """

    def __init__(self, pair: Pair, every: float) -> None:
        self._pair = pair
        self._every = every
        self._seen = 0
        self._looks: list[tuple[int, list[tuple[int, int, int]]]] = []

    def look(self) -> None:
        """Read once a visit, in its first half; called often."""
        arrived = self._pair.ends["a"].of_kind("arrived")
        if len(arrived) == self._seen:
            return
        if time.monotonic() - float(arrived[-1]["when"]) < self._every * 0.4:
            return
        self._seen = len(arrived)
        found = [_held(self._pair.ends[name]) for name in NAMES]
        self._looks.append((self._pair.arrivals(), found))

    def reading(self, moves: int) -> Reading:
        """Return the medians of the last visits before so many moves."""
        looks = [found for when, found in self._looks if when <= moves][-LOOKS:]
        if not looks:
            raise Wrong(f"the ends were not looked at within {moves} moves")

        def middle(which: int) -> tuple[int, int]:
            a, b = (int(statistics.median([look[i][which] for look in looks])) for i in (0, 1))
            return a, b

        return Reading(moves, middle(0), middle(1), middle(2))


def _held(end: End) -> tuple[int, int, int]:
    return end.status("VmRSS"), end.descriptors(), end.status("Threads")


def soak(name: str, moves: int, every: float, say: Callable[[str], None]) -> SoakResult:
    """Move one program so often, let it end, and return how it was.

    Args:
        name: A key of `SOAKED`.
        moves: How often, at least 20.
        every: Seconds between two moves.
        say: Gets a line now and then.

    Raises:
        Wrong: It moved less often.
        Stuck: It does not move.
    """
    began = time.monotonic()
    with scratch(Path(tempfile.gettempdir())) as folder, LINES[0].made() as places:
        chosen = SOAKED[name](folder, moves, every)
        subject = replace(chosen.subject(), first=every, then=every)
        with Pair(subject, places, folder, frozenset(os.sched_getaffinity(0))) as pair:
            readings = Readings(pair, every)
            said = time.monotonic()

            def watch() -> None:
                nonlocal said
                readings.look()
                if time.monotonic() - said > 30:
                    said = time.monotonic()
                    say(f"{name}: {pair.arrivals()} moves")

            pair.move(moves, watch)
            chosen.finish()
            code = ended(pair)
            moved = pair.arrivals()
            right = code is not None and chosen.right(code)
            early, late = readings.reading(moves // 10), readings.reading(moves)
    return SoakResult(name, moved, early, late, right, time.monotonic() - began)


def ended(pair: Pair) -> int | None:
    """Wait until the program has ended; return its exit code, None if it does not end."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for end in pair.ends.values():
            for event in end.of_kind("ended"):
                if event["here"]:
                    return int(event["code"])
        if all(end.process.poll() is not None for end in pair.ends.values()):
            raise Wrong(f"the ends have ended; {pair.words()}")
        time.sleep(0.1)
    return None


@dataclass(frozen=True)
class ManyResult:
    """How several programs came through that moved at once.

    Attributes:
        programs: How many.
        moves: How often they moved, all together.
        volleys: For each time that all of them left one end at once: the seconds of the median and
            of the slowest.
        wrong: What is not as it should be.
    """

    programs: int
    moves: int
    volleys: tuple[tuple[float, float], ...]
    wrong: tuple[str, ...]

    @property
    def slow(self) -> int:
        """In how many volleys the slowest took more than twice as long as the median."""
        return sum(slowest > 2 * middle for middle, slowest in self.volleys)


def many(
    programs: int,
    folder: Path,
    *,
    seconds: float,
    every: float,
    memory: int,
    rate: float,
    lease: float | None = None,
) -> ManyResult:
    """Move several programs at once, to and fro, until they end.

    Args:
        programs: How many.
        folder: An empty folder.
        seconds: How long each runs.
        every: Seconds between two volleys.
        memory: Pages of 64 KiB of each.
        rate: Pages of 4 KiB that each writes a second.
        lease: Seconds of a lease that each has; None for none.
    """
    one, two = free_ports()
    words = [f"--programs={programs}", f"--seconds={seconds}", f"--every={every}", "--together"]
    words += [f"--memory={memory}", f"--rate={rate}"]
    words += [] if lease is None else [f"--lease={lease}"]
    command = [sys.executable, "-m", "tests.migrate.many", str(folder)]
    logs = {name: folder / f"{name}.events" for name in NAMES}
    running = []
    for name, port, peer in (("b", two, one), ("a", one, two)):
        with open(logs[name], "wb") as log:
            running.append(
                subprocess.Popen([*command, name, str(port), str(peer), *words], stdout=log)
            )
    try:
        codes = [process.wait(seconds + 2 * PATIENCE) for process in running]
    finally:
        for process in running:
            process.kill()
    found = {
        name: [json.loads(line) for line in path.read_text().splitlines()]
        for name, path in logs.items()
    }
    wrong = [f"an end ended with code {code}" for code in codes if code]
    wrong += _outputs(folder / "output", programs)
    events = [event for one in found.values() for event in one]
    wrong += [event["text"] for event in events if event["event"] in ("failed", "lost", "trouble")]
    codes_of = [event["code"] for event in events if event["event"] == "ended"]
    if codes_of != [0] * programs:
        wrong.append(f"the programs ended with {codes_of}")
    wrong += [f"an end keeps {e['records']}" for e in events if e.get("records")]
    moved = {
        name: [float(e["seconds"]) for e in one if e["event"] == "moved"]
        for name, one in found.items()
    }
    volleys = [
        (statistics.median(spans[at : at + programs]), max(spans[at : at + programs]))
        for spans in moved.values()
        for at in range(0, len(spans) - programs + 1, programs)
    ]
    return ManyResult(programs, sum(map(len, moved.values())), tuple(volleys), tuple(wrong))


def _outputs(path: Path, programs: int) -> list[str]:
    """Return what is wrong with the lines of the programs: each counts upwards in its own."""
    last = dict.fromkeys(range(programs), 0)
    for line in path.read_text().splitlines():
        name, number = line.split()
        which, count = int(name.removeprefix("p")), int(number)
        if count <= last[which]:
            return [f"program {which} says {count} after {last[which]}"]
        last[which] = count
    return [f"program {which} says nothing" for which, count in last.items() if not count]


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.migrate.soak", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(SOAKED))
    parser.add_argument("--moves", type=int, default=500)
    parser.add_argument("--every", type=float, default=0.4, help="seconds between two moves")
    parser.add_argument("--log", type=Path, help="what is done is kept there")
    parser.add_argument("--many", "--programs", type=int, metavar="N", help="N programs at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each of them runs")
    parser.add_argument("--lease", type=float, help="seconds of a lease that each of them has")
    parser.add_argument("--memory", type=int, default=64, help="64 KiB pages of each")
    parser.add_argument("--rate", type=float, default=400.0, help="pages that each writes a second")
    options = parser.parse_args(argv)
    if options.many:
        with scratch(Path(tempfile.gettempdir())) as folder:
            several = many(
                options.many, folder, seconds=options.seconds, every=options.every,
                memory=options.memory, rate=options.rate, lease=options.lease,
            )  # fmt: skip
        print(json.dumps({**asdict(several), "slow": several.slow}))
        return 1 if several.wrong or several.slow else 0
    if unknown := sorted(set(options.programs) - set(SOAKED)):
        parser.error(f"no such program: {', '.join(unknown)}")
    if options.moves < 20:
        parser.error("--moves must be at least 20")
    sweep(Path(tempfile.gettempdir()))
    done = options.log.read_text().splitlines() if options.log and options.log.exists() else []
    finished = {json.loads(line)["program"] for line in done}
    faults: list[str] = []
    for name in options.programs or SOAKED:
        if name in finished:
            print(f"{name} is done")
            continue
        if name == SoakFilm.name and not (CACHE / PROGRAMS["ffmpeg"].module).exists():
            print("without FFmpeg: `make ffmpeg` builds it", file=sys.stderr)
            continue
        try:
            result = soak(name, options.moves, options.every, lambda text: print(text, flush=True))
        except (Stuck, Wrong) as error:
            faults.append(f"{name}: {error}")
            continue
        print(json.dumps(asdict(result)), flush=True)
        faults += result.faults()
        if options.log and not result.faults():
            with options.log.open("a") as log:
                log.write(json.dumps(asdict(result)) + "\n")
    for fault in faults:
        print(f"failed: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
