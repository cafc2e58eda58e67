"""Programs that go into a tab and back, and tabs that are killed. Resumable.

    python -m tests.visits.campaign --moves 20 --kills 5 --file FOUND.json

Each run has a fresh program that counts. It goes into the tab and back so often, and so many tabs
are closed without a word at a random moment. Then each line must be there once, in order, and at no
time may node and tab both have run it. It needs chromium, chromium-driver and selenium.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.chromium import chromium
from tests.node.programs import counting, lines
from tests.visits.tab import ServedNode, Tab, until
from wasmsr.node.supervision.program_record import ProgramStanding

LINES = 60_000


def one_run(browser: Any, folder: Path, moves: int, kills: int, seed: int) -> dict[str, Any]:
    """Make one run, and return what was found."""
    chance = random.Random(seed)
    node = ServedNode(folder, counting(LINES, 2))
    began = time.monotonic()
    killed = set(chance.sample(range(moves), kills))
    twice, ended = [], threading.Event()

    def watch() -> None:
        """The node must have no worker from the moment at which a browser may run the program."""
        while not ended.is_set():
            before = node.program.record.lent_until
            pid = node.program.pid
            if before and pid and node.program.record.lent_until == before:
                twice.append(pid)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        tab = Tab(browser, node)
        for number in range(moves):
            tab.begin()
            time.sleep(chance.uniform(0, 4))
            if number in killed:
                tab.kill()
                until(lambda: node.program.standing is ProgramStanding.RUNNING)
                tab = Tab(browser, node)
            else:
                tab.end()
        node.program.pause()
        output = node.output()
        right = output == lines(0, len(output) // 9)
        return {
            "seed": seed, "moves": moves, "kills": kills, "lines": len(output) // 9,
            "right": right, "twice": len(twice), "lives": node.program.record.life,
            "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
    finally:
        ended.set()
        watcher.join()
        node.stop()


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.visits.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", type=Path, help="keep what was found there, and go on from it")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    if options.file is not None and options.file.exists():
        found = json.loads(options.file.read_text())
    for seed in range(options.seed + len(found), options.seed + options.runs):
        with tempfile.TemporaryDirectory() as name, chromium(Path(name) / "profile") as browser:
            found.append(one_run(browser, Path(name), options.moves, options.kills, seed))
        print(found[-1], flush=True)
        if options.file is not None:
            options.file.write_text(json.dumps(found))
    wrong = [one for one in found if not one["right"] or one["twice"]]
    print(f"{len(found)} runs, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
