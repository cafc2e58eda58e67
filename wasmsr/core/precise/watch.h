/* What stops a program that somebody steps through: a position, a return to a frame, a write to
 * memory. Only the build for a page has it (WSR_WATCH, scripts/core_wasm.py), because each
 * instruction then takes longer; elsewhere the macros are empty.
 *
 * A position stops the program before its instruction. The others stop it after the instruction:
 * the fuel is put aside, so that the next instruction finds none. */
#undef WATCH_LOCALS
#undef WATCH_POSITION
#undef WATCH_RETURN
#undef WATCH_WRITE
#undef WATCH_IF
#undef WATCH_ASIDE

#if WSR_WATCH && METERED
#define WATCH_LOCALS()                              \
  const wsr_cell *const stop_ = thread->watch.cell; \
  const bool watching_ = thread->watch.end != 0;    \
  const uint32_t least_ = thread->watch.frames;     \
  uint64_t aside_ = 0
#define WATCH_POSITION()                    \
  do {                                      \
    if (pc == stop_) {                      \
      thread->watch.hit = WSR_HIT_POSITION; \
      goto fuel_out;                        \
    }                                       \
  } while (0)
#define WATCH_STOP_(why)       \
  do {                         \
    thread->watch.hit = (why); \
    aside_ += left;            \
    left = 0;                  \
  } while (0)
#define WATCH_RETURN()                                           \
  do {                                                           \
    if (thread->n_frames <= least_) WATCH_STOP_(WSR_HIT_RETURN); \
  } while (0)
#define WATCH_WRITE(width)                                                         \
  do {                                                                             \
    if (watching_ && wsr_watched(thread, at, (width))) WATCH_STOP_(WSR_HIT_WRITE); \
  } while (0)
#define WATCH_IF(writes)                                   \
  do {                                                     \
    if (watching_ && (writes)) WATCH_STOP_(WSR_HIT_WRITE); \
  } while (0)
#define WATCH_ASIDE aside_
#else
#define WATCH_LOCALS() ((void)0)
#define WATCH_POSITION() ((void)0)
#define WATCH_RETURN() ((void)0)
#define WATCH_WRITE(width) ((void)0)
#define WATCH_IF(writes) ((void)0)
#define WATCH_ASIDE 0
#endif

#if WSR_WATCH && !defined(WSR_WATCHED)
#define WSR_WATCHED
/* Whether the watched bytes are among the `width` bytes at `at`, which may be in any memory: a
 * place in another one is beyond the size of this one. */
static bool wsr_watched(const wsr_thread *thread, const uint8_t *at, uint64_t width) {
  const wsr_watch *const w = &thread->watch;
  const wsr_space *const space = &thread->memories[w->memory]->space;
  const uint64_t from = (uint64_t)((uintptr_t)at - (uintptr_t)space->data);
  return from < space->size && from < w->end && from + width > w->begin;
}

/* Whether an instruction of bulk.c is about to write them. */
static bool wsr_watched_bulk(const wsr_thread *thread, const wsr_instance *instance,
                             const wsr_cell *cell, const uint64_t *s) {
  if (cell->op != WSR_OP_MEMORY_FILL && cell->op != WSR_OP_MEMORY_COPY &&
      cell->op != WSR_OP_MEMORY_INIT)
    return false;
  const wsr_memory_instance *const m = thread->memories[instance->memories[cell->u.p.a]];
  return s[2] && wsr_within(s[0], s[2], m->space.size) &&
         wsr_watched(thread, m->space.data + s[0], s[2]);
}

/* Whether an atomic instruction is about to write them, or may. */
static bool wsr_watched_atomic(const wsr_thread *thread, const wsr_instance *instance,
                               const wsr_cell *cell, const uint64_t *s) {
  if (cell->op < WSR_OP_I32_ATOMIC_STORE) return false;
  const wsr_memory_instance *const m =
      thread->memories[instance->memories[cell->n ? cell->n - 1U : 0]];
  const uint64_t from = (m->bounds.address64 ? s[0] : (uint32_t)s[0]) + cell->u.imm;
  const uint32_t width = wsr_opcode_table[cell->op].width;
  return from >= cell->u.imm && wsr_within(from, width, m->space.size) &&
         wsr_watched(thread, m->space.data + from, width);
}

static bool wsr_vector_stores(uint32_t op) {
  return op == WSR_OP_V128_STORE ||
         (op >= WSR_OP_V128_STORE8_LANE && op <= WSR_OP_V128_STORE64_LANE);
}
#endif
