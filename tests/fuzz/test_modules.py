"""Hostile modules: damage (`modules`) for a moment, and bombs that cost little to send.

No bomb may take more than seconds, or memory out of proportion to its size.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.modules import EXAMPLES, Mutator, trial
from wasmsr import Module, ModuleError

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "300"))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_modules(seed: int) -> None:
    mutator = Mutator(seed)
    valid = sum(trial(mutator.next()) for _ in range(ROUNDS))
    assert valid > ROUNDS // 50  # some damage does not show; if none did, little was run


@pytest.mark.parametrize("name", ["fib", "cat", "server"])
def test_truncated_modules(name: str) -> None:
    data = (EXAMPLES / f"{name}.wasm").read_bytes()
    step = max(1, len(data) // 1500)
    for length in [*range(min(len(data), 300)), *range(300, len(data), step)]:
        try:
            Module(data[:length])
        except ModuleError:
            continue
        # Only a cut between two sections leaves a module.
        assert length == 8 or length in _section_ends(data), length


def _section_ends(data: bytes) -> set[int]:
    ends, at = {8}, 8
    while at < len(data):
        size = shift = 0
        at += 1
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        at += size
        ends.add(at)
    return ends


# ---- bombs ----

HEAD = b"\0asm\1\0\0\0"


def u(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + u(len(body)) + body


TYPE, FUNCTION = section(1, b"\1\x60\0\0"), section(3, b"\1\0")


def code(body: bytes, local: bytes = b"\0") -> bytes:
    whole = local + body + b"\x0b"
    return HEAD + TYPE + FUNCTION + section(10, b"\1" + u(len(whole)) + whole)


def _bombs_of_bodies() -> dict[str, tuple[bytes, bool | None]]:
    """Bytes, and whether they are a module; None where it is for the implementation to say."""
    most = u(2**32 - 1)
    bombs: dict[str, tuple[bytes, bool | None]] = {}
    for number in range(1, 13):
        bombs[f"section {number} of 4 G items"] = (HEAD + section(number, most), False)
        bombs[f"section {number} of 4 GiB"] = (HEAD + bytes([number]) + most, False)
    n = 100_000
    bombs["locals, 4 G"] = (code(b"", b"\1" + most + b"\x7f"), None)
    bombs["locals, 50,000"] = (code(b"", b"\1" + u(50_000) + b"\x7f"), True)
    bombs["locals in very many groups"] = (code(b"", u(n) + b"\0\x7f" * n), True)
    bombs["locals that add up beyond 4 G"] = (
        code(b"", b"\3" + (b"\xff\xff\xff\xff\x0f\x7f") * 3),
        False,
    )
    bombs["blocks, 100,000 deep"] = (code(b"\x02\x40" * n + b"\x0b" * n), True)
    bombs["loops, 100,000 deep"] = (code(b"\x03\x40" * n + b"\x0b" * n), True)
    bombs["ifs, 100,000 deep"] = (code(b"\x41\0\x04\x40" * n + b"\x0b" * n), True)
    bombs["blocks never closed"] = (code(b"\x02\x40" * n), False)
    bombs["br_table of 1 M labels"] = (
        code(b"\x41\0\x0e" + u(1_000_000) + b"\0" * 1_000_001),
        True,
    )
    bombs["br_table of 4 G labels"] = (code(b"\x41\0\x0e" + most + b"\0\0"), False)
    bombs["many br_tables out of deep blocks"] = (
        code(
            b"\x02\x40" * 1000
            + (b"\x02\x40\x41\0\x0e" + u(500) + b"".join(u(i) for i in range(501)) + b"\x0b") * 500
            + b"\x0b" * 1000
        ),
        True,
    )
    bombs["operands, 1 M"] = (code(b"\x41\0" * 1_000_000 + b"\x1a" * 1_000_000), None)
    bombs["dead code, 1 M"] = (code(b"\0" + b"\x6a" * 1_000_000 + b"\x1a" * 10), True)
    return bombs


def _bombs_outside_bodies() -> dict[str, tuple[bytes, bool | None]]:
    """The same, for types, exports, names and other sections."""
    most = u(2**32 - 1)
    n = 100_000
    bombs: dict[str, tuple[bytes, bool | None]] = {}
    types = b"".join(
        b"\x60\x02" + bytes([0x7C + (i & 3), 0x7C + (i >> 2 & 3)]) + b"\0" for i in range(16)
    )
    bombs["types, 100,000, few different"] = (HEAD + section(1, u(16 * 6250) + types * 6250), True)
    wide = b"\x60" + u(1000) + b"\x7f" * 1000 + b"\0"
    bombs["types of 1,000 parameters, 1,000"] = (HEAD + section(1, u(1000) + wide * 1000), True)
    bombs["a type of 4 G parameters"] = (HEAD + section(1, b"\1\x60" + most), False)
    bombs["a type of 1 M parameters"] = (
        HEAD + section(1, b"\1\x60" + u(10**6) + b"\x7f" * 10**6 + b"\0"),
        None,
    )
    bombs["blocks of wide types"] = (
        HEAD
        + section(1, b"\2\x60\0\0\x60" + u(1000) + b"\x7f" * 1000 + u(1000) + b"\x7f" * 1000)
        + FUNCTION
        + section(
            10,
            b"\1"
            + (lambda body: u(len(body)) + body)(
                b"\0" + b"\x41\0" * 1000 + b"\x02\1\x0b" * 20_000 + b"\x1a" * 1000 + b"\x0b"
            ),
        ),
        True,
    )
    bombs["exports, 100,000"] = (
        HEAD
        + TYPE
        + FUNCTION
        + section(7, u(n) + b"".join(u(6) + b"%06d" % i + b"\0\0" for i in range(n)))
        + section(10, b"\1\2\0\x0b"),
        True,
    )
    bombs["exports of one name"] = (
        HEAD + TYPE + FUNCTION + section(7, u(n) + b"\1x\0\0" * n) + section(10, b"\1\2\0\x0b"),
        False,
    )
    bombs["functions, 1 M declared"] = (HEAD + TYPE + section(3, u(10**6) + b"\0" * 10**6), False)
    bombs["a name of 4 GiB"] = (HEAD + section(2, b"\1" + most), False)
    bombs["a table of 4 G elements"] = (HEAD + section(4, b"\1\x70\0" + most), None)
    bombs["a memory of 4 GiB"] = (HEAD + section(5, b"\1\0" + u(65536)), True)
    bombs["custom sections, 100,000"] = (HEAD + b"\0\1\0" * n, True)
    bombs["a constant expression without end"] = (
        HEAD + section(6, b"\1\x7f\0" + b"\x41\0" * n),
        False,
    )
    bombs["segments of 4 G items"] = (HEAD + section(9, b"\1\1\0" + most), False)
    return bombs


BOMBS = {**_bombs_of_bodies(), **_bombs_outside_bodies()}
LOAD = """
import resource, sys, time
import wasmsr
from wasmsr.interp.modules.module import Module
data = open(sys.argv[1], "rb").read()
Module(b"\\0asm\\1\\0\\0\\0")
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
try:
    module = Module(data)
    result = "module"
    store = wasmsr.Store(limits=wasmsr.Limits(memory_pages=16, table_elements=1000))
    try:
        instance = store.instantiate(module)
        if module.function_count:
            store.enqueue(wasmsr.Function(store, 0))
            store.run(fuel=100)
            wasmsr.Snapshot.of(store)
    except (wasmsr.ModuleError, wasmsr.Trap):
        pass
except wasmsr.ModuleError as error:
    result = type(error).__name__
seconds = time.process_time() - began
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
print(result, seconds, grown)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path) -> None:
    data, expected = BOMBS[name]
    (tmp_path / "bomb.wasm").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "bomb.wasm")],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    assert done.returncode == 0, done.stderr[-500:]
    result, seconds, kilobytes = done.stdout.split()
    if expected is not None:
        assert (result == "module") is expected, result
    assert float(seconds) < 5
    if os.environ.get("WASMSR_SANITIZED") != "1":  # which needs memory of its own
        assert int(kilobytes) * 1024 < (32 << 20) + 100 * len(data)
