/* What the handlers of fast code share: their arguments, the jump from one handler to the next, the
 * fields of a cell, and operands by type and class. The handlers are in fast/handlers.c,
 * fast/handlers_other_memories.c and fast/handlers_simd.c.
 *
 * Argument registers contain what every handler needs: the cell, the frame, memory 0 and its size,
 * the thread, and four accumulators (integers, f64, f32, v128). */
#ifndef WSR_HANDLER_H
#define WSR_HANDLER_H
#include "core/fast/fast.h"

#if WSR_FAST
#include "core/numeric/numeric.h"

#ifdef WSR_COUNT /* see bench/dispatches.py */
void wsr_count(const uint64_t *cell);
#define COUNT(cell) wsr_count(cell)
#else
#define COUNT(cell) ((void)0)
#endif

#define PARAMETERS                                                                      \
  const uint64_t *pc, uint64_t *fp, uint8_t *memory, uint64_t size, wsr_thread *thread, \
      uint64_t acc, double fd, float fs, wsr_vector va
#define ARGUMENTS pc, fp, memory, size, thread, acc, fd, fs, va
#define GO(to)                                                                                 \
  do {                                                                                         \
    const uint64_t *const next_ = (to);                                                        \
    COUNT(next_);                                                                              \
    WSR_TAIL((wsr_handler *)(uintptr_t)next_[0])(next_, fp, memory, size, thread, acc, fd, fs, \
                                                 va);                                          \
  } while (0)
#define NEXT(words) GO(pc + (words))

/* Field k of the cell's second word. The compiler turns the memcpy into one load. */
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

/* Leave the loop at the cell `pc`. `acc` has the code of the trap, or one of the reasons below. */
uint32_t wsr_trapped(PARAMETERS);
/* Reasons why a step did not do its work, in addition to the codes of traps. WSR_EARLIER: the trap
 * belongs to an earlier cell, which the fourth word names. WSR_TOO_SHORT: the fuel is too short,
 * and the third word has the cell. */
enum { WSR_EARLIER = 0x100, WSR_TOO_SHORT = 0x200 };

#define TRAP_HERE(name)              \
  do {                               \
    acc = WSR_TRAP_##name;           \
    WSR_TAIL wsr_trapped(ARGUMENTS); \
  } while (0)

/* ---- steps and ends ----
 *
 * The work of a handler is an inline function. After a *step*, the next cell follows, WORDS_name
 * words later. An *end* chooses the next cell by itself. A handler of one cell is a step or an end.
 * A handler of a sequence (see fast/superinstructions.inc) has several steps; its last part can be
 * an end. There is no jump between the parts. The cells of a sequence stay as they are, except that
 * the first cell gets the handler of the sequence. */

/* The accumulators, as a step gets them. The compiler keeps them in registers. */
typedef struct {
  uint64_t acc;
  double fd;
  float fs;
  wsr_vector va;
} wsr_accumulators;

#define INLINE __attribute__((always_inline)) static inline
#define UNUSED __attribute__((unused))
#ifdef __clang__
#define SEPARATE
#else /* without it, gcc replaces one of two equal handlers by a jump to the other */
#define SEPARATE __attribute__((no_icf))
#endif
#define STEP(NAME, WORDS)                                                            \
  enum { WORDS_##NAME = (WORDS) };                                                   \
  INLINE uint32_t step_##NAME(const uint64_t *pc UNUSED, uint64_t *fp UNUSED,        \
                              uint8_t *memory UNUSED, uint64_t size UNUSED,          \
                              wsr_thread *thread UNUSED, wsr_accumulators *r UNUSED)
#define DONE return 0
#define TRAP(name) return WSR_TRAP_##name

/* Do the step of the cell at pc. */
#define DO(NAME)                                                          \
  do {                                                                    \
    wsr_accumulators r_ = {acc, fd, fs, va};                              \
    const uint32_t why_ = step_##NAME(pc, fp, memory, size, thread, &r_); \
    if (why_) {                                                           \
      acc = why_;                                                         \
      WSR_TAIL wsr_trapped(ARGUMENTS);                                    \
    }                                                                     \
    acc = r_.acc;                                                         \
    fd = r_.fd;                                                           \
    fs = r_.fs;                                                           \
    va = r_.va;                                                           \
  } while (0)
#define END(NAME)                                                               \
  INLINE uint32_t end_##NAME(PARAMETERS);                                       \
  SEPARATE static uint32_t NAME(PARAMETERS) { WSR_TAIL end_##NAME(ARGUMENTS); } \
  INLINE uint32_t end_##NAME(PARAMETERS)
#define HANDLER(NAME)   \
  END(NAME) {           \
    DO(NAME);           \
    NEXT(WORDS_##NAME); \
  }

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
#define GET_i32_A(k) ((uint32_t)r->acc)
#define GET_i64_A(k) (r->acc)
#define GET_f32_A(k) (r->fs)
#define GET_f64_A(k) (r->fd)
#define GET_b32_A(k) ((uint32_t)wsr_bits_f32(r->fs))
#define GET_b64_A(k) (wsr_bits_f64(r->fd))
#define GET_i32_C(k) ((uint32_t)pc[2])
#define GET_i64_C(k) (pc[2])
#define GET_f32_C(k) (wsr_f32(pc[2]))
#define GET_f64_C(k) (wsr_f64(pc[2]))
#define GET_b32_C(k) ((uint32_t)pc[2])
#define GET_b64_C(k) (pc[2])

/* A result goes to the accumulator (A), or to the accumulator and to slot d (W). */
#define SET_i32_A(x) (r->acc = (uint32_t)(x))
#define SET_i64_A(x) (r->acc = (uint64_t)(x))
#define SET_f32_A(x) (r->fs = (x))
#define SET_f64_A(x) (r->fd = (x))
#define SET_b32_A(x) (r->fs = wsr_f32((uint32_t)(x)))
#define SET_b64_A(x) (r->fd = wsr_f64(x))
#define SET_i32_W(x) (r->acc = (uint32_t)(x), fp[field(pc, 3)] = r->acc)
#define SET_i64_W(x) (r->acc = (uint64_t)(x), fp[field(pc, 3)] = r->acc)
#define SET_f32_W(x) (r->fs = (x), fp[field(pc, 3)] = wsr_bits_f32(r->fs))
#define SET_f64_W(x) (r->fd = (x), fp[field(pc, 3)] = wsr_bits_f64(r->fd))
#define SET_b32_W(x) SET_f32_W(wsr_f32((uint32_t)(x)))
#define SET_b64_W(x) SET_f64_W(wsr_f64(x))

/* A loaded value goes to the accumulator (A), or to the accumulator and to slot b (W). */
#define SET_LOAD_i32_A(x) (r->acc = (uint32_t)(x))
#define SET_LOAD_i64_A(x) (r->acc = (uint64_t)(x))
#define SET_LOAD_b32_A(x) (r->fs = wsr_f32(x))
#define SET_LOAD_b64_A(x) (r->fd = wsr_f64(x))
#define SET_LOAD_i32_W(x) (r->acc = (uint32_t)(x), fp[field(pc, 1)] = r->acc)
#define SET_LOAD_i64_W(x) (r->acc = (uint64_t)(x), fp[field(pc, 1)] = r->acc)
#define SET_LOAD_b32_W(x) (r->fs = wsr_f32(x), fp[field(pc, 1)] = wsr_bits_f32(r->fs))
#define SET_LOAD_b64_W(x) (r->fd = wsr_f64(x), fp[field(pc, 1)] = wsr_bits_f64(r->fd))

#define LENGTH_S 2
#define LENGTH_A 2
#define LENGTH_C 3

#endif
#endif
