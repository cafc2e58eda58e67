/* The sieve of Eratosthenes over bytes. */
#include "kernel.h"

enum { SIZE = 1 << 17 };
static uint8_t composite[SIZE];

uint32_t run(uint32_t n) {
  uint32_t count = 0;
  for (uint32_t round = 0; round < n; round++) {
    for (uint32_t i = 0; i < SIZE; i++) composite[i] = 0;
    count = 0;
    for (uint32_t i = 2; i < SIZE; i++) {
      if (composite[i]) continue;
      count++;
      for (uint32_t k = i * 2; k < SIZE; k += i) composite[k] = 1;
    }
  }
  return count;
}
