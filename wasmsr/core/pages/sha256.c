/* SHA-256 in portable C, and the choice among its variants. Source: FIPS 180-4, sections 4 to 6. */
#include "core/pages/sha256.h"

#include <string.h>

#include "core/wsr.h"

#if defined(SHA256_ON_X86)
#include <cpuid.h>
#elif defined(SHA256_ON_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

const sha256_state sha256_initial = {{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                      0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};

const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotated(uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

static uint32_t read_word(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void write_word(uint8_t *p, uint32_t word) {
  for (unsigned i = 0; i < 4; i++) p[i] = (uint8_t)(word >> (24 - 8 * i));
}

/* The word of the working variables that is variable `i` (A is 0) in round `t`: they move by one
 * place in each round, and stay where they are here. */
#define V(i, t) v[((i) - (t)) & 7]

static void take_block(sha256_state *state, const uint8_t *from) {
  uint32_t w[64], v[8];
  for (unsigned t = 0; t < 16; t++) w[t] = read_word(from + (size_t)4 * t);
  for (unsigned t = 16; t < 64; t++) {
    const uint32_t x = w[t - 15], y = w[t - 2];
    w[t] = (rotated(y, 17) ^ rotated(y, 19) ^ y >> 10) + w[t - 7] +
           (rotated(x, 7) ^ rotated(x, 18) ^ x >> 3) + w[t - 16];
  }
  memcpy(v, state->words, sizeof v);
  for (unsigned start = 0; start < 64; start += 8) {
#pragma GCC unroll 8
    for (unsigned t = 0; t < 8; t++) {
      const uint32_t a = V(0u, t), b = V(1u, t), c = V(2u, t);
      const uint32_t e = V(4u, t), f = V(5u, t), g = V(6u, t);
      const uint32_t first = V(7u, t) + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) +
                             (g ^ (e & (f ^ g))) + sha256_constants[start + t] + w[start + t];
      V(3u, t) += first;
      V(7u, t) =
          first + (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) | (c & (a | b)));
    }
  }
  for (unsigned i = 0; i < 8; i++) state->words[i] += v[i];
}

static void one_portable(sha256_state *state, const uint8_t *from, size_t blocks) {
  for (; blocks; blocks--, from += SHA256_BLOCK) take_block(state, from);
}

static void two_portable(sha256_state *a, const uint8_t *from_a, sha256_state *b,
                         const uint8_t *from_b, size_t blocks) {
  one_portable(a, from_a, blocks);
  one_portable(b, from_b, blocks);
}

#if defined(SHA256_ON_X86)
uint32_t wsr_sha256_best(void) {
  enum { SSSE3 = 1 << 9, SSE41 = 1 << 19, SHA = 1 << 29 };
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & SSSE3) || !(c & SSE41)) return WSR_SHA256_PORTABLE;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & SHA)) return WSR_SHA256_PORTABLE;
  return WSR_SHA256_X86;
}
#elif defined(SHA256_ON_ARM) && defined(__linux__)
uint32_t wsr_sha256_best(void) {
  enum { SHA2 = 1 << 6 }; /* HWCAP_SHA2, one number in every C library */
  return getauxval(AT_HWCAP) & SHA2 ? WSR_SHA256_ARM : WSR_SHA256_PORTABLE;
}
#elif defined(SHA256_ON_ARM) && defined(__ARM_FEATURE_SHA2)
uint32_t wsr_sha256_best(void) { return WSR_SHA256_ARM; }
#else
uint32_t wsr_sha256_best(void) { return WSR_SHA256_PORTABLE; }
#endif

sha256_functions sha256_variant(uint32_t variant) {
#if defined(SHA256_ON_X86)
  if (variant == WSR_SHA256_X86) return (sha256_functions){sha256_one_x86, sha256_two_x86};
#elif defined(SHA256_ON_ARM)
  if (variant == WSR_SHA256_ARM) return (sha256_functions){sha256_one_arm, sha256_two_arm};
#endif
  (void)variant;
  return (sha256_functions){one_portable, two_portable};
}

void sha256_write(const sha256_state *state, uint8_t *digest) {
  for (unsigned i = 0; i < 8; i++) write_word(digest + (size_t)4 * i, state->words[i]);
}

void sha256_end(sha256_one *one, sha256_state *state, const uint8_t *rest, size_t length,
                uint64_t total) {
  uint8_t last[2 * SHA256_BLOCK] = {0};
  if (length) memcpy(last, rest, length);
  last[length] = 0x80;
  const size_t blocks = length < SHA256_BLOCK - 8 ? 1 : 2;
  write_word(last + blocks * SHA256_BLOCK - 8, (uint32_t)(total >> 29));
  write_word(last + blocks * SHA256_BLOCK - 4, (uint32_t)(total << 3));
  one(state, last, blocks);
}
