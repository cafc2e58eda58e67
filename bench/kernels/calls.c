/* Many short calls: Takeuchi's function, and helpers of several arguments. */
#include "kernel.h"

static NOINLINE int32_t tak(int32_t x, int32_t y, int32_t z) {
  return y >= x ? z : tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y));
}
static NOINLINE uint32_t clamp(uint32_t x, uint32_t low, uint32_t high) {
  return x < low ? low : x > high ? high : x;
}
static NOINLINE uint32_t blend(uint32_t a, uint32_t b, uint32_t by, uint32_t of) {
  return clamp((a * by + b * (of - by)) / of, 3, 250);
}

uint32_t run(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    sum += (uint32_t)tak(12, 8, (int32_t)(i % 4));
    for (uint32_t k = 0; k < 200; k++) sum += blend(k, sum & 255, k & 15, 16);
  }
  return sum;
}
