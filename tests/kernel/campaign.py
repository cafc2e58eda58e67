"""Kills the process behind a kernel at random moments while a notebook runs.

    python -m tests.kernel.campaign --cells 200 --kills 100 --seed 1 --file found.json

The outputs must be those of an undisturbed run, once what is marked as shown again is left out; and
no cell may be executed after a later one has begun. The file has what came of each round, and a
second call with it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from wasmsr.kernel.spec import spec_of, write_spec

KINDS = (
    "for i in range({n}):\n    total = (total * 31 + i) % 1000003\n"
    "    if i % 50 == 0: print({k}, i, total)",
    "text = ''.join(chr(97 + (i * {k}) % 26) for i in range({n}))\nprint(text[:40]); len(text)",
    "import sys\nfor i in range(5):\n    print('err', {k}, i, file=sys.stderr); print('out', i)\n"
    "    total += sum(range({n}))",
    "for i in range(3):\n    display([{k}, i]); total += sum(range({n}))\ntotal",
    "def f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nprint(f(10 + {k} % 5))\n1 / (total * 0)",
    "data = list(range({n})); data.reverse(); data.sort()\n{{'k': {k}, 'sum': sum(data)}}",
)


def notebook(cells: int, seed: int, size: int) -> list[str]:
    """The cells of a notebook; the last one says which cells were executed."""
    draw = random.Random(seed)
    found = ["total, log = 7, []"]
    for k in range(1, cells - 1):
        body = draw.choice(KINDS).format(k=k, n=draw.randrange(100, size))
        note = f"open('/notes/log', 'a').write('{k}\\n'); log.append({k})"
        found.append(f"_ = {note.split('; ')[0]}\n{note.split('; ')[1]}\n{body}")
    return [*found, "print(log); total"]


def kernel_spec(folder: Path, every: float) -> None:
    """Write a kernel's spec into a folder that Jupyter is told of."""
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    options = ["--dir", f"{folder / 'notes'}::/notes", "--checkpoint-every", str(every)]
    env = {"XDG_STATE_HOME": str(folder / "state")}
    write_spec(folder / "jupyter" / "kernels" / "killed", spec_of(options, "Killed", env))
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    os.environ["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")


def worker_of(relay: int) -> psutil.Process | None:
    """The process behind a relay, if there is one now."""
    try:
        for child in psutil.Process(relay).children():
            if child.status() != psutil.STATUS_ZOMBIE:
                return child
    except psutil.Error:
        pass
    return None


def execute(cells: list[str], kills: int = 0, seed: int = 0, pause: float = 1.0) -> Any:
    """Execute a notebook, and kill its worker at random moments; return it, and the kills."""
    import nbclient
    import nbformat

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in cells])
    client = nbclient.NotebookClient(
        book, kernel_name="killed", timeout=600, startup_timeout=300, allow_errors=True
    )
    ended, done = threading.Event(), 0

    def kill() -> None:
        nonlocal done
        draw = random.Random(seed)
        while done < kills and not ended.wait(draw.uniform(0, 2 * pause)):
            process = getattr(getattr(client.km, "provisioner", None), "process", None)
            found = None if process is None else worker_of(process.pid)
            if found is not None:
                found.send_signal(signal.SIGKILL)
                done += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        client.execute()
    finally:
        ended.set()
        killer.join()
    return book, done


def shown(outputs: list[Any]) -> list[Any]:
    """What a cell has shown, without what was shown again and without marks."""
    found: list[Any] = []
    again = False
    for one in outputs:
        about = one.get("metadata", {}).get("wasmsr")
        if about is not None:
            again = again or bool(about.get("resumed"))
            if "whole" in about:
                found.clear()
                again = False
            if "repeated" in about:
                again = False
            continue
        if again:
            continue
        if one["output_type"] == "stream":
            # Two streams come in an order of their own in each run.
            same = [two for two in found if two[0] == one["name"]]
            if same:
                same[0][1] += one["text"]
            else:
                found.append([one["name"], one["text"]])
        elif one["output_type"] == "error":
            found.append(["error", one["ename"], one["evalue"], one["traceback"]])
        else:
            found.append([one["output_type"], one["data"]])
    return sorted(found[:], key=lambda one: one[0])


def round_of(
    folder: Path, cells: int, kills: int, seed: int, pause: float, size: int = 4000
) -> dict[str, Any]:
    """One notebook, undisturbed and killed, and what is wrong."""
    kernel_spec(folder, every=0.1)
    code = notebook(cells, seed, size)
    expected, _ = execute(code)
    (folder / "notes" / "log").unlink(missing_ok=True)
    began = time.monotonic()
    found, done = execute(code, kills, seed, pause)
    wrong = [
        at
        for at, (one, other) in enumerate(zip(expected.cells, found.cells, strict=True))
        if shown(one.outputs) != shown(other.outputs)
    ]
    log = [int(line) for line in (folder / "notes" / "log").read_text().split()]
    marks = [
        out["metadata"]["wasmsr"]
        for cell in found.cells
        for out in cell.outputs
        if "wasmsr" in out.get("metadata", {})
    ]
    return {
        "seed": seed,
        "cells": cells,
        "kills": done,
        "wrong": wrong,
        "executed_again": log != sorted(log) or sorted(set(log)) != list(range(1, cells - 1)),
        "resumed": sum("resumed" in one for one in marks),
        "repeated": sum("repeated" in one for one in marks),
        "seconds": round(time.monotonic() - began, 1),
        "examples": [
            [shown(expected.cells[at].outputs), found.cells[at].outputs] for at in wrong[:2]
        ],
    }


def main() -> int:
    """Run the campaign; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between kills")
    parser.add_argument("--size", type=int, default=40_000, help="most rounds of a cell's loop")
    parser.add_argument("--file", type=Path, help="what came of it; the next call goes on")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    if given.file is not None and given.file.exists():
        found = json.loads(given.file.read_text())
    seed = given.seed + len(found)
    while sum(one["kills"] for one in found) < given.kills:
        left = given.kills - sum(one["kills"] for one in found)
        with tempfile.TemporaryDirectory() as folder:
            found.append(round_of(Path(folder), given.cells, left, seed, given.pause, given.size))
        seed += 1
        print(json.dumps(found[-1]), flush=True)
        if given.file is not None:
            given.file.write_text(json.dumps(found, indent=1))
    return int(any(one["wrong"] or one["executed_again"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
