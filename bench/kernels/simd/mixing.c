/* 32-bit lanes: many random number generators side by side. */
#include "../kernel.h"

enum { SIZE = 256, STEPS = 16 };
static uint32_t state[SIZE];

uint32_t run(uint32_t n) {
  for (uint32_t i = 0; i < SIZE; i++) state[i] = i * 2654435761U + 1;
  uint32_t sum = 0;
  for (uint32_t round = 0; round < n; round++) {
    for (uint32_t step = 0; step < STEPS; step++)
      for (uint32_t i = 0; i < SIZE; i++) {
        uint32_t x = state[i];
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        state[i] = x;
      }
    sum += state[round % SIZE];
  }
  return sum;
}
