/* What the handlers of fast code share, in fast.c and fast_simd.c: their arguments, the jump from one
 * to the next, the fields of a cell, and operands by type and class.
 *
 * What all handlers need stands in argument registers: the next cell, the frame, memory 0 and its
 * size, the store, and four accumulators (integers, f64, f32, v128). */
#ifndef WSR_HANDLER_H
#define WSR_HANDLER_H
#include "fast.h"

#if WSR_FAST
#include "numeric.h"

#ifdef WSR_COUNT /* see bench/dispatches.py */
void wsr_count(uint64_t handler);
#define COUNT(handler) wsr_count(handler)
#else
#define COUNT(handler) ((void)0)
#endif

#define ARGUMENTS                                                                               \
  const uint64_t *pc, uint64_t *fp, uint8_t *memory, uint64_t size, wsr_store *store, uint64_t acc, \
      double fd, float fs, wsr_vector va
#define SAME pc, fp, memory, size, store, acc, fd, fs, va
#define GO(to)                                                                                \
  do {                                                                                        \
    const uint64_t *const next_ = (to);                                                       \
    COUNT(next_[0]);                                                                          \
    WSR_TAIL((wsr_handler *)(uintptr_t)next_[0])(next_, fp, memory, size, store, acc, fd, fs, \
                                                 va);                                         \
  } while (0)
#define NEXT(words) GO(pc + (words))

/* Field k of the second word; the compiler makes one load of it. */
static inline uint32_t field(const uint64_t *pc, unsigned k) {
  uint16_t value;
  memcpy(&value, (const char *)(pc + 1) + 2 * k, sizeof value);
  return value;
}
static inline int32_t distance(const uint64_t *pc) {
  int32_t value;
  memcpy(&value, (const char *)(pc + 1) + 4, sizeof value);
  return value;
}
static inline uint32_t offset_of(const uint64_t *pc) { return (uint32_t)distance(pc); }
static inline uint32_t low(uint64_t word) { return (uint32_t)word; }
static inline uint32_t high(uint64_t word) { return (uint32_t)(word >> 32); }

/* Leave with the trap whose code is in `acc`; the cell in hand is where. */
uint32_t wsr_trapped(ARGUMENTS);

#define TRAP(name)                 \
  do {                             \
    acc = WSR_TRAP_##name;         \
    return wsr_trapped(SAME);          \
  } while (0)

/* ---- operands by type and class ---- */

typedef uint32_t i32_t;
typedef uint64_t i64_t;
typedef float f32_t;
typedef double f64_t;
typedef uint32_t b32_t; /* the bits of an f32 */
typedef uint64_t b64_t;

#define GET_i32_S(k) ((uint32_t)fp[field(pc, k)])
#define GET_i64_S(k) (fp[field(pc, k)])
#define GET_f32_S(k) (wsr_f32(fp[field(pc, k)]))
#define GET_f64_S(k) (wsr_f64(fp[field(pc, k)]))
#define GET_b32_S(k) ((uint32_t)fp[field(pc, k)])
#define GET_b64_S(k) (fp[field(pc, k)])
#define GET_i32_A(k) ((uint32_t)acc)
#define GET_i64_A(k) (acc)
#define GET_f32_A(k) (fs)
#define GET_f64_A(k) (fd)
#define GET_b32_A(k) ((uint32_t)wsr_bits_f32(fs))
#define GET_b64_A(k) (wsr_bits_f64(fd))
#define GET_i32_C(k) ((uint32_t)pc[2])
#define GET_i64_C(k) (pc[2])
#define GET_f32_C(k) (wsr_f32(pc[2]))
#define GET_f64_C(k) (wsr_f64(pc[2]))
#define GET_b32_C(k) ((uint32_t)pc[2])
#define GET_b64_C(k) (pc[2])

/* Results go to the accumulator (A), or there and to slot d (W). */
#define SET_i32_A(x) (acc = (uint32_t)(x))
#define SET_i64_A(x) (acc = (uint64_t)(x))
#define SET_f32_A(x) (fs = (x))
#define SET_f64_A(x) (fd = (x))
#define SET_b32_A(x) (fs = wsr_f32((uint32_t)(x)))
#define SET_b64_A(x) (fd = wsr_f64(x))
#define SET_i32_W(x) (acc = (uint32_t)(x), fp[field(pc, 3)] = acc)
#define SET_i64_W(x) (acc = (uint64_t)(x), fp[field(pc, 3)] = acc)
#define SET_f32_W(x) (fs = (x), fp[field(pc, 3)] = wsr_bits_f32(fs))
#define SET_f64_W(x) (fd = (x), fp[field(pc, 3)] = wsr_bits_f64(fd))
#define SET_b32_W(x) SET_f32_W(wsr_f32((uint32_t)(x)))
#define SET_b64_W(x) SET_f64_W(wsr_f64(x))

#define LENGTH_S 2
#define LENGTH_A 2
#define LENGTH_C 3

#endif
#endif
