"""The example programs do what their descriptions say, under another runtime than ours.

Runs the committed binaries of examples/snapshot under Wasmtime, so that a failure of theirs is not
taken for one of the engine's; the film that `transcoding` writes is decoded by the distribution's
FFmpeg. Programs that are built by scripts are tried where they have been built.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import wasmtime

from bench import build as bench_build

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "snapshot"
NAMES = ("fib", "cat", "server", "transcoding")


def load_script(name: str) -> ModuleType:
    """A script of the examples' folder, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


make_input = load_script("make_input")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it wrote to its two outputs."""

    code: int
    output: bytes
    errors: str


def run(
    binary: Path,
    arguments: Sequence[str],
    folders: dict[str, Path],
    scratch: Path,
    standard_input: bytes = b"",
) -> Ended:
    """Runs a WASI command; `folders` maps names in the program to folders of the host."""
    engine = wasmtime.Engine()
    module = wasmtime.Module.from_file(engine, str(binary))
    store = wasmtime.Store(engine)
    (scratch / "stdin").write_bytes(standard_input)
    config = wasmtime.WasiConfig()
    config.argv = [binary.stem, *arguments]
    config.stdin_file = str(scratch / "stdin")
    config.stdout_file = str(scratch / "stdout")
    config.stderr_file = str(scratch / "stderr")
    for name, folder in folders.items():
        config.preopen_dir(str(folder), name)
    store.set_wasi(config)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    start = linker.instantiate(store, module).exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    code = 0
    try:
        start(store)
    except wasmtime.ExitTrap as ended:
        code = ended.code
    store.close()
    return Ended(code, (scratch / "stdout").read_bytes(), (scratch / "stderr").read_text())


# ---------------------------------------------------------------------- the binaries


def test_the_binaries_are_what_the_sources_give() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "build.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(".wasm:")[0] for line in done.stdout.splitlines()] == list(NAMES)


def test_a_rebuild_does_not_depend_on_wasm_opt(tmp_path: Path) -> None:
    """clang runs a `wasm-opt` that it finds on PATH by itself; here it finds one that spoils."""
    spoiler = tmp_path / "wasm-opt"
    spoiler.write_text('#!/bin/sh\nprintf spoilt >>"$1"\n')
    spoiler.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "build.py", "--check", "cat"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_kernel_of_the_bench_does_not_depend_on_wasm_opt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiler = tmp_path / "wasm-opt"
    spoiler.write_text('#!/bin/sh\nprintf spoilt >>"$1"\n')
    spoiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(bench_build, "BUILT", tmp_path / "built")
    try:
        built = bench_build.nothing()
    except bench_build.Missing as reason:
        pytest.skip(str(reason))
    assert not built.read_bytes().endswith(b"spoilt")


def test_the_check_notices_a_changed_source(tmp_path: Path) -> None:
    copy = tmp_path / "snapshot"
    shutil.copytree(EXAMPLES, copy)
    (copy / "preopened.h").write_text("/* changed */\n" + (copy / "preopened.h").read_text())
    binary = bytearray((copy / "fib.wasm").read_bytes())
    binary[-1] ^= 1
    (copy / "fib.wasm").write_bytes(binary)
    done = subprocess.run(
        [sys.executable, copy / "build.py", "--check"], capture_output=True, text=True
    )
    verdicts = dict(line.split(".wasm: ") for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert verdicts["cat"].startswith("STALE")
    assert verdicts["transcoding"].startswith("STALE")
    assert verdicts["fib"].startswith("WRONG")
    assert not verdicts["server"].startswith(("STALE", "WRONG"))


@pytest.mark.parametrize("name", NAMES)
def test_a_binary_has_names_and_no_paths(name: str) -> None:
    binary = (EXAMPLES / f"{name}.wasm").read_bytes()
    assert b"\x04name" in binary
    assert b".debug_" not in binary
    for path in (b"/usr/", b"/home/", b"/tmp/", b"/root", bytes(ROOT), b".c\0"):
        assert path not in binary
    record = json.loads((EXAMPLES / "binaries.json").read_text())
    assert "/" not in json.dumps(record[name])


# ---------------------------------------------------------------------- fib


def test_fib() -> None:
    store = wasmtime.Store()
    module = wasmtime.Module.from_file(store.engine, str(EXAMPLES / "fib.wasm"))
    assert module.imports == []
    fib = wasmtime.Instance(store, module, []).exports(store)["fib"]
    assert isinstance(fib, wasmtime.Func)
    assert [fib(store, n) for n in range(10)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]


# ---------------------------------------------------------------------- cat


@pytest.mark.parametrize("name", [".", "/", "/somewhere/else", "data"])
def test_cat_finds_its_text_in_any_folder(name: str, tmp_path: Path) -> None:
    ended = run(EXAMPLES / "cat.wasm", [], {name: EXAMPLES}, tmp_path)
    assert ended == Ended(0, (EXAMPLES / "test.txt").read_bytes(), "")


def test_cat_copies_another_file_and_standard_input(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5 + b"odd"
    (tmp_path / "other").write_bytes(data)
    folders = {"/in": tmp_path}
    assert run(EXAMPLES / "cat.wasm", ["/in/other"], folders, tmp_path).output == data
    assert run(EXAMPLES / "cat.wasm", ["-"], {}, tmp_path, data).output == data


def test_cat_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    ended = run(EXAMPLES / "cat.wasm", ["nothing"], {".": tmp_path}, tmp_path)
    assert ended == Ended(1, b"", "cat: nothing: No such file or directory\n")


# ---------------------------------------------------------------------- server


class Server:
    """One instance of `server`."""

    def __init__(self, scratch: Path, environment: dict[str, str] | None = None) -> None:
        self.store = wasmtime.Store()
        module = wasmtime.Module.from_file(self.store.engine, str(EXAMPLES / "server.wasm"))
        config = wasmtime.WasiConfig()
        config.stdout_file = str(scratch / "lines")
        config.stderr_file = str(scratch / "beginnings")
        config.env = list((environment or {}).items())
        self.store.set_wasi(config)
        linker = wasmtime.Linker(self.store.engine)
        linker.define_wasi()
        self.exports = linker.instantiate(self.store, module).exports(self.store)
        self.lines = scratch / "lines"

    def set_rounds(self, rounds: int) -> None:
        exported = self.exports["rounds"]
        assert isinstance(exported, wasmtime.Global)
        exported.set_value(self.store, rounds)

    def request(self) -> int:
        function = self.exports["request"]
        assert isinstance(function, wasmtime.Func)
        result = function(self.store)
        assert isinstance(result, int)
        return result


def test_server_counts_in_three_places(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.set_rounds(10)
    for number in range(1, 121):
        assert server.request() == 1_001_001 * number
    lines = server.lines.read_text().splitlines()
    assert lines[2] == "request 3: memory 3, global 3, table 3"
    assert lines[119] == "request 120: memory 120, global 120, table 120"
    begun = (tmp_path / "beginnings").read_text().splitlines()
    assert len(begun) == len(lines) == 120
    assert begun[0] == "request 1 begins: memory 0, global 0, table 0"
    assert begun[119] == "request 120 begins: memory 119, global 119, table 119"


def test_server_takes_rounds_from_the_environment_first(tmp_path: Path) -> None:
    config = wasmtime.Config()
    config.consume_fuel = True
    engine = wasmtime.Engine(config)
    module = wasmtime.Module.from_file(engine, str(EXAMPLES / "server.wasm"))
    spent = {}
    for rounds in (100, 1100):
        store = wasmtime.Store(engine)
        store.set_fuel(10**9)
        wasi = wasmtime.WasiConfig()
        wasi.env = [("OTHER", "7"), ("ROUNDS", str(rounds))]
        store.set_wasi(wasi)
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        exports = linker.instantiate(store, module).exports(store)
        request, exported = exports["request"], exports["rounds"]
        assert isinstance(request, wasmtime.Func) and isinstance(exported, wasmtime.Global)
        exported.set_value(store, 5)
        assert request(store) == 1_001_001
        spent[rounds] = 10**9 - store.get_fuel()
    # Three parts of 1,000 rounds more, 13 instructions each; the short cut takes a few more steps.
    assert 3 * 1000 * 13 <= spent[1100] - spent[100] < 3 * 1000 * 13 + 1000


# ---------------------------------------------------------------------- transcoding


def transcode(tmp_path: Path, film: Path, *options: str) -> bytes:
    """The AVI that `transcoding` makes of `film`."""
    folders = {"/in": film.parent, "/out": tmp_path}
    arguments = [*options, f"/in/{film.name}", "/out/film.avi"]
    ended = run(EXAMPLES / "transcoding.wasm", arguments, folders, tmp_path)
    assert ended.code == 0, ended.errors
    return (tmp_path / "film.avi").read_bytes()


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a piece of a RIFF file: names and contents."""
    found = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        assert at + 8 + size <= len(data)
        found.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return found


def frames_of(film: bytes, frame_size: int) -> list[bytes]:
    """The frames of a YUV4MPEG2 file, planes joined."""
    body = film[film.index(b"\n") + 1 :]
    step = len(b"FRAME\n") + frame_size
    return [body[at + 6 : at + step] for at in range(0, len(body), step)]


def psnr(first: bytes, second: bytes) -> float:
    """Peak signal-to-noise ratio of two pictures, in decibels."""
    assert len(first) == len(second)
    error = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    return math.inf if error == 0 else 10 * math.log10(255**2 * len(first) / error)


def decode(avi: Path) -> bytes:
    """All frames of a film, by the distribution's FFmpeg, as planes of full range."""
    command = shutil.which("ffmpeg")
    if command is None:
        pytest.skip("the distribution's ffmpeg is not installed")
    read = [command, "-nostdin", "-v", "error", "-xerror", "-i", str(avi)]
    write = ["-f", "rawvideo", "-pix_fmt", "yuvj420p", "-fps_mode", "passthrough", "-"]
    done = subprocess.run([*read, *write], capture_output=True)
    assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
    return done.stdout


def test_the_sample_is_what_its_generator_makes() -> None:
    film = make_input.film(
        make_input.DEFAULT_WIDTH, make_input.DEFAULT_HEIGHT, make_input.DEFAULT_FRAMES
    )
    assert b"".join(film) == (EXAMPLES / "sample.y4m").read_bytes()


def test_transcoding_writes_a_well_formed_avi(tmp_path: Path) -> None:
    avi = transcode(tmp_path, EXAMPLES / "sample.y4m", "--frames", "11")
    ((riff, content),) = chunks(avi)
    assert riff == b"RIFF" and content[:4] == b"AVI "
    (_, header), (_, movi), (index_name, index) = chunks(content[4:])
    assert header[:4] == b"hdrl" and movi[:4] == b"movi" and index_name == b"idx1"
    avih = chunks(header[4:])[0][1]
    fields = [int.from_bytes(avih[at : at + 4], "little") for at in range(0, len(avih), 4)]
    assert (fields[0], fields[4], fields[6], fields[8], fields[9]) == (40_000, 11, 1, 128, 96)
    pictures = [data for _, data in chunks(movi[4:])]
    assert len(pictures) == 11
    assert all(data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9") for data in pictures)
    for number, picture in enumerate(pictures):
        entry = index[16 * number : 16 * number + 16]
        offset = int.from_bytes(entry[8:12], "little")
        assert int.from_bytes(entry[12:16], "little") == len(picture)
        assert movi[offset + 8 : offset + 8 + len(picture)] == picture
    # The input has eight frames and goes round.
    assert pictures[8:] == pictures[:3]
    assert pictures[0] != pictures[1]


def test_transcoding_is_deterministic(tmp_path: Path) -> None:
    options = ("--frames", "2", "--scale", "2", "--quality", "30")
    first = transcode(tmp_path, EXAMPLES / "sample.y4m", *options)
    assert transcode(tmp_path, EXAMPLES / "sample.y4m", *options) == first


@pytest.mark.parametrize(("quality", "expected"), [("30", 33.0), ("75", 38.0), ("100", 50.0)])
def test_ffmpeg_decodes_the_source_again(quality: str, expected: float, tmp_path: Path) -> None:
    transcode(tmp_path, EXAMPLES / "sample.y4m", "--quality", quality)
    size = 128 * 96 * 3 // 2
    decoded = decode(tmp_path / "film.avi")
    source = frames_of((EXAMPLES / "sample.y4m").read_bytes(), size)
    assert len(decoded) == len(source) * size
    for number, frame in enumerate(source):
        assert psnr(decoded[number * size : (number + 1) * size], frame) > expected


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 9), (1, 1), (50, 38)])
def test_sizes_that_do_not_fill_the_units(width: int, height: int, tmp_path: Path) -> None:
    film = tmp_path / "odd.y4m"
    film.write_bytes(b"".join(make_input.film(width, height, 2)))
    transcode(tmp_path, film, "--quality", "100")
    size = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    decoded = decode(tmp_path / "film.avi")
    assert len(decoded) == 2 * size
    source = frames_of(film.read_bytes(), size)
    assert psnr(decoded[:size], source[0]) > 38 and psnr(decoded[size:], source[1]) > 38


def test_enlarging_keeps_the_picture(tmp_path: Path) -> None:
    film = tmp_path / "smooth.y4m"
    width, height = 32, 16
    # A ramp of luma: interpolated, it is the same ramp in smaller steps.
    luma = bytes(4 * x + 2 * y + 40 for y in range(height) for x in range(width))
    chroma = bytes([100]) * (width // 2 * height // 2)
    header = f"YUV4MPEG2 W{width} H{height} F25:1 C420 XCOLORRANGE=FULL\n".encode()
    film.write_bytes(header + b"FRAME\n" + luma + chroma + chroma)
    transcode(tmp_path, film, "--scale", "4", "--quality", "100")
    decoded = decode(tmp_path / "film.avi")
    assert len(decoded) == 16 * width * height * 3 // 2
    for y in range(4, 4 * height - 4):
        for x in range(4, 4 * width - 4):
            expected = 4 * (x - 1.5) / 4 + 2 * (y - 1.5) / 4 + 40
            assert abs(decoded[y * 4 * width + x] - expected) <= 3


def test_limited_range_becomes_full_range(tmp_path: Path) -> None:
    film = tmp_path / "limited.y4m"
    planes = bytes([16] * 128 + [235] * 128) + bytes([16] * 64) + bytes([240] * 64)
    film.write_bytes(b"YUV4MPEG2 W16 H16 F30000:1001 C420mpeg2\nFRAME\n" + planes)
    transcode(tmp_path, film, "--quality", "100")
    decoded = decode(tmp_path / "film.avi")
    expected = bytes([0] * 128 + [255] * 128) + bytes([0] * 64) + bytes([255] * 64)
    assert max(abs(a - b) for a, b in zip(decoded, expected, strict=True)) <= 3


@pytest.mark.parametrize(
    ("film", "sentence"),
    [
        (b"", "not a YUV4MPEG2 file"),
        (b"YUV4MPEG2 W16 H16 C444\n", "only the 8-bit 4:2:0 colour formats are known"),
        (b"YUV4MPEG2 W16 H16 It\n", "interlaced film is not known"),
        (b"YUV4MPEG2 W0 H16\n", "width and height must be between 1 and 8192"),
        (b"YUV4MPEG2 W16 H16\n", "has no frames"),
        (b"YUV4MPEG2 W16 H16\nFRAME\nshort", "ends in the middle of a frame"),
        (b"YUV4MPEG2 W16 H16\nNONSENSE\n", "a frame does not begin with FRAME"),
    ],
)
def test_transcoding_refuses_what_is_not_film(film: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "film.y4m").write_bytes(film)
    arguments = ["--frames", "3", "/in/film.y4m", "/in/out.avi"]
    ended = run(EXAMPLES / "transcoding.wasm", arguments, {"/in": tmp_path}, tmp_path)
    assert (ended.code, ended.errors) == (1, f"transcoding: /in/film.y4m: {sentence}\n")


@pytest.mark.parametrize(
    "arguments", [[], ["in"], ["in", "out", "more"], ["--frames", "x", "in", "out"], ["--scale"]]
)
def test_transcoding_explains_its_usage(arguments: list[str], tmp_path: Path) -> None:
    ended = run(EXAMPLES / "transcoding.wasm", arguments, {}, tmp_path)
    assert ended.code == 2 and ended.errors.startswith("usage: transcoding ")


# ---------------------------------------------------------------------- built by scripts


def built(name: str, script: str) -> Path:
    """A program that a script has built into .cache; skips where that has not been done."""
    binary = ROOT / ".cache" / name
    if not binary.exists():
        pytest.skip(f"scripts/{script} has not been run")
    return binary


def test_lua(tmp_path: Path) -> None:
    lua = built("lua/lua.wasm", "build-lua")
    script = 'local t = {3, 1, 2} table.sort(t) io.write(table.concat(t, " "), "\\n")'
    assert run(lua, ["-e", script], {}, tmp_path).output == b"1 2 3\n"
    ended = run(lua, ["-e", 'io.write("before ") error("oops", 0)'], {}, tmp_path)
    assert (ended.code, ended.output) == (1, b"before ")
    assert ended.errors.startswith("lua: oops\nstack traceback:\n")
    yielding = "coroutine.wrap(function() coroutine.yield() end)()"
    ended = run(lua, ["-e", yielding], {}, tmp_path)
    assert ended == Ended(1, b"", "lua: a coroutine cannot yield in this build\n")


@pytest.mark.full
def test_sqlite(tmp_path: Path) -> None:
    sqlite = built("sqlite/sqlite3.wasm", "build-sqlite")
    folders = {"/db": tmp_path}
    create = "create table t(n); insert into t values (1), (2), (40); select sum(n) from t;"
    assert run(sqlite, ["/db/a.db", create], folders, tmp_path).output == b"43\n"
    again = run(sqlite, ["/db/a.db", "select count(*), sqrt(max(n)) > 6 from t"], folders, tmp_path)
    assert again.output == b"3|1\n"


@pytest.mark.full
def test_ffmpeg(tmp_path: Path) -> None:
    """The film decodes, and is byte for byte what the same release makes natively."""
    ffmpeg = built("ffmpeg/ffmpeg.wasm", "build-ffmpeg")
    options = ["-c:v", "mpeg4", "-q:v", "4", "-bitexact", "-flags", "+bitexact", "-threads", "1"]
    options = ["-sws_flags", "+bitexact+accurate_rnd", *options, "-y"]
    start = ["-nostdin", "-v", "error", "-threads", "1", "-i"]
    ended = run(
        ffmpeg,
        [*start, "/in/sample.y4m", *options, "/out/ours.avi"],
        {"/in": EXAMPLES, "/out": tmp_path},
        tmp_path,
    )
    assert ended.code == 0, ended.errors
    assert len(decode(tmp_path / "ours.avi")) == 8 * 128 * 96 * 3 // 2
    command = shutil.which("ffmpeg")
    assert command is not None
    version = subprocess.run([command, "-version"], capture_output=True, text=True).stdout
    if not version.startswith("ffmpeg version 5.1"):
        pytest.skip("the distribution's ffmpeg is of another release; only decoding was compared")
    native = [*start, str(EXAMPLES / "sample.y4m"), *options, str(tmp_path / "native.avi")]
    subprocess.run([command, "-cpuflags", "0", *native], check=True)
    assert (tmp_path / "ours.avi").read_bytes() == (tmp_path / "native.avi").read_bytes()
