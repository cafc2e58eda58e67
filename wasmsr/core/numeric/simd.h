/* Vectors of 128 bits: their form in slots and in registers, and the numerics that one C
 * operator or one machine instruction does not express. numeric/simd_lanes.h, generated, has the
 * instructions.
 *
 * A v128 takes two slots, the lower half first; a `wsr_vector` is those two halves. Lanes are seen
 * through a union: where a machine's bytes run the other way, lane i is at another place of
 * the half, which WSR_AT_… say. The compiler makes vector instructions of the loops over lanes;
 * x86-64 is told where it has one instruction for more.
 * Source: WebAssembly specification, section 4.3.5 (Vector Operations). */
#ifndef WSR_SIMD_H
#define WSR_SIMD_H
#include "core/numeric/numeric.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define WSR_BIG_ENDIAN 1
#else
#define WSR_BIG_ENDIAN 0
#endif

/* WSR_NO_SSE tests the plain C where there is better. */
#if defined(__GNUC__) && defined(__x86_64__) && !defined(WSR_NO_SSE)
#include <immintrin.h>
#define WSR_X86 1
#define WSR_V2 __attribute__((target("sse4.2"))) /* functions for CPUs of x86-64 level 2 */
#else
#define WSR_X86 0
#endif

typedef union {
  wsr_vector v;
  uint64_t u64[2];
  int64_t i64[2];
  uint32_t u32[4];
  int32_t i32[4];
  uint16_t u16[8];
  int16_t i16[8];
  uint8_t u8[16];
  int8_t i8[16];
  float f32[4];
  double f64[2];
} wsr_lanes;

/* Numbers are two's complement, and shifts of negative ones keep the sign, on all that we know. */
_Static_assert((int8_t)200 == -56 && (-8 >> 1) == -4, "lanes need wrapping conversions");

#define WSR_AT_u64(i) (i)
#define WSR_AT_i64(i) (i)
#define WSR_AT_f64(i) (i)
#define WSR_AT_u32(i) ((i) ^ WSR_BIG_ENDIAN)
#define WSR_AT_i32(i) ((i) ^ WSR_BIG_ENDIAN)
#define WSR_AT_f32(i) ((i) ^ WSR_BIG_ENDIAN)
#define WSR_AT_u16(i) ((i) ^ 3 * WSR_BIG_ENDIAN)
#define WSR_AT_i16(i) ((i) ^ 3 * WSR_BIG_ENDIAN)
#define WSR_AT_u8(i) ((i) ^ 7 * WSR_BIG_ENDIAN)
#define WSR_AT_i8(i) ((i) ^ 7 * WSR_BIG_ENDIAN)
/* Lane `i` of type T of the union `x`. */
#define WSR_LANE(T, x, i) ((x).T[WSR_AT_##T(i)])

static inline wsr_vector wsr_halves(uint64_t low, uint64_t high) {
#if defined(__GNUC__)
  return (wsr_vector){low, high};
#else
  const wsr_lanes r = {.u64 = {low, high}};
  return r.v;
#endif
}
static inline wsr_vector wsr_low_half(uint64_t low) { return wsr_halves(low, 0); }

/* Between a vector and 16 bytes of linear memory. */
static inline wsr_vector wsr_get128(const uint8_t *p) {
#if WSR_BIG_ENDIAN
  return wsr_halves(wsr_get64(p), wsr_get64(p + 8));
#else
  wsr_vector v;
  memcpy(&v, p, sizeof v);
  return v;
#endif
}
static inline void wsr_put128(uint8_t *p, wsr_vector v) {
#if WSR_BIG_ENDIAN
  const wsr_lanes x = {.v = v};
  wsr_put64(p, x.u64[0]);
  wsr_put64(p + 8, x.u64[1]);
#else
  memcpy(p, &v, sizeof v);
#endif
}

/* ---- lanes that saturate ---- */

#define WSR_CLAMP(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))
#define WSR_SATURATE_i8(x) WSR_CLAMP(x, -128, 127)
#define WSR_SATURATE_u8(x) WSR_CLAMP(x, 0, 255)
#define WSR_SATURATE_i16(x) WSR_CLAMP(x, -32768, 32767)
#define WSR_SATURATE_u16(x) WSR_CLAMP(x, 0, 65535)

static inline uint8_t wsr_popcnt8(uint8_t a) {
  a = (uint8_t)(a - (a >> 1 & 0x55));
  a = (uint8_t)((a & 0x33) + (a >> 2 & 0x33));
  return (uint8_t)((a + (a >> 4)) & 0x0F);
}

/* ---- rounding, without a call: 2 to the number of fraction bits pushes the fraction out ---- */

#define WSR_ROUNDING(N, T, MOST, FABS, COPYSIGN)                                              \
  static inline T wsr_nearest##N(T a) {                                                       \
    const T size = FABS(a);                                                                   \
    if (!(size < (T)MOST)) return a + (T)0;            /* whole already; NaNs become quiet */ \
    return COPYSIGN((T)(size + (T)MOST) - (T)MOST, a); /* without excess precision */         \
  }                                                                                           \
  static inline T wsr_floor##N(T a) {                                                         \
    const T near = wsr_nearest##N(a);                                                         \
    return near > a ? COPYSIGN(near - 1, a) : near;                                           \
  }                                                                                           \
  static inline T wsr_ceil##N(T a) {                                                          \
    const T near = wsr_nearest##N(a);                                                         \
    return near < a ? COPYSIGN(near + 1, a) : near;                                           \
  }                                                                                           \
  static inline T wsr_trunc##N(T a) { return COPYSIGN(wsr_floor##N(FABS(a)), a); }
WSR_ROUNDING(32, float, 0x1p23, fabsf, copysignf)
WSR_ROUNDING(64, double, 0x1p52, fabs, copysign)

/* ---- x86 ---- */

#if WSR_X86
#define I(v) ((__m128i)(v))
#define F(v) ((__m128)(v))
#define D(v) ((__m128d)(v))
#define ps(v) F(v)
#define pd(v) D(v)

/* minps gives its second operand where one is a NaN or both are zeros: both ways round, put
 * together, then have the sign of -0 and the bits of every NaN, whose payload is cut off. */
static inline __m128i wsr_x86_min_ps(__m128 a, __m128 b) {
  const __m128 x = _mm_min_ps(a, b), either = _mm_or_ps(x, _mm_min_ps(b, a));
  const __m128 nan = _mm_cmpunord_ps(x, either), all = _mm_or_ps(either, nan);
  return _mm_andnot_si128(_mm_srli_epi32(I(nan), 10), I(all));
}
static inline __m128i wsr_x86_min_pd(__m128d a, __m128d b) {
  const __m128d x = _mm_min_pd(a, b), either = _mm_or_pd(x, _mm_min_pd(b, a));
  const __m128d nan = _mm_cmpunord_pd(x, either), all = _mm_or_pd(either, nan);
  return _mm_andnot_si128(_mm_srli_epi64(I(nan), 13), I(all));
}
/* Likewise, but +0 is the greater: where the two ways differ in the sign, it is taken away. */
static inline __m128i wsr_x86_max_ps(__m128 a, __m128 b) {
  const __m128 x = _mm_max_ps(a, b), differ = _mm_xor_ps(x, _mm_max_ps(b, a));
  const __m128 either = _mm_or_ps(x, differ), plus = _mm_sub_ps(either, differ);
  return _mm_andnot_si128(_mm_srli_epi32(I(_mm_cmpunord_ps(differ, plus)), 10), I(plus));
}
static inline __m128i wsr_x86_max_pd(__m128d a, __m128d b) {
  const __m128d x = _mm_max_pd(a, b), differ = _mm_xor_pd(x, _mm_max_pd(b, a));
  const __m128d either = _mm_or_pd(x, differ), plus = _mm_sub_pd(either, differ);
  return _mm_andnot_si128(_mm_srli_epi64(I(_mm_cmpunord_pd(differ, plus)), 13), I(plus));
}

/* cvttps gives 0x80000000 for what is out of range: right below, all bits turned above; NaNs are
 * made zero first. */
static inline __m128i wsr_x86_sat_i32(__m128 a) {
  const __m128 number = _mm_and_ps(a, _mm_cmpeq_ps(a, a));
  const __m128 above = _mm_cmpge_ps(number, _mm_set1_ps(0x1p31F));
  return _mm_xor_si128(_mm_cvttps_epi32(number), I(above));
}
/* In two parts, up to 2^31 and what is more than that. */
static inline __m128i wsr_x86_sat_u32(__m128 a) {
  const __m128 positive = _mm_max_ps(a, _mm_setzero_ps()); /* gives the second operand for NaNs */
  const __m128 more = _mm_sub_ps(positive, _mm_set1_ps(0x1p31F));
  const __m128i above = I(_mm_cmpge_ps(more, _mm_set1_ps(0x1p31F)));
  const __m128i rest = _mm_xor_si128(_mm_cvttps_epi32(more), above);
  const __m128i low = _mm_cvttps_epi32(positive);
  return _mm_add_epi32(low, _mm_and_si128(rest, _mm_cmpgt_epi32(rest, _mm_setzero_si128())));
}

/* Of doubles, into the lower two lanes: the greatest that fits; and with the highest bit apart. */
static inline __m128i wsr_x86_sat_i32_zero(__m128d a) {
  const __m128d number = _mm_and_pd(a, _mm_cmpeq_pd(a, a));
  return _mm_cvttpd_epi32(_mm_min_pd(number, _mm_set1_pd(2147483647.0)));
}
static inline __m128i wsr_x86_sat_u32_zero(__m128d a) {
  const __m128d positive = _mm_max_pd(a, _mm_setzero_pd());
  const __m128d number = _mm_min_pd(positive, _mm_set1_pd(4294967295.0));
  const __m128d high = _mm_cmpge_pd(number, _mm_set1_pd(0x1p31));
  const __m128i rest = _mm_cvttpd_epi32(_mm_sub_pd(number, _mm_and_pd(high, _mm_set1_pd(0x1p31))));
  const __m128i bits = _mm_and_si128(I(high), _mm_set1_epi64x((int64_t)0x8000000000000000));
  return _mm_or_si128(rest, _mm_shuffle_epi32(bits, 0x8D)); /* lanes 1 and 3, then 0 and 2 */
}

/* As the rounding of one lane above. */
#define WSR_X86_ROUNDING(P, V, ONE, MOST, SIGN)                                  \
  static inline V wsr_x86_nearest_##P(V a) {                                     \
    const V sign = _mm_and_##P(a, SIGN), size = _mm_xor_##P(a, sign);            \
    const V whole = _mm_sub_##P(_mm_add_##P(size, MOST), MOST);                  \
    const V small = _mm_cmplt_##P(size, MOST);                                   \
    return _mm_or_##P(_mm_and_##P(small, _mm_or_##P(whole, sign)),               \
                      _mm_andnot_##P(small, _mm_add_##P(a, _mm_setzero_##P()))); \
  }                                                                              \
  static inline V wsr_x86_floor_##P(V a) {                                       \
    const V near = wsr_x86_nearest_##P(a);                                       \
    return _mm_sub_##P(near, _mm_and_##P(_mm_cmpgt_##P(near, a), ONE));          \
  }                                                                              \
  static inline V wsr_x86_ceil_##P(V a) {                                        \
    const V near = wsr_x86_nearest_##P(a);                                       \
    const V up = _mm_add_##P(near, _mm_and_##P(_mm_cmplt_##P(near, a), ONE));    \
    return _mm_or_##P(up, _mm_and_##P(a, SIGN));                                 \
  }                                                                              \
  static inline V wsr_x86_trunc_##P(V a) {                                       \
    const V sign = _mm_and_##P(a, SIGN);                                         \
    return _mm_or_##P(wsr_x86_floor_##P(_mm_xor_##P(a, sign)), sign);            \
  }
WSR_X86_ROUNDING(ps, __m128, _mm_set1_ps(1), _mm_set1_ps(0x1p23F), _mm_set1_ps(-0.0F))
WSR_X86_ROUNDING(pd, __m128d, _mm_set1_pd(1), _mm_set1_pd(0x1p52), _mm_set1_pd(-0.0))

/* Whole numbers of 64 bits: the sign in all bits; and shifting with it. */
static inline __m128i wsr_x86_abs_epi64(__m128i a) {
  const __m128i sign = _mm_shuffle_epi32(_mm_srai_epi32(a, 31), 0xF5);
  return _mm_sub_epi64(_mm_xor_si128(a, sign), sign);
}
static inline __m128i wsr_x86_sra_epi64(__m128i a, uint32_t by) {
  const __m128i n = _mm_cvtsi32_si128((int)by);
  const __m128i sign = _mm_srl_epi64(_mm_set1_epi64x((int64_t)0x8000000000000000), n);
  return _mm_sub_epi64(_mm_xor_si128(_mm_srl_epi64(a, n), sign), sign);
}

/* Sums of two products of bytes, even and odd ones apart. */
static inline __m128i wsr_x86_dot_epi8(__m128i a, __m128i b) {
  const __m128i even = _mm_mullo_epi16(_mm_srai_epi16(_mm_slli_epi16(a, 8), 8),
                                       _mm_srai_epi16(_mm_slli_epi16(b, 8), 8));
  return _mm_add_epi16(even, _mm_mullo_epi16(_mm_srai_epi16(a, 8), _mm_srai_epi16(b, 8)));
}

/* Bits of a where `which` has ones, of b elsewhere. */
static inline __m128i wsr_x86_choose(__m128i which, __m128i a, __m128i b) {
  return _mm_or_si128(_mm_and_si128(which, a), _mm_andnot_si128(which, b));
}

/* All bits of one lane: 16 bytes from this window, so far from its middle. */
static const uint8_t wsr_x86_window[4][40] = {
    {[16] = 0xFF},
    {[16] = 0xFF, 0xFF},
    {[16] = 0xFF, 0xFF, 0xFF, 0xFF},
    {[16] = 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
};
/* Lane `lane`, of 1 << log bytes, from b, the others from a. */
static inline __m128i wsr_x86_replace(__m128i a, __m128i b, unsigned log, uint32_t lane) {
  const uint8_t *const at = wsr_x86_window[log] + 16 - ((size_t)lane << log);
  const __m128i all = I(wsr_get128(at));
  return wsr_x86_choose(all, b, a);
}

/* The only product that overflows is that of -1 and -1. */
WSR_V2 static inline __m128i wsr_x86_q15mulr(__m128i a, __m128i b) {
  const __m128i r = _mm_mulhrs_epi16(a, b);
  return _mm_xor_si128(r, _mm_cmpeq_epi16(r, _mm_set1_epi16(-0x8000)));
}
#endif

#include "core/numeric/simd_lanes.h"

#if WSR_X86
#undef I
#undef F
#undef D
#undef ps
#undef pd
#endif

#endif
