/* SHA-256 with the instructions of CPUs that have them: the SHA extensions of x86, and the
 * cryptographic extension of AArch64. Sources: Intel 64 and IA-32 Architectures Software
 * Developer's Manual, SHA256RNDS2, SHA256MSG1 and SHA256MSG2; Arm Architecture Reference Manual,
 * SHA256H, SHA256H2, SHA256SU0 and SHA256SU1.
 *
 * Both kinds execute four rounds of a block with a vector of four message words. The compiler sees
 * `n` messages as one body with `n` independent chains; `n` is a constant where the body is
 * inlined.
 */
#include "core/pages/sha256.h"

#if defined(SHA256_ON_X86)
#include <immintrin.h>

#define WITH_SHA __attribute__((target("sha,sse4.1,ssse3")))
#define INLINED static inline __attribute__((always_inline)) WITH_SHA

/* The instructions keep the state as the words (A, B, E, F) and (C, D, G, H), highest first. */
INLINED void load_state(const sha256_state *state, __m128i *abef, __m128i *cdgh) {
  const __m128i dcba = _mm_loadu_si128((const __m128i *)(const void *)state->words);
  const __m128i hgfe = _mm_loadu_si128((const __m128i *)(const void *)(state->words + 4));
  const __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
  *abef = _mm_alignr_epi8(cdab, efgh, 8);
  *cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
}

INLINED void store_state(sha256_state *state, __m128i abef, __m128i cdgh) {
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128((__m128i *)(void *)state->words, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128((__m128i *)(void *)(state->words + 4), _mm_alignr_epi8(dchg, feba, 8));
}

INLINED void take(sha256_state *const *states, const uint8_t *const *from, size_t blocks,
                  const int n) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i abef[2], cdgh[2], w[2][4];
  for (int i = 0; i < n; i++) load_state(states[i], &abef[i], &cdgh[i]);
  for (size_t block = 0; block < blocks; block++) {
    __m128i first[2], second[2];
    for (int i = 0; i < n; i++) first[i] = abef[i], second[i] = cdgh[i];
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) {
      const __m128i k =
          _mm_loadu_si128((const __m128i *)(const void *)(sha256_constants + (size_t)4 * t));
#pragma GCC unroll 2
      for (int i = 0; i < n; i++) {
        __m128i *const x = w[i];
        if (t < 4) {
          const uint8_t *p = from[i] + block * SHA256_BLOCK + (size_t)16 * t;
          x[t] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)p), swap);
        } else {
          const __m128i old = _mm_sha256msg1_epu32(x[t & 3], x[(t + 1) & 3]);
          const __m128i seventh = _mm_alignr_epi8(x[(t + 3) & 3], x[(t + 2) & 3], 4);
          x[t & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(old, seventh), x[(t + 3) & 3]);
        }
        const __m128i wk = _mm_add_epi32(x[t & 3], k);
        cdgh[i] = _mm_sha256rnds2_epu32(cdgh[i], abef[i], wk);
        abef[i] = _mm_sha256rnds2_epu32(abef[i], cdgh[i], _mm_shuffle_epi32(wk, 0x0e));
      }
    }
    for (int i = 0; i < n; i++) {
      abef[i] = _mm_add_epi32(abef[i], first[i]);
      cdgh[i] = _mm_add_epi32(cdgh[i], second[i]);
    }
  }
  for (int i = 0; i < n; i++) store_state(states[i], abef[i], cdgh[i]);
}

WITH_SHA void sha256_one_x86(sha256_state *state, const uint8_t *from, size_t blocks) {
  take(&state, &from, blocks, 1);
}

WITH_SHA void sha256_two_x86(sha256_state *a, const uint8_t *from_a, sha256_state *b,
                             const uint8_t *from_b, size_t blocks) {
  sha256_state *const states[2] = {a, b};
  const uint8_t *const from[2] = {from_a, from_b};
  take(states, from, blocks, 2);
}

#elif defined(SHA256_ON_ARM)
#include <arm_neon.h>

#if defined(__clang__)
#define WITH_SHA __attribute__((target("sha2")))
#else
#define WITH_SHA __attribute__((target("+crypto")))
#endif
#define INLINED static inline __attribute__((always_inline)) WITH_SHA

INLINED uint32x4_t load_words(const uint8_t *p) {
  return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(p)));
}

INLINED void take(sha256_state *const *states, const uint8_t *const *from, size_t blocks,
                  const int n) {
  uint32x4_t abcd[2], efgh[2], w[2][4];
  for (int i = 0; i < n; i++) {
    abcd[i] = vld1q_u32(states[i]->words);
    efgh[i] = vld1q_u32(states[i]->words + 4);
  }
  for (size_t block = 0; block < blocks; block++) {
    uint32x4_t first[2], second[2];
    for (int i = 0; i < n; i++) first[i] = abcd[i], second[i] = efgh[i];
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) {
      const uint32x4_t k = vld1q_u32(sha256_constants + (size_t)4 * t);
#pragma GCC unroll 2
      for (int i = 0; i < n; i++) {
        uint32x4_t *const x = w[i];
        if (t < 4) {
          x[t] = load_words(from[i] + block * SHA256_BLOCK + (size_t)16 * t);
        } else {
          const uint32x4_t old = vsha256su0q_u32(x[t & 3], x[(t + 1) & 3]);
          x[t & 3] = vsha256su1q_u32(old, x[(t + 2) & 3], x[(t + 3) & 3]);
        }
        const uint32x4_t wk = vaddq_u32(x[t & 3], k), before = abcd[i];
        abcd[i] = vsha256hq_u32(abcd[i], efgh[i], wk);
        efgh[i] = vsha256h2q_u32(efgh[i], before, wk);
      }
    }
    for (int i = 0; i < n; i++) {
      abcd[i] = vaddq_u32(abcd[i], first[i]);
      efgh[i] = vaddq_u32(efgh[i], second[i]);
    }
  }
  for (int i = 0; i < n; i++) {
    vst1q_u32(states[i]->words, abcd[i]);
    vst1q_u32(states[i]->words + 4, efgh[i]);
  }
}

WITH_SHA void sha256_one_arm(sha256_state *state, const uint8_t *from, size_t blocks) {
  take(&state, &from, blocks, 1);
}

WITH_SHA void sha256_two_arm(sha256_state *a, const uint8_t *from_a, sha256_state *b,
                             const uint8_t *from_b, size_t blocks) {
  sha256_state *const states[2] = {a, b};
  const uint8_t *const from[2] = {from_a, from_b};
  take(states, from, blocks, 2);
}
#endif
