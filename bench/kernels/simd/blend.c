/* 8-bit lanes: one picture over another, by a mask. */
#include "../kernel.h"

enum { SIZE = 1 << 13 };
static uint8_t front[SIZE], back[SIZE], mask[SIZE], out[SIZE];

uint32_t run(uint32_t n) {
  for (uint32_t i = 0; i < SIZE; i++) {
    front[i] = (uint8_t)(i * 11);
    back[i] = (uint8_t)(255 - i * 5);
    mask[i] = (uint8_t)(i >> 5);
  }
  uint32_t sum = 0;
  for (uint32_t round = 0; round < n; round++) {
    for (uint32_t i = 0; i < SIZE; i++) {
      const uint16_t both = (uint16_t)(front[i] * mask[i] + back[i] * (255 - mask[i]) + 128);
      out[i] = (uint8_t)((both + (both >> 8)) >> 8);
    }
    sum = sum * 31 + out[round % SIZE];
    back[round % SIZE] = (uint8_t)sum;
  }
  return sum;
}
