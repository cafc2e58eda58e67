/* 32-bit lanes: the scalar product of two vectors of integers. */
#include "../kernel.h"

enum { SIZE = 1 << 12 };
static int32_t a[SIZE], b[SIZE];

uint32_t run(uint32_t n) {
  for (int32_t i = 0; i < SIZE; i++) {
    a[i] = i * 37 - 1000;
    b[i] = 5000 - i * 3;
  }
  uint32_t sum = 0;
  for (uint32_t round = 0; round < n; round++) {
    for (uint32_t i = 0; i < SIZE; i++) sum += (uint32_t)a[i] * (uint32_t)b[i];
    a[round % SIZE] ^= (int32_t)sum;
  }
  return sum;
}
