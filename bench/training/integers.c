/* Whole numbers: long multiplication and division, modular powers, greatest common divisors,
 * ciphers of 32- and 64-bit words, random numbers, bit counting, dates, queens. */
#include "../kernels/kernel.h"

enum { WORDS = 24 };
static uint32_t a[WORDS], b[WORDS], c[2 * WORDS];

static NOINLINE void multiply(void) {
  for (uint32_t i = 0; i < 2 * WORDS; i++) c[i] = 0;
  for (uint32_t i = 0; i < WORDS; i++) {
    uint64_t carry = 0;
    for (uint32_t j = 0; j < WORDS; j++) {
      carry += (uint64_t)a[i] * b[j] + c[i + j];
      c[i + j] = (uint32_t)carry;
      carry >>= 32;
    }
    c[i + WORDS] = (uint32_t)carry;
  }
}
static NOINLINE uint32_t divide(uint32_t by) {
  uint64_t rest = 0;
  for (uint32_t i = 2 * WORDS; i-- > 0;) {
    rest = rest << 32 | c[i];
    c[i] = (uint32_t)(rest / by);
    rest %= by;
  }
  return (uint32_t)rest;
}
static NOINLINE uint64_t power(uint64_t base, uint64_t exponent, uint64_t modulus) {
  uint64_t result = 1;
  for (; exponent; exponent >>= 1) {
    if (exponent & 1) result = result * base % modulus;
    base = base * base % modulus;
  }
  return result;
}
static NOINLINE uint32_t gcd(uint32_t x, uint32_t y) {
  while (y) {
    const uint32_t t = x % y;
    x = y;
    y = t;
  }
  return x;
}
static inline uint32_t turn(uint32_t x, int by) { return x << by | x >> (32 - by); }
static NOINLINE void quarter(uint32_t *s) {
  for (int round = 0; round < 10; round++)
    for (int i = 0; i < 4; i++) {
      uint32_t p = s[i], q = s[4 + i], r = s[8 + i], t = s[12 + i];
      p += q, t = turn(t ^ p, 16);
      r += t, q = turn(q ^ r, 12);
      p += q, t = turn(t ^ p, 8);
      r += t, q = turn(q ^ r, 7);
      s[i] = p, s[4 + i] = q, s[8 + i] = r, s[12 + i] = t;
    }
}
static NOINLINE uint64_t mix(uint64_t x) {
  for (int i = 0; i < 8; i++) {
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDU;
    x ^= x >> 29;
    x += 0x9E3779B97F4A7C15U;
    x = x << 27 | x >> 37;
  }
  return x;
}
static NOINLINE uint32_t queens(uint32_t all, uint32_t left, uint32_t columns, uint32_t right) {
  if (columns == all) return 1;
  uint32_t found = 0;
  for (uint32_t free = ~(left | columns | right) & all; free;) {
    const uint32_t bit = free & -free;
    free ^= bit;
    found += queens(all, (left | bit) << 1, columns | bit, (right | bit) >> 1);
  }
  return found;
}
static NOINLINE uint32_t weekday(uint32_t y, uint32_t m, uint32_t d) {
  static const uint8_t shifts[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
  y -= m < 3;
  return (y + y / 4 - y / 100 + y / 400 + shifts[m - 1] + d) % 7;
}

uint32_t run(uint32_t n) {
  uint32_t seed = 21, sum = 0, state[16];
  for (uint32_t i = 0; i < WORDS; i++) a[i] = next_random(&seed), b[i] = next_random(&seed);
  for (uint32_t i = 0; i < 16; i++) state[i] = next_random(&seed);
  for (uint32_t i = 0; i < n; i++) {
    multiply();
    sum += divide(i + 7) + (uint32_t)power(i + 2, 65537, 1000003);
    sum += gcd(next_random(&seed), i + 1) + (uint32_t)mix(i) +
           weekday(2000 + i % 99, i % 12 + 1, i % 28);
    quarter(state);
    sum += state[i % 16] + queens(63, 0, 0, 0) + (uint32_t)__builtin_popcount(sum);
  }
  return sum;
}
