/* Handlers of fast code for vectors: one for each combination of operand classes, as
 * fast/handlers.c has them for numbers, with the vector accumulator in `va`. All are generated from
 * the rows of the instruction table. CPUs of x86-64 level 2 do some of them better: those have a
 * second handler, compiled for such CPUs. The choice is made when a cell is written
 * (fast/translate_simd.h).
 *
 * Fields: a, b, c: operands; d: the slot that is written too (b of loads). */
#include "core/numeric/simd.h"

#include "core/fast/handler.h"

#if WSR_FAST
#include "core/fast/handlers_simd.inc"

#if WSR_X86
/* The same, compiled for x86-64 level 2. */
#undef INLINE
#undef SEPARATE
#define INLINE __attribute__((always_inline, target("sse4.2"))) static inline
#ifdef __clang__
#define SEPARATE WSR_V2
#else
#define SEPARATE __attribute__((no_icf, target("sse4.2")))
#endif
#include "core/fast/handlers_simd_v2.inc"
#endif

wsr_handler *const *wsr_vector_handlers(uint32_t op) {
#if WSR_X86
  if (vector_v2[op] && __builtin_cpu_supports("sse4.2")) return vector_v2[op];
#endif
  return vector[op];
}
#endif
