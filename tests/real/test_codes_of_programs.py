"""Real programs in fast and precise code side by side: equal at 10,000 points spread over each.

`twins` makes the program twice, tests/lockstep.py runs the pair; the second run of each lets the
fast code count its instructions.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real import fetch
from tests.real.build import built
from tests.real.fetch import Unavailable
from tests.real.legs import Job, files_of
from tests.real.netlist import feedback_register
from tests.real.test_built import LUA, SQL
from tests.real.twins import twins
from wasmsr.interp.outcomes import Exited, Finished

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "snapshot"
COMPARED = 10_000
FILM = "-nostdin -v error -f lavfi -i testsrc2=size=96x64:rate=25:duration=0.5 -c:v mpeg4 -q:v 5"
SMALL_LUA = LUA.replace("for n = 4, 8 do", "for n = 4, 6 do")
SMALL_SQL = SQL.replace("n < 3000", "n < 600")


def lockstep(job: Job, folder: Path, *, points: int, counted: bool, memories: int = 1) -> int:
    """Run a program of about so many canonical points to its end; how many states were equal."""
    pair = twins(job, folder, counted=counted, memories=memories)
    outcome = pair.run(most=4 * COMPARED, every=max(1, points // COMPARED), seed=points)
    assert isinstance(outcome, (Exited, Finished)), outcome
    assert pair.same_snapshots()
    assert files_of(folder / "fast") == files_of(folder / "precise")
    for suffix in (".stdout",):
        one, other = ((folder / name).with_suffix(suffix) for name in ("fast", "precise"))
        assert one.read_bytes() == other.read_bytes()
    return pair.compared


def test_transcoding(tmp_path: Path) -> None:
    sample = (EXAMPLES / "sample.y4m").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sample.y4m").write_bytes(sample)
    job = Job(
        EXAMPLES / "transcoding.wasm",
        ("--frames", "2", "/in/sample.y4m", "/w/out.avi"),
        mounts=((tmp_path / "in", "/in"),),
        output="/w",
    )
    assert lockstep(job, tmp_path, points=2_000_000, counted=False) > 50


def program(name: str) -> tuple[Job, int]:
    """A real program, and about how many canonical points it passes; or a skip with the reason."""
    try:
        if name == "python":
            return Job(fetch.python(), ("-c", "print(1)")), 3_900_000
        if name == "lua":
            inputs = {"job.lua": SMALL_LUA}
            return Job(
                built("lua", "lua.wasm"), ("/w/job.lua",), output="/w", inputs=inputs
            ), 60_000
        if name == "sqlite":
            module = built("sqlite", "sqlite3.wasm")
            words = ("-bail", "/w/job.db", ".read /w/job.sql")
            return Job(module, words, output="/w", inputs={"job.sql": SMALL_SQL}), 200_000
        film = (*FILM.split(), "-bitexact", "-y", "/w/out.avi")
        return Job(built("ffmpeg", "ffmpeg.wasm"), film, output="/w"), 900_000
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("counted", [False, True], ids=["plain", "counted"])
@pytest.mark.parametrize("name", ["python", "lua", "sqlite", "ffmpeg"])
def test_real_programs(name: str, counted: bool, tmp_path: Path) -> None:
    job, points = program(name)
    assert lockstep(job, tmp_path, points=points, counted=counted) > COMPARED // 4


SOURCE = "export const f = (x: number): string => `${x * 2}`; console.log(f(21));\n"


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_esbuild(tmp_path: Path) -> None:
    """Written in Go: 60 MB of memory and functions of 200 KB."""
    try:
        module = fetch.esbuild()
    except Unavailable as reason:
        pytest.skip(str(reason))
    words = ("--minify", "--outfile=/out.js", "/in.ts")
    job = Job(module, words, output="/", inputs={"in.ts": SOURCE})
    compared = lockstep(job, tmp_path, points=800_000, counted=False, memories=100)
    assert compared > COMPARED // 4
    assert (tmp_path / "fast" / "out.js").read_bytes().startswith(b"export const f=")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_nextpnr(tmp_path: Path) -> None:
    """C++ with exceptions and atomics, and 223 MiB of memory."""
    try:
        module, share = fetch.newer_nextpnr()
    except Unavailable as reason:
        pytest.skip(str(reason))
    words = "--hx8k --package ct256 --json /w/design.json --asc /w/out.asc --seed 1 -q"
    job = Job(
        module,
        tuple(words.split()),
        mounts=((share, "/share"),),
        output="/w",
        inputs={"design.json": feedback_register(4)},
    )
    compared = lockstep(job, tmp_path, points=5_600_000, counted=False, memories=200)
    assert compared > COMPARED // 4
    assert (tmp_path / "fast" / "out.asc").read_bytes().startswith(b".comment")
