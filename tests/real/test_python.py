"""CPython, unmodified: runs a script to the right answer, whole and in legs."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest

from tests.real import fetch
from tests.real.legs import Job, in_legs, whole
from tests.real.oracle import wasmtime_run

SCRIPT = """\
import hashlib, json, math, random, re, sys
random.seed(7)
words = ["".join(random.choices("abcdefgh", k=random.randint(2, 6))) for _ in range(1500)]
counts = {}
for word in words:
    counts[word] = counts.get(word, 0) + 1
with open("/w/words.json", "w") as file:
    json.dump(counts, file, sort_keys=True)
with open("/w/log.txt", "w") as log:
    for turn in range(6):
        with open("/w/words.json") as file:
            back = json.load(file)
        digest = hashlib.sha256(repr((turn, sorted(back.items()))).encode()).hexdigest()
        log.write(f"{turn} {digest}\\n")
        matches = sum(1 for word in back if re.fullmatch("a.*b", word))
        print(turn, digest[:16], matches, flush=turn % 2 == 0)
print(2**521 % 10**40, math.fsum(1 / n for n in range(1, 20000)))
sys.exit(7)
"""


@pytest.fixture(scope="module")
def module() -> Path:
    try:
        return fetch.python()
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.full
def test_print(module: Path, tmp_path: Path) -> None:
    result, executed = whole(Job(module, ("-c", "print(1)")), tmp_path / "out")
    assert (result.code, result.stdout) == (0, b"1\n")
    assert executed > 10_000_000


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_script_in_legs(module: Path, tmp_path: Path) -> None:
    job = Job(
        module,
        ("/w/job.py",),
        output="/w",
        env=("PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1"),
        inputs={"job.py": SCRIPT},
    )
    result, executed = whole(job, tmp_path / "whole")
    assert result.code == 7
    lines = result.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["0", "1", "2", "3", "4", "5"]
    assert lines[-1] == f"{2**521 % 10**40} {math.fsum(1 / n for n in range(1, 20000))}"
    counts = json.loads(result.files["words.json"])
    assert sum(counts.values()) == 1500
    digest = hashlib.sha256(repr((5, sorted(counts.items()))).encode()).hexdigest()
    assert result.files["log.txt"].decode().splitlines()[5] == f"5 {digest}"

    assert result == wasmtime_run(job, tmp_path / "oracle")
    assert in_legs(job, tmp_path / "legs", executed=executed, seed=1) == result
