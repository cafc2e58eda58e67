#!/usr/bin/env python3
"""Build wasmsr for another CPU, to run under qemu-user: `python scripts/cross.py [ARCH…]`.

For each of Debian's architectures ARCH (arm64, s390x):

    Debian's packages ──apt-get──▶ .cache/cross/ARCH ──dpkg-deb──▶ build/cross/ARCH/root
    wasmsr ──cross compiler──▶ build/cross/ARCH/lib/wasmsr
    build/cross/ARCH/python    runs that Python under qemu with that wasmsr

Nothing is installed and the host's package lists stay as they are: apt-get works on a state of
its own, the packages are unpacked, and neither chroot nor binfmt is used. What is there is kept;
packages are fetched again when PACKAGES below changes. Tests: tests/cross (`make cross`). With
`--fetch` it only downloads, and says in one line if it cannot: .ci/run then leaves other CPUs out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "cross"
BUILD = ROOT / "build" / "cross"
GUEST = ROOT / "tests" / "cross" / "guest"

SPACE = 1 << 40
"""The guest's address space in bytes. For 4 GiB that ever were reserved qemu-user keeps 25 MB until
the process ends; with a bound they are used again. It must be room for all memories that Python has
not collected yet: with a quarter of it the official scripts ran out of it."""

PATIENCE = 300
"""Seconds that an apt-get may take."""

PACKAGES = (
    "python3",
    "libpython3-dev",
    "python3-cffi-backend",
    "python3-click",
    "python3-grpcio",
    "python3-hypothesis",
    "python3-msgpack",
    "python3-platformdirs",
    "python3-protobuf",
    "python3-psutil",
    "python3-pytest",
    "python3-pytest-timeout",
    "python3-rich",
    "python3-zstandard",
)


@dataclass(frozen=True)
class Target:
    """What an architecture of Debian's is called elsewhere."""

    debian: str
    triplet: str
    qemu: str

    @property
    def compiler(self) -> str:
        """Return the cross compiler."""
        return f"{self.triplet}-gcc"

    @property
    def folder(self) -> Path:
        """Return the folder of what is built."""
        return BUILD / self.debian


TARGETS = {
    target.debian: target
    for target in (
        Target("arm64", "aarch64-linux-gnu", "qemu-aarch64"),
        Target("s390x", "s390x-linux-gnu", "qemu-s390x"),
    )
}


class Unfetched(Exception):
    """The packages cannot be had; the text says why."""


def fetch(target: Target) -> Path:
    """Download the packages and all that they depend on, with apt-get's checks of signatures.

    Returns the folder with the package files.

    Raises:
        Unfetched: there is no network, or none of the sources has this architecture.
    """
    folder = CACHE / target.debian
    archives, done = folder / "archives", folder / "fetched"
    wanted = " ".join(PACKAGES)
    if done.exists() and done.read_text() == wanted:
        return archives
    for needed in (folder / "lists" / "partial", archives / "partial"):
        needed.mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text("")  # nothing is installed, so all dependencies are fetched
    options = {
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "Dir::Cache::archives": archives,
        "Dir::Log": folder,
        "APT::Architecture": target.debian,
        "APT::Architectures": target.debian,
        "APT::Sandbox::User": "",
        "Debug::NoLocking": 1,
        "Acquire::Languages": "none",
        "Acquire::http::Timeout": 20,
        "Acquire::https::Timeout": 20,
        "Acquire::Retries": 2,
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    # Sources that do not have this architecture fail; what counts is whether the packages come.
    install = ["install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES]
    said = []
    for words in (["update"], install):
        try:
            step = subprocess.run(
                [*apt, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise Unfetched(f"{target.debian}: apt-get {words[0]} takes too long") from None
        said += [line for line in step.stderr.splitlines() if line.startswith(("E:", "W: Failed"))]
    if step.returncode != 0:
        why = " … ".join(dict.fromkeys([said[0], said[-1]])) if said else "apt-get does not say why"
        raise Unfetched(f"{target.debian}: packages cannot be fetched: {why}")
    done.write_text(wanted)
    return archives


def unpack(target: Target, archives: Path) -> Path:
    """Lay the packages' files beside each other; the folder that is their root."""
    root, done = target.folder / "root", target.folder / "unpacked"
    packages = sorted(archives.glob("*.deb"))
    listing = "\n".join(package.name for package in packages)
    if done.exists() and done.read_text() == listing:
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    done.write_text(listing)
    return root


def compile_all(commands: dict[Path, list[str]]) -> None:
    """Make each of these files by its command, as many at once as there are CPUs.

    Raises:
        CalledProcessError: the compiler refuses one; it has said why.
    """

    def make(made: Path, command: list[str]) -> None:
        new = made.with_suffix(".new")
        subprocess.run([*command, "-o", str(new)], cwd=ROOT, check=True)
        new.replace(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for job in [pool.submit(make, *item) for item in commands.items()]:
            job.result()


def compile_extension(target: Target, root: Path) -> None:
    """Compile core and glue to build/cross/ARCH/lib, beside a copy of the package's Python."""
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
    glue = runpy.run_path(str(ROOT / "wasmsr" / "_ffi_build.py"), run_name="build")
    linked: dict[Path, list[str]] = {}
    objects, package = target.folder / "objects", target.folder / "lib" / "wasmsr"
    objects.mkdir(parents=True, exist_ok=True)
    generated = objects / "_ffi.c"
    glue["builder"].emit_c_code(str(generated))
    (python,) = (root / "usr" / "include").glob("python3.*")
    # The compiler has its own C library's headers; Debian's Python looks for more of its own.
    include = ["-I", "wasmsr", "-isystem", python, "-idirafter", root / "usr" / "include"]
    headers = b"".join(path.read_bytes() for path in sorted(ROOT.glob("wasmsr/core/**/*.[hi]*")))
    for source in (*(f"wasmsr/{name}" for name in glue["SOURCES"]), str(generated)):
        command = [target.compiler, "-g", "-DNDEBUG", "-fPIC", *map(str, include)]
        command += [*setup["flags_for"](source), "-c", source]
        content = (ROOT / source).read_bytes() + headers + shlex.join(command).encode()
        name = f"{Path(source).stem}-{hashlib.sha256(content).hexdigest()[:16]}.o"
        linked[objects / name] = command
    compile_all({made: command for made, command in linked.items() if not made.exists()})
    for stale in {*objects.glob("*.o")} - {*linked}:
        stale.unlink()
    shutil.rmtree(package, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.so", "*.c", "core", "__pycache__")
    shutil.copytree(ROOT / "wasmsr", package, ignore=ignored)
    link = [target.compiler, "-shared", *map(str, linked), "-lm"]
    link += ["-o", str(package / "_ffi.abi3.so")]
    subprocess.run(link, check=True)


def write_python(target: Target, root: Path) -> None:
    """Write the command that is the guest's Python; it takes arguments as every Python does."""
    (python,) = (root / "usr" / "bin").glob("python3.[0-9]*[0-9]")
    command = target.folder / "python"
    path = ":".join(map(str, (target.folder / "lib", ROOT, GUEST)))
    command.write_text(
        "#!/bin/sh\n"
        f"# {target.debian} under qemu-user; written by scripts/cross.py.\n"
        f"export PYTHONPATH={shlex.quote(path)} PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=\n"
        f"export WASMSR_GUEST={shlex.quote(str(command))}\n"
        f"export WASMSR_HOST={shlex.quote(sys.executable)}\n"
        f"exec {target.qemu} -R {SPACE:#x} -L {shlex.quote(str(root))}"
        f' {shlex.quote(str(python))} "$@"\n'
    )
    command.chmod(0o755)


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="build for other CPUs, to run under qemu-user")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="ARCH")
    parser.add_argument("--fetch", action="store_true", help="download what is needed, no more")
    options = parser.parse_args()
    for target in (TARGETS[name] for name in options.targets or TARGETS):
        if target.triplet.split("-")[0] == platform.machine():
            continue
        try:
            archives = fetch(target)
        except Unfetched as reason:
            print(reason, file=sys.stderr)
            return 1
        if options.fetch:
            continue
        root = unpack(target, archives)
        compile_extension(target, root)
        write_python(target, root)
        # Compiled once, Python's own library starts in a third of the time.
        check = [str(target.folder / "python"), "-c", "import wasmsr; print(wasmsr.__version__)"]
        subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
