"""What the table says lane by lane, what it says for x86, and for x86 of level 2: the same bits.

A program that calls every function of core/numeric/simd_lanes.h on vectors of special and random
lanes is built with and without x86's instructions; what the two print must be equal, NaNs apart
that the specification leaves open, which are made canonical. So must be what other CPUs print,
under qemu.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.generate_simd import parameters
from tests.builds.variants import core_flags
from wasmsr.interp.instruction_set.simd import VECTORS
from wasmsr.interp.instruction_set.simd_row import SHAPES, Vector

CPUS = ("aarch64", "s390x")
PROGRAM = r"""
#include <stdio.h>
#include "core/numeric/simd.h"

static uint64_t state = 88172645463325252u;
static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}
static const uint64_t special[] = {
    0, 0x8000000080000000u, 0x7fffffff7fffffffu, 0x7f8000007fc00001u, 0xff8000017f800001u,
    0x3f8000004f000000u, 0x4f800000cf000000u, 0x3f0000003fc00000u, 0xbf000000c0200000u,
    0x8080808080808080u, 0x7f807f807f807f80u, 0xffffffffffffffffu, 0x7ff0000000000000u,
    0x7ff8000000000001u, 0x7ff0000000000001u, 0xfff0000000000000u, 0x41e0000000000000u,
    0x41efffffffe00000u, 0xc1e0000000000000u, 0x3fe0000000000000u, 0x8000000000000000u,
    0x4330000000000000u, 0x0000000100000001u, 0x00000000ffffffffu, 0x800080007fff8000u};
static uint64_t half(void) {
  const uint64_t n = next() >> 11;
  return n % 3 ? next() : special[n / 3 % (sizeof special / sizeof *special)];
}
static wsr_vector vector(void) {
  const uint64_t low = half();
  return wsr_halves(low, half());
}
static void vector_out(const char *name, wsr_vector v) {
  const wsr_lanes x = {.v = v};
  printf("%s %016llx%016llx\n", name, (unsigned long long)x.u64[1], (unsigned long long)x.u64[0]);
}
static void number_out(const char *name, uint64_t x) {
  printf("%s %llx\n", name, (unsigned long long)x);
}
#if WSR_X86
#define V2(call) if (__builtin_cpu_supports("sse4.2")) call
#else
#define V2(call)
#endif
int main(void) {
  for (int round = 0; round < 3000; round++) {
    const wsr_vector va = vector(), vb = vector(), vc = vector();
    const uint64_t x = half();
    uint8_t k[16];
    for (int i = 0; i < 16; i++) k[i] = next() >> 20 & 31;
    const uint32_t any = next() >> 30;
    (void)vc;
CALLS
  }
  return 0;
}
"""


def _calls() -> Iterator[str]:
    for row in VECTORS:
        if row.width or row.form == "const":
            continue
        lanes = f"any % {128 // SHAPES[row.name.partition('.')[0]]}" if row.immediates else ""
        words = [p.split()[-1].lstrip("*") for p in parameters(row)]
        words = [lanes if word == "lane" else word for word in words]
        for suffix in ("", "_v2") if row.v2 else ("",):
            call = _printed(row, f"{row.function}{suffix}({', '.join(words)})")
            yield f"    V2({call});" if suffix else f"    {call};"


def _printed(row: Vector, call: str) -> str:
    if row.results != "v128":
        return f'number_out("{row.name}", {call})'
    if row.nan:
        call = f"wsr_canonical_{row.nan}x{4 if row.nan == 'f32' else 2}({call})"
    return f'vector_out("{row.name}", {call})'


def _lines(folder: Path, root: Path, *flags: str, cpu: str = "") -> list[str]:
    source, program = folder / "lanes.c", folder / "lanes"
    source.write_text(PROGRAM.replace("CALLS", "\n".join(_calls())))
    names = (f"{cpu}-linux-gnu-gcc",) if cpu else ("gcc", "cc")
    compiler = next(filter(None, map(shutil.which, names)), None)
    emulator = [f"qemu-{cpu}"] if cpu else []
    flags += ("-static",) if cpu else ()
    if compiler is None or (cpu and shutil.which(emulator[0]) is None):
        pytest.skip(f"needs {' '.join([*names, *emulator])}")
    command = [compiler, *core_flags(), "-O1", *flags, f"-I{root / 'wasmsr'}"]
    subprocess.run([*command, str(source), "-o", str(program), "-lm"], check=True)
    done = subprocess.run([*emulator, str(program)], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def _once(lines: list[str]) -> Iterator[str]:
    """The lines, those of level 2 taken out: each must equal the one before."""
    before = ""
    late = {row.name for row in VECTORS if row.v2}
    second = False
    for line in lines:
        name = line.partition(" ")[0]
        if second and name == before.partition(" ")[0]:
            assert line == before
            second = False
            continue
        yield line
        before, second = line, name in late


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 has two ways")
def test_every_way_gives_the_same(root: Path, tmp_path: Path) -> None:
    plain = _lines(tmp_path, root, "-DWSR_NO_SSE")
    machine = list(_once(_lines(tmp_path, root)))
    assert len(plain) > 3000 * 200
    differ = [(one, other) for one, other in zip(plain, machine, strict=True) if one != other]
    assert not differ, differ[:5]


@pytest.mark.full
@pytest.mark.parametrize("cpu", CPUS)
def test_every_cpu_gives_the_same(cpu: str, root: Path, tmp_path: Path) -> None:
    """Other vector instructions, and bytes that run the other way."""
    assert _lines(tmp_path, root, cpu=cpu) == _lines(tmp_path, root, "-DWSR_NO_SSE")
