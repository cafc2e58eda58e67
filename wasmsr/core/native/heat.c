/* Native code for what runs often. A function begins without it. Its first cell and the heads of
 * its loops lead to a handler that counts; when it has counted enough, the function joins a list of
 * its module, from which a thread of the host takes it, and makes its native code while the program
 * runs on. The words that lead into native code are then written one by one: each is valid by
 * itself, so whoever runs the function enters native code at the next of them. */
#include "core/native/native.h"

#if WSR_NATIVE
#include <stdlib.h>

/* A call counts as much as so many turns of a loop. */
enum { CALL = 16 };
/* So many turns are worth native code. */
static _Atomic uint32_t enough = WSR_ENOUGH_TURNS;

void wsr_native_enough(uint32_t turns) {
  atomic_store(&enough, turns < INT32_MAX ? turns : INT32_MAX);
}

struct wsr_heat {
  _Atomic int32_t left;
  uint64_t handlers[]; /* by head: what its word has when nobody counts */
};

static void write_word(const wsr_fast *fast, uint32_t word, uint64_t value) {
  atomic_store_explicit((_Atomic uint64_t *)&fast->words[word], value, memory_order_release);
}

static void restore_heads(const wsr_fast *fast) {
  for (uint32_t i = 0; fast->heat && i < fast->n_heads; i++)
    write_word(fast, fast->heads[i], fast->heat->handlers[i]);
}

void wsr_native_count(wsr_fast *fast) {
  if (!fast->n_heads) return;
  wsr_heat *const heat = malloc(sizeof *heat + fast->n_heads * sizeof *heat->handlers);
  if (!heat) return;
  atomic_init(&heat->left, (int32_t)atomic_load(&enough));
  for (uint32_t i = 0; i < fast->n_heads; i++) {
    heat->handlers[i] = fast->words[fast->heads[i]];
    fast->words[fast->heads[i]] = (uint64_t)(uintptr_t)wsr_count_run;
  }
  fast->heat = heat;
}

static void add_wanted(wsr_module *module, wsr_fast *first, wsr_fast *last) {
  wsr_fast *head = atomic_load(&module->wanted);
  do last->next = head;
  while (!atomic_compare_exchange_weak(&module->wanted, &head, first));
}

uint64_t wsr_native_counted(wsr_thread *thread, const uint64_t *pc) {
  const uint32_t address = thread->frame->function;
  wsr_fast *const fast = (wsr_fast *)(uintptr_t)WSR_PUBLISHED(&thread->codes[address]);
  const uint32_t word = (uint32_t)(pc - fast->words);
  uint32_t first = 0, last = fast->n_heads - 1;
  while (first < last) {
    const uint32_t middle = first + (last - first) / 2;
    if (fast->heads[middle] < word)
      first = middle + 1;
    else
      last = middle;
  }
  wsr_heat *const heat = fast->heat;
  const int32_t by = word ? 1 : CALL;
  if (atomic_fetch_sub_explicit(&heat->left, by, memory_order_relaxed) <= by &&
      !atomic_exchange(&fast->claimed, true)) {
    restore_heads(fast);
    add_wanted(thread->functions[address].owner->module, fast, fast);
  }
  return heat->handlers[first];
}

void wsr_native_now(const wsr_module *module, wsr_fast *fast) {
  if (atomic_exchange(&fast->claimed, true)) return;
  restore_heads(fast);
  wsr_native_compile(module, fast, NULL);
  if (fast->native) wsr_native_publish(module, fast);
}

static wsr_request stop;

void wsr_native_stop(void) { atomic_store(&stop, 1); }

uint32_t wsr_native_work(wsr_module *module, uint32_t most) {
  wsr_fast *fast = atomic_exchange(&module->wanted, NULL);
  uint32_t n = 0;
  atomic_store(&stop, 0);
  for (; fast && n < most && !atomic_load(&stop); n++) {
    wsr_fast *const next = fast->next;
    wsr_native_compile(module, fast, &stop);
    if (fast->native) wsr_native_publish(module, fast);
    if (!fast->native && atomic_load(&stop)) break; /* later, then */
    fast = next;
  }
  if (fast) {
    wsr_fast *last = fast;
    while (last->next) last = last->next;
    add_wanted(module, fast, last);
  }
  return n;
}

#else

void wsr_native_enough(uint32_t turns) { (void)turns; }
void wsr_native_stop(void) {}
uint32_t wsr_native_work(wsr_module *module, uint32_t most) {
  (void)module, (void)most;
  return 0;
}
#endif
