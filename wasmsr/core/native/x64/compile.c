/* Compile a function of fast code to x86-64, in one pass over its cells.
 *
 * The code has a hot and a cold part. The cold part has the ways to C handlers, the code on edges
 * between regions, and the entries: where control comes from a handler, the registers of the region
 * are loaded from their slots. */
#include "core/array.h"
#include "core/native/x64/emit.h"

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
    case CELL_SPECIAL: break;
    default: return wsr_has_vector(s);
  }
  switch (s->op) {
    case WSR_FAST_move:
    case WSR_FAST_move_2:
    case WSR_FAST_constant:
    case WSR_FAST_move_acc_i:
    case WSR_FAST_move_acc_f:
    case WSR_FAST_move_acc_d:
    case WSR_FAST_move_acc_v:
    case WSR_FAST_constant_v:
    case WSR_FAST_select_v_a:
    case WSR_FAST_select_v_w:
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
    case WSR_FAST_table_copy_s:
    case WSR_FAST_table_copy_a:
    case WSR_FAST_call_own:
    case WSR_FAST_call_indirect:
    case WSR_FAST_return_0:
    case WSR_FAST_return_1:
    case WSR_FAST_return_n:
    case WSR_FAST_spend:
    case WSR_FAST_decide: return true;
    default: return false;
  }
}

static bool is_native_call(const wsr_native_cell *c) {
  return c->shape.kind == CELL_SPECIAL &&
         (c->shape.op == WSR_FAST_call_own || c->shape.op == WSR_FAST_call_indirect);
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
    if (e->a->cells[to].loaded >> r & 1 && wsr_is_live(e->a, to, region->slot[r]))
      load_pin(e, region, r);
}

/* Whether the register has the same slot in both regions. */
static bool same_pin(const wsr_region *p, const wsr_region *q, unsigned r) {
  return p->slot[r] == q->slot[r] && p->type[r] == q->type[r];
}

/* From the current cell to the cell `to`: store what is live there and has no register any more,
 * then load what is loaded there and is not yet. Returns whether there is anything to do; does it
 * if `emit`. */
static bool edge(wsr_emission *e, uint32_t to, uint16_t dirty, bool emit) {
  const wsr_region *const p = &e->a->regions[e->c->region], *const q = region_of(e, to);
  const uint16_t loaded = wsr_loaded_behind(e->a, e->i), wanted = e->a->cells[to].loaded;
  if (p == q && !(wanted & ~loaded)) return false;
  bool any = false;
  for (unsigned r = 0; p != q && r < PINS; r++) {
    if (!(dirty >> r & 1) || same_pin(p, q, r) || !wsr_is_live(e->a, to, p->slot[r])) continue;
    any = true;
    if (emit) store_pin(e, p, r);
  }
  for (unsigned r = 0; r < PINS; r++) {
    if (!(wanted >> r & 1) || !wsr_is_live(e->a, to, q->slot[r])) continue;
    if (loaded >> r & 1 && same_pin(p, q, r)) continue;
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

static int32_t handler_number(const wsr_emission *e) {
  return (int32_t)((uint64_t)(uintptr_t)e->c->shape.handler - HANDLER_BASE);
}

/* The cold part begins with what all ways of this function to C handlers share. The word of a cell
 * that C handlers never go on with still has its handler. */
static void emit_to_handlers(wsr_emission *e) {
  e->out = &e->cold;
  for (int given = 1; given >= 0; given--) {
    if (!given) e->to_own_handler = e->cold.n;
    if (e->a->fast->metered) mov_from(e->out, WIDE, THREAD(left), FUEL);
    load_constant(e->out, R10, (uint64_t)(uintptr_t)e->a->fast);
    jump(e, ALWAYS, TO_ROUTINE, given ? e->routines->to_handler : e->routines->to_own_handler);
  }
}

/* An access may be the first of a sequence: it traps, or C handlers go on behind it. */
static bool has_own_handler(const wsr_native_cell *c) {
  if (c->entry) return false;
  return (c->shape.kind >= CELL_LOAD && c->shape.kind <= CELL_STORE) ||
         c->pc[0] == (uint64_t)(uintptr_t)c->shape.handler;
}

void wsr_run_handler(wsr_emission *e, uint16_t dirty) {
  wsr_flush(e, dirty);
  load_constant(e->out, RDI, e->c->word);
  if (has_own_handler(e->c)) {
    jump(e, ALWAYS, TO_COLD, e->to_own_handler);
    return;
  }
  load_constant(e->out, RAX, (uint32_t)handler_number(e));
  jump(e, ALWAYS, TO_COLD, 0);
}

void wsr_call(wsr_emission *e, uint32_t function) {
  const uint64_t start = atomic_load_explicit(&e->callees[function], memory_order_acquire);
  const uint64_t distance = start - (uint64_t)(uintptr_t)e->space->code;
  if (function == e->a->fast->code->function) {
    put8(e->out, 0xE8);
    put32(e->out, 0);
    add_distance(e, TO_START, e->out->n, 0);
  } else if (distance < e->space->size && distance != e->routines->redo[e->a->fast->metered]) {
    put8(e->out, 0xE8);
    put32(e->out, 0);
    add_distance(e, TO_ROUTINE, e->out->n, (uint32_t)distance);
  } else {
    load_constant(e->out, RAX, (uint64_t)(uintptr_t)&e->callees[function]);
    ins(e->out, 0, MAP_1, 0xFF, 0, 2, at(RAX, 0));
  }
}

void wsr_mark_site(wsr_emission *e) {
  const wsr_fast *const fast = e->a->fast;
  if (!e->sites.n) put64(&e->sites, (uint64_t)(uintptr_t)fast);
  const wsr_site site = {.word = e->c->word,
                         .number = (uint32_t)((e->sites.n - sizeof fast) / sizeof site) & INT32_MAX,
                         .indirect = e->c->shape.op == WSR_FAST_call_indirect};
  put8(e->out, 0xA9); /* test eax, distance */
  put32(e->out, 0);
  add_distance(e, TO_SITE, e->out->n, e->sites.n);
  for (size_t k = 0; k < sizeof site; k++) put8(&e->sites, ((const uint8_t *)&site)[k]);
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

/* As C handlers do at calls; not zero: a pause is requested. */
static void poll_call(wsr_emission *e) {
  ins(e->out, 0, MAP_1, 0xF6, 0, 0, THREAD(pause)); /* test byte, 1 */
  put8(e->out, 1);
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
  return c->dirty | c->sets;
}

static uint16_t live_before(const wsr_emission *e, uint16_t registers) {
  const wsr_region *const region = &e->a->regions[e->c->region];
  for (unsigned r = 0; r < PINS; r++)
    if (registers >> r & 1 && !wsr_is_live(e->a, e->i, region->slot[r]))
      registers &= (uint16_t)~(1U << r);
  return registers;
}

/* Load what the cell reads and what is read again behind it. */
static void load_operands(wsr_emission *e) {
  const uint16_t load = (uint16_t)(e->c->uses & e->c->wanted & ~e->loaded);
  for (unsigned r = 0; load >> r; r++)
    if (load >> r & 1) load_pin(e, &e->a->regions[e->c->region], r);
  e->loaded |= load;
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
  load_operands(e);
  if (c->shape.back) poll_loop(e);
  switch (c->shape.kind) {
    case CELL_UNARY:
    case CELL_BINARY:
    case CELL_BRANCH: wsr_emit_numeric(e); break;
    case CELL_SPECIAL: wsr_emit_special(e); break;
    case CELL_LOAD:
    case CELL_LOAD_SUM:
    case CELL_STORE: wsr_emit_memory(e); break;
    default: wsr_emit_vector(e);
  }
  if (c->falls && e->i + 1 < e->a->n_cells) edge(e, e->i + 1, dirty_behind(e), true);
}

/* ---- entries ---- */

/* Where C handlers go on with a cell: all frames are settled. Who comes to the first cell may have
 * pushed a frame. */
static void emit_entry(wsr_emission *e, uint32_t cell) {
  if (!wsr_array_reserve(&e->entries, &e->room_entries, e->n_entries + 1, sizeof *e->entries)) {
    e->failed = true;
    return;
  }
  wsr_buffer *const b = e->out = &e->cold;
  e->entries[e->n_entries++] = (wsr_entry){e->a->cells[cell].word, b->n};
  mov_to(b, WIDE, RSP, THREAD(native_top));
  if (e->a->fast->metered) mov_to(b, WIDE, FUEL, THREAD(left));
  if (cell == 0) {
    put8(b, 0xE8);
    put32(b, 0);
    add_distance(e, TO_ROUTINE, b->n, e->routines->set_limit);
  }
  wsr_load_pins(e, cell);
  jump(e, ALWAYS, TO_CELL, cell);
}

/* Where native code calls the function. Nothing is written before the call is sure to be done. */
static void emit_call_entry(wsr_emission *e) {
  wsr_buffer *const b = e->out = &e->hot;
  const wsr_fast *const fast = e->a->fast;
  poll_call(e);
  jump(e, CC_NE, TO_ROUTINE, e->routines->redo[e->a->fast->metered]);
  alu(b, ALU_CMP, WIDE, RSP, THREAD(native_limit));
  jump(e, CC_B, TO_ROUTINE, e->routines->redo[e->a->fast->metered]);
  lea(b, WIDE, RAX, at(RSI, (int32_t)fast->frame_bytes));
  alu(b, ALU_CMP, WIDE, RAX, THREAD(stack_end));
  jump(e, CC_A, TO_ROUTINE, e->routines->redo[e->a->fast->metered]);
  /* Locals become zero, also those that are not live: a slot never holds a value that its type does
   * not have. */
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
    e->loaded = e->c->loaded;
    emit_cell(e);
    e->failed |= e->hot.failed || e->cold.failed || e->sites.failed || e->hot.n > MOST_CODE ||
                 wsr_pause_requested_at(a->interrupt, i);
  }
  for (uint32_t i = 0; i < a->n_cells && !e->failed; i++)
    if (a->cells[i].entry) emit_entry(e, i);
  e->failed |= e->hot.failed || e->cold.failed;
}

static void resolve(const wsr_emission *e, uint8_t *hot, uint32_t offset) {
  const uint32_t cold = e->hot.n, sites = cold + e->cold.n; /* one follows the other */
  for (uint32_t k = 0; k < e->n_distances; k++) {
    const wsr_distance *const d = &e->distances[k];
    const uint32_t base = d->cold ? cold : 0;
    const uint32_t to = d->kind == TO_CELL    ? e->label[d->to]
                        : d->kind == TO_COLD  ? cold + d->to
                        : d->kind == TO_SITE  ? sites + d->to
                        : d->kind == TO_START ? 0
                                              : d->to - offset;
    const uint32_t distance = to - (base + d->from);
    memcpy(hot + base + d->place, &distance, sizeof distance);
  }
}

static uint32_t size_of(const wsr_emission *e) { return e->hot.n + e->cold.n + e->sites.n; }

/* Write the code as it is at that offset in the code space. */
static void write_code(const wsr_emission *e, uint8_t *to, uint32_t offset) {
  memcpy(to, e->hot.bytes, e->hot.n);
  memcpy(to + e->hot.n, e->cold.bytes, e->cold.n);
  if (e->sites.n) memcpy(to + e->hot.n + e->cold.n, e->sites.bytes, e->sites.n);
  resolve(e, to, offset);
}

/* Put the code into the code space, and lead the words of the function to it. */
static void install(const wsr_emission *e, wsr_fast *fast) {
  const uint32_t size = size_of(e);
  uint32_t offset;
  wsr_code_space *const space = wsr_code_take(size, &offset);
  if (!space) return;
  write_code(e, space->writable + offset, offset);
  const uint64_t start = (uint64_t)(uintptr_t)(space->code + offset);
  fast->native_bytes = size;
  atomic_store_explicit(&fast->native, start, memory_order_release);
  /* The function may be running: each word leads into native code as soon as it is written. */
  for (uint32_t k = 0; k < e->n_entries; k++)
    atomic_store_explicit((_Atomic uint64_t *)&fast->words[e->entries[k].word],
                          start + e->hot.n + e->entries[k].cold, memory_order_release);
}

/* The module's table of native functions, made now if need be. Before they are published, calls of
 * them are done again by C handlers. */
static _Atomic uint64_t *callees_of(const wsr_module *module, const wsr_code_space *space,
                                    bool metered) {
  _Atomic(_Atomic uint64_t *) *const place = &((wsr_module *)(uintptr_t)module)->native[metered];
  _Atomic uint64_t *callees = WSR_PUBLISHED(place);
  if (callees) return callees;
  _Atomic uint64_t *const made = malloc((size_t)module->n.functions * sizeof *made);
  const uint64_t redo = (uint64_t)(uintptr_t)(space->code + space->routines.redo[metered]);
  for (uint32_t i = 0; made && i < module->n.functions; i++) atomic_init(&made[i], redo);
  if (!made || WSR_PUBLISH_FIRST(place, &callees, made)) return made;
  free((void *)made);
  return callees;
}

void wsr_native_publish(const wsr_module *module, const wsr_fast *fast) {
  _Atomic uint64_t *const callees = WSR_PUBLISHED(&module->native[fast->metered]);
  atomic_store_explicit(&callees[fast->code->function], fast->native, memory_order_release);
}

/* Make the code; `e` is to be freed in any case. */
static bool emit(wsr_emission *e, const wsr_module *module, const wsr_fast *fast, wsr_analysis *a,
                 const wsr_request *interrupt) {
  wsr_code_space *const space = wsr_code_space_get();
  _Atomic uint64_t *const callees = space ? callees_of(module, space, fast->metered) : NULL;
  *e = (wsr_emission){.a = a, .space = space, .callees = callees};
  if (!callees || !wsr_analyse(a, fast, interrupt)) return false;
  e->routines = &space->routines;
  e->label = calloc(a->n_cells, sizeof *e->label);
  e->pin_of = calloc((size_t)a->n_slots + 1, 1);
  if (!e->label || !e->pin_of) return false;
  e->pinned = a->n_regions - 1;
  for (unsigned r = 0; r < PINS; r++) {
    const uint32_t slot = a->regions[e->pinned].slot[r];
    if (slot != WSR_NONE) e->pin_of[slot] = (uint8_t)(r + 1);
  }
  emit_to_handlers(e);
  emit_call_entry(e);
  emit_function(e);
  return !e->failed;
}

static void free_emission(wsr_emission *e, wsr_analysis *a) {
  free(e->label);
  free(e->pin_of);
  free(e->hot.bytes);
  free(e->cold.bytes);
  free(e->sites.bytes);
  free(e->distances);
  free(e->entries);
  wsr_analysis_free(a);
}

void wsr_native_compile(const wsr_module *module, wsr_fast *fast, const wsr_request *interrupt) {
  wsr_analysis a = {0};
  wsr_emission e;
  if (emit(&e, module, fast, &a, interrupt)) install(&e, fast);
  free_emission(&e, &a);
}

/* ---- listings ---- */

static const char *name_of(const wsr_native_cell *c) {
#define NAME(name) [WSR_FAST_##name] = #name,
  static const char *const special[WSR_FAST_SPECIALS] = {WSR_EACH_SPECIAL(NAME)};
#undef NAME
  if (c->shape.kind == CELL_OTHER) return "";
  return c->shape.kind == CELL_SPECIAL ? special[c->shape.op] : wsr_opcode_table[c->shape.op].name;
}

/* The words of fast code that has native code lead into that, so listings are made of a copy. */
int wsr_native_list(wsr_module *module, uint32_t function, wsr_native_listing *out) {
  *out = (wsr_native_listing){0};
  const wsr_code *const code = wsr_compile(module, function, false, NULL);
  wsr_fast *const fast = code ? wsr_fast_copy(module, code) : NULL;
  wsr_analysis a = {0};
  wsr_emission e = {0};
  if (fast && emit(&e, module, fast, &a, NULL)) {
    out->cells = calloc(a.n_cells, sizeof *out->cells);
    out->code = malloc(size_of(&e));
  }
  if (out->cells && out->code) {
    for (uint32_t i = 0; i < a.n_cells; i++) {
      const wsr_native_cell *const c = &a.cells[i];
      out->cells[i] =
          (wsr_listed_cell){name_of(c), code->offsets[c->cell], e.label[i], c->has_template};
    }
    write_code(&e, out->code, e.space->size); /* routines lie before it */
    out->n_cells = a.n_cells;
    out->bytes = size_of(&e);
    out->hot = e.hot.n;
    out->records = e.sites.n;
  }
  free_emission(&e, &a);
  wsr_fast_free(fast);
  return out->n_cells > 0;
}

void wsr_native_list_free(wsr_native_listing *listing) {
  free(listing->cells);
  free(listing->code);
  *listing = (wsr_native_listing){0};
}
#endif
