"""Kills the workers of real programs at random moments, and compares what they leave.

    python -m tests.jobs.campaign --file FILE [--seed 1] [--kills 50] [--programs lua,sqlite,...]

Programs: counter, lua, sqlite, python, ffmpeg. Each runs once undisturbed. Then each runs as a job
that is saved while it runs and restored when its worker is lost, and its worker is killed at a
random moment; in every third run a second time. Log and outputs must be the same, byte for byte.
One line of JSON a run goes to the file; what it has already is not run again. A program that cannot
be had here is named and left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.jobs.programs import counting
from tests.real import fetch
from tests.real.build import built
from tests.real.fetch import Unavailable
from wasmsr.jobs import Executor, JobError

LUA = """
local function queens(n)
  local count, columns, up, down = 0, {}, {}, {}
  local function place(row)
    if row > n then count = count + 1 return end
    for c = 1, n do
      if not (columns[c] or up[row + c] or down[row - c + n]) then
        columns[c], up[row + c], down[row - c + n] = true, true, true
        place(row + 1)
        columns[c], up[row + c], down[row - c + n] = nil, nil, nil
      end
    end
  end
  place(1)
  return count
end
local file = assert(io.open("/w/queens.txt", "w"))
for round = 1, 40 do
  for n = 4, 8 do
    local found = queens(n)
    file:write(round, " ", n, " ", found, "\\n")
    file:flush()
    print(round, n, found)
    io.stderr:write("queens ", n, "\\n")
  end
end
file:close()
"""

SQL = """PRAGMA journal_mode = DELETE;
PRAGMA temp_store = MEMORY;
CREATE TABLE number (n INTEGER PRIMARY KEY, word TEXT);
WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < 60000)
INSERT INTO number SELECT n, hex(n * 7919 % 65536) FROM count;
SELECT count(*) FROM number;
CREATE INDEX by_word ON number (word);
SELECT count(DISTINCT word) FROM number;
UPDATE number SET word = word || n WHERE n % 7 = 0;
PRAGMA integrity_check;
SELECT count(*), sum(n), max(word) FROM number;
"""

PYTHON = """
import hashlib, json, os, sys
state = hashlib.sha256()
with open("/w/digests.json", "w") as file:
    for number in range(40):
        for step in range(400):
            state.update(b"%d %d" % (number, step))
            words = sorted(str(number * step + k) for k in range(20))
        file.write(json.dumps([number, state.hexdigest(), words[0]]) + "\\n")
        file.flush()
        print(number, state.hexdigest()[:16], flush=True)
os.mkdir("/w/more")
os.rename("/w/digests.json", "/w/more/digests.json")
print("done", file=sys.stderr)
"""

FILM = (
    "-nostdin -v error -f lavfi -i testsrc2=size=320x240:rate=25:duration=3"
    " -c:v mpeg4 -q:v 5 -bitexact -y /w/out.avi"
)


@dataclass(frozen=True)
class RealJob:
    """A program as a job.

    Attributes:
        module: Its module.
        words: Its parameters.
        files: Input files by their targets.
    """

    module: Callable[[], Path]
    words: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    def request(self, folder: Path, id: str, **more: Any) -> dict[str, Any]:
        """Return a request that runs it; its files are in `folder`."""
        inputs = [{"source": os.fspath(self.module()), "target": "/main.wasm"}]
        for target, text in self.files.items():
            path = folder / target.strip("/")
            path.write_text(text, encoding="utf-8")
            inputs.append({"source": os.fspath(path), "target": target})
        return {
            "execution_id": id,
            "engine": {"EntryModule": "/main.wasm", "Parameters": list(self.words)},
            "inputs": inputs,
            "outputs": [{"name": "w", "path": "/w"}],
            **more,
        }


JOBS: Mapping[str, RealJob] = {
    "lua": RealJob(lambda: built("lua", "lua.wasm"), ("/job.lua",), {"/job.lua": LUA}),
    "sqlite": RealJob(
        lambda: built("sqlite", "sqlite3.wasm"),
        ("-bail", "/w/job.db", ".read /job.sql"),
        {"/job.sql": SQL},
    ),
    "python": RealJob(fetch.python, ("/job.py",), {"/job.py": PYTHON}),
    "ffmpeg": RealJob(lambda: built("ffmpeg", "ffmpeg.wasm"), tuple(FILM.split())),
}

PROGRAMS = ("counter", *JOBS)

PATIENCE = 600.0


def left(folder: Path) -> str:
    """Return one digest of the results and the log of an execution."""
    found = hashlib.sha256()
    for path in sorted([*(folder / "results").rglob("*"), folder / "log" / "frames"]):
        found.update(f"{path.relative_to(folder)}\0".encode())
        if path.is_file():
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


class Campaign:
    """The runs of one program."""

    def __init__(self, name: str, folder: Path, executor: Executor) -> None:
        self.name, self._folder, self._executor = name, folder, executor

    def _request(self, id: str, **more: Any) -> dict[str, Any]:
        if self.name == "counter":
            return counting(self._folder, id, lines=600, slow=300_000, **more)
        return JOBS[self.name].request(self._folder, id, **more)

    def undisturbed(self) -> tuple[str, float]:
        """Return what the program leaves, and how long it takes."""
        id = f"{self.name}-whole"
        self._executor.start(self._request(id))
        result = self._executor.wait(id, PATIENCE)
        info = self._executor.describe(id)
        if result.error or result.exit_code:
            raise SystemExit(f"{self.name} does not work: {result}")
        assert info.ended is not None
        return left(Path(info.folder)), info.ended - info.began

    def run(self, number: int, seed: int, seconds: float) -> tuple[str, dict[str, Any]]:
        """Run the program once, with kills; return what it leaves, and what happened."""
        choice = random.Random(f"{seed} {self.name} {number}")
        id = f"{self.name}-{number}"
        every = choice.uniform(0.05, 0.3)
        moments = sorted(choice.uniform(0, seconds) for _ in range(2 if number % 3 == 2 else 1))
        self._executor.start(self._request(id, on_loss="restore", snapshot_every=every))
        began = time.monotonic()
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            worker = self._executor.describe(id).worker
            if worker is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        try:
            result = self._executor.wait(id, PATIENCE)
        except (JobError, TimeoutError) as error:
            return "", {"error": str(error)}
        info = self._executor.describe(id)
        found = left(Path(info.folder))
        shutil.rmtree(info.folder, ignore_errors=True)
        said = {"losses": info.losses, "saved": info.saved is not None, "error": result.error}
        return found, {"moments": [round(one, 3) for one in moments], **said}


def run(
    names: list[str], kills: int, seed: int, done: set[tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """Run a campaign, and yield a line of each run.

    Args:
        names: The programs.
        kills: Runs of each.
        seed: Decides the moments.
        done: Program and number of runs that need not be made.
    """
    with tempfile.TemporaryDirectory(prefix="wasmsr-campaign-") as place:
        for name in names:
            left_out = [number for number in range(kills) if (name, number) not in done]
            if not left_out:
                continue
            folder = Path(place) / name
            folder.mkdir()
            with Executor(folder / "jobs") as executor:
                campaign = Campaign(name, folder, executor)
                try:
                    expected, seconds = campaign.undisturbed()
                except Unavailable as reason:
                    yield {"program": name, "skipped": str(reason)}
                    continue
                for number in left_out:
                    found, said = campaign.run(number, seed, seconds)
                    yield {
                        "program": name, "number": number, "seed": seed,
                        "right": found == expected, **said,
                    }  # fmt: skip


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    options = parser.parse_args()
    names = options.programs.split(",")
    if unknown := [name for name in names if name not in PROGRAMS]:
        parser.error(f"there is no program {unknown[0]}: {', '.join(PROGRAMS)}")
    done = set()
    if options.file.exists():
        for line in options.file.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            if one.get("seed") == options.seed:
                done.add((one["program"], one["number"]))
    wrong = 0
    with open(options.file, "a", encoding="utf-8") as file:
        for line in run(names, options.kills, options.seed, done):
            print(json.dumps(line), file=file, flush=True)
            print(json.dumps(line), flush=True)
            wrong += not line.get("right", True)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
