/* 8-bit lanes: sums of bytes and of bytes that agree with another text. */
#include "../kernel.h"
#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif

enum { SIZE = 1 << 14 };
static uint8_t text[SIZE], other[SIZE];

static uint32_t sum, same;

#ifdef __wasm_simd128__
static uint32_t total(v128_t lanes) {
  return (uint32_t)(wasm_i32x4_extract_lane(lanes, 0) + wasm_i32x4_extract_lane(lanes, 1) +
                    wasm_i32x4_extract_lane(lanes, 2) + wasm_i32x4_extract_lane(lanes, 3));
}
static v128_t wider(v128_t bytes) {
  return wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16(bytes));
}
static void check(void) {
  v128_t sums = wasm_i32x4_const_splat(0), agree = wasm_i32x4_const_splat(0);
  for (uint32_t i = 0; i < SIZE; i += 16) {
    const v128_t x = wasm_v128_load(text + i);
    const v128_t equal = wasm_i8x16_eq(x, wasm_v128_load(other + i));
    sums = wasm_i32x4_add(sums, wider(x));
    agree = wasm_i32x4_add(agree, wider(wasm_i8x16_neg(equal)));
  }
  sum += total(sums);
  same += total(agree);
}
#else
static void check(void) {
  for (uint32_t i = 0; i < SIZE; i++) {
    sum += text[i];
    same += text[i] == other[i];
  }
}
#endif

uint32_t run(uint32_t n) {
  for (uint32_t i = 0; i < SIZE; i++) {
    text[i] = (uint8_t)(i * 31 >> 3);
    other[i] = (uint8_t)(i % 5 ? text[i] : i);
  }
  sum = same = 0;
  for (uint32_t round = 0; round < n; round++) {
    check();
    text[round % SIZE] ^= (uint8_t)sum;
  }
  return sum ^ same << 16;
}
