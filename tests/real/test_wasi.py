"""Programs of three languages that live on WASI: CPython, Go (also esbuild, which is written in it)
and Rust. Each runs at one go, then stopped at random host calls and resumed by a new process each
time, once in one folder and once with its files moved to another, and leaves the same output and
files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real import fetch
from tests.wasi.legs import Job, in_processes, straight

HERE = Path(__file__).resolve().parent
BUILD_SECONDS = 400
SPARSER = 3
"""How much longer legs are where the files move too."""

SCRIPT = """\
import errno, os, stat, sys, time
os.chdir("/w")
os.makedirs("a/b/c")
for n in range(30):
    with open(f"a/b/f{n:02}", "wb") as file:
        file.write(bytes([n]) * (n * 100))
print(sorted(os.listdir("a/b")), [e.name for e in os.scandir("a/b") if e.is_dir()])
print([(sorted(d), len(f)) for _, d, f in os.walk("a")])
for call in (lambda: os.mkdir("a"), lambda: os.rmdir("a/b"), lambda: os.open("none", os.O_RDONLY),
             lambda: os.unlink("a"), lambda: os.open("a/b/f00", os.O_RDWR | os.O_CREAT | os.O_EXCL),
             lambda: os.rename("none", "x"), lambda: os.listdir("a/b/f00"),
             lambda: open("../escape", "w"), lambda: os.rmdir("a/b/f00")):
    try:
        call()
    except OSError as error:
        print(type(error).__name__, errno.errorcode[error.errno])
os.symlink("b/f05", "a/link")
print(os.readlink("a/link"), os.path.islink("a/link"), os.stat("a/link").st_size)
os.link("a/b/f07", "a/hard")
print(os.stat("a/hard").st_nlink, os.path.samefile("a/hard", "a/b/f07"))
os.utime("a/b/f05", ns=(10**18 + 1, 10**18 + 2))
found = os.stat("a/link")
print(found.st_atime_ns, found.st_mtime_ns, stat.S_ISREG(found.st_mode))
fd = os.open("a/b/f29", os.O_RDWR)
print(os.lseek(fd, -10, os.SEEK_END), os.read(fd, 100), os.pread(fd, 3, 5))
print(os.pwrite(fd, b"xyz", 7))
os.ftruncate(fd, 50)
os.fsync(fd)
print(os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_CUR))
os.close(fd)
with open("log", "a+") as log:
    for n in range(40):
        print(n, n * n, file=log, flush=n % 3 == 0)
    log.seek(0)
    print(sum(len(line) for line in log))
os.replace("a/b/f01", "a/b/f02")
os.rename("a", "moved")
os.remove("moved/b/f03")
os.rmdir("moved/b/c")
begun = time.monotonic()
time.sleep(0.02)
print(time.monotonic() - begun >= 0.02, time.time() > 1.6e9, len(os.urandom(16)))
print(sorted(os.listdir("moved/b"))[:4], sorted(os.environ)[:2])
sys.exit(9)
"""


def built(source: str, command: list[str], env: dict[str, str]) -> Path:
    """The module made of a source file of this folder, once; Unavailable with the tool's words."""
    if shutil.which(command[0]) is None:
        raise fetch.Unavailable(f"{command[0]} is not on PATH")
    path = HERE / source
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    module = fetch.CACHE / f"{path.stem}-{path.suffix[1:]}-{digest}.wasm"
    if not module.exists():
        module.parent.mkdir(parents=True, exist_ok=True)
        fresh = module.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [*command, "-o", str(fresh), str(path)],
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise fetch.Unavailable(f"{source} cannot be built with {command[0]}: {said[0]}")
        os.replace(fresh, module)
    return module


def tree(folder: Path) -> dict[str, object]:
    """Every path with its kind, and content or what it links to."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def thrice(
    job: Job, folder: Path, fill: Callable[[Path], object]
) -> tuple[int, str, dict[str, object]]:
    """Runs it whole, in legs in one folder, and in legs whose files are each time moved to another
    folder; what all three gave."""
    results = []
    ways: dict[str, Callable[[Job], tuple[int, int]]] = {
        "whole": lambda job: (straight(job), 0),
        "legs": in_processes,
        "moved": lambda job: in_processes(replace(job, carry=True, stride=job.stride * SPARSER)),
    }
    for name, run in ways.items():
        here = folder / name
        (here / "files").mkdir(parents=True)
        fill(here / "files")
        (here / "out").touch()
        mounts = [(str(here / "files"), guest) for _, guest in job.mounts]
        out, err = str(here / "out"), str(here / "err")
        code, legs = run(replace(job, mounts=mounts, stdout=out, stderr=err))
        assert legs > 8 or name == "whole"
        text = (here / "out").read_text()
        # Of the places where the files were only the last one is there.
        (files,) = here.glob("files*")
        assert (files.name != "files") == (name == "moved")
        results.append((code, text, tree(files)))
        assert code < 128, (here / "err").read_text()
    assert results[0] == results[1]
    assert results[0] == results[2]
    return results[0]


def job_of(module: Path, *args: str, guest: str = "/w", stride: int) -> Job:
    return Job(str(module), "", "", list(args), mounts=[("", guest)], stride=stride)


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_python_files(tmp_path: Path) -> None:
    try:
        module = fetch.python()
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))
    job = job_of(module, "/w/job.py", stride=100)
    job.env = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    code, output, files = thrice(job, tmp_path, lambda f: (f / "job.py").write_text(SCRIPT))
    lines = output.splitlines()
    assert code == 9, output
    assert [line.split()[0] for line in lines[2:11]] == [
        "FileExistsError",
        "OSError",
        "FileNotFoundError",
        "IsADirectoryError",
        "FileExistsError",
        "FileNotFoundError",
        "NotADirectoryError",
        "PermissionError",
        "NotADirectoryError",
    ]
    assert lines[11:14] == ["b/f05 True 500", "2 True", f"{10**18 + 1} {10**18 + 2} True"]
    assert lines[-2] == "True True 16"
    assert files["moved/link"] == "b/f05" and files["moved/b/f02"] == bytes([1]) * 100


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_go(tmp_path: Path) -> None:
    """Also a scheduler of its own, with timers by poll_oneoff."""
    env = {"GOOS": "wasip1", "GOARCH": "wasm", "GO111MODULE": "off", "GOFLAGS": ""}
    try:
        module = built("wasip1.go", ["go", "build", "-trimpath", "-ldflags=-s -w"], env)
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))
    code, output, files = thrice(job_of(module, "/w", stride=150), tmp_path, lambda f: None)
    assert code == 3, output
    assert output.startswith("true\ntrue\n")
    assert f"3528 {2 * 10**18 + 7}" in output.splitlines()
    assert files["link"] == "moved/inner/f00" and "d1" not in files
    assert sum(name.endswith(".gz") for name in files) == 15


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_rust(tmp_path: Path) -> None:
    command = ["rustc", "--edition=2021", "--target=wasm32-wasip1", "-O", "-Cstrip=symbols"]
    try:
        module = built("wasip1.rs", command, {})
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))
    code, output, files = thrice(job_of(module, "/w", stride=30), tmp_path, lambda f: None)
    assert code == 5, output
    assert output.startswith("NotFound\nAlreadyExists\n")
    assert files["copy"] == files["hard"] and "d1" not in files


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_esbuild(tmp_path: Path) -> None:
    try:
        module = fetch.esbuild()
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))

    def fill(folder: Path) -> None:
        (folder / "src").mkdir()
        for number in range(40):
            others = [n for n in (number + 1, number + 2) if n < 40]
            following = "".join(f'import {{ f{n} }} from "./m{n}.ts";\n' for n in others)
            calls = "".join(f" + f{n}(x)" for n in others)
            (folder / f"src/m{number}.ts").write_text(
                f"{following}export const f{number} = (x: number): number => x * {number}{calls};\n"
                f"console.log(f{number}({number}));\n"
            )

    words = ["--bundle", "--minify", "--sourcemap", "--outfile=/out.js", "/src/m0.ts"]
    code, _, files = thrice(job_of(module, *words, guest="/", stride=30), tmp_path, fill)
    assert code == 0
    bundle = files["out.js"]
    assert isinstance(bundle, bytes) and bundle.count(b"console.log(") == 40
    assert "out.js.map" in files
