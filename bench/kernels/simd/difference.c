/* 8-bit lanes: the sum of absolute differences of two pictures, as motion estimation needs it. */
#include "../kernel.h"
#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif

enum { SIZE = 1 << 14 };
static uint8_t a[SIZE], b[SIZE];

#ifdef __wasm_simd128__
static uint32_t difference(void) {
  v128_t sums = wasm_i32x4_const_splat(0);
  for (uint32_t i = 0; i < SIZE; i += 16) {
    const v128_t x = wasm_v128_load(a + i), y = wasm_v128_load(b + i);
    const v128_t more = wasm_u8x16_sub_sat(x, y), less = wasm_u8x16_sub_sat(y, x);
    const v128_t pairs = wasm_u16x8_extadd_pairwise_u8x16(wasm_v128_or(more, less));
    sums = wasm_i32x4_add(sums, wasm_u32x4_extadd_pairwise_u16x8(pairs));
  }
  return (uint32_t)(wasm_i32x4_extract_lane(sums, 0) + wasm_i32x4_extract_lane(sums, 1) +
                    wasm_i32x4_extract_lane(sums, 2) + wasm_i32x4_extract_lane(sums, 3));
}
#else
static uint32_t difference(void) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < SIZE; i++) sum += (uint32_t)(a[i] > b[i] ? a[i] - b[i] : b[i] - a[i]);
  return sum;
}
#endif

uint32_t run(uint32_t n) {
  for (uint32_t i = 0; i < SIZE; i++) {
    a[i] = (uint8_t)(i * 7 + (i >> 5));
    b[i] = (uint8_t)(i * 3 ^ i >> 3);
  }
  uint32_t sum = 0;
  for (uint32_t round = 0; round < n; round++) {
    sum += difference();
    a[round % SIZE] += 1;
  }
  return sum;
}
