#!/usr/bin/env python3
"""Makes wasmsr for another CPU, to be run here under qemu-user: `python scripts/cross.py ARCH…`

For each of Debian's architectures ARCH (arm64, s390x):

    Debian's packages ──apt-get──▶ .cache/cross/ARCH ──dpkg-deb──▶ build/cross/ARCH/root
    wasmsr ──cross compiler──▶ build/cross/ARCH/lib/wasmsr
    build/cross/ARCH/python    runs that Python under qemu with that wasmsr

Nothing is installed and the host's package lists stay as they are: apt-get works on a state of
its own, the packages are unpacked, and neither chroot nor binfmt is used. What is there is kept;
packages are fetched again when PACKAGES below changes. Tests: tests/cross (`make cross`).
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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "cross"
BUILD = ROOT / "build" / "cross"
GUEST = ROOT / "tests" / "cross" / "guest"

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
        return f"{self.triplet}-gcc"

    @property
    def folder(self) -> Path:
        return BUILD / self.debian


TARGETS = {
    target.debian: target
    for target in (
        Target("arm64", "aarch64-linux-gnu", "qemu-aarch64"),
        Target("s390x", "s390x-linux-gnu", "qemu-s390x"),
    )
}


def fetch(target: Target) -> Path:
    """Download the packages and all that they depend on, with apt-get's checks of signatures.

    Returns the folder with the package files.
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
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    # Sources that do not have this architecture fail; what counts is whether the packages come.
    subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, check=False)
    install = [*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES]
    subprocess.run(install, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
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


def compile_extension(target: Target, root: Path) -> None:
    """Compile core and glue to build/cross/ARCH/lib, beside a copy of the package's Python."""
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
    glue = runpy.run_path(str(ROOT / "wasmsr" / "_ffi_build.py"), run_name="build")
    linked: list[Path] = []
    objects, package = target.folder / "objects", target.folder / "lib" / "wasmsr"
    objects.mkdir(parents=True, exist_ok=True)
    generated = objects / "_ffi.c"
    glue["builder"].emit_c_code(str(generated))
    (python,) = (root / "usr" / "include").glob("python3.*")
    # The compiler has its own C library's headers; Debian's Python looks for more of its own.
    include = ["-I", "wasmsr", "-isystem", python, "-idirafter", root / "usr" / "include"]
    headers = b"".join(path.read_bytes() for path in sorted(ROOT.glob("wasmsr/core/*.h")))
    for source in (*(f"wasmsr/{name}" for name in glue["SOURCES"]), str(generated)):
        command = [target.compiler, "-g", "-DNDEBUG", "-fPIC", *map(str, include)]
        command += [*setup["flags_for"](source), "-c", source]
        content = (ROOT / source).read_bytes() + headers + shlex.join(command).encode()
        name = f"{Path(source).stem}-{hashlib.sha256(content).hexdigest()[:16]}.o"
        linked.append(objects / name)
        if not linked[-1].exists():
            new = linked[-1].with_suffix(".new")
            subprocess.run([*command, "-o", str(new)], cwd=ROOT, check=True)
            new.replace(linked[-1])
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
        f'exec {target.qemu} -L {shlex.quote(str(root))} {shlex.quote(str(python))} "$@"\n'
    )
    command.chmod(0o755)


def main() -> int:
    parser = argparse.ArgumentParser(description="build for other CPUs, to run under qemu-user")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="ARCH")
    names = parser.parse_args().targets or [*TARGETS]
    for target in (TARGETS[name] for name in names):
        if target.triplet.split("-")[0] == platform.machine():
            continue
        root = unpack(target, fetch(target))
        compile_extension(target, root)
        write_python(target, root)
        # Compiled once, Python's own library starts in a third of the time.
        check = [str(target.folder / "python"), "-c", "import wasmsr; print(wasmsr.__version__)"]
        subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
