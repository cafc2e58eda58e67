/* Handlers of fast code for vectors, made from numeric/simd_rows.h: one for each combination of
 * operand classes as fast/handlers.c has them for numbers, with a vector accumulator in `va`.
 *
 * Included by itself once more, with WSR_V2_ROWS, for what CPUs of x86-64 level 2 do better; which
 * of the two a cell gets is decided when it is folded (fast/translate_simd.h).
 *
 * Fields: a, b, c: operands; d: the slot that is written too (b of loads). */
#ifndef WSR_V2_ROWS
#include "core/numeric/simd.h"

#include "core/fast/handler.h"
#endif

#if WSR_FAST && (WSR_X86 || !defined(WSR_V2_ROWS))

#ifndef WSR_V2_ROWS
#define FN(function) function
#define NAME(handler) handler
#endif

#ifdef WSR_V2_ROWS
#undef INLINE
#undef SEPARATE
#undef FN
#undef NAME
#define INLINE __attribute__((always_inline, target("sse4.2"))) static inline
#ifdef __clang__
#define SEPARATE WSR_V2
#else
#define SEPARATE __attribute__((no_icf, target("sse4.2")))
#endif
#define FN(function) function##_v2
#define NAME(handler) handler##_v2
#endif

#ifndef WSR_V2_ROWS
#define GET_v128_S(k) wsr_slots_get(fp + field(pc, k))
#define GET_v128_A(k) (r->va)
#define GET_v128_C(k) wsr_slots_get(pc + 2)
#define SET_v128_A(x) (r->va = (x))
#define SET_v128_W(x) (r->va = (x), wsr_slots_put(fp + field(pc, 3), r->va))
#define LOADED_A(x) (r->va = (x))
#define LOADED_W(x) (r->va = (x), wsr_slots_put(fp + field(pc, 1), r->va))
#define WORDS_S 2
#define WORDS_A 2
#define WORDS_C 4
#define CELL(N, WORDS, X) \
  STEP(N, WORDS) {        \
    X;                    \
    DONE;                 \
  }                       \
  HANDLER(N)
#define ADDRESS_S ((uint64_t)(uint32_t)fp[field(pc, 0)] + offset_of(pc))
#define ADDRESS_A ((uint64_t)(uint32_t)r->acc + offset_of(pc))
#define ADDRESS_C (pc[2])
#define SUM_SC ((uint64_t)((uint32_t)fp[field(pc, 0)] + low(pc[2])) + high(pc[2]))
#define SUM_AC ((uint64_t)((uint32_t)r->acc + low(pc[2])) + high(pc[2]))
#define SUM_SS ((uint64_t)((uint32_t)fp[field(pc, 0)] + (uint32_t)fp[field(pc, 2)]) + high(pc[2]))
#define SUM_SA ((uint64_t)((uint32_t)fp[field(pc, 0)] + (uint32_t)r->acc) + high(pc[2]))
#define IN_BOUNDS(where, width)                      \
  const uint64_t address = where;                    \
  if (address + (width) > size) TRAP(MEMORY_BOUNDS); \
  uint8_t *const at = memory + address

#define BOTH(ONE_OF, ...) ONE_OF(__VA_ARGS__, A) ONE_OF(__VA_ARGS__, W)
#endif

/* clang-format would stagger rows of macros. */
/* clang-format off */

/* ---- handlers ---- */

#define ONE_OF_ONE(N, P, R, F, L, W) CELL(NAME(N##_##L##W), 2, SET_##R##_##W(F(GET_##P##_##L(0))))
#define VECTOR_ONE(N, P, R, F) BOTH(ONE_OF_ONE, N, P, R, F, S) BOTH(ONE_OF_ONE, N, P, R, F, A)

#define ONE_OF_TWO(N, F, L, M, W) \
  CELL(NAME(N##_##L##M##W), WORDS_##M, SET_v128_##W(F(GET_v128_##L(0), GET_v128_##M(1))))
#define VECTOR_TWO(N, F)                                                  \
  BOTH(ONE_OF_TWO, N, F, S, S) BOTH(ONE_OF_TWO, N, F, S, A)               \
  BOTH(ONE_OF_TWO, N, F, S, C) BOTH(ONE_OF_TWO, N, F, A, S) BOTH(ONE_OF_TWO, N, F, A, C)

#define ONE_OF_SHIFT(N, F, L, M, W) \
  CELL(NAME(N##_##L##M##W), LENGTH_##M, SET_v128_##W(F(GET_v128_##L(0), GET_i32_##M(1))))
#define VECTOR_SHIFT(N, F)                                                                    \
  BOTH(ONE_OF_SHIFT, N, F, S, S) BOTH(ONE_OF_SHIFT, N, F, S, A) BOTH(ONE_OF_SHIFT, N, F, S, C) \
  BOTH(ONE_OF_SHIFT, N, F, A, S) BOTH(ONE_OF_SHIFT, N, F, A, A) BOTH(ONE_OF_SHIFT, N, F, A, C)

#define ONE_OF_THREE(N, F, L, M, K, W) \
  CELL(NAME(N##_##L##M##K##W), 2,      \
       SET_v128_##W(F(GET_v128_##L(0), GET_v128_##M(1), GET_v128_##K(2))))
#define VECTOR_THREE(N, F)                                            \
  BOTH(ONE_OF_THREE, N, F, S, S, S) BOTH(ONE_OF_THREE, N, F, A, S, S) \
  BOTH(ONE_OF_THREE, N, F, S, A, S) BOTH(ONE_OF_THREE, N, F, S, S, A)

/* b: where the lane begins in its slots, in bytes */
#define ONE_OF_EXTRACT(N, R, T, W)                                                         \
  CELL(NAME(N##_S##W), 2, wsr_lane_##T lane;                                               \
       memcpy(&lane, (const char *)(fp + field(pc, 0)) + field(pc, 1), sizeof lane);       \
       SET_##R##_##W(lane))
#define VECTOR_EXTRACT(N, R, T, F) BOTH(ONE_OF_EXTRACT, N, R, T)

/* c: the lane */
#define ONE_OF_REPLACE(N, P, F, L, M, W) \
  CELL(NAME(N##_##L##M##W), 2, SET_v128_##W(F(GET_v128_##L(0), GET_##P##_##M(1), field(pc, 2))))
#define VECTOR_REPLACE(N, P, F)                                         \
  BOTH(ONE_OF_REPLACE, N, P, F, S, S) BOTH(ONE_OF_REPLACE, N, P, F, S, A) \
  BOTH(ONE_OF_REPLACE, N, P, F, A, S) BOTH(ONE_OF_REPLACE, N, P, F, A, A)

/* the third and fourth word are the 16 lanes, or the constant */
#define ONE_OF_SHUFFLE(N, F, L, M, W) \
  CELL(NAME(N##_##L##M##W), 4,        \
       SET_v128_##W(F(GET_v128_##L(0), GET_v128_##M(1), (const uint8_t *)(pc + 2))))
#define VECTOR_SHUFFLE(N, F)                                      \
  BOTH(ONE_OF_SHUFFLE, N, F, S, S) BOTH(ONE_OF_SHUFFLE, N, F, S, A) \
  BOTH(ONE_OF_SHUFFLE, N, F, A, S)
#define ONE_OF_CONST(N, F, W) CELL(NAME(N##_##W), 4, SET_v128_##W(F((const uint8_t *)(pc + 2))))
#define VECTOR_CONST(N, F) BOTH(ONE_OF_CONST, N, F)

/* as loads of numbers: the address, or the third word, or a sum with it */
#define ONE_OF_LOAD(N, WIDTH, F, L, W) \
  CELL(NAME(N##_##L##W), LENGTH_##L, IN_BOUNDS(ADDRESS_##L, WIDTH); LOADED_##W(F(at)))
#define ONE_OF_SUM(N, WIDTH, F, L, W) \
  CELL(NAME(N##_##L##_##W), 3, IN_BOUNDS(SUM_##L, WIDTH); LOADED_##W(F(at)))
#define VECTOR_LOAD(N, WIDTH, F)                                              \
  BOTH(ONE_OF_LOAD, N, WIDTH, F, S) BOTH(ONE_OF_LOAD, N, WIDTH, F, A)         \
  BOTH(ONE_OF_LOAD, N, WIDTH, F, C) BOTH(ONE_OF_SUM, N, WIDTH, F, SC)         \
  BOTH(ONE_OF_SUM, N, WIDTH, F, AC) BOTH(ONE_OF_SUM, N, WIDTH, F, SS)         \
  BOTH(ONE_OF_SUM, N, WIDTH, F, SA)
#define ONE_OF_STORE(N, WIDTH, F, L, M) \
  CELL(NAME(N##_##L##M), LENGTH_##L, IN_BOUNDS(ADDRESS_##L, WIDTH); F(at, GET_v128_##M(1)))
#define VECTOR_STORE(N, WIDTH, F)                                              \
  ONE_OF_STORE(N, WIDTH, F, S, S) ONE_OF_STORE(N, WIDTH, F, S, A)              \
  ONE_OF_STORE(N, WIDTH, F, A, S) ONE_OF_STORE(N, WIDTH, F, A, A)              \
  ONE_OF_STORE(N, WIDTH, F, C, S) ONE_OF_STORE(N, WIDTH, F, C, A)

/* third word: the vector's slot, and the lane */
#define OTHER_S wsr_slots_get(fp + low(pc[2]))
#define OTHER_A (r->va)
#define ONE_OF_LOAD_LANE(N, WIDTH, F, L, M, W)                       \
  CELL(NAME(N##_##L##M##W), 3, IN_BOUNDS(ADDRESS_##L, WIDTH);        \
       LOADED_##W(F(at, OTHER_##M, high(pc[2]))))
#define VECTOR_LOAD_LANE(N, WIDTH, F)                                               \
  BOTH(ONE_OF_LOAD_LANE, N, WIDTH, F, S, S) BOTH(ONE_OF_LOAD_LANE, N, WIDTH, F, S, A) \
  BOTH(ONE_OF_LOAD_LANE, N, WIDTH, F, A, S) BOTH(ONE_OF_LOAD_LANE, N, WIDTH, F, A, A)
/* third word: where the lane begins in its slots, in bytes */
#define ONE_OF_STORE_LANE(N, WIDTH, F, L)                                    \
  CELL(NAME(N##_##L##S), 3, IN_BOUNDS(ADDRESS_##L, WIDTH);                   \
       memcpy(at, (const char *)(fp + field(pc, 1)) + pc[2], WIDTH))
#define VECTOR_STORE_LANE(N, WIDTH, F) \
  ONE_OF_STORE_LANE(N, WIDTH, F, S) ONE_OF_STORE_LANE(N, WIDTH, F, A)

#ifndef WSR_V2_ROWS
typedef int8_t wsr_lane_i8;
typedef uint8_t wsr_lane_u8;
typedef int16_t wsr_lane_i16;
typedef uint16_t wsr_lane_u16;
typedef uint32_t wsr_lane_u32;
typedef uint64_t wsr_lane_u64;
#endif

#include "core/numeric/simd_rows.h"

#undef VECTOR_ONE
#undef VECTOR_TWO
#undef VECTOR_SHIFT
#undef VECTOR_THREE
#undef VECTOR_EXTRACT
#undef VECTOR_REPLACE
#undef VECTOR_SHUFFLE
#undef VECTOR_CONST
#undef VECTOR_LOAD
#undef VECTOR_LOAD_LANE
#undef VECTOR_STORE
#undef VECTOR_STORE_LANE

/* ---- their tables, by row: the order is that of fast/translate_simd.h ---- */

#define AW(H) NAME(H##A), NAME(H##W)
#define LIST(N, ...) [WSR_OP_##N] = (wsr_handler *const[]){__VA_ARGS__},
#define VECTOR_ONE(N, P, R, F) LIST(N, AW(N##_S), AW(N##_A))
#define VECTOR_TWO(N, F) LIST(N, AW(N##_SS), AW(N##_SA), AW(N##_SC), AW(N##_AS), NULL, NULL, AW(N##_AC))
#define VECTOR_SHIFT(N, F) \
  LIST(N, AW(N##_SS), AW(N##_SA), AW(N##_SC), AW(N##_AS), AW(N##_AA), AW(N##_AC))
#define VECTOR_THREE(N, F) LIST(N, AW(N##_SSS), AW(N##_ASS), AW(N##_SAS), AW(N##_SSA))
#define VECTOR_EXTRACT(N, R, T, F) LIST(N, AW(N##_S))
#define VECTOR_REPLACE(N, P, F) LIST(N, AW(N##_SS), AW(N##_SA), AW(N##_AS), AW(N##_AA))
#define VECTOR_SHUFFLE(N, F) LIST(N, AW(N##_SS), AW(N##_SA), AW(N##_AS))
#define VECTOR_CONST(N, F) LIST(N, AW(N##_))
#define VECTOR_LOAD(N, W, F)                                                                   \
  LIST(N, AW(N##_S), AW(N##_A), AW(N##_C), AW(N##_SC_), AW(N##_AC_), AW(N##_SS_), AW(N##_SA_))
#define VECTOR_STORE(N, W, F) \
  LIST(N, NAME(N##_SS), NAME(N##_SA), NAME(N##_AS), NAME(N##_AA), NAME(N##_CS), NAME(N##_CA))
#define VECTOR_LOAD_LANE(N, W, F) LIST(N, AW(N##_SS), AW(N##_SA), AW(N##_AS), AW(N##_AA))
#define VECTOR_STORE_LANE(N, W, F) LIST(N, NAME(N##_SS), NAME(N##_AS))

#ifdef WSR_V2_ROWS
static wsr_handler *const *const vector_v2[WSR_OP_COUNT] = {
#else
static wsr_handler *const *const vector[WSR_OP_COUNT] = {
#endif
#include "core/numeric/simd_rows.h"
};

#undef VECTOR_ONE
#undef VECTOR_TWO
#undef VECTOR_SHIFT
#undef VECTOR_THREE
#undef VECTOR_EXTRACT
#undef VECTOR_REPLACE
#undef VECTOR_SHUFFLE
#undef VECTOR_CONST
#undef VECTOR_LOAD
#undef VECTOR_LOAD_LANE
#undef VECTOR_STORE
#undef VECTOR_STORE_LANE

/* clang-format on */

#if !defined(WSR_V2_ROWS) && WSR_X86
#define WSR_V2_ROWS
#include "core/fast/handlers_simd.c"
#undef WSR_V2_ROWS
#endif
#endif

#if WSR_FAST && !defined(WSR_V2_ROWS)
wsr_handler *const *wsr_vector_handlers(uint32_t op) {
#if WSR_X86
  if (vector_v2[op] && __builtin_cpu_supports("sse4.2")) return vector_v2[op];
#endif
  return vector[op];
}
#endif
