"""Snippets of Python give the same output straight, and interrupted with a save and a new process.

    python -m tests.sandbox.campaign [--seed N] [--stops 5] [--only WORD] [--file F]

Each snippet runs in a sandbox of the set `scientific`, which is deterministic: once straight, and
once interrupted at random moments. At each of these it is saved, loaded by a new process and goes
on there. Output, values, errors and pictures must be equal, byte for byte. What is done is in the
file; the command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import wasmsr
from tests.sandbox.snippets import SNIPPETS
from wasmsr.sandbox.results import SandboxResult, SandboxValue

NEXT = """
import json, sys, wasmsr
from tests.sandbox.campaign import described
path, step = sys.argv[1], json.loads(sys.argv[2])
with wasmsr.Sandbox.load(path) as sandbox:
    result = sandbox.resume(pause_after=step)
    if result.status == "interrupted":
        sandbox.save(path)
    print(json.dumps(described(result)))
"""


def described(result: SandboxResult) -> dict[str, Any]:
    """Return what must be equal, and the status."""

    def value(one: SandboxValue | None) -> dict[str, str] | None:
        if one is None:
            return None
        return {
            mime: data if isinstance(data, str) else hashlib.sha256(data).hexdigest()
            for mime, data in one.data.items()
        }

    error = result.error
    return {
        "status": result.status,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "value": value(result.value),
        "shown": [value(one) for one in result.artifacts],
        "error": None if error is None else [error.type, error.message, error.traceback],
    }


def fresh(packages: str) -> wasmsr.Sandbox:
    """Return a sandbox that is the same in every run."""
    return wasmsr.Sandbox.python(packages, deterministic=True, seed=1)


def straight(code: str, packages: str) -> tuple[dict[str, Any], int]:
    """Return what a snippet gives, and its instructions."""
    with fresh(packages) as sandbox:
        result = sandbox.run(code)
        return described(result), result.instructions


def interrupted(code: str, packages: str, moments: list[int]) -> tuple[dict[str, Any], int]:
    """Return what a snippet gives that is saved at moments, and how often it was saved.

    Args:
        code: The snippet.
        packages: The set of packages.
        moments: Instructions after which it is interrupted, ascending.
    """
    steps = [after - before for before, after in zip([0, *moments], moments, strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "state")
        with fresh(packages) as sandbox:
            result = sandbox.run(code, pause_after=steps[0])
            found = described(result)
            if result.status == "interrupted":
                sandbox.save(path)
        saves = 0
        for step in [*steps[1:], None]:
            if found["status"] != "interrupted":
                break
            saves += 1
            command = [sys.executable, "-c", NEXT, path, json.dumps(step)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
        return found, saves


def check(name: str, code: str, packages: str, seed: int, stops: int) -> dict[str, Any]:
    """Run a snippet both ways; return what came of it."""
    expected, instructions = straight(code, packages)
    chance = random.Random(f"{seed} {name}")
    moments = sorted(chance.sample(range(1, max(instructions, stops + 1)), stops))
    found, saves = interrupted(code, packages, moments)
    same = found == expected
    record = {"name": name, "same": same, "saves": saves, "instructions": instructions}
    return record if same else {**record, "expected": expected, "found": found, "at": moments}


def main() -> int:
    """Run what the file does not have yet; the exit code is 1 if anything differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--packages", default="scientific")
    parser.add_argument("--only", default="")
    parser.add_argument("--file", type=Path)
    given = parser.parse_args()
    lines = given.file.read_text().splitlines() if given.file and given.file.exists() else []
    found = {one["name"]: one for one in map(json.loads, lines)}
    for name, code in SNIPPETS.items():
        if given.only not in name or name in found:
            continue
        found[name] = record = check(name, code, given.packages, given.seed, given.stops)
        print("same" if record["same"] else "DIFFERS", name, record["saves"], flush=True)
        if given.file:
            with given.file.open("a") as file:
                file.write(json.dumps(record) + "\n")
    wrong = [name for name, one in found.items() if not one["same"]]
    print(f"{len(found)} snippets, {len(wrong)} differ: {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
