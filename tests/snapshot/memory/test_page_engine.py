"""The core's functions over pages give what plain Python gives, in each variant of SHA-256."""

from __future__ import annotations

import hashlib
import mmap
import random
from array import array
from pathlib import Path

import pytest

from wasmsr._ffi import ffi, lib
from wasmsr.snapshot.memory import page_engine, parts
from wasmsr.snapshot.memory.page_engine import DIGEST, PAGE_SIZE

VARIANTS = sorted({lib.WSR_SHA256_PORTABLE, page_engine.sha256_variant()})
"""What this CPU has; tests/cross runs the same on others."""
ZERO = bytes(range(32))


def _sha256(variant: int, data: bytes) -> str:
    digest = bytearray(DIGEST)
    lib.wsr_sha256(variant, ffi.from_buffer(data), len(data), ffi.from_buffer(digest))
    return digest.hex()


def _memory(seed: int, pages: int) -> bytearray:
    """Pages of which some are zero, some equal, and some differ in one byte."""
    source = random.Random(seed)
    data = bytearray(pages * PAGE_SIZE)
    for page in range(pages):
        kind = source.randrange(4)
        start = page * PAGE_SIZE
        if kind == 1:
            data[start + source.randrange(PAGE_SIZE)] = source.randrange(1, 256)
        elif kind > 1:
            data[start : start + PAGE_SIZE] = random.Random(kind * page % 7).randbytes(PAGE_SIZE)
    return data


def _pages(data: bytes | bytearray) -> list[bytes]:
    return [bytes(data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)]


# ---- SHA-256 ----


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("message", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (
            b"a" * 1_000_000,
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        ),
    ],
    ids=["empty", "24 bits", "448 bits", "a million a"],
)
def test_vectors_of_nist(variant: int, message: bytes, digest: str) -> None:
    assert _sha256(variant, message) == digest


@pytest.mark.parametrize("variant", VARIANTS)
def test_digests_of_all_lengths(variant: int) -> None:
    source = random.Random(variant)
    for length in [*range(300), *(source.randrange(300, 70_000) for _ in range(60))]:
        data = source.randbytes(length)
        assert _sha256(variant, data) == hashlib.sha256(data).hexdigest(), length


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pages", [0, 1, 2, 3, 8, 31])
def test_digests_of_pages_and_blocks(
    variant: int, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_engine, "sha256_variant", lambda: variant)
    data = _memory(pages, pages)
    found = page_engine.page_digests(data, ZERO)
    wanted = [hashlib.sha256(page).digest() if any(page) else ZERO for page in _pages(data)]
    assert found == b"".join(wanted)
    for size in (1, 32, 64, 96, 512):
        whole = found[: len(found) // size * size]
        blocks = [whole[at : at + size] for at in range(0, len(whole), size)]
        digests = b"".join(hashlib.sha256(block).digest() for block in blocks)
        assert page_engine.block_digests(whole, size) == digests
    if pages:
        with pytest.raises(ValueError, match="not whole blocks"):
            page_engine.block_digests(found, 33)


@pytest.mark.parametrize("variant", VARIANTS)
def test_digests_of_leaves(variant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_engine, "sha256_variant", lambda: variant)
    source = random.Random(variant)
    for length in (0, 1, 62, 63, 64, 99, 100, 101, 300, 1000, 65536, 65537, 200_000):
        for leaf in (1, 55, 63, 64, 100, 65536):
            if length // leaf > 2000:
                continue
            data = source.randbytes(length)
            leaves = [data[at : at + leaf] for at in range(0, length, leaf)]
            wanted = b"".join(hashlib.sha256(b"\7" + one).digest() for one in leaves)
            assert page_engine.leaf_digests(7, data, leaf) == wanted, (length, leaf)


# ---- which pages ----


@pytest.mark.parametrize("seed", range(10))
def test_maps_differences_and_runs(seed: int) -> None:
    pages = random.Random(seed).randrange(60)
    data, other = _memory(seed, pages), _memory(seed + 100, pages)
    assert list(page_engine.page_map(data)) == [any(page) for page in _pages(data)]
    flags = page_engine.differences(data, other)
    assert list(flags) == [a != b for a, b in zip(_pages(data), _pages(other), strict=True)]
    assert not any(page_engine.differences(data, bytes(data)))
    runs = page_engine.runs_of(flags)
    numbers = [n for at in range(0, len(runs), 2) for n in range(runs[at], runs[at] + runs[at + 1])]
    assert numbers == [number for number, flag in enumerate(flags) if flag]
    assert page_engine.pages_in(runs, pages) == sum(flags)
    for at in range(2, len(runs), 2):
        assert runs[at] > runs[at - 2] + runs[at - 1], "two runs that should be one"


def test_differences_of_digests() -> None:
    one = page_engine.page_digests(_memory(1, 9), ZERO)
    other = one[:]
    other[4 * DIGEST + 31] ^= 1
    assert list(page_engine.differences(one, other, size=DIGEST)) == [0] * 4 + [1] + [0] * 4


def test_lengths_that_do_not_fit_are_refused() -> None:
    page = bytes(PAGE_SIZE)
    for wrong in (
        lambda: page_engine.page_map(b"abc"),
        lambda: page_engine.differences(page, page + page),
        lambda: page_engine.copy_pages(page, bytearray(2 * PAGE_SIZE)),
        lambda: page_engine.page_digests(page, b"short"),
        lambda: page_engine.xor(b"a", b"ab"),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()


# ---- copies ----


@pytest.mark.parametrize("seed", range(10))
def test_gather_and_scatter(seed: int) -> None:
    source = random.Random(seed)
    pages = source.randrange(1, 60)
    data = _memory(seed, pages)
    runs = page_engine.runs_of(bytes(source.randrange(2) for _ in range(pages)))
    gathered = page_engine.gather(data, runs)
    wanted = b"".join(
        data[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
        for first, count in zip(runs[::2], runs[1::2], strict=True)
    )
    assert gathered == wanted
    for fresh in (False, True):
        target = bytearray(len(data)) if fresh else _memory(seed + 1, pages)
        expected = target[:]
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            part = slice(first * PAGE_SIZE, (first + count) * PAGE_SIZE)
            expected[part] = data[part]
        page_engine.scatter(gathered, runs, target, fresh=fresh)
        assert target == expected


@pytest.mark.parametrize(
    "runs",
    [(9, 1), (0, 9), (8, 1), (7, 2), (2**64 - 1, 2), (1, 2**64 - 1), (0, 2**63, 0, 2**63)],
)
def test_runs_out_of_bounds_are_refused(runs: tuple[int, ...]) -> None:
    data = _memory(3, 8)
    before = data[:]
    for call in (
        lambda: page_engine.gather(data, array("Q", runs)),
        lambda: page_engine.scatter(bytes(PAGE_SIZE), array("Q", runs), data),
    ):
        with pytest.raises(ValueError, match="out of bounds"):
            call()
    assert data == before


def test_scatter_needs_as_many_pages_as_the_runs_have() -> None:
    data = _memory(3, 8)
    for count in (0, 1, 3):
        with pytest.raises(ValueError, match="not as many pages"):
            page_engine.scatter(bytes(count * PAGE_SIZE), array("Q", (1, 2)), data)


def test_copies_leave_zero_pages_uncommitted() -> None:
    size = 4 << 20
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        source = bytearray(size)
        source[3 * PAGE_SIZE + 5] = source[size - 1] = 9
        page_engine.copy_pages(source, memoryview(area))
        assert area[:] == source
    contents = {0: 1, 15: 1, 9: 4}
    data = bytearray(16 * PAGE_SIZE)
    for page, kind in contents.items():
        data[page * PAGE_SIZE] = kind
    target = bytearray(len(data))
    page_engine.copy_pages(data, target)
    assert target == data


@pytest.mark.parametrize("pages", [0, 3, 255, 256, 700])
def test_a_copy_cannot_be_written_to(pages: int) -> None:
    data = _memory(pages, pages)
    copy = memoryview(page_engine.copied(data))
    before = bytes(data)
    assert copy.readonly
    data[:] = bytes(len(data))
    assert copy == before


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_runs(seed: int) -> None:
    data = _memory(seed, 40)
    flags = random.Random(seed).choices((0, 1), k=40)
    target = bytearray(len(data))
    page_engine.copy_runs(data, page_engine.runs_of(bytes(flags)), target)
    for page, flag in enumerate(flags):
        part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
        assert target[part] == (data[part] if flag else bytes(PAGE_SIZE))
    with pytest.raises(ValueError, match="out of bounds"):
        page_engine.copy_runs(data, array("Q", (39, 2)), target)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 4096, 5001])
def test_xor(length: int) -> None:
    source = random.Random(length)
    one, other = source.randbytes(length), source.randbytes(length)
    assert page_engine.xor(one, other) == bytes(a ^ b for a, b in zip(one, other, strict=True))


# ---- parts ----


@pytest.mark.parametrize("cores", [1, 2, 5])
@pytest.mark.parametrize("total", [0, 1, 9, 10, 11, 100, 101])
def test_each_part_is_done_once(cores: int, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "cores", lambda: cores)
    done: list[tuple[int, int]] = []
    parts.in_parts(total, lambda first, end: done.append((first, end)), part=10)
    assert [n for first, end in sorted(done) for n in range(first, end)] == list(range(total))


def test_the_failure_of_a_part_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "cores", lambda: 3)

    def work(first: int, end: int) -> None:
        if first == 40:
            raise LookupError("forty")

    with pytest.raises(LookupError, match="forty"):
        parts.in_parts(1000, work, part=10)


def test_many_threads_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _memory(5, 3 * parts.PART + 17)
    results = []
    for cores in (1, 4):
        monkeypatch.setattr(parts, "cores", lambda cores=cores: cores)
        target = bytearray(len(data))
        page_engine.copy_pages(data, target)
        found = page_engine.EqualPages([data])
        results.append(
            (
                page_engine.page_map(data),
                page_engine.page_digests(data, ZERO),
                target,
                (found.entries, found.sources),
            )
        )
    assert results[0] == results[1]
    assert results[0][2] == data


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, [4]),
        ("0::/a/b\n", {"a/cpu.max": "250000 100000\n", "a/b/cpu.max": "max 100000"}, [2]),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n"}, [1]),
        ("0::/not/here\n", {"cpu.max": "300000 100000\n"}, [3]),
        (
            "4:cpu,cpuacct:/x\n2:memory:/y\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            [2],
        ),
        (
            "4:cpu,cpuacct:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            [4],
        ),
        ("0::/a\n", {"a/cpu.max": "rubbish"}, [4]),
    ],
)
def test_quotas_of_control_groups(
    groups: str,
    files: dict[str, str],
    cores: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listing = tmp_path / "cgroup"
    listing.write_text(groups)
    root = tmp_path / "fs"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(parts, "_CGROUPS", str(root))
    monkeypatch.setattr(parts, "_LISTING", str(listing))
    monkeypatch.setattr(parts.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    assert [parts.cores()] == cores
