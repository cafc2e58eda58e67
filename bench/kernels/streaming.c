/* Streaming through memory: a = b + s * c over arrays that do not fit the first cache. */
#include "kernel.h"

enum { SIZE = 1 << 15 };
static int64_t a[SIZE], b[SIZE], c[SIZE];

uint32_t run(uint32_t n) {
  for (int64_t i = 0; i < SIZE; i++) b[i] = i, c[i] = SIZE - i;
  for (uint32_t round = 0; round < n; round++) {
    const int64_t s = round | 1;
    for (int i = 0; i < SIZE; i++) a[i] = b[i] + s * c[i];
    for (int i = 0; i < SIZE; i++) c[i] = a[i] ^ b[i];
  }
  int64_t sum = 0;
  for (int i = 0; i < SIZE; i++) sum += c[i];
  return (uint32_t)sum;
}
