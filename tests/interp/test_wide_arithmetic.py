"""128-bit sums, differences and products, in both codes, against Python's integers."""

from __future__ import annotations

import random

import pytest

from tests.lockstep import Pair
from wasmsr import Module, Store, UnsupportedError
from wasmsr.interp.outcomes import Finished

FEATURES = "+wide-arithmetic"
TEXT = """(module
  (func (export "add") (param i64 i64 i64 i64) (result i64 i64)
    (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "sub") (param i64 i64 i64 i64) (result i64 i64)
    (i64.sub128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "mul_s") (param i64 i64) (result i64 i64)
    (i64.mul_wide_s (local.get 0) (local.get 1)))
  (func (export "mul_u") (param i64 i64) (result i64 i64)
    (i64.mul_wide_u (local.get 0) (local.get 1)))
  (func (export "loop") (param i64 i64) (result i64 i64) (local $n i64)
    (loop $again
      (i64.add128 (local.get 0) (local.get 1) (i64.const -7) (i64.const 3))
      (local.set 1) (local.set 0)
      (i64.mul_wide_u (local.get 0) (i64.const 0x9E3779B97F4A7C15))
      (local.set 1 (i64.xor (local.get 1)))
      (local.set 0)
      (br_if $again (i64.lt_u (local.tee $n (i64.add (local.get $n) (i64.const 1)))
        (i64.const 50))))
    (local.get 0) (local.get 1)))"""

EDGES = (0, 1, 2, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def signed(value: int, bits: int = 64) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def halves(value: int) -> tuple[int, int]:
    return signed(value & (1 << 64) - 1), signed(value >> 64 & (1 << 64) - 1)


def test_results() -> None:
    instance = Store(features=FEATURES).instantiate(Module.from_text(TEXT, features=FEATURES))
    draw = random.Random(1)
    numbers = [*EDGES, *(draw.randrange(1 << 64) for _ in range(8))]
    call = {name: instance.function(name) for name in ("add", "sub", "mul_s", "mul_u")}
    for a in numbers:
        for b in numbers:
            assert call["mul_u"](a, b) == halves(a * b)
            assert call["mul_s"](a, b) == halves(signed(a) * signed(b))
            c, d = draw.choice(numbers), draw.choice(numbers)
            assert call["add"](a, b, c, d) == halves(a + (b << 64) + c + (d << 64))
            assert call["sub"](a, b, c, d) == halves(a + (b << 64) - c - (d << 64))


def test_both_codes() -> None:
    module = Module.from_text(TEXT, features=FEATURES)
    assert module.needed_features == {"wide-arithmetic"}
    stores = []
    for _ in range(2):
        store = Store(features=FEATURES)
        store.enqueue(store.instantiate(module).function("loop"), 5, 9)
        stores.append(store)
    pair = Pair(*stores, counted=True)
    assert isinstance(pair.run(most=1000), Finished)
    assert pair.compared > 40


def test_it_is_off_unless_asked_for() -> None:
    with pytest.raises(UnsupportedError, match='"wide-arithmetic", which is switched off'):
        Module.from_text(TEXT)
