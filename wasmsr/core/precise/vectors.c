/* Vector instructions of precise code: each takes its operands from slots and puts its result back.
 * Generated from the rows of numeric/simd_rows.h; fast code has handlers of its own in
 * fast/handlers_simd.c. */
#include "core/numeric/simd.h"
#include "core/runtime/store.h"

typedef void step(uint64_t *s, uint64_t imm, const uint8_t *k);
typedef void access(uint64_t *s, uint8_t *p, uint32_t lane);

#define GET_v128(s) wsr_slots_get(s)
#define GET_i32(s) ((uint32_t)*(s))
#define GET_b32(s) ((uint32_t)*(s))
#define GET_i64(s) (*(s))
#define GET_b64(s) (*(s))
#define PUT_v128(s, x) wsr_slots_put(s, x)
#define PUT_i32(s, x) (*(s) = (uint32_t)(x))
#define PUT_b32(s, x) (*(s) = (uint32_t)(x))
#define PUT_i64(s, x) (*(s) = (x))
#define PUT_b64(s, x) (*(s) = (x))

#define STEP(N, X)                                                    \
  static void step_##N(uint64_t *s, uint64_t imm, const uint8_t *k) { \
    (void)imm, (void)k;                                               \
    X;                                                                \
  }
#define ACCESS(N, X)                                               \
  static void access_##N(uint64_t *s, uint8_t *p, uint32_t lane) { \
    (void)lane;                                                    \
    X;                                                             \
  }
#define VECTOR_ONE(N, P, R, F) STEP(N, PUT_##R(s, F(GET_##P(s))))
#define VECTOR_TWO(N, F) STEP(N, wsr_slots_put(s, F(wsr_slots_get(s), wsr_slots_get(s + 2))))
#define VECTOR_SHIFT(N, F) STEP(N, wsr_slots_put(s, F(wsr_slots_get(s), (uint32_t)s[2])))
#define VECTOR_THREE(N, F)                                                                   \
  STEP(N, wsr_slots_put(s, F(wsr_slots_get(s), wsr_slots_get(s + 2), wsr_slots_get(s + 4))))
#define VECTOR_EXTRACT(N, R, T, F) STEP(N, PUT_##R(s, F(wsr_slots_get(s), (uint32_t)imm)))
#define VECTOR_REPLACE(N, P, F)                                                 \
  STEP(N, wsr_slots_put(s, F(wsr_slots_get(s), GET_##P(s + 2), (uint32_t)imm)))
#define VECTOR_SHUFFLE(N, F) STEP(N, wsr_slots_put(s, F(wsr_slots_get(s), wsr_slots_get(s + 2), k)))
#define VECTOR_CONST(N, F) STEP(N, wsr_slots_put(s, F(k)))
#define VECTOR_LOAD(N, W, F) ACCESS(N, wsr_slots_put(s, F(p)))
#define VECTOR_LOAD_LANE(N, W, F) ACCESS(N, wsr_slots_put(s, F(p, wsr_slots_get(s + 1), lane)))
#define VECTOR_STORE(N, W, F) ACCESS(N, F(p, wsr_slots_get(s + 1)))
#define VECTOR_STORE_LANE(N, W, F) ACCESS(N, F(p, wsr_slots_get(s + 1), lane))
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

#define ROW(N) [WSR_OP_##N] = step_##N,
#define VECTOR_ONE(N, P, R, F) ROW(N)
#define VECTOR_TWO(N, F) ROW(N)
#define VECTOR_SHIFT(N, F) ROW(N)
#define VECTOR_THREE(N, F) ROW(N)
#define VECTOR_EXTRACT(N, R, T, F) ROW(N)
#define VECTOR_REPLACE(N, P, F) ROW(N)
#define VECTOR_SHUFFLE(N, F) ROW(N)
#define VECTOR_CONST(N, F) ROW(N)
#define VECTOR_LOAD(N, W, F)
#define VECTOR_LOAD_LANE(N, W, F)
#define VECTOR_STORE(N, W, F)
#define VECTOR_STORE_LANE(N, W, F)
static step *const steps[WSR_OP_COUNT] = {
#include "core/numeric/simd_rows.h"
};

#undef ROW
#define ROW(N)
#undef VECTOR_LOAD
#undef VECTOR_LOAD_LANE
#undef VECTOR_STORE
#undef VECTOR_STORE_LANE
#define VECTOR_LOAD(N, W, F) [WSR_OP_##N] = access_##N,
#define VECTOR_LOAD_LANE(N, W, F) [WSR_OP_##N] = access_##N,
#define VECTOR_STORE(N, W, F) [WSR_OP_##N] = access_##N,
#define VECTOR_STORE_LANE(N, W, F) [WSR_OP_##N] = access_##N,
static access *const accesses[WSR_OP_COUNT] = {
#include "core/numeric/simd_rows.h"
};

void wsr_vector_step(const wsr_cell *cell, uint64_t *s, const uint8_t *bytes) {
  steps[cell->op](s, cell->u.imm, bytes + cell->u.imm);
}

void wsr_vector_access(const wsr_cell *cell, uint64_t *s, uint8_t *p) {
  accesses[cell->op](s, p, wsr_lane_of(cell));
}
