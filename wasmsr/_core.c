/* The hot loop: it runs a paused machine until it finishes, traps, pauses or needs the host.
 *
 * Leaving is a return value; nothing of the program lives on the native stack. The loop's body is
 * core/precise/loop.h, built here once for each variant. It dispatches by computed goto where the
 * compiler has it, otherwise by a switch. Fast code (core/fast/) is the other way to run.
 */
#include "core/fast/fast.h"
#include "core/numeric/numeric.h"
#include "core/runtime/bulk.h"

enum { PAGE = 65536 };

static inline void move(uint64_t *to, const uint64_t *from, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) to[i] = from[i];
}

static uint32_t wsr_resolve_indirect(const wsr_store *store, const wsr_instance *instance,
                                     const wsr_cell *pc, uint64_t index, uint32_t *address) {
  const wsr_table_instance *t = store->tables[instance->tables[pc->u.p.b]];
  if (index >= t->size) return WSR_TRAP_UNDEFINED_ELEMENT;
  const uint64_t reference = t->elements[index];
  if (!reference) return WSR_TRAP_UNINITIALIZED_ELEMENT;
  *address = (uint32_t)(reference - 1);
  if (!wsr_descends(store->program.subtypes, store->program.functions[*address].type,
                    instance->types[pc->u.p.a]))
    return WSR_TRAP_INDIRECT_TYPE;
  return WSR_TRAP_NONE;
}

/* ---- dispatch ---- */

#if defined(__GNUC__) && !defined(WSR_NO_GOTO)
/* Addresses of labels are no ISO C; this file alone is exempt, the switch below is the standard
 * way. */
#pragma GCC diagnostic ignored "-Wpedantic"
#define LABEL(name) [WSR_OP_##name] = &&op_##name,
#define LABELS static const void *const labels[] = {WSR_EACH_OP(LABEL)}
#define GO goto *labels[pc->op]
#define GO_FIRST GO;
#define AT(name) op_##name:
#else
#define LABELS ((void)0)
#define GO goto dispatch
#define GO_FIRST  \
  dispatch:       \
  switch (pc->op)
#define AT(name) case WSR_OP_##name:
#endif

#define RUN run_metered
#define METERED 1
#define BRIDGE 0
#include "core/precise/loop.h"

#if !WSR_FAST
#define RUN run_plain
#define METERED 0
#define BRIDGE 0
#include "core/precise/loop.h"

static uint32_t run(wsr_thread *thread, uint64_t *fuel, wsr_exit *out) {
  return fuel ? run_metered(thread, fuel, out) : run_plain(thread, fuel, out);
}
#else
#define RUN run_bridge
#define METERED 0
#define BRIDGE 1
#include "core/precise/loop.h"

#define RUN run_metered_bridge
#define METERED 1
#define BRIDGE 1
#include "core/precise/loop.h"

enum { WORTHWHILE = 1000 }; /* instructions of fuel: below, fast code is not made */

/* Fast code from every canonical point; precise code on the way to the next one, and for the last
 * instructions of the fuel. */
static uint32_t run(wsr_thread *thread, uint64_t *fuel, wsr_exit *out) {
  if (fuel && *fuel < WORTHWHILE) return run_metered(thread, fuel, out);
  if (thread->metered !=
      (fuel != NULL)) { /* plain code must not return to metered code, nor back */
    for (uint32_t i = 0; i < thread->n_frames; i++) thread->returns[i].pc = NULL;
    thread->metered = fuel != NULL;
  }
  while (thread->n_frames != thread->now.base_frame) {
    const wsr_frame *frame = &thread->frames[thread->n_frames - 1];
    const wsr_fast *fast = wsr_function_fast(thread, frame->function, fuel != NULL);
    const uint32_t word = fast ? wsr_fast_entry(fast, frame->cell) : WSR_NONE;
    uint32_t outcome;
    if (word == WSR_NONE) {
      outcome = fuel ? run_metered_bridge(thread, fuel, out) : run_bridge(thread, NULL, out);
    } else {
      thread->left = fuel ? *fuel : 0;
      outcome = wsr_run_fast(thread, fast, word, out);
      if (fuel) *fuel = thread->left;
      if (outcome == WSR_SHORT) return run_metered(thread, fuel, out);
    }
    if (outcome != WSR_SWITCH) return outcome;
  }
  out->slots = thread->stack + thread->now.entry_slot;
  return WSR_FINISHED;
}
#endif

const char *wsr_variant(void) { return WSR_FAST ? "tail calls" : "portable"; }

#define SPELLED_(token) #token
#define SPELLED(macro) SPELLED_(macro)

const char *wsr_compiler(void) {
#if defined(__clang__)
  return "clang " SPELLED(__clang_major__) "." SPELLED(__clang_minor__);
#elif defined(__GNUC__)
  return "gcc " SPELLED(__GNUC__) "." SPELLED(__GNUC_MINOR__);
#else
  return "another compiler";
#endif
}

/* ---- stopping at the nth canonical point, for tests ---- */

static bool at_call(const wsr_thread *thread) {
  if (thread->n_frames == thread->now.base_frame) return false;
  const wsr_frame *frame = &thread->frames[thread->n_frames - 1];
  const wsr_code *code = wsr_code_of(&thread->functions[frame->function]);
  if (!code) return false;
  const uint32_t op = code->cells[frame->cell].op;
  return wsr_is_call(op) || wsr_is_tail_call(op);
}

/* There is always a request, so every point that polls stops; a call that has been stopped at is
 * made by a step of precise code. */
static uint32_t run_points(wsr_thread *thread, wsr_exit *out) {
  const uint32_t how = thread->points_how;
  for (;;) {
    const uint64_t most = UINT64_MAX / 2;
    uint64_t left = most, one = 1;
    uint32_t outcome = WSR_PAUSED;
    if (!(how & WSR_THROUGH_CALLS) && at_call(thread)) {
      atomic_store(&thread->pause, 0);
      outcome = run_metered(thread, &one, out);
    }
    if (outcome == WSR_PAUSED) {
      atomic_store(&thread->pause, how & WSR_THROUGH_CALLS ? WSR_PAUSE_IN_LOOPS : 1);
      outcome = how & WSR_PRECISE ? run_metered(thread, &left, out)
                                  : run(thread, how & WSR_COUNTED ? &left : NULL, out);
    }
    atomic_store(&thread->pause, 0);
    thread->executed += most - left + 1 - one;
    if (outcome != WSR_PAUSED) return outcome;
    if (--thread->points == 0) {
      atomic_store(&thread->pause, 1);
      return WSR_PAUSED;
    }
  }
}

int wsr_enters_fast(wsr_store *store) {
#if WSR_FAST
  wsr_thread *const thread = store->main;
  if (thread->n_frames == thread->now.base_frame) return 0;
  const wsr_frame *frame = &thread->frames[thread->n_frames - 1];
  const wsr_fast *fast = wsr_function_fast(thread, frame->function, false);
  return fast && wsr_fast_entry(fast, frame->cell) != WSR_NONE;
#else
  (void)store;
  return 0;
#endif
}

uint64_t wsr_executed(const wsr_store *store) { return store->main->executed; }

void wsr_pause_after(wsr_store *store, uint64_t points, uint32_t how) {
  store->main->points = points;
  store->main->points_how = how;
}

uint32_t wsr_run(wsr_store *store, uint64_t *fuel, wsr_exit *out) {
  wsr_thread *const thread = store->main;
  if (thread->points) return run_points(thread, out);
  const uint64_t before = fuel ? *fuel : 0;
  const uint32_t outcome = run(thread, fuel, out);
  if (fuel) thread->executed += before - *fuel;
  return outcome;
}

void wsr_host_retry(wsr_store *store, uint64_t *fuel) {
  if (!fuel) return;
  ++*fuel;
  store->main->executed--;
}

uint32_t wsr_host_return_run(wsr_store *store, uint64_t *fuel, wsr_exit *out) {
  wsr_host_return(store);
  return wsr_run(store, fuel, out);
}
