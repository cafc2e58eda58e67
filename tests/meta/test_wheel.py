"""The wheel, as a stranger gets it: built, installed into an empty environment, used in an empty
folder."""

from __future__ import annotations

import ensurepip
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def bundled_setuptools() -> Path | None:
    """The setuptools that `python -m venv` installs, which is old; from Python 3.12 on, none."""
    places = (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels"))
    found = [wheel for place in places for wheel in place.glob("setuptools-*.whl")]
    return found[0] if found else None


def test_the_setuptools_of_a_plain_environment_is_enough(root: Path, tmp_path: Path) -> None:
    old = bundled_setuptools()
    if old is None:
        pytest.skip("this Python's venv brings no setuptools")
    with zipfile.ZipFile(old) as archive:
        archive.extractall(tmp_path / "old")
    words = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    path = f"{tmp_path / 'old'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        words, cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lib" / "wasmsr" / "examples" / "fib.wasm").is_file()


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from what git knows of the tree, so that leftovers of builds play no part."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True
    ).stdout
    subprocess.run(
        ["tar", "--create", "--null", "--files-from=-", f"--file={folder / 'tree.tar'}"],
        cwd=root, input=archive, check=True,
    )  # fmt: skip
    subprocess.run(["tar", "--extract", f"--file={folder / 'tree.tar'}"], cwd=source, check=True)
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "wheel"]
    options = ["--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.full
def test_content(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("_ffi.abi3.so", "py.typed", "examples/fib.wasm", "examples/cat.wasm",
                 "examples/server.wasm", "examples/transcoding.wasm", "examples/test.txt",
                 "rpc/migration.binpb"):  # fmt: skip
        assert f"wasmsr/{name}" in names
    assert not [name for name in names if "/core/" in name or name.startswith("tests")]
    (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    metadata = zipfile.ZipFile(wheel).read(f"{info}/METADATA").decode()
    assert "License: Apache-2.0" in metadata or "License-Expression: Apache-2.0" in metadata
    assert [name for name in names if name.startswith(info) and name.endswith("/LICENSE")]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_fib_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    empty = tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "-q", "--disable-pip-version-check", "install", str(wheel)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0 and "No matching distribution" in done.stderr:
        pytest.skip(f"the package registry cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_PRELOAD")}
    for command in ([str(environment / "bin" / "wasmsr")], [str(python), "-m", "wasmsr"]):
        ran = subprocess.run(
            [*command, "run", "fib"], cwd=empty, env=clean, capture_output=True, text=True
        )
        assert (ran.returncode, ran.stdout) == (0, "34\n"), ran.stderr
    assert not list(empty.iterdir())
