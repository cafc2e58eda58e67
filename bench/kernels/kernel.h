/* What every kernel of the bench has in common: it exports run(n), imports nothing, and returns a
 * number that depends on all it did. Compiled to Wasm by clang and to a shared library by gcc, -O2
 * both (bench/build.py). */
#ifndef KERNEL_H
#define KERNEL_H
#include <stdint.h>

#ifdef __wasm__
#define EXPORT __attribute__((export_name("run")))
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define NOINLINE __attribute__((noinline))

static inline uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

EXPORT uint32_t run(uint32_t n);
#endif
