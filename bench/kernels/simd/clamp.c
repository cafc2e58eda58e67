/* 32-bit lanes: samples scaled, shifted and kept in range, with the greatest of them. */
#include "../kernel.h"

enum { SIZE = 1 << 12 };
static int32_t samples[SIZE], out[SIZE];

uint32_t run(uint32_t n) {
  for (int32_t i = 0; i < SIZE; i++) samples[i] = (i * 7919) % 70000 - 35000;
  uint32_t sum = 0;
  for (uint32_t round = 0; round < n; round++) {
    const int32_t gain = (int32_t)(round % 512) + 200;
    int32_t most = -40000;
    for (uint32_t i = 0; i < SIZE; i++) {
      int32_t x = (samples[i] * gain) >> 8;
      x = x < -32768 ? -32768 : x;
      x = x > 32767 ? 32767 : x;
      out[i] = x;
      most = x > most ? x : most;
    }
    sum = sum * 31 + (uint32_t)out[round % SIZE] + (uint32_t)most;
  }
  return sum;
}
