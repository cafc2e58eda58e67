"""CPython with carried folders moves between nodes while it writes, and checks itself."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from pathlib import Path

import pytest

from tests.node.nodes import World
from tests.node.test_moves import output, until, world
from tests.real.fetch import Unavailable, python
from wasmsr.node.supervision.program_record import ProgramStanding

__all__ = ["world"]

STEPS = 300

SCRIPT = f"""
import hashlib, os, random, time
os.mkdir("/data/notes")
os.symlink("notes", "/data/link")
kept = open("/data/diary", "a+")
scratch, words, seen = {{}}, [], hashlib.sha256()
for step in range({STEPS}):
    line = f"{{step:04d}} {{random.random()}}\\n"
    words.append(line)
    seen.update(line.encode())
    kept.write(line)
    kept.flush()
    with open(f"/data/link/{{step % 7}}", "w") as file:
        file.write(line)
    with open(f"/mem/{{step % 5}}", "w") as file:
        file.write(line)
    scratch[step] = line
    kept.seek(0)
    assert kept.read() == "".join(words), "the carried file, through an open descriptor"
    for back in range(min(step + 1, 5)):
        assert open(f"/data/notes/{{(step - back) % 7}}").read() == scratch[step - back]
        assert open(f"/mem/{{(step - back) % 5}}").read() == scratch[step - back]
    print(f"{{step:04d}}", flush=True)
    time.sleep(0.02)
os.rename("/data/diary", "/data/done")
print(seen.hexdigest(), hashlib.sha256(open("/data/done", "rb").read()).hexdigest(), flush=True)
"""


@pytest.mark.full
def test_cpython_moves_with_its_files(world: World, tmp_path: Path) -> None:
    try:
        binary = python().read_bytes()
    except Unavailable as error:
        pytest.skip(str(error))
    nodes = [world.node(f"{name}:1", tmp_path / name) for name in "ab"]
    spec = {"args": ["-c", SCRIPT], "mounts": ["::/data::carry", "::/mem::mem"]}
    program = nodes[0].submit([binary], spec)
    until(lambda: output(nodes[0], program), 120)
    moves = 0
    while moves < 4:
        source, there = nodes[moves % 2], nodes[(moves + 1) % 2]
        source.moves.migrate(source.find(program), f"{'ba'[moves % 2]}:1")
        moves += 1
        before = output(there, program)
        until(lambda: output(there, program) != before, 60)  # noqa: B023
        time.sleep(0.1)
    last = nodes[moves % 2]
    until(lambda: last.find(program).standing is ProgramStanding.ENDED, 120)
    *steps, hashes = output(last, program).splitlines()
    assert last.find(program).record.code == 0, last.find(program).record.reason
    assert steps == [f"{step:04d}" for step in range(STEPS)], "each line once"
    seen, kept = hashes.split()
    assert seen == kept and len(kept) == hashlib.sha256().digest_size * 2
    until(lambda: not any((tmp_path / "ba"[moves % 2] / "carried").glob("*/*")))
    packed = b"".join(last.find(program).carried("/data"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as tape:
        names = {one.name: one for one in tape}
        assert names["link"].issym() and "notes/6" in names
        done = tape.extractfile("done")
        assert done is not None and hashlib.sha256(done.read()).hexdigest() == kept
