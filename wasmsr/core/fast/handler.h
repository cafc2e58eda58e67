/* What the handlers of fast code share, in fast/handlers.c, fast/handlers_other_memories.c and
 * fast/handlers_simd.c: their arguments, the jump from one to the next, the fields of a cell, and
 * operands by type and class.
 *
 * What all handlers need is in argument registers: the next cell, the frame, memory 0 and its
 * size, the thread, and four accumulators (integers, f64, f32, v128). */
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

/* Leave with the trap whose code is in `acc`, or for the reason there; the cell in hand is where.
 */
uint32_t wsr_trapped(PARAMETERS);
/* Why a step did not do its work, beside the codes of traps: the trap belongs to an earlier cell,
 * which the fourth word names; the fuel is short, and the third word has the cell. */
enum { WSR_EARLIER = 0x100, WSR_TOO_SHORT = 0x200 };

#define TRAP_HERE(name)              \
  do {                               \
    acc = WSR_TRAP_##name;           \
    WSR_TAIL wsr_trapped(ARGUMENTS); \
  } while (0)

/* ---- steps and ends ----
 *
 * What a handler does is an inline function. A *step* goes on with the next cell, WORDS_name
 * words on; an *end* chooses where to go on. A handler of one cell is either; a handler of a
 * sequence (see fast/superinstructions.inc) is steps and, last, a step or an end, with nothing
 * between them: the cells stay as they are, and only the first one's handler is another. */

/* The accumulators in a step; they never leave their registers. */
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
#else /* equal handlers stay apart: gcc would make a jump to the other of one */
#define SEPARATE __attribute__((no_icf))
#endif
#define STEP(NAME, WORDS)                                                            \
  enum { WORDS_##NAME = (WORDS) };                                                   \
  INLINE uint32_t step_##NAME(const uint64_t *pc UNUSED, uint64_t *fp UNUSED,        \
                              uint8_t *memory UNUSED, uint64_t size UNUSED,          \
                              wsr_thread *thread UNUSED, wsr_accumulators *r UNUSED)
#define DONE return 0
#define TRAP(name) return WSR_TRAP_##name

/* Do what the cell at pc says. */
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

/* Results go to the accumulator (A), or there and to slot d (W). */
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

/* Loads: to the accumulator, or there and to slot b. */
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
