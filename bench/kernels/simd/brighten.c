/* 8-bit lanes: add with saturation, then all below a threshold to zero. */
#include "../kernel.h"
#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif

enum { SIZE = 1 << 14 };
static uint8_t picture[SIZE], out[SIZE];

#ifdef __wasm_simd128__
static void brighten(uint8_t more, uint8_t least) {
  const v128_t by = wasm_u8x16_splat(more), limit = wasm_u8x16_splat(least);
  for (uint32_t i = 0; i < SIZE; i += 16) {
    const v128_t light = wasm_u8x16_add_sat(wasm_v128_load(picture + i), by);
    wasm_v128_store(out + i, wasm_v128_and(light, wasm_u8x16_ge(light, limit)));
  }
}
#else
static void brighten(uint8_t more, uint8_t least) {
  for (uint32_t i = 0; i < SIZE; i++) {
    const uint32_t sum = (uint32_t)picture[i] + more;
    const uint8_t light = sum > 255 ? 255 : (uint8_t)sum;
    out[i] = light < least ? 0 : light;
  }
}
#endif

uint32_t run(uint32_t n) {
  for (uint32_t i = 0; i < SIZE; i++) picture[i] = (uint8_t)(i * 13 ^ i >> 4);
  uint32_t sum = 0;
  for (uint32_t round = 0; round < n; round++) {
    const uint8_t more = (uint8_t)(round * 5), least = (uint8_t)(200 - round % 64);
    brighten(more, least);
    sum = sum * 31 + out[round * 7 % SIZE];
  }
  return sum;
}
