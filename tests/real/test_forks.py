"""A thousand forks of one warmed-up CPython, unmodified, in one process."""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.console import blocks
from tests.real import fetch
from wasmsr import Exited, Finished, Module, Paused, Retry, Snapshot, Store, Wasi

FORKS = 1000
MAPPINGS = 65530
"""Linux's default of vm.max_map_count."""
DESCRIPTORS = 1024
"""The soft limit of open files that most systems set."""
ADDRESS_BITS = 47

SCRIPT = """\
import collections, json, os, random, re, sys
warm = {str(i): re.escape(str(i)) for i in range(500)}
early = random.random()
line = sys.stdin.readline()
first = random.random()
random.seed()
found = [eval(line), os.urandom(8).hex(), first, random.random(), hash("seed")]
print(json.dumps(found), flush=True)
os._exit(0)
"""


Own = Callable[[int], dict[str, Any]]


class Empty:
    """An input that pauses the program which reads it."""

    store: Store

    def read(self, size: int) -> bytes:
        self.store.pause()
        raise Retry


def warmed(module: Module, script: str) -> Store:
    """A CPython that is paused where it reads its standard input."""
    store, source = Store(), Empty()
    source.store = store
    store.wasi = Wasi(args=["python", "-c", script], stdin=source, env={"PYTHONHASHSEED": "random"})
    store.enqueue(store.instantiate(module, store.wasi.imports).function("_start"))
    assert store.run() == Paused("requested")
    return store


@pytest.fixture(scope="module")
def module() -> Module:
    try:
        return Module.from_file(fetch.python())
    except fetch.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.full
def test_the_worker_of_the_guide(root: Path, module: Module) -> None:
    pages = blocks((root / "docs" / "how-to" / "fork.md").read_text(encoding="utf-8"))
    (script,) = [block.text for block in pages if block.title == "worker.py"]
    outputs: dict[int, io.BytesIO] = {}
    moment = Snapshot.of(warmed(module, script)).moment(modules=[module])
    for one in moment.fork(5, own=own(outputs, lambda n: f"prepared['{n}'] + 1\n")):
        assert isinstance(one.run(), (Exited, Finished))
        one.close()
    found = [json.loads(one.getvalue()) for one in outputs.values()]
    assert [one["answer"] for one in found] == [n * n + 1 for n in range(1, 6)]
    for name, different in (("random", 5), ("token", 5), ("uuid", 5), ("string hash", 1)):
        assert len({one[name] for one in found}) == different, name


@pytest.fixture
def outputs() -> Iterator[dict[int, io.BytesIO]]:
    yield {}


def own(outputs: dict[int, io.BytesIO], line: Callable[[int], str]) -> Own:
    def of(number: int) -> dict[str, Any]:
        outputs[number] = io.BytesIO()
        return {"stdin": line(number).encode(), "stdout": outputs[number]}

    return of


def anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    raise AssertionError("the system shows no such figure")


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system shows no figures")
def test_a_thousand_forks_each_do_something_of_their_own(
    module: Module, outputs: dict[int, io.BytesIO]
) -> None:
    snapshot = Snapshot.of(warmed(module, SCRIPT))
    moment = snapshot.moment(modules=[module])
    give = own(outputs, lambda n: f"{n} ** 3, warm['7'], {n}\n")
    moment.fork(1, first=FORKS + 1, own=give)[0].close()  # what is imported once
    before = anonymous_kib()
    forks: list[Store] = []
    costs = []
    for number in range(1, FORKS + 1):
        start = time.thread_time()
        forks += moment.fork(1, first=number, own=give)
        costs.append((time.thread_time() - start) * 1000)
    spent = (anonymous_kib() - before) / FORKS
    print(f"a fork: {statistics.median(costs):.2f} ms, worst {max(costs):.2f}, {spent:.0f} KiB")
    assert statistics.median(costs) < 1.0
    assert spent < 0.3 * 1024
    seen = []
    for number, one in enumerate(forks, 1):
        outcome = one.run()
        assert outcome == Exited(0) or isinstance(outcome, Finished)
        result = json.loads(outputs[number].getvalue())
        assert result[0] == [number**3, "7", number]
        seen.append(result[1:])
        if number == FORKS // 2:
            mappings = len(Path("/proc/self/maps").read_text().splitlines())
            descriptors = len(os.listdir("/proc/self/fd"))
            reserved = address_space()
            print(f"{mappings} mappings, {descriptors} descriptors, {reserved >> 30} GiB reserved")
            assert mappings < MAPPINGS / 2
            assert descriptors < DESCRIPTORS / 2
            assert reserved < 1 << (ADDRESS_BITS - 1)
    for one in forks:
        one.close()
    fresh, first, seeded, hashes = (set(column) for column in zip(*seen, strict=True))
    assert len(fresh) == FORKS, "the host's random bytes"
    assert len(first) == 1, "what was seeded before the fork goes on alike in all forks"
    assert len(seeded) == FORKS, "random.seed() takes a seed of the fork's own"
    assert len(hashes) == 1, "the hash seed of strings is that of the snapshot"
