"""Lua, SQLite and FFmpeg, built from the distribution's sources: to the right answer, whole and in
legs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.real.build import built
from tests.real.fetch import Unavailable
from tests.real.legs import Job, Result, in_legs, whole
from tests.real.oracle import wasmtime_run

pytestmark = [pytest.mark.full, pytest.mark.timeout(3000)]


def module(name: str, file: str) -> Path:
    """The module, or a skip with the reason."""
    try:
        return built(name, file)
    except Unavailable as reason:
        pytest.skip(str(reason))


def thrice(job: Job, folder: Path, *, seed: int) -> Result:
    """Runs `job` whole, under the other engine and in legs; returns what all three gave."""
    result, executed = whole(job, folder / "whole")
    assert result == wasmtime_run(job, folder / "oracle")
    assert result == in_legs(job, folder / "legs", executed=executed, seed=seed)
    return result


LUA = """\
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
for n = 4, 8 do
  file:write(n, " ", queens(n), "\\n")
  print(n, queens(n))
end
file:close()
local words = {}
for word in string.gmatch(("the quick brown fox jumps over the lazy dog "):rep(50), "%a+") do
  words[word] = (words[word] or 0) + 1
end
print(words.the, words.fox, string.format("%.15g", math.sqrt(2)), 1 << 40)
os.exit(3)
"""


def test_lua(tmp_path: Path) -> None:
    job = Job(module("lua", "lua.wasm"), ("/w/job.lua",), output="/w", inputs={"job.lua": LUA})
    result = thrice(job, tmp_path, seed=3)
    answers = {4: 2, 5: 10, 6: 4, 7: 40, 8: 92}
    assert result.code == 3
    assert result.files["queens.txt"].decode() == "".join(f"{n} {k}\n" for n, k in answers.items())
    lines = result.stdout.decode().splitlines()
    assert lines[:-1] == [f"{n}\t{k}" for n, k in answers.items()]
    assert lines[-1].split() == ["100", "50", "1.4142135623731", "1099511627776"]


SQL = """\
CREATE TABLE number (n INTEGER PRIMARY KEY, square INTEGER, word TEXT);
WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 3000)
INSERT INTO number SELECT n, n * n, hex(n * 7919 % 4096) FROM up;
CREATE INDEX by_word ON number (word);
SELECT count(*), sum(square) FROM number;
DELETE FROM number WHERE n % 3 = 0;
SELECT count(DISTINCT word), max(n), min(square) FROM number;
VACUUM;
PRAGMA integrity_check;
"""


def test_sqlite(tmp_path: Path) -> None:
    job = Job(
        module("sqlite", "sqlite3.wasm"),
        ("-bail", "/w/job.db", ".read /w/job.sql"),
        output="/w",
        inputs={"job.sql": SQL},
    )
    result = thrice(job, tmp_path, seed=4)
    assert result.code == 0
    squares = sum(n * n for n in range(1, 3001))
    words = len({n * 7919 % 4096 for n in range(1, 3001) if n % 3})
    lines = result.stdout.decode().splitlines()
    assert lines == [f"3000|{squares}", f"{words}|2999|1", "ok"]
    assert set(result.files) == {"job.sql", "job.db"}
    with closing(sqlite3.connect(tmp_path / "whole" / "job.db")) as database:
        assert database.execute("SELECT count(*) FROM number").fetchone() == (2000,)


MANY = """PRAGMA journal_mode = DELETE;
PRAGMA temp_store = MEMORY;
CREATE TABLE number (n INTEGER PRIMARY KEY, word TEXT);
BEGIN;
WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < 200000)
INSERT INTO number SELECT n, hex(n * 7919 % 65536) FROM count;
CREATE INDEX by_word ON number (word);
COMMIT;
PRAGMA integrity_check;
SELECT count(*), sum(n), count(DISTINCT word) FROM number;
"""


def test_sqlite_moves_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    """200,000 rows in one transaction; its database and journal travel, each time to a folder that
    was not there before."""
    job = Job(
        module("sqlite", "sqlite3.wasm"),
        ("-bail", "/w/job.db", ".read /w/job.sql"),
        output="/w",
        inputs={"job.sql": MANY},
    )
    result, executed = whole(job, tmp_path / "whole")
    lines = result.stdout.decode().splitlines()
    words = len({n * 7919 % 65536 for n in range(1, 200001)})
    assert lines == ["delete", "ok", f"200000|20000100000|{words}"]
    moved = in_legs(job, tmp_path / "moved", executed=executed, seed=6, stops=5, carry=True)
    assert moved == result


def test_ffmpeg_moves_and_rewrites_its_header_at_the_end(tmp_path: Path) -> None:
    """The header of an AVI file has the number of frames, which is known only at the end."""
    job = a_film()
    result, executed = whole(job, tmp_path / "whole")
    moved = in_legs(job, tmp_path / "moved", executed=executed, seed=7, stops=5, carry=True)
    assert moved == result
    assert result.files["out.avi"][48:52] == (50).to_bytes(4, "little")


def a_film() -> Job:
    words = "-nostdin -v error -f lavfi -i testsrc2=size=160x120:rate=25:duration=2"
    words += " -c:v mpeg4 -q:v 5 -bitexact -y /w/out.avi"
    return Job(module("ffmpeg", "ffmpeg.wasm"), tuple(words.split()), output="/w")


def test_ffmpeg(tmp_path: Path) -> None:
    job = a_film()
    result = thrice(job, tmp_path, seed=5)
    assert (result.code, result.stdout) == (0, b"")
    film = result.files["out.avi"]
    assert film[:4] == b"RIFF" and film[8:12] == b"AVI "
    assert film.count(b"00dc") >= 50  # a chunk for each frame
