"""Kills processes of a gang that is saved while it runs, and checks what the gang counts.

    python -m tests.elements.campaign --faults 100 --seed 1 [--file LOG] [--folder FOLDER]

Each fault kills the scheduler, the forker or a copy of the gang at a random time after a new cut.
The run is resumed where it has ended. At the end the counters of the gang must be right: they trap
if a write is lost or done twice, or if one of them is set back alone. With --folder the campaign
goes on with the run that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.elements.gangs import gang, journal, right
from tests.elements.test_runs import children
from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.folder.reading import read_folder

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 120.0
"""How long anything may take."""
KINDS = ("scheduler", "forker", "copy")


class Campaign:
    """One run, and what is done to it."""

    def __init__(self, folder: Path, every: float) -> None:
        self.folder, self.every = folder, every
        self.go = folder / "go"
        found = list((folder / "runs").glob("r-*"))
        if not found:
            graph, faults = read_folder(gang(folder / "g", retries=1000))
            assert not faults
            run = RunFolder.create(folder / "runs", graph, {})
            run.give_back()
            found = [run.path]
        self.run = found[0]
        self.faults = dict.fromkeys(KINDS, 0)
        self.resumes = 0
        self.process = self._begin()

    def _begin(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "tests.elements.gangs", str(self.run), str(self.every)]
        return subprocess.Popen(
            [*words, str(self.go)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def cuts(self) -> int:
        return sum("cuts" in entry for entry in journal(self.run))

    def until(self, condition: Any) -> bool:
        """Wait for a condition; False if the scheduler ended before."""
        ends = time.monotonic() + SECONDS
        while not condition():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < ends, "nothing happens any more"
            time.sleep(0.005)
        return True

    def fault(self, kind: str, chance: random.Random) -> None:
        """Kill a process after a new cut, and resume the run if it has ended."""
        before = self.cuts()
        alive = self.until(lambda: self.cuts() > before)
        time.sleep(chance.uniform(0, 2 * self.every))
        if alive:
            forkers = children(self.process.pid)
            copies = [pid for one in forkers for pid in children(one)]
            pids = {"scheduler": [self.process.pid], "forker": forkers, "copy": copies}[kind]
            if pids:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(pids), signal.SIGKILL)
                self.faults[kind] += 1
        if kind != "copy" or not alive:
            _, words = self.process.communicate(timeout=SECONDS)
            assert "unreachable" not in words and "trap" not in words, words
            self.resumes += 1
            self.process = self._begin()

    def end(self) -> dict[str, Any]:
        """Let the gang end, and return what there was."""
        self.go.touch()
        out, words = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, words
        result = json.loads(out)
        right(result)
        run = RunFolder(self.run)
        begun = [run.log(name, 0).read_text().count("begun") for name in "ab"]
        return {"faults": self.faults, "resumes": self.resumes, "cuts": self.cuts(),
                "counted": result["numbers"][::2], "begun": begun}  # fmt: skip


def campaign(folder: Path, faults: int, seed: int, every: float = 0.05) -> dict[str, Any]:
    """Make so many faults, and return what there was; an error if something was wrong."""
    chance = random.Random(seed)
    made = Campaign(folder, every)
    try:
        for _ in range(faults):
            made.fault(chance.choice(KINDS), chance)
        found = made.end()
    finally:
        made.process.kill()
        made.process.communicate()
    # Before a first cut a gang begins again, and only then.
    assert found["begun"] == [1, 1], found
    return found


def main() -> None:
    """Run it, and print what there was."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=0.05)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(given.folder or Path(folder), given.faults, given.seed, given.every)
    text = json.dumps({"seed": given.seed, "load": os.getloadavg()[0], **found})
    print(text)
    if given.file is not None:
        with given.file.open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
