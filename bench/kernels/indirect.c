/* Calls through pointers: a table of operations, as virtual methods are called. */
#include "kernel.h"

typedef uint32_t operation(uint32_t a, uint32_t b);
static NOINLINE uint32_t add(uint32_t a, uint32_t b) { return a + b; }
static NOINLINE uint32_t subtract(uint32_t a, uint32_t b) { return a - b; }
static NOINLINE uint32_t mix(uint32_t a, uint32_t b) { return a ^ b << 3; }
static NOINLINE uint32_t turn(uint32_t a, uint32_t b) { return a << 5 | (a >> 27) + b; }
static operation *volatile operations[4] = {add, subtract, mix, turn};

uint32_t run(uint32_t n) {
  uint32_t value = 1, seed = 5;
  for (uint32_t i = 0; i < n; i++) value = operations[next_random(&seed) >> 30](value, i);
  return value;
}
