"""Kills a program at random moments of its checkpoints, again and again: it must end as if nothing
had been.

    python -m tests.snapshot.checkpoints.campaign [--kills N] [--seed S] [--log FILE]

Each life of the program ends with SIGKILL at a random moment; a tenth of them has a limit on the
size of files, as on a full disk. The next life begins with the last complete checkpoint. When
enough lives are over, the program runs to its end and must print what it prints undisturbed. With
`--log` the campaign goes on where it was, after it was stopped itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.snapshot.checkpoints.guest import GUEST
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder

TURNS = "6000000"
INTERVAL = 0.02
"""Seconds between two checkpoints."""
LIVES = 20
"""How many lives a program has before it may end."""


@dataclass
class Tally:
    """What has happened so far.

    Attributes:
        kills: Lives that were ended by SIGKILL.
        full: Lives whose files could not grow.
        ended: Programs that came to their end.
        fresh: Lives that had to begin anew, because no checkpoint was complete.
        oldest: The greatest age of a checkpoint at the moment of a kill, in seconds of a life that
            had taken one.
    """

    kills: int = 0
    full: int = 0
    ended: int = 0
    fresh: int = 0
    oldest: float = 0.0


class Broken(AssertionError):
    """The program did not end as it should."""


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "wasmsr", "run", *words]


def _limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def expected(folder: Path) -> str:
    """Write the guest into a folder; return what it prints undisturbed."""
    (folder / "guest.wat").write_text(GUEST)
    words = _command("--invoke", "run", "guest.wat", TURNS)
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout


def _start(place: Path) -> tuple[str, ...]:
    """Return the words that go on with the last complete checkpoint, or begin."""
    if place.exists() and CheckpointFolder(place).heads():
        return ("--from-snapshot", str(place), "guest.wat")
    return ("--invoke", "run", "guest.wat", TURNS)


def live(chance: random.Random, folder: Path, place: Path, tally: Tally) -> bool:
    """Let the program live once, to a random moment; return whether it came to its end."""
    words = _start(place)
    tally.fresh += words[0] == "--invoke"
    options = ["--snapshot-every", str(INTERVAL), "--checkpoint-dir", str(place)]
    options += ["--keep", str(chance.randrange(1, 4)), "--merge-after", str(chance.randrange(1, 5))]
    full = chance.random() < 0.1
    size = chance.randrange(1, 1 << 19)
    process = subprocess.Popen(
        _command(*options, *words),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=(lambda: _limited(size)) if full else None,
    )
    before = set(place.iterdir()) if place.exists() else set()
    deadline = time.monotonic() + 30
    # From the first checkpoint on, so that few lives end before anything has happened.
    while process.poll() is None and not full and time.monotonic() < deadline:
        if place.exists() and set(place.glob("checkpoint-*")) - before:
            break
        time.sleep(0.002)
    time.sleep(chance.random() * (0.5 if full else 0.25))
    ended = process.poll() is not None
    process.kill()
    process.wait()
    tally.full += full
    if ended:
        return True
    tally.kills += 1
    made = [path.stat().st_mtime for path in place.glob("checkpoint-*")] if place.exists() else []
    if made and not full:
        tally.oldest = max(tally.oldest, time.time() - max(made))
    return False


def finish(folder: Path, place: Path, wanted: str) -> None:
    """Let the program run to its end.

    Raises:
        Broken: It ends otherwise than undisturbed, or no checkpoint leads to its end.
    """
    words = _command(*_start(place))
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout != wanted:
        raise Broken(f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}")


def run(kills: int, seed: int, tally: Tally, folder: Path, log: Path | None = None) -> Tally:
    """Kill programs until there were enough kills.

    Raises:
        Broken: One did not end as it should; the message has the command.
    """
    wanted = expected(folder)
    while tally.kills < kills:
        chance = random.Random(f"{seed} {tally.kills} {tally.ended}")
        with tempfile.TemporaryDirectory(dir=folder) as name:
            place = Path(name) / "d"
            for _ in range(LIVES):
                if live(chance, folder, place, tally) or tally.kills >= kills:
                    break
            finish(folder, place, wanted)
            tally.ended += 1
        if log is not None:
            log.write_text(json.dumps(asdict(tally)) + "\n")
        if sys.stderr.isatty():
            print(f"\r{tally.kills} kills, {tally.ended} ends", end="", file=sys.stderr)
    return tally


def main() -> None:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    tally = Tally()
    if options.log is not None and options.log.exists():
        tally = Tally(**json.loads(options.log.read_text()))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        run(options.kills, options.seed, tally, Path(name), options.log)
    spent = time.monotonic() - began
    print(f"{tally} in {spent:.0f} s on {os.cpu_count()} cores: every program ended as undisturbed")


if __name__ == "__main__":
    main()
