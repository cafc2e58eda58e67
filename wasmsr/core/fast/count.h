/* Counting of dispatches, for bench/dispatches.py: only in builds with -DWSR_COUNT.
 *
 * Counts how often each cell of fast code is dispatched to, in a hash table, and writes it, when
 * the process ends, to the file that WSR_COUNT_FILE names: for each cell its address, its handler's
 * distance from wsr_count_anchor (to find the name by) and the count. One thread at a time. */
#ifndef WSR_COUNT_H
#define WSR_COUNT_H
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define WSR_COUNT_ROOM (1U << 23)

typedef struct {
  uintptr_t cell, handler;
  uint64_t n;
} wsr_counted;

static wsr_counted *wsr_counts_;
void wsr_count_anchor(void);

void __attribute__((noinline)) wsr_count(const uint64_t *cell) {
  if (!wsr_counts_ && !(wsr_counts_ = calloc(WSR_COUNT_ROOM, sizeof *wsr_counts_))) return;
  const uintptr_t at = (uintptr_t)cell;
  for (uint64_t place = (at >> 3) * UINT64_C(0x9E3779B97F4A7C15) >> 36;; place++) {
    wsr_counted *const c = &wsr_counts_[place % WSR_COUNT_ROOM];
    if (c->n && c->cell != at) continue;
    c->cell = at;
    c->handler = (uintptr_t)cell[0];
    c->n++;
    return;
  }
}

static void __attribute__((destructor)) wsr_count_write(void) {
  const char *const path = getenv("WSR_COUNT_FILE");
  FILE *const file = path && wsr_counts_ ? fopen(path, "w") : NULL;
  if (!file) return;
  for (uint32_t i = 0; i < WSR_COUNT_ROOM; i++) {
    const wsr_counted *const c = &wsr_counts_[i];
    if (c->n)
      fprintf(file, "%" PRIuPTR " %" PRIdPTR " %" PRIu64 "\n", c->cell,
              (intptr_t)c->handler - (intptr_t)&wsr_count_anchor, c->n);
  }
  fclose(file);
}

void wsr_count_anchor(void) {}
#endif
