"""`make containers`: the engine that is taken, the files for it, and that nothing is left behind.

Engines are small scripts here that note how they are called; only network namespaces are real.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.hosts import (
    ENGINES,
    HARDENED,
    HOSTS,
    Compose,
    Containers,
    Context,
    Namespaces,
    Podman,
    make_certificates,
)

ROOT = Path(__file__).parents[2]
FILES = ROOT / "examples" / "snapshot"


def context(folder: Path) -> Context:
    (folder / "context").mkdir()
    program, sample = FILES / "transcoding.wasm", FILES / "sample.y4m"
    places = folder / "context", folder / "keys"
    return Context(*places, "base", 10.0, program, ["a", "b"], sample, "result")


class Tools:
    """A PATH with nothing but what a test puts there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.log = folder / "log"
        monkeypatch.setenv("PATH", str(self.folder))

    def add(self, name: str, body: str = "") -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.log}\n{body}\n')
        path.chmod(0o755)

    def called(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    return Tools(tmp_path, monkeypatch)


def found(folder: Path) -> list[str]:
    """The engines that could be used, in the order in which they are asked."""
    return [kind.name for kind in ENGINES if not kind(context_once(folder)).missing()]


def context_once(folder: Path) -> Context:
    shutil.rmtree(folder / "context", ignore_errors=True)
    return context(folder)


NO_COMPOSE = 'test "$1" != compose'


def test_the_first_engine_that_answers(tools: Tools, tmp_path: Path) -> None:
    assert found(tmp_path) == []
    tools.add("podman")
    assert found(tmp_path) == ["podman"]
    tools.add("docker", NO_COMPOSE)
    assert found(tmp_path) == ["docker", "podman"]
    tools.add("docker-compose")
    assert found(tmp_path) == ["docker compose", "docker", "podman"]
    tools.add("docker", 'test "$1" != info')  # its daemon does not run
    assert found(tmp_path) == ["podman"]
    tools.add("podman", "exit 1")
    assert found(tmp_path) == []


def test_network_namespaces_need_root_and_ip(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Namespaces(context(tmp_path))
    assert "iproute2" in engine.missing()
    tools.add("ip")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in engine.missing()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert engine.missing() == ""
    tools.add("ip", 'test "$2" != add')
    assert "does not let us" in engine.missing()


def test_all_that_was_made_is_removed(tools: Tools, tmp_path: Path) -> None:
    tools.add("podman")
    engine = Podman(context(tmp_path))
    engine._made.append([*engine.command, "rmi", "-f", engine.image])
    engine.make_network()
    for host in HOSTS:
        engine.followed.append(engine.begin(host))
    for one in engine.followed:
        one.process.wait(20)
    engine.remove()
    calls = [line.split() for line in tools.called()]
    removed = [line for line in calls if "rm" in line or "rmi" in line]
    names = [f"{engine.id}-host-2", f"{engine.id}-host-1", engine.id, engine.image]
    assert [line[-1] for line in removed] == names  # in the order of making, backwards
    assert engine._made == []
    (begun,) = [line for line in calls if "create" in line and "host-1" in line and "-v" in line]
    assert "--send" in begun and begun[begun.index("--peer") + 1] == "host-2:7000"
    assert begun[begun.index("--tls-key") + 1] == "/run/secrets/key"
    assert set(HARDENED) <= set(begun)
    assert "nofile=20000:20000" in begun and "host-2:10.213.77.11" in begun


def test_an_engine_that_fails_leaves_nothing(tools: Tools, tmp_path: Path) -> None:
    from scripts.hosts import Failed

    tools.add("docker", 'test "$1" != build')
    engine = Compose(context(tmp_path))
    engine.compose = ("docker-compose",)
    tools.add("docker-compose", 'for w in "$@"; do test "$w" != up || exit 1; done')
    engine._made.append(["docker", "rmi", "-f", engine.image])
    engine._made.append([*engine.line(), "down", "-v"])
    with pytest.raises(Failed):
        engine.run(time.monotonic() + 10)
    engine.remove()
    *_, first, last = tools.called()
    assert " down -v" in first and last == f"docker rmi -f {engine.image}"


def test_what_an_unfinished_build_leaves_is_swept(tools: Tools, tmp_path: Path) -> None:
    """The engine goes on for a moment when its caller is gone."""
    left = tmp_path / "left"
    body = f"""case "$1" in
        images) test -e {left} && echo layer ;;
        rmi) test "$3" = layer && PATH=/bin:/usr/bin rm -f {left} ;;
        esac; exit 0"""
    tools.add("docker", body)
    engine = Containers(context(tmp_path))
    engine.will_build()
    left.touch()
    engine.remove()
    assert not left.exists()
    assert any("rmi -f layer" in line for line in tools.called())


def test_the_files_say_what_the_engines_do(tmp_path: Path) -> None:
    """docker-compose.yml has the two hosts as `scripts/hosts.py` starts them."""
    text = (FILES / "docker-compose.yml").read_text(encoding="utf-8")
    engine = Podman(context(tmp_path))
    for host, other in (("host-1", "host-2"), ("host-2", "host-1")):
        (part,) = re.findall(rf"^  {host}:\n(.*?)(?=^  \w|^\w)", text, re.MULTILINE | re.DOTALL)
        words = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", part.partition(">-\n")[2]).split()
        made = engine.words(host, "0.0.0.0", other, "/run/secrets", "/data/out", "/data/film")
        stop = words.index("--send") if "--send" in words else None
        assert words[:stop] == made[:stop]
        assert ("--send" in words) == (host == "host-1")
    variables = set(re.findall(r"\$\{(\w+)", text))
    assert variables == {"CONTEXT", "BASE", "KEYS", "RUN", "IMAGE", "EVERY", "PROGRAM", "ARGS"}
    assert all(re.search(rf"^#.*\b{name}\b", text, re.MULTILINE) for name in variables)
    secrets = re.findall(r"file: \"\S*?/(host-\d/\w+)\"", text)
    make_certificates(tmp_path / "keys", {}, readable=True)
    assert sorted(secrets) == sorted(
        f"{host}/{path.name}" for host in HOSTS for path in (tmp_path / "keys" / host).iterdir()
    )
    dockerfile = (FILES / "Dockerfile").read_text(encoding="utf-8")
    assert "ARG BASE=" in dockerfile and "FROM $BASE" in dockerfile
    assert re.search(r"^USER (?!0|root)", dockerfile, re.MULTILINE)
    assert "--no-index" in dockerfile


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    return {line.split()[0] for line in listed.stdout.splitlines() if "wasmsr-" in line}


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files, where network namespaces can be made.

    One test at a time: the namespaces of another one would count as left over.
    """
    (tmp_path / "try").mkdir()
    reason = Namespaces(context(tmp_path / "try")).missing()
    if reason:
        pytest.skip(f"two network namespaces cannot be had: {reason}")
    folder = tmp_path / "temporary"
    folder.mkdir()
    lock = ROOT / "build" / "namespaces.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scripts.containers", "--engine", "namespaces"]
    return subprocess.Popen(
        [*command, "--program", "transcoding", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.full
def test_two_network_namespaces(real: Path) -> None:
    before = namespaces()
    process = begin(real, "--every", "0.5", "--moves", "10")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "| equal" in output
    assert output.count("moved here from") >= 10
    assert namespaces() <= before and not list(real.iterdir())


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(real: Path, number: signal.Signals) -> None:
    before = namespaces()
    process = begin(real, "--every", "5", "--moves", "10")
    assert process.stdout
    for line in process.stdout:
        if "moved here from" in line:
            break
    assert namespaces() - before
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert namespaces() <= before and not list(real.iterdir())
    running = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True).stdout
    assert str(real) not in running
