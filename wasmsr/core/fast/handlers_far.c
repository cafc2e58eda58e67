/* Handlers of fast code for loads and stores other than those on memory 0 with 32-bit addresses,
 * which are in fast/handlers.c.
 *
 * Wide: memory 0 with 64-bit addresses. Like the handlers of memory 0, with the address a 64-bit
 * slot, the accumulator or a sum, and a check that address, offset and width together stay below
 * 2^64. (Constant addresses are those of memory 0 already.)
 * Far: any memory. The address, and the value to be stored, are in slots; third word: the offset;
 * fourth: the memory's index, with bit 32 set where its addresses have 64 bits. */

#include "core/fast/handler.h"

#if WSR_FAST

/* The first byte after the access, or out. `at` is where it begins. */
#define WIDE(base, offset, width)                                   \
  uint64_t end_ = (base), past_ = (uint64_t)(offset) + (width);     \
  if ((end_ += past_) < past_ || end_ > size) TRAP(MEMORY_BOUNDS);  \
  uint8_t *const at = memory + (end_ - (width));

#define FAR(width)                                                                              \
  const wsr_memory_instance *const m_ = store->memories[store->instance->memories[low(pc[3])]]; \
  const uint64_t base_ = high(pc[3]) ? fp[field(pc, 0)] : (uint32_t)fp[field(pc, 0)];           \
  const uint64_t from_ = base_ + pc[2];                                                         \
  if (from_ < base_ || !wsr_within(from_, width, m_->size)) TRAP(MEMORY_BOUNDS);                \
  uint8_t *const at = m_->data + from_;

#define UNARY(N, P, R, K, X)
#define BINARY(N, P, R, K, X)
#define COMPARE(N, P, R, K, X)
#define INVERSE(A, B)
#define COMMUTES(A)

/* a: address; b: destination */
#define ONE_WIDE_LOAD(NAME, R, WIDTH, X, L, D) \
  STEP(NAME##_wide_##L##D, 2) {                \
    WIDE(GET_i64_##L(0), offset_of(pc), WIDTH) \
    SET_LOAD_##R##_##D(X);                     \
    DONE;                                      \
  }                                            \
  HANDLER(NAME##_wide_##L##D)
/* a, c, or the fourth word: what is added up; third word: the offset */
#define WIDE_SC (fp[field(pc, 0)] + pc[3])
#define WIDE_AC (r->acc + pc[3])
#define WIDE_SS (fp[field(pc, 0)] + fp[field(pc, 2)])
#define WIDE_SA (fp[field(pc, 0)] + r->acc)
#define WIDE_LENGTH_SC 4
#define WIDE_LENGTH_AC 4
#define WIDE_LENGTH_SS 3
#define WIDE_LENGTH_SA 3
#define ONE_WIDE_SUM(NAME, R, WIDTH, X, L, D)      \
  STEP(NAME##_wide_##L##_##D, WIDE_LENGTH_##L) {   \
    WIDE(WIDE_##L, low(pc[2]), WIDTH)              \
    SET_LOAD_##R##_##D(X);                         \
    DONE;                                          \
  }                                                \
  HANDLER(NAME##_wide_##L##_##D)
#define ONE_FAR_LOAD(NAME, R, WIDTH, X, D) \
  STEP(NAME##_far_##D, 4) {                \
    FAR(WIDTH)                             \
    SET_LOAD_##R##_##D(X);                 \
    DONE;                                  \
  }                                        \
  HANDLER(NAME##_far_##D)
#define LOAD(NAME, R, WIDTH, X)                                                 \
  ONE_WIDE_LOAD(NAME, R, WIDTH, X, S, A) ONE_WIDE_LOAD(NAME, R, WIDTH, X, S, W) \
  ONE_WIDE_LOAD(NAME, R, WIDTH, X, A, A) ONE_WIDE_LOAD(NAME, R, WIDTH, X, A, W) \
  ONE_WIDE_SUM(NAME, R, WIDTH, X, SC, A) ONE_WIDE_SUM(NAME, R, WIDTH, X, SC, W) \
  ONE_WIDE_SUM(NAME, R, WIDTH, X, AC, A) ONE_WIDE_SUM(NAME, R, WIDTH, X, AC, W) \
  ONE_WIDE_SUM(NAME, R, WIDTH, X, SS, A) ONE_WIDE_SUM(NAME, R, WIDTH, X, SS, W) \
  ONE_WIDE_SUM(NAME, R, WIDTH, X, SA, A) ONE_WIDE_SUM(NAME, R, WIDTH, X, SA, W) \
  ONE_FAR_LOAD(NAME, R, WIDTH, X, A) ONE_FAR_LOAD(NAME, R, WIDTH, X, W)
/* a: address; b, or the third word of a wide one: value */
#define ONE_WIDE_STORE(NAME, P, WIDTH, X, L, M) \
  STEP(NAME##_wide_##L##M, LENGTH_##M) {        \
    const P##_t b = GET_##P##_##M(1);           \
    WIDE(GET_i64_##L(0), offset_of(pc), WIDTH)  \
    X;                                          \
    DONE;                                       \
  }                                             \
  HANDLER(NAME##_wide_##L##M)
#define STORE(NAME, P, WIDTH, X)                                                  \
  ONE_WIDE_STORE(NAME, P, WIDTH, X, S, S) ONE_WIDE_STORE(NAME, P, WIDTH, X, S, A) \
  ONE_WIDE_STORE(NAME, P, WIDTH, X, S, C) ONE_WIDE_STORE(NAME, P, WIDTH, X, A, S) \
  ONE_WIDE_STORE(NAME, P, WIDTH, X, A, A) ONE_WIDE_STORE(NAME, P, WIDTH, X, A, C) \
  STEP(NAME##_far, 4) {                                                           \
    const P##_t b = GET_##P##_S(1);                                               \
    FAR(WIDTH)                                                                    \
    X;                                                                            \
    DONE;                                                                         \
  }                                                                               \
  HANDLER(NAME##_far)
#include "core/fast/fast_rows.h"
#undef LOAD
#undef STORE

#define LOAD(N, R, W, X) [WSR_OP_##N] = {N##_wide_SA, N##_wide_SW, N##_wide_AA, N##_wide_AW},
#define STORE(N, P, W, X)
wsr_handler *const wsr_wide_load[WSR_OP_COUNT][4] = {
#include "core/fast/fast_rows.h"
};
#undef LOAD
#define WIDE_SUM(N, L) N##_wide_##L##_A, N##_wide_##L##_W
#define LOAD(N, R, W, X) \
  [WSR_OP_##N] = {WIDE_SUM(N, SC), WIDE_SUM(N, AC), WIDE_SUM(N, SS), WIDE_SUM(N, SA)},
wsr_handler *const wsr_wide_load_sum[WSR_OP_COUNT][8] = {
#include "core/fast/fast_rows.h"
};
#undef LOAD
#define LOAD(N, R, W, X) [WSR_OP_##N] = {N##_far_A, N##_far_W},
wsr_handler *const wsr_far_load[WSR_OP_COUNT][2] = {
#include "core/fast/fast_rows.h"
};
#undef LOAD
#define LOAD(N, R, W, X)
#undef STORE
#define STORE(N, P, W, X) \
  [WSR_OP_##N] = {N##_wide_SS, N##_wide_SA, N##_wide_SC, N##_wide_AS, N##_wide_AA, N##_wide_AC},
wsr_handler *const wsr_wide_store[WSR_OP_COUNT][6] = {
#include "core/fast/fast_rows.h"
};
#undef STORE
#define STORE(N, P, W, X) [WSR_OP_##N] = N##_far,
wsr_handler *const wsr_far_store[WSR_OP_COUNT] = {
#include "core/fast/fast_rows.h"
};
#endif
