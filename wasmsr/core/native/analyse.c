/* What native code needs to know about a function: its regions, where slots are live, which slots
 * have a register in each region, which registers can differ from their slots, and which have been
 * loaded from them.
 *
 * A region is an innermost loop, or the rest of the function. The analysis works on the cells of
 * fast code. It is the same for every CPU. */
#include "core/native/native.h"

#if WSR_NATIVE
#include <stdlib.h>

enum { MOST_CELLS = 400000, MOST_SLOTS = 4000 };
enum { MOST_LIVE_BYTES = 64 << 20, MOST_ROUNDS = 100 };
/* Weights of an access, in the region itself and in regions within it. */
enum { OWN_WEIGHT = 10, INNER_WEIGHT = 3 };

static uint64_t *live_at(const wsr_analysis *a, uint32_t cell) {
  return a->live + (size_t)cell * a->live_words;
}
static void add_slot(uint64_t *set, uint32_t slot) { set[slot / 64] |= UINT64_C(1) << slot % 64; }
static void remove_slot(uint64_t *set, uint32_t slot) {
  set[slot / 64] &= ~(UINT64_C(1) << slot % 64);
}

/* ---- cells and entries ---- */

/* A cold path of this cell can go on behind it in the C handlers. */
static bool may_go_on(const wsr_shape *s) {
  if (s->back) return true;
  if (s->kind == CELL_UNARY) {
    const uint8_t from = wsr_opcode_table[s->op].params[0] & 0x7F;
    const uint8_t to = wsr_opcode_table[s->op].result & 0x7F;
    return (from == 0x7C || from == 0x7D) && (to == 0x7E || to == 0x7F);
  }
  if (s->kind != CELL_SPECIAL) return false;
  return s->op == WSR_FAST_call_own || s->op == WSR_FAST_call_indirect;
}

/* A poll that finds a request and goes on can take any way of a table. */
static bool mark_table(wsr_analysis *a, uint32_t i) {
  const wsr_native_cell *const c = &a->cells[i];
  bool back = false;
  for (uint32_t k = 0; k < wsr_n_targets(c); k++) {
    const uint32_t to = wsr_cell_at(a, wsr_target_word(c, k));
    if (to == WSR_NONE) return false;
    a->cells[to].label = true;
    back |= to <= i;
  }
  for (uint32_t k = 0; back && k < wsr_n_targets(c); k++)
    a->cells[wsr_cell_at(a, wsr_target_word(c, k))].entry = true;
  return true;
}

static bool make_cells(wsr_analysis *a) {
  const wsr_fast *const f = a->fast;
  a->cell_at = malloc((size_t)f->n_words * sizeof *a->cell_at);
  if (!a->cell_at) return false;
  memset(a->cell_at, 0xFF, (size_t)f->n_words * sizeof *a->cell_at);
  for (uint32_t i = 0; i < a->n_cells; i++) {
    wsr_native_cell *const c = &a->cells[i];
    if (wsr_pause_requested_at(a->interrupt, i)) return false;
    c->word = f->map[i].word;
    c->cell = f->map[i].cell;
    a->cell_at[c->word] = i;
    c->pc = f->words + c->word;
    if (!wsr_shape_of(c->pc[0], &c->shape)) return false;
    wsr_describe_cell(c, a->n_slots);
    c->has_template = wsr_has_template(&c->shape);
  }
  for (uint32_t i = 0; i < a->n_cells; i++) {
    wsr_native_cell *const c = &a->cells[i];
    if (c->target != WSR_NONE) {
      c->target = wsr_cell_at(a, c->target);
      if (c->target == WSR_NONE) return false;
      a->cells[c->target].label = true;
      if (c->shape.back) a->cells[c->target].entry = true;
    }
    if (wsr_is_table(&c->shape) && !mark_table(a, i)) return false;
    if (c->falls && i + 1 < a->n_cells && (!c->has_template || may_go_on(&c->shape)))
      a->cells[i + 1].entry = true;
  }
  for (uint32_t i = 0; i < f->n_canonical; i++) {
    const uint32_t at = wsr_cell_at(a, f->canonical[i].word);
    if (at == WSR_NONE) continue; /* behind the last cell */
    a->cells[at].entry = true;
  }
  return true;
}

/* ---- regions ---- */

static int outer_first(const void *x, const void *y) {
  const wsr_region *p = x, *q = y;
  const uint32_t m = p->last - p->first, n = q->last - q->first;
  return m == n ? (p->first > q->first) - (p->first < q->first) : (m < n) - (m > n);
}

static void found_back_edge(wsr_analysis *a, uint32_t *last, uint32_t from, uint32_t to) {
  if (to > from) return;
  if (last[to] == WSR_NONE) a->n_regions++;
  if (last[to] == WSR_NONE || last[to] < from) last[to] = from;
}

static bool make_regions(wsr_analysis *a) {
  uint32_t *last = malloc(a->n_cells * sizeof *last); /* by first cell of a loop */
  if (!last) return false;
  memset(last, 0xFF, a->n_cells * sizeof *last);
  for (uint32_t i = 0; i < a->n_cells; i++) {
    const wsr_native_cell *const c = &a->cells[i];
    if (c->target != WSR_NONE) found_back_edge(a, last, i, c->target);
    if (wsr_is_table(&c->shape))
      for (uint32_t k = 0; k < wsr_n_targets(c); k++)
        found_back_edge(a, last, i, wsr_cell_at(a, wsr_target_word(c, k)));
  }
  a->regions = calloc((size_t)a->n_regions + 1, sizeof *a->regions);
  uint64_t work = 0;
  if (a->regions) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_cells; i++)
      if (last[i] != WSR_NONE) a->regions[n++] = (wsr_region){.first = i, .last = last[i]};
    qsort(a->regions, n, sizeof *a->regions, outer_first);
    a->regions[n] = (wsr_region){.first = 0, .last = a->n_cells - 1};
    for (uint32_t i = 0; i < a->n_cells; i++) a->cells[i].region = n;
    for (uint32_t r = 0; r < n; r++) {
      wsr_region *const region = &a->regions[r];
      const uint32_t around = a->cells[region->first].region;
      region->depth = a->regions[around].depth + 1;
      work += region->last - region->first;
      if (work > MOST_CELLS * UINT64_C(40)) break; /* nested without reason */
      for (uint32_t i = region->first; i <= region->last; i++) a->cells[i].region = r;
    }
    a->n_regions = n + 1;
  }
  free(last);
  return a->regions && work <= MOST_CELLS * UINT64_C(40);
}

/* Control goes forward only, so one round over the cells finds all. */
static bool has_no_loops(const wsr_analysis *a) { return a->n_regions == 1; }

/* ---- liveness ---- */

/* Operands that are on the stack before a precise cell, or a few more. */
static uint32_t slots_before(const wsr_analysis *a, uint32_t cell) {
  const wsr_cell *const c = &a->fast->code->cells[cell];
  const uint32_t most = c->s + 4 + c->n;
  return most < a->n_slots ? most : a->n_slots;
}

/* What a snapshot holds at a canonical point is live there. Locals that are live behind a call that
 * throws are those of the label that catches: all of them, to be short. */
static void add_operands(const wsr_analysis *a, uint64_t *set, uint32_t cell) {
  const wsr_code *const code = a->fast->code;
  const bool throws = code->n_tries && wsr_may_throw(code->cells[cell].op);
  for (uint32_t i = throws ? 0 : a->n_locals, n = slots_before(a, cell); i < n; i++)
    add_slot(set, i);
}

typedef struct {
  wsr_analysis *a;
  uint32_t next; /* canonical points before this one are to be looked at */
} marking;

/* One word can be several canonical points, between which no cell was needed. */
static void add_locals(void *context, uint32_t cell, const uint64_t *set, uint32_t words) {
  marking *const m = context;
  const uint32_t most = words < m->a->live_words ? words : m->a->live_words;
  while (m->next > 0 && m->a->fast->canonical[m->next - 1].cell >= cell) {
    const wsr_place *const point = &m->a->fast->canonical[--m->next];
    const uint32_t at = wsr_cell_at(m->a, point->word);
    if (point->cell != cell || at == WSR_NONE) continue;
    uint64_t *const to = live_at(m->a, at);
    for (uint32_t w = 0; w < most; w++) to[w] |= set[w];
  }
}

static bool add_snapshots(wsr_analysis *a) {
  wsr_code *const code = (wsr_code *)(uintptr_t)a->fast->code;
  uint8_t *marked = calloc(code->n_cells, 1);
  if (!marked) return false;
  for (uint32_t i = 0; i < a->fast->n_canonical; i++) {
    const wsr_place *const point = &a->fast->canonical[i];
    const uint32_t at = wsr_cell_at(a, point->word);
    if (at == WSR_NONE || point->cell >= code->n_cells) continue;
    marked[point->cell] = 1;
    add_operands(a, live_at(a, at), point->cell);
  }
  marking m = {a, a->fast->n_canonical};
  const bool good = wsr_live_at_marked(code, marked, add_locals, &m);
  free(marked);
  return good;
}

static bool is_native_call(const wsr_shape *s) {
  return s->kind == CELL_SPECIAL && (s->op == WSR_FAST_call_own || s->op == WSR_FAST_call_indirect);
}

static void add_range(const wsr_analysis *a, uint64_t *set, uint32_t first, uint32_t n) {
  for (uint32_t i = 0; i < n && first + i < a->n_slots; i++) add_slot(set, first + i);
}

/* What the cell reads in addition to its operands. */
static void add_implicit(const wsr_analysis *a, uint64_t *set, const wsr_native_cell *c) {
  if (!c->has_template) {
    add_range(a, set, 0, a->n_slots);
    for (uint32_t k = 0; k < ACCUMULATORS; k++) add_slot(set, a->n_slots + k);
    return;
  }
  if (c->shape.kind != CELL_SPECIAL) return;
  switch (c->shape.op) {
    case WSR_FAST_call_own:
    case WSR_FAST_call_indirect:
      add_range(a, set, wsr_cell_field(c, 0), wsr_cell_field(c, 1));
      if (c->shape.op == WSR_FAST_call_indirect) add_slot(set, wsr_cell_field(c, 2));
      break;
    case WSR_FAST_return_0: add_range(a, set, 0, a->n_slots ? 1 : 0); break;
    case WSR_FAST_return_1: add_range(a, set, wsr_cell_field(c, 0), 1); break;
    case WSR_FAST_return_n: add_range(a, set, wsr_cell_field(c, 0), wsr_cell_field(c, 1)); break;
    case WSR_FAST_table_copy_s:
    case WSR_FAST_table_copy_a:
      add_range(a, set, wsr_cell_field(c, 2), wsr_cell_field(c, 1));
      break;
    default: break;
  }
}

static void join(const wsr_analysis *a, uint64_t *set, uint32_t cell) {
  const uint64_t *const other = live_at(a, cell);
  for (uint32_t w = 0; w < a->live_words; w++) set[w] |= other[w];
}

/* The set before a cell, from those behind it. */
static void transfer(const wsr_analysis *a, uint32_t i, uint64_t *set) {
  const wsr_native_cell *const c = &a->cells[i];
  memset(set, 0, a->live_words * sizeof *set);
  if (c->falls) join(a, set, i + 1);
  if (c->target != WSR_NONE) join(a, set, c->target);
  if (wsr_is_table(&c->shape))
    for (uint32_t k = 0; k < wsr_n_targets(c); k++)
      join(a, set, wsr_cell_at(a, wsr_target_word(c, k)));
  for (unsigned k = 0; k < MOST_WRITES && c->writes[k].slot != NO_SLOT; k++)
    remove_slot(set, c->writes[k].slot);
  for (unsigned k = 0; k < MOST_READS && c->reads[k].slot != NO_SLOT; k++)
    add_slot(set, c->reads[k].slot);
}

static bool make_liveness(wsr_analysis *a) {
  const uint32_t words = a->live_words = (a->n_slots + ACCUMULATORS + 63) / 64;
  const size_t n = (size_t)(a->n_cells + 1) * words;
  if (n * sizeof *a->live > MOST_LIVE_BYTES) return false;
  a->live = calloc(n, sizeof *a->live);
  uint64_t *set = malloc(words * sizeof *set);
  bool good = a->live && set && add_snapshots(a);
  /* Start with what is live whatever comes behind; it stays in every round. */
  for (uint32_t i = 0; good && i < a->n_cells; i++) {
    add_implicit(a, live_at(a, i), &a->cells[i]);
    good = !wsr_pause_requested_at(a->interrupt, i);
    /* in code with counts a call is no canonical point, but its frame waits there too */
    if (is_native_call(&a->cells[i].shape))
      add_operands(a, live_at(a, i), (uint32_t)(a->cells[i].pc[2] >> 32));
  }
  int rounds = 0;
  for (bool changed = good; changed && good;) {
    changed = false;
    good = ++rounds <= MOST_ROUNDS;
    for (uint32_t i = a->n_cells; good && i-- > 0;) {
      uint64_t *const at = live_at(a, i);
      good = !wsr_pause_requested_at(a->interrupt, i);
      transfer(a, i, set);
      for (uint32_t w = 0; w < words; w++) {
        if ((set[w] | at[w]) == at[w]) continue;
        at[w] |= set[w];
        changed = true;
      }
    }
    if (has_no_loops(a)) break;
  }
  free(set);
  return good;
}

/* ---- pinned slots ---- */

typedef struct {
  uint8_t *local_type; /* by slot of a local: TYPE_ANY for those that get no register */
  uint32_t *weight;    /* by slot */
  uint8_t *seen;       /* by slot: a bit for each type with which the region accesses it */
  uint32_t *touched;   /* slots with a weight */
  uint32_t n_touched;
  uint8_t *preferred; /* by slot: the register in another region plus one */
} pinning;

static void weigh(pinning *p, const wsr_access *access, uint32_t n_slots, uint32_t weight) {
  if (access->slot >= n_slots) return;
  if (!p->weight[access->slot]) p->touched[p->n_touched++] = access->slot;
  p->weight[access->slot] += weight;
  p->seen[access->slot] |= (uint8_t)(1U << access->type);
}

/* A move tells an operand the type of the local at its other end. */
static void learn_from_moves(const wsr_analysis *a, pinning *p, const wsr_native_cell *c) {
  if (c->shape.kind != CELL_SPECIAL) return;
  static const uint8_t ends[2][2] = {{0, 3}, {0, 1}};
  if (c->shape.op != WSR_FAST_move && c->shape.op != WSR_FAST_move_2) return;
  const bool two = c->shape.op == WSR_FAST_move_2;
  for (unsigned k = 0; k < (two ? 2U : 1U); k++) {
    const uint32_t from = wsr_cell_field(c, k ? 2 : ends[two][0]);
    const uint32_t to = wsr_cell_field(c, k ? 3 : ends[two][1]);
    const uint32_t local = from < a->n_locals ? from : to, other = from < a->n_locals ? to : from;
    if (local < a->n_locals && other >= a->n_locals)
      p->seen[other] |= (uint8_t)(1U << p->local_type[local]);
  }
}

/* The type of the register for a slot, or TYPE_ANY for none. A register for an f32 keeps 32 bits,
 * so an operand that a move copies whatever it is gets none. */
static uint8_t register_type(const wsr_analysis *a, const pinning *p, uint32_t slot) {
  if (p->seen[slot] & 1U << TYPE_V) return TYPE_ANY;
  if (slot < a->n_locals) { /* slot 0 also takes the result */
    const bool other = p->seen[slot] & (1U << TYPE_I | 1U << TYPE_D);
    return p->local_type[slot] == TYPE_F && other ? TYPE_ANY : p->local_type[slot];
  }
  const uint8_t typed = p->seen[slot] & (uint8_t)~(1U << TYPE_ANY);
  switch (typed) {
    case 1 << TYPE_I: return TYPE_I;
    case 1 << TYPE_D: return TYPE_D;
    case 1 << TYPE_F: return p->seen[slot] & 1 << TYPE_ANY ? TYPE_ANY : TYPE_F;
    default: return TYPE_ANY;
  }
}

static void pin_region(const wsr_analysis *a, pinning *p, uint32_t number) {
  wsr_region *const region = &a->regions[number];
  const bool rest = number + 1 == a->n_regions;
  p->n_touched = 0;
  for (uint32_t i = region->first; i <= region->last; i++) {
    const wsr_native_cell *const c = &a->cells[i];
    const bool own = c->region == number;
    if (rest && !own) continue;
    for (unsigned k = 0; k < MOST_READS && c->reads[k].slot != NO_SLOT; k++)
      weigh(p, &c->reads[k], a->n_slots, own ? OWN_WEIGHT : INNER_WEIGHT);
    for (unsigned k = 0; k < MOST_WRITES && c->writes[k].slot != NO_SLOT; k++)
      weigh(p, &c->writes[k], a->n_slots, own ? OWN_WEIGHT : INNER_WEIGHT);
    learn_from_moves(a, p, c);
  }
  const uint32_t least = rest ? 2 * OWN_WEIGHT : OWN_WEIGHT;
  uint32_t chosen[PINS];
  for (unsigned r = 0; r < PINS; r++) region->slot[r] = chosen[r] = WSR_NONE;
  for (unsigned r = 0; r < PINS; r++) { /* the heaviest first, integers and floats apart */
    uint32_t best = WSR_NONE;
    if (a->fast->metered && r == INTEGER_PINS - 1) continue;
    for (uint32_t k = 0; k < p->n_touched; k++) {
      const uint32_t slot = p->touched[k];
      if (p->weight[slot] < least) continue;
      if (best != WSR_NONE && p->weight[slot] <= p->weight[best]) continue;
      const uint8_t type = register_type(a, p, slot);
      if (type != TYPE_ANY && (type == TYPE_I) == (r < INTEGER_PINS)) best = slot;
    }
    if (best == WSR_NONE) { /* no more of this kind */
      r = r < INTEGER_PINS ? INTEGER_PINS - 1 : PINS - 1;
      continue;
    }
    chosen[r] = best;
    p->weight[best] = 1; /* not again */
  }
  for (int pass = 0; pass < 2; pass++)
    for (unsigned k = 0; k < PINS; k++) {
      const uint32_t slot = chosen[k];
      if (slot == WSR_NONE) continue;
      unsigned r = p->preferred[slot] - 1U;
      if (pass == 0 &&
          (r >= PINS || region->slot[r] != WSR_NONE || (r < INTEGER_PINS) != (k < INTEGER_PINS)))
        continue;
      if (pass == 1) {
        r = k < INTEGER_PINS ? 0 : INTEGER_PINS;
        while (region->slot[r] != WSR_NONE) r++;
        if (!p->preferred[slot]) p->preferred[slot] = (uint8_t)(r + 1);
      }
      region->slot[r] = slot;
      region->type[r] = register_type(a, p, slot);
      chosen[k] = WSR_NONE;
    }
  for (uint32_t k = 0; k < p->n_touched; k++) p->weight[p->touched[k]] = p->seen[p->touched[k]] = 0;
}

static void find_local_types(const wsr_analysis *a, pinning *p) {
  const wsr_code *const code = a->fast->code;
  uint32_t slot = 0;
  for (uint32_t i = 0; i < code->n_local_types && slot < a->n_locals; i++) {
    const wsr_type type = code->local_types[i];
    p->local_type[slot] = type == WSR_I32 || type == WSR_I64 ? TYPE_I
                          : type == WSR_F32                  ? TYPE_F
                          : type == WSR_F64                  ? TYPE_D
                                                             : TYPE_ANY;
    slot += type == WSR_V128 ? 2 : 1;
  }
}

static bool make_pins(wsr_analysis *a) {
  const size_t n = (size_t)a->n_slots + 1;
  pinning p = {.local_type = calloc(n, 1),
               .weight = calloc(n, sizeof *p.weight),
               .seen = calloc(n, 1),
               .touched = calloc(n, sizeof *p.touched),
               .preferred = calloc(n, 1)};
  bool good = p.local_type && p.weight && p.seen && p.touched && p.preferred;
  if (good) {
    find_local_types(a, &p);
    for (uint32_t r = a->n_regions - 1; good && r-- > 0;) { /* inner regions first */
      pin_region(a, &p, r);
      good = !wsr_pause_requested_at(a->interrupt, 1023);
    }
    if (good) pin_region(a, &p, a->n_regions - 1);
  }
  free(p.local_type);
  free(p.weight);
  free(p.seen);
  free(p.touched);
  free(p.preferred);
  return good;
}

/* ---- dirty registers ---- */

static void note_pins(const wsr_region *region, uint16_t *of, bool set) {
  for (unsigned r = 0; r < PINS; r++)
    if (region->slot[r] != WSR_NONE) of[region->slot[r]] = set ? (uint16_t)(1U << r) : 0;
}

/* Turn slots into registers, once for all that follows. */
static bool make_masks(wsr_analysis *a) {
  uint16_t *const of = calloc((size_t)a->n_slots + ACCUMULATORS, sizeof *of);
  uint32_t region = WSR_NONE;
  for (uint32_t i = 0; of && i < a->n_cells; i++) {
    wsr_native_cell *const c = &a->cells[i];
    if (c->region != region) {
      if (region != WSR_NONE) note_pins(&a->regions[region], of, false);
      region = c->region;
      note_pins(&a->regions[region], of, true);
    }
    for (unsigned k = 0; k < MOST_READS && c->reads[k].slot != NO_SLOT; k++)
      c->uses |= of[c->reads[k].slot];
    for (unsigned k = 0; k < MOST_WRITES && c->writes[k].slot != NO_SLOT; k++)
      c->sets |= of[c->writes[k].slot];
  }
  free(of);
  return of != NULL;
}

uint16_t wsr_carried(const wsr_analysis *a, uint32_t region, uint16_t dirty, uint32_t to) {
  const wsr_region *const p = &a->regions[region], *const q = &a->regions[a->cells[to].region];
  uint16_t kept = 0;
  for (unsigned r = 0; dirty >> r; r++)
    if (dirty >> r & 1 && p->slot[r] == q->slot[r] && p->type[r] == q->type[r] &&
        wsr_is_live(a, to, p->slot[r]))
      kept |= (uint16_t)(1U << r);
  return kept;
}

static bool flow_to(wsr_analysis *a, uint32_t region, uint16_t dirty, uint32_t to) {
  if (!(dirty & ~a->cells[to].dirty)) return false;
  const uint16_t kept = wsr_carried(a, region, dirty, to);
  if ((a->cells[to].dirty | kept) == a->cells[to].dirty) return false;
  a->cells[to].dirty |= kept;
  return true;
}

static bool writes_memory_first(const wsr_native_cell *c) {
  if (!c->has_template) return true;
  if (c->shape.kind != CELL_SPECIAL) return false;
  return c->shape.op == WSR_FAST_call_own || c->shape.op == WSR_FAST_call_indirect ||
         (wsr_is_table(&c->shape) && wsr_cell_field(c, 1) > 0);
}

static bool make_dirty(wsr_analysis *a) {
  int rounds = 0;
  for (bool changed = true; changed;) {
    changed = false;
    if (++rounds > MOST_ROUNDS) return false;
    for (uint32_t i = 0; i < a->n_cells; i++) {
      if (wsr_pause_requested_at(a->interrupt, i)) return false;
      const wsr_native_cell *const c = &a->cells[i];
      const uint16_t dirty =
          (writes_memory_first(c) ? 0 : c->dirty) | (c->has_template ? c->sets : 0);
      if (c->falls && i + 1 < a->n_cells) changed |= flow_to(a, c->region, dirty, i + 1);
      if (c->target != WSR_NONE) changed |= flow_to(a, c->region, dirty, c->target);
      if (wsr_is_table(&c->shape))
        for (uint32_t k = 0; k < wsr_n_targets(c); k++)
          changed |= flow_to(a, c->region, dirty, wsr_cell_at(a, wsr_target_word(c, k)));
    }
    if (has_no_loops(a)) break;
  }
  return true;
}

/* ---- loaded registers ---- */

/* Registers that have the same slot in the regions of both cells. */
static uint16_t common(const wsr_analysis *a, uint32_t from, uint32_t to) {
  const uint32_t first = a->cells[from].region, second = a->cells[to].region;
  if (first == second) return (1U << PINS) - 1;
  const wsr_region *const p = &a->regions[first], *const q = &a->regions[second];
  uint16_t set = 0;
  for (unsigned r = 0; r < PINS; r++)
    if (p->slot[r] == q->slot[r] && p->type[r] == q->type[r]) set |= (uint16_t)(1U << r);
  return set;
}

/* A call or a handler follows, which keeps no register. */
static bool keeps_none(const wsr_native_cell *c) {
  return !c->has_template ||
         (c->shape.kind == CELL_SPECIAL &&
          (c->shape.op == WSR_FAST_call_own || c->shape.op == WSR_FAST_call_indirect));
}

typedef struct {
  wsr_analysis *a;
  uint16_t *before; /* by cell: wanted before it */
  bool changed;
} wanting;

static void want(wanting *w, uint32_t i, uint32_t to) {
  wsr_native_cell *const c = &w->a->cells[i];
  c->wanted |= w->before[to] & common(w->a, i, to);
}

static void want_before(wanting *w, uint32_t i) {
  const wsr_analysis *const a = w->a;
  wsr_native_cell *const c = &a->cells[i];
  if (!keeps_none(c)) {
    if (c->falls && i + 1 < a->n_cells) want(w, i, i + 1);
    if (c->target != WSR_NONE) want(w, i, c->target);
    if (wsr_is_table(&c->shape))
      for (uint32_t k = 0; k < wsr_n_targets(c); k++)
        want(w, i, wsr_cell_at(a, wsr_target_word(c, k)));
  }
  const uint16_t before = (uint16_t)(c->wanted & ~c->sets) | c->uses;
  w->changed |= before != w->before[i];
  w->before[i] = before;
}

/* A register is loaded behind an edge only if it is loaded before it, whatever the edge; between
 * regions the code on the edge loads. */
static bool loaded_to(wsr_analysis *a, uint32_t from, uint16_t loaded, uint32_t to) {
  wsr_native_cell *const t = &a->cells[to];
  if (a->cells[from].region != t->region) return false;
  const uint16_t kept = (t->loaded & loaded) | t->dirty;
  if (kept == t->loaded) return false;
  t->loaded = kept;
  return true;
}

uint16_t wsr_loaded_behind(const wsr_analysis *a, uint32_t i) {
  const wsr_native_cell *const c = &a->cells[i];
  if (keeps_none(c)) return 0;
  return c->loaded | (c->uses & c->wanted) | c->sets;
}

/* Begin with all that is wanted, and take away what an edge does not bring. What may be dirty is
 * always loaded. */
static bool make_loaded(wsr_analysis *a) {
  wanting w = {a, calloc((size_t)a->n_cells, sizeof *w.before), true};
  if (!w.before) return false;
  int rounds = 0;
  bool good = true;
  while (w.changed && good) {
    w.changed = false;
    good = ++rounds <= MOST_ROUNDS;
    for (uint32_t i = a->n_cells; good && i-- > 0;) {
      want_before(&w, i);
      good = !wsr_pause_requested_at(a->interrupt, i);
    }
    if (has_no_loops(a)) break;
  }
  for (uint32_t i = 0; i < a->n_cells; i++) a->cells[i].loaded = w.before[i] | a->cells[i].dirty;
  if (a->cells[0].region + 1 == a->n_regions) a->cells[0].loaded = a->cells[0].dirty;
  free(w.before);
  rounds = 0;
  for (bool changed = good; changed && good;) {
    changed = false;
    good = ++rounds <= MOST_ROUNDS;
    for (uint32_t i = 0; good && i < a->n_cells; i++) {
      good = !wsr_pause_requested_at(a->interrupt, i);
      const wsr_native_cell *const c = &a->cells[i];
      const uint16_t loaded = wsr_loaded_behind(a, i);
      if (c->falls && i + 1 < a->n_cells) changed |= loaded_to(a, i, loaded, i + 1);
      if (c->target != WSR_NONE) changed |= loaded_to(a, i, loaded, c->target);
      if (wsr_is_table(&c->shape))
        for (uint32_t k = 0; k < wsr_n_targets(c); k++)
          changed |= loaded_to(a, i, loaded, wsr_cell_at(a, wsr_target_word(c, k)));
    }
    if (has_no_loops(a)) break;
  }
  return good;
}

/* ---- checks of bounds ---- */

/* The bytes behind an address that accesses with few checks may reach. */
enum { FURTHEST = 1 << 16 };

typedef struct {
  uint32_t *end;     /* by slot: the address in the slot and so much more is in bounds; or 0 */
  uint32_t *touched; /* slots whose `end` is not 0, and others */
  uint32_t n_touched;
} bounds;

static void forget_bounds(bounds *b) {
  while (b->n_touched) b->end[b->touched[--b->n_touched]] = 0;
}

static void set_bound(bounds *b, uint32_t slot, uint32_t end) {
  if (!b->end[slot]) b->touched[b->n_touched++] = slot;
  b->end[slot] = end;
}

/* The end of an access to memory 0 by an address in a slot, from that address on; 0: it is none. */
static uint32_t access_end(const wsr_native_cell *c) {
  const uint8_t kind = c->shape.kind;
  if ((kind != CELL_LOAD && kind != CELL_STORE) || !c->has_template || c->shape.a != WSR_S)
    return 0;
  const uint64_t end = (uint64_t)wsr_cell_number(c) + wsr_opcode_table[c->shape.op].width;
  return end <= FURTHEST ? (uint32_t)end : 0;
}

/* Whether the cell changes no slots but those that it is described to write. */
static bool is_plain(const wsr_native_cell *c) {
  if (!c->has_template) return false;
  if (c->shape.kind != CELL_SPECIAL) return c->shape.kind <= CELL_STORE;
  switch (c->shape.op) {
    case WSR_FAST_move:
    case WSR_FAST_move_2:
    case WSR_FAST_constant:
    case WSR_FAST_move_acc_i:
    case WSR_FAST_move_acc_f:
    case WSR_FAST_move_acc_d:
    case WSR_FAST_select_s:
    case WSR_FAST_select_a:
    case WSR_FAST_get_i_a:
    case WSR_FAST_get_i_w:
    case WSR_FAST_get_add_a:
    case WSR_FAST_get_add_w:
    case WSR_FAST_set_s:
    case WSR_FAST_set_i:
    case WSR_FAST_set_add:
    case WSR_FAST_load_2_a:
    case WSR_FAST_load_2_w:
    case WSR_FAST_true_s:
    case WSR_FAST_true_a:
    case WSR_FAST_false_s:
    case WSR_FAST_false_a:
    case WSR_FAST_spend: return true;
    default: return false;
  }
}

static void forget_written(bounds *b, const wsr_native_cell *c, uint32_t n_slots) {
  if (!is_plain(c)) forget_bounds(b);
  for (unsigned k = 0; k < MOST_WRITES && c->writes[k].slot != NO_SLOT; k++)
    if (c->writes[k].slot < n_slots && b->end[c->writes[k].slot])
      b->end[c->writes[k].slot] = 0; /* it stays among the touched ones */
}

/* Where several accesses by the same address follow each other, the first compares the furthest end
 * and the others nothing. If the comparison fails, its C handler does its access, and those of the
 * others do theirs: so each traps where it should. A memory never shrinks while a program runs. */
static bool make_checks(wsr_analysis *a) {
  const size_t n = (size_t)a->n_slots + 1;
  bounds b = {calloc(n, sizeof *b.end), calloc(n + (size_t)a->n_cells, sizeof *b.touched), 0};
  const bool good = b.end && b.touched;
  for (uint32_t i = good ? a->n_cells : 0; i-- > 0;) {
    wsr_native_cell *const c = &a->cells[i];
    const uint32_t end = access_end(c);
    if (c[1].label || c[1].entry || !c->falls) forget_bounds(&b);
    forget_written(&b, c, a->n_slots);
    if (!end) continue;
    const uint32_t slot = wsr_cell_field(c, 0);
    if (end > b.end[slot]) set_bound(&b, slot, end);
    c->check = b.end[slot];
  }
  if (good) forget_bounds(&b);
  for (uint32_t i = 0; good && i < a->n_cells; i++) {
    wsr_native_cell *const c = &a->cells[i];
    const uint32_t end = access_end(c);
    if (c->label || c->entry) forget_bounds(&b);
    if (end) {
      const uint32_t slot = wsr_cell_field(c, 0);
      if (end <= b.end[slot])
        c->check = CHECK_DONE;
      else
        set_bound(&b, slot, c->check);
    }
    forget_written(&b, c, a->n_slots);
  }
  free(b.end);
  free(b.touched);
  return good;
}

/* ---- all of it ---- */

bool wsr_analyse(wsr_analysis *a, const wsr_fast *fast, const wsr_request *interrupt) {
  *a = (wsr_analysis){.fast = fast,
                      .interrupt = interrupt,
                      .n_cells = fast->n_map,
                      .n_slots = (uint32_t)(fast->frame_bytes / sizeof(uint64_t)),
                      .n_locals = fast->n_locals};
  if (!fast->n_canonical || !a->n_cells || a->n_cells > MOST_CELLS || a->n_slots > MOST_SLOTS)
    return false;
  a->cells = calloc((size_t)a->n_cells + 1, sizeof *a->cells);
  if (!a->cells || !make_cells(a) || !make_regions(a) || !make_liveness(a) || !make_pins(a) ||
      !make_masks(a) || !make_dirty(a) || !make_loaded(a) || !make_checks(a)) {
    wsr_analysis_free(a);
    return false;
  }
  return true;
}

void wsr_analysis_free(wsr_analysis *a) {
  free(a->cells);
  free(a->regions);
  free(a->live);
  free(a->cell_at);
  *a = (wsr_analysis){0};
}
#endif
