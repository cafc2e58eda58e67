/* Which locals are live at a position: those that some path from there reads before it writes them.
 * A snapshot stores the others as zero, so that precise code, fast code and compiled code write the
 * same bytes; the rule is part of the format (docs/snapshot-format.md).
 *
 * Backward data flow over the cells of precise code, which are exactly the reachable instructions;
 * a local is known by its first slot. What holds at the start of each basic block is found once per
 * function and kept with its code; a query walks back from the end of its block. Source: the
 * textbook equation, live-in = uses or (live-out without definitions), iterated to the least fixed
 * point. */
#include <stdlib.h>

#include "core/compile/code.h"

/* The locals that one analysis is about: `words` times 64 of them, from word `base` on. All at once
 * as a rule; a function of very many blocks and locals is done in parts, in bounded memory. */
typedef struct {
  const wsr_code *code;
  uint32_t base, words;
} flow;

enum { MOST_WORDS = 4 << 20 }; /* 32 MiB of sets */

/* Layout of code->live: leader bitmap of n_cells bits; for each of its words the number of leaders
 * before it, two to a word; then one set of locals for each leader. */
static uint64_t bitmap_words(const wsr_code *code) { return (code->n_cells + 63) / 64; }
static uint64_t rank_words(const wsr_code *code) { return (bitmap_words(code) + 1) / 2; }

static bool is_leader(const uint64_t *live, uint32_t cell) {
  return live[cell / 64] >> cell % 64 & 1;
}

static uint32_t rank(const uint64_t *live, const uint32_t *before, uint32_t cell) {
  uint64_t word = live[cell / 64] & ((UINT64_C(1) << cell % 64) - 1);
  uint32_t n = before[cell / 64];
  for (; word; word &= word - 1) n++;
  return n;
}

/* Call `visit` with each cell to which control can go from this cell, other than the next. */
typedef void visitor(void *argument, uint32_t cell);

static bool successors(const wsr_code *code, uint32_t at, visitor *visit, void *argument) {
  const wsr_cell *c = &code->cells[at];
  switch (c->op) {
    case WSR_OP_BR:
    case WSR_OP_BR_BACK:
    case WSR_OP_LEAVE_CATCH:
    case WSR_OP_JUMP: visit(argument, c->u.p.a); return false;
    case WSR_OP_BR_TABLE:
      for (uint32_t i = 0; i < c->u.p.b; i++) visit(argument, code->targets[c->u.p.a + i].cell);
      return false;
    case WSR_OP_RETURN:
    case WSR_OP_RETURN_AT_END:
    case WSR_OP_RETURN_CALL:
    case WSR_OP_RETURN_CALL_INDIRECT:
    case WSR_OP_RETURN_CALL_REF:
    case WSR_OP_THROW:
    case WSR_OP_THROW_REF:
    case WSR_OP_RETHROW:
    case WSR_OP_UNREACHABLE: return false;
    default:
      if (wsr_may_branch(c->op)) visit(argument, c->u.p.a);
      return true;
  }
}

/* Call `visit` with each label at which an exception thrown at the cell can be caught. */
static void catches(const wsr_code *code, uint32_t at, visitor *visit, void *argument) {
  if (!code->n_tries || !wsr_may_throw(code->cells[at].op)) return;
  for (uint32_t t = wsr_try_at(code, at); t != WSR_NONE; t = code->tries[t].parent)
    for (uint32_t c = code->tries[t].first; c != WSR_NONE; c = code->catches[c].next)
      visit(argument, code->targets[code->catches[c].target].cell);
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
  const uint64_t *set = j->sets + (size_t)rank(j->live, j->before, cell) * j->f->words;
  for (uint32_t w = 0; w < j->f->words; w++) j->out[w] |= set[w];
}

/* Apply one cell to the set, backwards: a write kills a local, a read makes it live. */
static void transfer(const flow *f, const wsr_cell *c, uint64_t *set) {
  const bool get = c->op == WSR_OP_LOCAL_GET || c->op == WSR_OP_LOCAL_GET_V128;
  if (!get && c->op != WSR_OP_LOCAL_SET && c->op != WSR_OP_LOCAL_TEE &&
      c->op != WSR_OP_LOCAL_SET_V128 && c->op != WSR_OP_LOCAL_TEE_V128)
    return;
  const uint32_t word = c->u.p.a / 64 - f->base; /* beyond `words` also where it is below */
  if (word >= f->words) return;
  const uint64_t bit = UINT64_C(1) << c->u.p.a % 64;
  if (get)
    set[word] |= bit;
  else
    set[word] &= ~bit;
}

/* The set before cell `from`, whose block ends before the next leader. */
static void walk_back(const flow *f, const joining *j, uint32_t from) {
  const wsr_code *code = f->code;
  uint32_t last = from;
  while (last + 1 < code->n_cells && !is_leader(j->live, last + 1)) last++;
  memset(j->out, 0, f->words * sizeof *j->out);
  if (successors(code, last, join, (void *)(uintptr_t)j) && last + 1 < code->n_cells)
    join((void *)(uintptr_t)j, last + 1);
  for (uint32_t at = last + 1; at-- > from;) {
    catches(code, at, join, (void *)(uintptr_t)j);
    transfer(f, &code->cells[at], j->out);
  }
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

/* The leader bitmap alone. */
static uint64_t *find_leaders(const wsr_code *code) {
  uint64_t *live = calloc(bitmap_words(code), sizeof *live);
  if (!live) return NULL;
  mark_leader(live, 0);
  for (uint32_t c = 0; c < code->n_catches; c++)
    mark_leader(live, code->targets[code->catches[c].target].cell);
  for (uint32_t at = 0; at < code->n_cells; at++) {
    const uint16_t op = code->cells[at].op;
    const bool next = successors(code, at, mark_leader, live);
    if ((!next || wsr_may_branch(op)) && at + 1 < code->n_cells) mark_leader(live, at + 1);
  }
  return live;
}

/* The sets at all leaders, to the least fixed point. */
static uint64_t *solve(const flow *f, const uint64_t *live, const uint32_t *before,
                       uint32_t n_leaders) {
  const uint32_t words = f->words;
  uint64_t *sets = calloc((size_t)n_leaders * words, sizeof *sets);
  uint64_t *out = calloc(words, sizeof *out);
  if (!sets || !out) {
    free(sets);
    free(out);
    return NULL;
  }
  const joining j = {f, live, before, sets, out};
  for (bool changed = true; changed;) {
    changed = false;
    uint32_t number = n_leaders;
    for (uint32_t at = f->code->n_cells; at-- > 0;) { /* backward, so that few rounds suffice */
      if (!is_leader(live, at)) continue;
      uint64_t *set = sets + (size_t)--number * words;
      walk_back(f, &j, at);
      if (memcmp(set, out, words * sizeof *out) == 0) continue;
      memcpy(set, out, words * sizeof *out);
      changed = true;
    }
  }
  free(out);
  return sets;
}

/* Answer for the locals of one flow. */
static bool answer(const flow *f, const uint64_t *live, const uint32_t *before,
                   const uint64_t *sets, uint32_t cell, uint8_t *result) {
  uint64_t *out = calloc(f->words, sizeof *out);
  if (!out) return false;
  const joining j = {f, live, before, sets, out};
  walk_back(f, &j, cell);
  const uint32_t first = f->base * 64;
  for (uint32_t i = 0; i < f->words * 64 && first + i < f->code->n_locals; i++)
    result[first + i] = out[i / 64] >> i % 64 & 1;
  free(out);
  return true;
}

/* Keep the result with the code, in one block, for later questions. */
static void keep(wsr_code *code, const uint64_t *live, const uint32_t *before, const uint64_t *sets,
                 size_t n_sets) {
  const uint64_t map = bitmap_words(code), n_ranks = rank_words(code);
  uint64_t *all = malloc((map + n_ranks + n_sets) * sizeof *all), *none = NULL;
  if (!all) return;
  memcpy(all, live, map * sizeof *all);
  memcpy(all + map, before, map * sizeof *before);
  memcpy(all + map + n_ranks, sets, n_sets * sizeof *all);
  if (!WSR_PUBLISH_FIRST(&code->live, &none, all)) free(all);
}

bool wsr_live_locals(wsr_code *code, uint32_t cell, uint8_t *result) {
  if (code->n_locals == 0) return true;
  const uint32_t words = (code->n_locals + 63) / 64;
  const uint64_t *kept = WSR_PUBLISHED(&code->live);
  if (kept) {
    const flow all = {code, 0, words};
    const uint64_t *behind = kept + bitmap_words(code);
    return answer(&all, kept, (const uint32_t *)behind, behind + rank_words(code), cell, result);
  }
  uint64_t *live = find_leaders(code);
  uint32_t n_leaders = 0;
  uint32_t *before = live ? ranks(code, live, &n_leaders) : NULL;
  bool good = before != NULL;
  if (good) {
    const uint32_t fit = MOST_WORDS / n_leaders;
    const uint32_t part = fit >= words ? words : fit ? fit : 1;
    for (uint32_t base = 0; good && base < words; base += part) {
      const flow f = {code, base, words - base < part ? words - base : part};
      uint64_t *sets = solve(&f, live, before, n_leaders);
      good = sets && answer(&f, live, before, sets, cell, result);
      if (good && part == words) keep(code, live, before, sets, (size_t)n_leaders * words);
      free(sets);
    }
  }
  free(before);
  free(live);
  return good;
}

bool wsr_live_at_marked(wsr_code *code, const uint8_t *marked, wsr_live_visitor *visit,
                        void *context) {
  if (code->n_locals == 0) return true;
  uint8_t *result = malloc(code->n_locals);
  const bool known = result && wsr_live_locals(code, 0, result);
  free(result);
  const uint64_t *const live = WSR_PUBLISHED(&code->live);
  if (!known || !live) return false;
  const flow f = {code, 0, (code->n_locals + 63) / 64};
  const uint32_t *const before = (const uint32_t *)(live + bitmap_words(code));
  const uint64_t *const sets = live + bitmap_words(code) + rank_words(code);
  uint64_t *const out = calloc(f.words, sizeof *out);
  if (!out) return false;
  const joining j = {&f, live, before, sets, out};
  for (uint32_t at = code->n_cells; at-- > 0;) {
    if (at + 1 == code->n_cells || is_leader(live, at + 1)) { /* the end of a block */
      memset(out, 0, f.words * sizeof *out);
      if (successors(code, at, join, (void *)(uintptr_t)&j) && at + 1 < code->n_cells)
        join((void *)(uintptr_t)&j, at + 1);
    }
    catches(code, at, join, (void *)(uintptr_t)&j);
    transfer(&f, &code->cells[at], out);
    if (marked[at]) visit(context, at, out, f.words);
  }
  free(out);
  return true;
}

bool wsr_live_behind(wsr_code *code, uint32_t cell, uint8_t *live) {
  if (!wsr_live_locals(code, cell + 1, live)) return false;
  if (!code->n_tries) return true;
  uint8_t *more = malloc((size_t)code->n_locals + 1);
  bool good = more != NULL;
  for (uint32_t t = wsr_try_at(code, cell); good && t != WSR_NONE; t = code->tries[t].parent)
    for (uint32_t c = code->tries[t].first; good && c != WSR_NONE; c = code->catches[c].next) {
      good = wsr_live_locals(code, code->targets[code->catches[c].target].cell, more);
      for (uint32_t i = 0; good && i < code->n_locals; i++) live[i] |= more[i];
    }
  free(more);
  return good;
}
