/* Compile a function of fast code to x86-64, in one pass over its cells.
 *
 * The code has a hot and a cold part. The cold part has the ways to C handlers, the code on edges
 * between regions, and the entries: where control comes from a handler, the registers of the region
 * are loaded from their slots. */
#include "core/array.h"
#include "core/native/emit.h"

#if WSR_NATIVE

#define THREAD(member) at(R8, (int32_t)offsetof(wsr_thread, member))
enum { MOST_CODE = 16 << 20 };

bool wsr_has_template(const wsr_shape *s) {
  switch (s->kind) {
    case CELL_UNARY:
    case CELL_BINARY:
    case CELL_BRANCH: return wsr_has_numeric(s);
    case CELL_LOAD:
    case CELL_LOAD_SUM:
    case CELL_STORE: return true;
    case CELL_OTHER: return false;
    default: break;
  }
  switch (s->op) {
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
    case WSR_FAST_get_f_a:
    case WSR_FAST_get_f_w:
    case WSR_FAST_get_d_a:
    case WSR_FAST_get_d_w:
    case WSR_FAST_get_add_a:
    case WSR_FAST_get_add_w:
    case WSR_FAST_set_s:
    case WSR_FAST_set_i:
    case WSR_FAST_set_f:
    case WSR_FAST_set_d:
    case WSR_FAST_set_add:
    case WSR_FAST_load_2_a:
    case WSR_FAST_load_2_w:
    case WSR_FAST_branch:
    case WSR_FAST_branch_back:
    case WSR_FAST_true_s:
    case WSR_FAST_true_a:
    case WSR_FAST_false_s:
    case WSR_FAST_false_a:
    case WSR_FAST_true_back_s:
    case WSR_FAST_true_back_a:
    case WSR_FAST_false_back_s:
    case WSR_FAST_false_back_a:
    case WSR_FAST_table_s:
    case WSR_FAST_table_a:
    case WSR_FAST_call_own:
    case WSR_FAST_call_indirect:
    case WSR_FAST_return_0:
    case WSR_FAST_return_1:
    case WSR_FAST_return_n: return true;
    default: return false;
  }
}

static bool is_native_call(const wsr_native_cell *c) {
  return c->shape.kind == CELL_SPECIAL &&
         (c->shape.op == WSR_FAST_call_own || c->shape.op == WSR_FAST_call_indirect);
}
static bool is_tail_call(const wsr_native_cell *c) {
  return c->shape.kind == CELL_SPECIAL &&
         (c->shape.op == WSR_FAST_tail_call || c->shape.op == WSR_FAST_tail_call_indirect ||
          c->shape.op == WSR_FAST_tail_call_ref);
}

/* ---- distances ---- */

static void add_distance(wsr_emission *e, uint8_t kind, uint32_t from, uint32_t to) {
  if (!wsr_array_reserve(&e->distances, &e->room_distances, e->n_distances + 1,
                         sizeof *e->distances)) {
    e->failed = true;
    return;
  }
  e->distances[e->n_distances++] =
      (wsr_distance){e->out == &e->cold, kind, e->out->n - 4, from, to};
}

static void jump(wsr_emission *e, int condition, uint8_t kind, uint32_t to) {
  if (condition == ALWAYS) {
    put8(e->out, 0xE9);
  } else {
    put8(e->out, 0x0F);
    put8(e->out, 0x80U | (unsigned)condition);
  }
  put32(e->out, 0);
  add_distance(e, kind, e->out->n, to);
}

/* ---- pinned registers and their slots ---- */

static const wsr_region *region_of(const wsr_emission *e, uint32_t cell) {
  return &e->a->regions[e->a->cells[cell].region];
}

static void enter_region(wsr_emission *e, uint32_t region) {
  if (e->pinned == region) return;
  const wsr_region *const old = &e->a->regions[e->pinned], *const new = &e->a->regions[region];
  for (unsigned r = 0; r < PINS; r++)
    if (old->slot[r] != WSR_NONE) e->pin_of[old->slot[r]] = 0;
  for (unsigned r = 0; r < PINS; r++)
    if (new->slot[r] != WSR_NONE) e->pin_of[new->slot[r]] = (uint8_t)(r + 1);
  e->pinned = region;
}

static void load_pin(wsr_emission *e, const wsr_region *region, unsigned r) {
  const wsr_rm from = slot_at(region->slot[r]);
  if (region->type[r] == TYPE_I)
    mov_to(e->out, WIDE, pin_register(r), from);
  else
    ins(e->out, scalar(region->type[r]), MAP_0F, 0x10, 0, pin_register(r), from);
}

static void store_pin(wsr_emission *e, const wsr_region *region, unsigned r) {
  const wsr_rm to = slot_at(region->slot[r]);
  switch (region->type[r]) {
    case TYPE_I: mov_from(e->out, WIDE, to, pin_register(r)); break;
    case TYPE_D: ins(e->out, 0xF2, MAP_0F, 0x11, 0, pin_register(r), to); break;
    default: /* the high half of the slot becomes zero */
      xmm_to(e->out, 0, R11, pin_register(r));
      mov_from(e->out, WIDE, to, R11);
  }
}

void wsr_flush(wsr_emission *e, uint16_t dirty) {
  const wsr_region *const region = &e->a->regions[e->c->region];
  for (unsigned r = 0; r < PINS; r++)
    if (dirty >> r & 1) store_pin(e, region, r);
}

void wsr_load_pins(wsr_emission *e, uint32_t to) {
  const wsr_region *const region = region_of(e, to);
  for (unsigned r = 0; r < PINS; r++)
    if (region->slot[r] != WSR_NONE && wsr_is_live(e->a, to, region->slot[r]))
      load_pin(e, region, r);
}

/* Whether the register has the same slot in both regions. */
static bool same_pin(const wsr_region *p, const wsr_region *q, unsigned r) {
  return p->slot[r] == q->slot[r] && p->type[r] == q->type[r];
}

/* From the current cell's region to the cell `to`: store what is live there and has no register any
 * more, then load what gets one. Returns whether there is anything to do; does it if `emit`. */
static bool edge(wsr_emission *e, uint32_t to, uint16_t dirty, bool emit) {
  const wsr_region *const p = &e->a->regions[e->c->region], *const q = region_of(e, to);
  if (p == q) return false;
  bool any = false;
  for (unsigned r = 0; r < PINS; r++) {
    if (!(dirty >> r & 1) || same_pin(p, q, r) || !wsr_is_live(e->a, to, p->slot[r])) continue;
    any = true;
    if (emit) store_pin(e, p, r);
  }
  for (unsigned r = 0; r < PINS; r++) {
    if (q->slot[r] == WSR_NONE || same_pin(p, q, r) || !wsr_is_live(e->a, to, q->slot[r])) continue;
    any = true;
    if (emit) load_pin(e, q, r);
  }
  return any;
}

void wsr_jump_to_cell(wsr_emission *e, int condition, uint32_t to) {
  const uint16_t dirty = e->c->dirty; /* branches write nothing */
  if (!edge(e, to, dirty, false)) {
    jump(e, condition, TO_CELL, to);
    return;
  }
  jump(e, condition, TO_COLD, e->cold.n);
  wsr_buffer *const out = e->out;
  e->out = &e->cold;
  edge(e, to, dirty, true);
  jump(e, ALWAYS, TO_CELL, to);
  e->out = out;
}

/* ---- to C handlers ---- */

void wsr_run_handler(wsr_emission *e, uint16_t dirty) {
  wsr_flush(e, dirty);
  if (is_tail_call(e->c)) /* the frame stays, but returns to where its caller's cells say */
    alu_constant(e->out, ALU_ADD, WIDE, in_register(RSP), 16);
  load_constant(e->out, RDI, (uint64_t)(uintptr_t)e->c->pc);
  load_constant(e->out, RAX, (uint64_t)(uintptr_t)e->c->shape.handler);
  jump(e, ALWAYS, TO_ROUTINE, e->routines->to_handler);
}

void wsr_jump_to_handler(wsr_emission *e, unsigned condition) {
  if (e->handler_path == WSR_NONE) {
    wsr_buffer *const out = e->out;
    e->handler_path = e->cold.n;
    e->out = &e->cold;
    wsr_run_handler(e, is_native_call(e->c) ? 0 : e->c->dirty);
    e->out = out;
  }
  jump(e, (int)condition, TO_COLD, e->handler_path);
}

static void poll_loop(wsr_emission *e) {
  alu_constant(e->out, ALU_CMP, 0, THREAD(pause), 0);
  wsr_jump_to_handler(e, CC_NE);
}

void wsr_table_way(wsr_emission *e, uint32_t start, uint32_t number, uint16_t dirty) {
  const wsr_native_cell *const c = e->c;
  const uint32_t to = wsr_cell_at(e->a, wsr_target_word(c, number));
  const uint32_t arity = field_of(e, 1), from = field_of(e, 2);
  const uint32_t slot = (uint32_t)(c->pc[3 + 2 * (size_t)number] >> 32);
  if (to > e->i && !arity && !edge(e, to, dirty, false)) {
    add_distance(e, TO_CELL, start, to);
    return;
  }
  if (e->handler_path == WSR_NONE && to <= e->i) { /* make the path before this way begins */
    const uint32_t n = e->n_distances;
    wsr_buffer none = {.failed = true}, *const out = e->out;
    e->out = &none;
    wsr_jump_to_handler(e, CC_NE);
    e->out = out;
    e->n_distances -= e->n_distances > n; /* the jump itself is nowhere */
  }
  add_distance(e, TO_COLD, start, e->cold.n);
  wsr_buffer *const out = e->out;
  e->out = &e->cold;
  if (to <= e->i) poll_loop(e);
  for (uint32_t k = 0; k < arity && slot != from; k++) {
    mov_to(e->out, WIDE, RAX, slot_at(from + k));
    mov_from(e->out, WIDE, slot_at(slot + k), RAX);
  }
  if (arity)
    wsr_load_pins(e, to);
  else
    edge(e, to, dirty, true);
  jump(e, ALWAYS, TO_CELL, to);
  e->out = out;
}

/* ---- cells ---- */

static uint16_t dirty_behind(const wsr_emission *e) {
  const wsr_native_cell *const c = e->c;
  uint16_t dirty = c->dirty;
  for (unsigned k = 0; k < MOST_WRITES; k++)
    if (c->writes[k].slot < e->a->n_slots && e->pin_of[c->writes[k].slot])
      dirty |= (uint16_t)(1U << (e->pin_of[c->writes[k].slot] - 1));
  return dirty;
}

static uint16_t live_before(const wsr_emission *e, uint16_t registers) {
  const wsr_region *const region = &e->a->regions[e->c->region];
  for (unsigned r = 0; r < PINS; r++)
    if (registers >> r & 1 && !wsr_is_live(e->a, e->i, region->slot[r]))
      registers &= (uint16_t)~(1U << r);
  return registers;
}

static void emit_cell(wsr_emission *e) {
  const wsr_native_cell *const c = e->c;
  if (!c->has_template) {
    wsr_run_handler(e, c->dirty);
    return;
  }
  if (is_native_call(c)) {
    wsr_flush(e, live_before(e, c->dirty));
    wsr_emit_special(e);
    return;
  }
  if (c->shape.back) poll_loop(e);
  switch (c->shape.kind) {
    case CELL_UNARY:
    case CELL_BINARY:
    case CELL_BRANCH: wsr_emit_numeric(e); break;
    case CELL_SPECIAL: wsr_emit_special(e); break;
    default: wsr_emit_memory(e);
  }
  if (c->falls && e->i + 1 < e->a->n_cells) edge(e, e->i + 1, dirty_behind(e), true);
}

/* ---- entries ---- */

/* Where C handlers go on with a cell. They came from native code of the same frame, or not: then a
 * return from this frame goes on as the handlers' table of returns says. */
static void emit_entry(wsr_emission *e, uint32_t cell) {
  if (!wsr_array_reserve(&e->entries, &e->room_entries, e->n_entries + 1, sizeof *e->entries)) {
    e->failed = true;
    return;
  }
  wsr_buffer *const b = e->out = &e->cold;
  e->entries[e->n_entries++] = (wsr_entry){e->a->cells[cell].word, b->n};
  alu_constant(b, ALU_ADD, WIDE, in_register(RSP), 16);
  mov_to(b, WIDE, RAX, THREAD(frame));
  alu(b, ALU_CMP, WIDE, RAX, at(RSP, 8));
  const uint32_t known = jump_short(b, CC_E);
  push(b, RAX);
  put8(b, 0x4C); /* lea r10, [rip + generic_return] */
  put8(b, 0x8D);
  put8(b, 0x15);
  put32(b, 0);
  add_distance(e, TO_ROUTINE, b->n, e->routines->generic_return);
  push(b, R10);
  land(b, known);
  wsr_load_pins(e, cell);
  jump(e, ALWAYS, TO_CELL, cell);
}

/* Where native code calls the function: locals become zero, also those that are not live. A slot
 * never holds a value that its type does not have. */
static void emit_call_entry(wsr_emission *e) {
  wsr_buffer *const b = e->out = &e->hot;
  const wsr_fast *const fast = e->a->fast;
  uint32_t slot = fast->n_params;
  if (slot < fast->n_locals) ins(b, 0, MAP_0F, 0x57, 0, SCRATCH_XMM, in_register(SCRATCH_XMM));
  for (; slot + 1 < fast->n_locals; slot += 2)
    ins(b, 0, MAP_0F, 0x11, 0, SCRATCH_XMM, slot_at(slot));
  if (slot < fast->n_locals) ins(b, 0xF2, MAP_0F, 0x11, 0, SCRATCH_XMM, slot_at(slot));
  wsr_load_pins(e, 0);
}

/* ---- functions ---- */

static void emit_function(wsr_emission *e) {
  const wsr_analysis *const a = e->a;
  for (uint32_t i = 0; i < a->n_cells && !e->failed; i++) {
    e->i = i;
    e->c = &a->cells[i];
    e->out = &e->hot;
    e->handler_path = WSR_NONE;
    e->label[i] = e->hot.n;
    enter_region(e, e->c->region);
    emit_cell(e);
    e->failed |= e->hot.failed || e->cold.failed || e->hot.n > MOST_CODE ||
                 wsr_pause_requested_at(a->interrupt, i);
  }
  for (uint32_t i = 0; i < a->n_cells && !e->failed; i++)
    if (a->cells[i].entry) emit_entry(e, i);
  e->failed |= e->hot.failed || e->cold.failed;
}

static void resolve(const wsr_emission *e, uint8_t *hot, uint32_t offset) {
  const uint32_t cold = e->hot.n; /* the cold part follows */
  for (uint32_t k = 0; k < e->n_distances; k++) {
    const wsr_distance *const d = &e->distances[k];
    const uint32_t base = d->cold ? cold : 0;
    const uint32_t to = d->kind == TO_CELL   ? e->label[d->to]
                        : d->kind == TO_COLD ? cold + d->to
                                             : d->to - offset;
    const uint32_t distance = to - (base + d->from);
    memcpy(hot + base + d->place, &distance, sizeof distance);
  }
}

/* Put the code into the code space, and lead the words of the function to it. */
static void install(const wsr_emission *e, wsr_code_space *space, wsr_fast *fast) {
  const uint32_t size = e->hot.n + e->cold.n, offset = wsr_code_take(space, size);
  if (offset == WSR_NONE) return;
  uint8_t *const to = space->writable + offset;
  memcpy(to, e->hot.bytes, e->hot.n);
  if (e->cold.n) memcpy(to + e->hot.n, e->cold.bytes, e->cold.n);
  resolve(e, to, offset);
  const uint64_t start = (uint64_t)(uintptr_t)(space->code + offset);
  for (uint32_t k = 0; k < e->n_entries; k++)
    fast->words[e->entries[k].word] = start + e->hot.n + e->entries[k].cold;
  fast->native = start;
  fast->native_bytes = size;
}

void wsr_native_compile(wsr_fast *fast, const wsr_request *interrupt) {
  wsr_code_space *const space = wsr_code_space_get();
  wsr_analysis a;
  if (!space || fast->metered || !wsr_analyse(&a, fast, interrupt)) return;
  wsr_emission e = {.a = &a, .routines = &space->routines};
  e.label = calloc(a.n_cells, sizeof *e.label);
  e.pin_of = calloc((size_t)a.n_slots + 1, 1);
  e.failed = !e.label || !e.pin_of;
  if (!e.failed) {
    e.pinned = a.n_regions - 1;
    for (unsigned r = 0; r < PINS; r++) {
      const uint32_t slot = a.regions[e.pinned].slot[r];
      if (slot != WSR_NONE) e.pin_of[slot] = (uint8_t)(r + 1);
    }
    emit_call_entry(&e);
    emit_function(&e);
  }
  if (!e.failed) install(&e, space, fast);
  free(e.label);
  free(e.pin_of);
  free(e.hot.bytes);
  free(e.cold.bytes);
  free(e.distances);
  free(e.entries);
  wsr_analysis_free(&a);
}
#endif
