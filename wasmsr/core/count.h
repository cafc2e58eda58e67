/* Counting of dispatches, for bench/dispatches.py: only in builds with -DWSR_COUNT.
 *
 * Counts every sequence of three handlers in a hash table and writes it, when the process ends, to
 * the file that WSR_COUNT_FILE names: a line "here OFFSET" first (of wsr_count_anchor, to find the
 * handlers' names by), then three offsets from it and the count. One thread at a time. */
#ifndef WSR_COUNT_H
#define WSR_COUNT_H
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define WSR_COUNT_ROOM (1U << 21)

typedef struct {
  int32_t handler[3];
  uint64_t n;
} wsr_counted;

static wsr_counted *wsr_counts_;
static int32_t wsr_before_[2];
void wsr_count_anchor(void);

void __attribute__((noinline)) wsr_count(uint64_t handler) {
  const int32_t at = (int32_t)((intptr_t)handler - (intptr_t)&wsr_count_anchor);
  if (!wsr_counts_ && !(wsr_counts_ = calloc(WSR_COUNT_ROOM, sizeof *wsr_counts_))) return;
  const uint32_t a = (uint32_t)wsr_before_[0], b = (uint32_t)wsr_before_[1];
  uint32_t place = (a * 0x9E3779B1U ^ b * 0x85EBCA77U ^ (uint32_t)at * 0xC2B2AE3DU);
  for (place ^= place >> 15;; place++) {
    wsr_counted *const c = &wsr_counts_[place % WSR_COUNT_ROOM];
    if (c->n && (c->handler[0] != wsr_before_[0] || c->handler[1] != wsr_before_[1] ||
                 c->handler[2] != at))
      continue;
    if (!c->n) *c = (wsr_counted){{wsr_before_[0], wsr_before_[1], at}, 0};
    c->n++;
    break;
  }
  wsr_before_[0] = wsr_before_[1];
  wsr_before_[1] = at;
}

static void __attribute__((destructor)) wsr_count_write(void) {
  const char *const path = getenv("WSR_COUNT_FILE");
  FILE *const file = path && wsr_counts_ ? fopen(path, "w") : NULL;
  if (!file) return;
  for (uint32_t i = 0; i < WSR_COUNT_ROOM; i++) {
    const wsr_counted *const c = &wsr_counts_[i];
    if (c->n)
      fprintf(file, "%" PRId32 " %" PRId32 " %" PRId32 " %" PRIu64 "\n", c->handler[0],
              c->handler[1], c->handler[2], c->n);
  }
  fclose(file);
}

void wsr_count_anchor(void) {}
#endif
