"""`wasmsr memory` as a process: it is read and written, saved and found again, and refused."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.transports import shm


@contextmanager
def memory(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "wasmsr", "memory", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "tcp://" in line, process.stderr and process.stderr.read()
            yield "tcp://" + line.partition("tcp://")[2].partition(",")[0].strip(), process
        finally:
            process.kill()


def test_what_is_saved_is_found_after_kill_and_end(tmp_path: Path) -> None:
    words = ["0", "--size", "1M", "--snapshot-every", "0.05", "--folder", str(tmp_path / "m")]
    with memory(*words) as (url, process):
        link = MemoryLink("m", url)
        link.write(7, memoryview(b"kept"))
        image = tmp_path / "m" / "image.json"
        until = time.monotonic() + PATIENCE
        while not (image.exists() and json.loads(image.read_bytes())["packs"]):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
    with memory(*words) as (url, process):
        got = bytearray(4)
        link = MemoryLink("m", url)
        link.read(7, memoryview(got))
        assert got == b"kept"
        link.write(11, memoryview(b" too"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    with memory(*words) as (url, _):
        got = bytearray(8)
        MemoryLink("m", url).read(7, memoryview(got))
        assert got == b"kept too"


def test_shared_memory_is_the_same_memory() -> None:
    with memory("0", "--size", "64K", "--shm") as (url, process):
        name = f"wasmsr-memory-{url.rpartition(':')[2]}"
        mapped = shm(0, name)
        mapped.write_from(3, memoryview(b"shared"))
        got = bytearray(6)
        MemoryLink("m", url).read(3, memoryview(got))
        assert got == b"shared"
        mapped.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    with pytest.raises(Exception, match="shared memory"):
        shm(0, name)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "many"], "many is no size"),
        (["--size", "0"], "a memory of 0 bytes"),
        (["--size", "64T"], "a memory of 70368744177664 bytes"),
        (["--folder", "m"], "--folder needs --snapshot-every"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_wrong_words(words: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "wasmsr", "memory", "0", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "wasmsr", "memory", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and "another process has this port" in done.stderr


def test_two_memories_do_not_save_in_one_folder(tmp_path: Path) -> None:
    words = ["0", "--size", "64K", "--snapshot-every", "60", "--folder", str(tmp_path / "m")]
    with memory(*words) as (_, process):
        second = subprocess.run(
            [sys.executable, "-m", "wasmsr", "memory", *words],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert second.returncode == 1 and "another process" in second.stderr
        assert "--folder" in second.stderr and "Traceback" not in second.stderr
        process.kill()
        process.wait(PATIENCE)
    with memory(*words):  # the folder is free after kill -9
        pass
