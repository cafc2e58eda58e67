/* The numerics that one C operator does not express, and values between slots and C types.
 * Slots hold bits: an i32 or f32 in the low half, the high half zero.
 * Source: WebAssembly specification, section 4.3 (Numerics). NaNs: results lie in the sets that the
 * specification allows; see RATIONALE.md for why the deterministic mode has cells of its own. */
#ifndef WSR_NUMERIC_H
#define WSR_NUMERIC_H
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* A v128: the lower half first, whatever the shape of its lanes (see numeric/simd.h). */
#if defined(__GNUC__)
typedef uint64_t wsr_vector __attribute__((vector_size(16)));
#else
typedef struct {
  uint64_t half[2];
} wsr_vector;
#endif

/* What is computed of floats must be rounded to float at every step, the same on every CPU. */
_Static_assert(FLT_EVAL_METHOD == 0,
               "floats are computed in a wider type: -fexcess-precision=fast");

static inline float wsr_f32(uint64_t slot) {
  const uint32_t bits = (uint32_t)slot;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline double wsr_f64(uint64_t slot) {
  double value;
  memcpy(&value, &slot, sizeof value);
  return value;
}

static inline uint64_t wsr_bits_f32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline uint64_t wsr_bits_f64(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* Between a vector and two slots. */
static inline wsr_vector wsr_slots_get(const uint64_t *slots) {
  wsr_vector v;
  memcpy(&v, slots, sizeof v);
  return v;
}
static inline void wsr_slots_put(uint64_t *slots, wsr_vector v) { memcpy(slots, &v, sizeof v); }

/* Linear memory is little-endian on every machine; the shifts compile to one load or store. */
static inline uint8_t wsr_get8(const uint8_t *p) { return p[0]; }
static inline uint16_t wsr_get16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t wsr_get32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t wsr_get64(const uint8_t *p) {
  return (uint64_t)wsr_get32(p) | (uint64_t)wsr_get32(p + 4) << 32;
}
static inline void wsr_put8(uint8_t *p, uint8_t v) { p[0] = v; }
static inline void wsr_put16(uint8_t *p, uint16_t v) {
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
}
static inline void wsr_put32(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
  p[2] = (uint8_t)(v >> 16);
  p[3] = (uint8_t)(v >> 24);
}
static inline void wsr_put64(uint8_t *p, uint64_t v) {
  wsr_put32(p, (uint32_t)v);
  wsr_put32(p + 4, (uint32_t)(v >> 32));
}

/* Arithmetic shift right without relying on what C leaves to the implementation. */
static inline uint32_t wsr_sar32(uint32_t a, uint32_t by) {
  return a & 0x80000000U ? ~(~a >> by) : a >> by;
}
static inline uint64_t wsr_sar64(uint64_t a, uint64_t by) {
  return a & 0x8000000000000000U ? ~(~a >> by) : a >> by;
}

#if defined(__GNUC__)
static inline uint32_t wsr_clz32(uint32_t a) { return a ? (uint32_t)__builtin_clz(a) : 32; }
static inline uint32_t wsr_ctz32(uint32_t a) { return a ? (uint32_t)__builtin_ctz(a) : 32; }
static inline uint64_t wsr_clz64(uint64_t a) { return a ? (uint64_t)__builtin_clzll(a) : 64; }
static inline uint64_t wsr_ctz64(uint64_t a) { return a ? (uint64_t)__builtin_ctzll(a) : 64; }
#else
static inline uint64_t wsr_clz64(uint64_t a) {
  uint64_t n = 64;
  for (; a; a >>= 1) n--;
  return n;
}
static inline uint64_t wsr_ctz64(uint64_t a) {
  uint64_t n = 0;
  if (!a) return 64;
  for (; !(a & 1); a >>= 1) n++;
  return n;
}
static inline uint32_t wsr_clz32(uint32_t a) { return (uint32_t)wsr_clz64(a) - 32; }
static inline uint32_t wsr_ctz32(uint32_t a) { return a ? (uint32_t)wsr_ctz64(a) : 32; }
#endif

static inline uint64_t wsr_popcnt64(uint64_t a) {
  a -= a >> 1 & 0x5555555555555555U;
  a = (a & 0x3333333333333333U) + (a >> 2 & 0x3333333333333333U);
  a = (a + (a >> 4)) & 0x0F0F0F0F0F0F0F0FU;
  return a * 0x0101010101010101U >> 56;
}

/* Some C libraries return a signalling NaN as it came; an addition makes it quiet. */
static inline float wsr_quiet32(float a) { return a != a ? a + a : a; }
static inline double wsr_quiet64(double a) { return a != a ? a + a : a; }

static inline float wsr_min32(float a, float b) {
  if (a != a || b != b) return a + b;
  if (a == b) return wsr_f32(wsr_bits_f32(a) | wsr_bits_f32(b)); /* -0 is less than +0 */
  return a < b ? a : b;
}
static inline float wsr_max32(float a, float b) {
  if (a != a || b != b) return a + b;
  if (a == b) return wsr_f32(wsr_bits_f32(a) & wsr_bits_f32(b));
  return a > b ? a : b;
}
static inline double wsr_min64(double a, double b) {
  if (a != a || b != b) return a + b;
  if (a == b) return wsr_f64(wsr_bits_f64(a) | wsr_bits_f64(b));
  return a < b ? a : b;
}
static inline double wsr_max64(double a, double b) {
  if (a != a || b != b) return a + b;
  if (a == b) return wsr_f64(wsr_bits_f64(a) & wsr_bits_f64(b));
  return a > b ? a : b;
}

/* Sums and products whose NaN is that of `a` if both are NaNs. C does not promise that: compilers
 * exchange operands. Native code and precise code keep the order, so their states are equal. */
#if defined(__x86_64__) && defined(__GNUC__)
#define ORDERED(NAME, TYPE, INSTRUCTION, OPERATOR)      \
  static inline TYPE NAME(TYPE a, TYPE b) {             \
    __asm__(INSTRUCTION " %1, %0" : "+x"(a) : "xm"(b)); \
    return a;                                           \
  }
#else
#define ORDERED(NAME, TYPE, INSTRUCTION, OPERATOR)                 \
  static inline TYPE NAME(TYPE a, TYPE b) { return a OPERATOR b; }
#endif
ORDERED(wsr_add32, float, "addss", +)
ORDERED(wsr_add64, double, "addsd", +)
ORDERED(wsr_mul32, float, "mulss", *)
ORDERED(wsr_mul64, double, "mulsd", *)
#undef ORDERED
#define ORDERED_NAN(NAME, TYPE, ADD, OTHERWISE) \
  static inline TYPE NAME(TYPE a, TYPE b) { return a != a || b != b ? ADD(a, b) : OTHERWISE(a, b); }
ORDERED_NAN(wsr_ordered_min32, float, wsr_add32, wsr_min32)
ORDERED_NAN(wsr_ordered_max32, float, wsr_add32, wsr_max32)
ORDERED_NAN(wsr_ordered_min64, double, wsr_add64, wsr_min64)
ORDERED_NAN(wsr_ordered_max64, double, wsr_add64, wsr_max64)
#undef ORDERED_NAN

static inline uint32_t wsr_sat_i32(double a) {
  if (a != a) return 0;
  if (a < -0x1p31) return 0x80000000U;
  return a >= 0x1p31 ? 0x7FFFFFFFU : (uint32_t)(int32_t)a;
}
static inline uint32_t wsr_sat_u32(double a) {
  if (!(a > -1.0)) return 0;
  return a >= 0x1p32 ? UINT32_MAX : (uint32_t)a;
}
static inline uint64_t wsr_sat_i64(double a) {
  if (a != a) return 0;
  if (a < -0x1p63) return 0x8000000000000000U;
  return a >= 0x1p63 ? 0x7FFFFFFFFFFFFFFFU : (uint64_t)(int64_t)a;
}
static inline uint64_t wsr_sat_u64(double a) {
  if (!(a > -1.0)) return 0;
  return a >= 0x1p64 ? UINT64_MAX : (uint64_t)a;
}

#endif
