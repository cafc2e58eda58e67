"""The heaps of the C library that the threads of a process have."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from tests.node.programs import counting
from tests.node.test_commands import Shell, until
from wasmsr.executor.server_process import SHARED, limit_heaps

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library has one heap"
)

HEAP = 64 << 20
"""Bytes of addresses of a heap that is not the first thread's; glibc puts it at a multiple."""

MANY = """
import sys, threading
from wasmsr.executor.server_process import limit_heaps
if len(sys.argv) > 1:
    assert limit_heaps(int(sys.argv[1]))
together = threading.Barrier(17)
kept = []
def work():
    kept.append(bytearray(4000))  # larger than what Python's own heap has
    together.wait()
    together.wait()
for _ in range(16):
    threading.Thread(target=work).start()
together.wait()
print(open("/proc/self/maps").read())
together.wait()
"""


def heaps(maps: str) -> int:
    """Return how many heaps a process has, by its mappings: the first one, and those of threads.

    A heap of a thread is the used part of 64 MiB of addresses, and the rest without rights.
    """
    found = re.findall(r"^(\w+)-(\w+) (....) \S+ \S+ 0\b", maps, flags=re.MULTILINE)
    areas = [(int(first, 16), int(end, 16), rights) for first, end, rights in found]
    count = 1
    for (first, end, rights), (then, last, others) in pairwise(areas):
        if first % HEAP == 0 and (rights, others) == ("rw-p", "---p") and end == then:
            count += last - first == HEAP
    return count


def test_threads_share_heaps() -> None:
    def run(*words: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", MANY, *words], capture_output=True, text=True, check=True
        )
        return heaps(done.stdout)

    assert run() > SHARED, "otherwise this test sees nothing"
    assert run("2") <= 2
    assert run("1") == 1


def test_a_limit_that_is_none() -> None:
    for most in (0, -1):
        with pytest.raises(OSError):
            limit_heaps(most)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are confined on Linux")
def test_a_node_and_its_workers_have_few_heaps(tmp_path: Path) -> None:
    """However many calls come at once: memory of threads that are gone must be of use to others."""
    shell = Shell(tmp_path)
    shell.node()
    try:
        from wasmsr import Node

        binary = counting(10**7, 10)
        workers: list[int] = []

        def work() -> None:
            with Node(f"unix:{tmp_path}/state/wasmsr/node/control") as node:
                workers.append(node.submit(binary).worker or 0)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert shell.process is not None and len(workers) == 6
        until(lambda: all(Path(f"/proc/{one}").exists() for one in workers))
        for process, most in ((shell.process.pid, SHARED), *((one, 1) for one in workers)):
            assert heaps(Path(f"/proc/{process}/maps").read_text()) <= most
    finally:
        shell.end()
