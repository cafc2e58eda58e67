/* SHA-256 of a long message (FIPS 180-4). */
#include "kernel.h"

static uint32_t constants[64], schedule[64], state[8];

static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void block(const uint32_t *words) {
  for (int i = 0; i < 16; i++) schedule[i] = words[i];
  for (int i = 16; i < 64; i++) {
    const uint32_t a = schedule[i - 15], b = schedule[i - 2];
    schedule[i] = schedule[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + schedule[i - 7] +
                  (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
  }
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (int i = 0; i < 64; i++) {
    const uint32_t one = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) +
                         constants[i] + schedule[i];
    const uint32_t two =
        (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d;
  state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

uint32_t run(uint32_t n) {
  uint32_t seed = 1, words[16];
  for (int i = 0; i < 64; i++) constants[i] = next_random(&seed);
  for (int i = 0; i < 8; i++) state[i] = next_random(&seed);
  for (uint32_t round = 0; round < n; round++) {
    for (int i = 0; i < 16; i++) words[i] = round * 16 + (uint32_t)i;
    block(words);
  }
  return state[0] ^ state[7];
}
