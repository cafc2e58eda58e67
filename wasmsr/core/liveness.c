/* Which locals are live at a position: those that some path from there reads before it writes them.
 * A snapshot stores the others as zero, so that precise code, fast code and compiled code write the
 * same bytes; the rule is part of the format (docs/snapshot-format.md).
 *
 * Backward data flow over the cells of precise code, which are exactly the reachable instructions.
 * What holds at the start of each basic block is found once per function and kept with its code;
 * a query walks back from the end of its block. Source: the textbook equation,
 * live-in = uses or (live-out without definitions), iterated to the least fixed point. */
#include <stdlib.h>

#include "module.h"

typedef struct {
  const wsr_code *code;
  uint32_t words; /* of 64 locals */
} flow;

/* Layout of code->live: leader bitmap of n_cells bits, then one set of locals for each leader. */
static uint64_t bitmap_words(const wsr_code *code) { return (code->n_cells + 63) / 64; }

static bool is_leader(const uint64_t *live, uint32_t cell) { return live[cell / 64] >> cell % 64 & 1; }

static uint32_t rank(const wsr_code *code, const uint64_t *live, const uint32_t *before,
                     uint32_t cell) {
  uint64_t word = live[cell / 64] & ((UINT64_C(1) << cell % 64) - 1);
  (void)code;
  uint32_t n = before[cell / 64];
  for (; word; word &= word - 1) n++;
  return n;
}

/* Where the control goes from a cell besides the next: calls `visit` of each with `argument`. */
typedef void visitor(void *argument, uint32_t cell);

static bool successors(const wsr_code *code, uint32_t at, visitor *visit, void *argument) {
  const wsr_cell *c = &code->cells[at];
  switch (c->op) {
    case WSR_OP_BR:
    case WSR_OP_BR_BACK:
    case WSR_OP_JUMP: visit(argument, c->u.p.a); return false;
    case WSR_OP_BR_IF:
    case WSR_OP_BR_IF_BACK:
    case WSR_OP_IF: visit(argument, c->u.p.a); return true;
    case WSR_OP_BR_TABLE:
      for (uint32_t i = 0; i < c->u.p.b; i++) visit(argument, code->targets[c->u.p.a + i].cell);
      return false;
    case WSR_OP_RETURN:
    case WSR_OP_RETURN_AT_END:
    case WSR_OP_RETURN_CALL:
    case WSR_OP_RETURN_CALL_INDIRECT:
    case WSR_OP_UNREACHABLE: return false;
    default: return true;
  }
}

static void mark_leader(void *live, uint32_t cell) {
  ((uint64_t *)live)[cell / 64] |= UINT64_C(1) << cell % 64;
}

typedef struct {
  const flow *f;
  const uint64_t *live;
  const uint32_t *before;
  const uint64_t *sets;
  uint64_t *out;
} joining;

static void join(void *argument, uint32_t cell) {
  const joining *j = argument;
  const uint64_t *set =
      j->sets + (size_t)rank(j->f->code, j->live, j->before, cell) * j->f->words;
  for (uint32_t w = 0; w < j->f->words; w++) j->out[w] |= set[w];
}

/* Take one cell's effect into the set: backward, a write kills and a read makes live. */
static void transfer(const wsr_cell *c, uint64_t *set) {
  const uint64_t bit = UINT64_C(1) << c->u.p.a % 64;
  if (c->op == WSR_OP_LOCAL_GET) set[c->u.p.a / 64] |= bit;
  if (c->op == WSR_OP_LOCAL_SET || c->op == WSR_OP_LOCAL_TEE) set[c->u.p.a / 64] &= ~bit;
}

/* The set before cell `from`, whose block ends before the next leader. */
static void walk_back(const flow *f, const joining *j, uint32_t from) {
  const wsr_code *code = f->code;
  uint32_t last = from;
  while (last + 1 < code->n_cells && !is_leader(j->live, last + 1)) last++;
  memset(j->out, 0, f->words * sizeof *j->out);
  if (successors(code, last, join, (void *)(uintptr_t)j) && last + 1 < code->n_cells)
    join((void *)(uintptr_t)j, last + 1);
  for (uint32_t at = last + 1; at-- > from;) transfer(&code->cells[at], j->out);
}

static uint32_t *ranks(const wsr_code *code, const uint64_t *live, uint32_t *n_leaders) {
  const uint64_t words = bitmap_words(code);
  uint32_t *before = malloc((words + 1) * sizeof *before);
  if (!before) return NULL;
  uint32_t n = 0;
  for (uint64_t w = 0; w < words; w++) {
    before[w] = n;
    for (uint64_t bits = live[w]; bits; bits &= bits - 1) n++;
  }
  *n_leaders = n;
  return before;
}

static uint64_t *analyse(const wsr_code *code, uint32_t words) {
  const uint64_t map = bitmap_words(code);
  uint64_t *live = calloc(map, sizeof *live);
  if (!live) return NULL;
  mark_leader(live, 0);
  for (uint32_t at = 0; at < code->n_cells; at++) {
    const uint16_t op = code->cells[at].op;
    const bool next = successors(code, at, mark_leader, live);
    const bool branches = op == WSR_OP_BR_IF || op == WSR_OP_BR_IF_BACK || op == WSR_OP_IF;
    if ((!next || branches) && at + 1 < code->n_cells) mark_leader(live, at + 1);
  }
  uint32_t n_leaders;
  uint32_t *before = ranks(code, live, &n_leaders);
  uint64_t *grown = realloc(live, (map + (size_t)n_leaders * words) * sizeof *live);
  uint64_t *out = calloc(words, sizeof *out);
  if (!before || !grown || !out) {
    free(before);
    free(grown ? grown : live);
    free(out);
    return NULL;
  }
  live = grown;
  uint64_t *sets = live + map;
  memset(sets, 0, (size_t)n_leaders * words * sizeof *sets);
  const flow f = {code, words};
  const joining j = {&f, live, before, sets, out};
  for (bool changed = true; changed;) {
    changed = false;
    uint32_t number = n_leaders;
    for (uint32_t at = code->n_cells; at-- > 0;) { /* backward: few rounds, one for each loop depth */
      if (!is_leader(live, at)) continue;
      number--;
      walk_back(&f, &j, at);
      uint64_t *set = sets + (size_t)number * words;
      if (memcmp(set, out, words * sizeof *out) == 0) continue;
      memcpy(set, out, words * sizeof *out);
      changed = true;
    }
  }
  free(before);
  free(out);
  return live;
}

bool wsr_live_locals(const wsr_code *code, uint32_t cell, uint8_t *result) {
  if (code->n_locals == 0) return true;
  const uint32_t words = (code->n_locals + 63) / 64;
  wsr_code *owner = (wsr_code *)(uintptr_t)code; /* `live` is a cache, set once */
  uint64_t *live = atomic_load(&owner->live);
  if (!live) {
    live = analyse(code, words);
    uint64_t *first = NULL;
    if (live && !atomic_compare_exchange_strong(&owner->live, &first, live)) {
      free(live);
      live = first;
    }
    if (!live) return false;
  }
  uint32_t n_leaders;
  uint32_t *before = ranks(code, live, &n_leaders);
  uint64_t *out = calloc(words, sizeof *out);
  if (before && out) {
    const flow f = {code, words};
    const joining j = {&f, live, before, live + bitmap_words(code), out};
    walk_back(&f, &j, cell);
    for (uint32_t i = 0; i < code->n_locals; i++) result[i] = out[i / 64] >> i % 64 & 1;
  }
  const bool good = before && out;
  free(before);
  free(out);
  return good;
}
