/* Join cells of fast code into sequences: after fast/translate_fast.c, which wrote the cells,
 * before they run.
 *
 * A sequence is a handler that does the work of several cells which follow each other
 * (fast/superinstructions.inc). The cells stay where they are; only the handler of the first is
 * exchanged, so control may still enter at each of them. For every cell the way to the end of the
 * code with the fewest dispatches is chosen, starting at the end: wherever a jump leads, it goes on
 * in the best way from there.
 */
#include "core/fast/fast.h"

#if WSR_FAST
#include <stdlib.h>

/* All beginnings of all sequences, two handlers and more, in a hash table that is made once and
 * then never changes. */
typedef struct {
  uint64_t key;        /* 0 is free */
  uint32_t of, length; /* the sequence, and the length of this beginning */
  wsr_handler *all;    /* NULL if this beginning is no sequence itself */
} beginning;

typedef struct {
  uint32_t mask;
  beginning places[];
} beginnings;

static uint64_t longer(uint64_t key, wsr_handler *handler) {
  key = (key ^ (uint64_t)(uintptr_t)handler) * UINT64_C(0x9E3779B97F4A7C15);
  key ^= key >> 29;
  return key ? key : 1;
}

static bool begins(const wsr_superinstruction *with, wsr_handler *const *handlers,
                   uint32_t length) {
  for (uint32_t i = 0; i < length; i++)
    if (with->cells[i] != handlers[i]) return false;
  return true;
}

static const beginning *look_up(const beginnings *all, uint64_t key, wsr_handler *const *handlers,
                                uint32_t length) {
  for (uint32_t i = (uint32_t)(key >> 32);; i++) {
    const beginning *b = &all->places[i & all->mask];
    if (!b->key) return b;
    if (b->key == key && b->length == length &&
        begins(&wsr_superinstructions[b->of], handlers, length))
      return b;
  }
}

static beginnings *gather(void) {
  uint32_t room = 64;
  while (room < wsr_n_superinstructions * WSR_LONGEST_SUPERINSTRUCTION * 2) room *= 2;
  beginnings *all = calloc(1, sizeof *all + room * sizeof *all->places);
  if (!all) return NULL;
  all->mask = room - 1;
  for (uint32_t i = 0; i < wsr_n_superinstructions; i++) {
    const wsr_superinstruction *s = &wsr_superinstructions[i];
    uint64_t key = longer(0, s->cells[0]);
    for (uint32_t length = 2; length <= WSR_LONGEST_SUPERINSTRUCTION && s->cells[length - 1];
         length++) {
      key = longer(key, s->cells[length - 1]);
      beginning *b = &all->places[look_up(all, key, s->cells, length) - all->places];
      const bool whole = length == WSR_LONGEST_SUPERINSTRUCTION || !s->cells[length];
      if (!b->key) *b = (beginning){key, i, length, NULL};
      if (whole) b->all = s->all;
    }
  }
  return all;
}

static const beginnings *known(void) {
  static _Atomic(beginnings *) made;
  beginnings *all = WSR_PUBLISHED(&made);
  if (all) return all;
  all = gather();
  beginnings *first = NULL;
  if (all && !WSR_PUBLISH_FIRST(&made, &first, all)) {
    free(all);
    all = first;
  }
  return all;
}

bool wsr_join_cells(uint64_t *words, const wsr_place *map, uint32_t n) {
  if (n == 0 || wsr_n_superinstructions == 0) return true;
  const beginnings *all = known();
  wsr_handler **single = calloc((size_t)n + WSR_LONGEST_SUPERINSTRUCTION, sizeof *single);
  uint32_t *fewest = calloc((size_t)n + 1, sizeof *fewest); /* dispatches from each cell on */
  const bool enough = all && single && fewest;
  for (uint32_t i = 0; enough && i < n; i++)
    single[i] = (wsr_handler *)(uintptr_t)words[map[i].word];
  for (uint32_t i = n; enough && i-- > 0;) {
    fewest[i] = fewest[i + 1] + 1;
    uint64_t key = longer(0, single[i]);
    for (uint32_t length = 2; length <= WSR_LONGEST_SUPERINSTRUCTION && i + length <= n; length++) {
      key = longer(key, single[i + length - 1]);
      const beginning *b = look_up(all, key, single + i, length);
      if (!b->key) break;
      if (!b->all || fewest[i + length] + 1 >= fewest[i]) continue;
      fewest[i] = fewest[i + length] + 1;
      words[map[i].word] = (uint64_t)(uintptr_t)b->all;
    }
  }
  free(single);
  free(fewest);
  return enough;
}
#endif
