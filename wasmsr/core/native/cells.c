/* What a cell of fast code does: from the handler in its word to operands, results and control.
 *
 * The handlers' tables (fast/fast.h) say which handler belongs to which instruction and operand
 * classes. A hash table turns them around. It is made once and never changes. */
#include "core/native/native.h"

#if WSR_NATIVE
#include <stdlib.h>

typedef struct {
  uint64_t handler; /* 0 is free */
  wsr_shape shape;
} known_handler;

enum { PLACES = 1 << 15 };

typedef struct {
  known_handler places[PLACES];
  uint32_t n;
} known_handlers;

static known_handler *look_up(known_handlers *all, uint64_t handler) {
  uint32_t i = (uint32_t)(handler * UINT64_C(0x9E3779B97F4A7C15) >> 49);
  while (all->places[i].handler && all->places[i].handler != handler) i = (i + 1) % PLACES;
  return &all->places[i];
}

/* The first shape of a handler stays: compilers may join equal handlers, whose shapes then are as
 * good as each other. */
static void add(known_handlers *all, wsr_handler *handler, wsr_shape shape) {
  if (!handler || all->n > PLACES / 2) return;
  known_handler *const place = look_up(all, (uint64_t)(uintptr_t)handler);
  if (place->handler) return;
  place->handler = (uint64_t)(uintptr_t)handler;
  shape.handler = handler;
  place->shape = shape;
  all->n++;
}

static void add_numeric(known_handlers *all, uint16_t op) {
  for (uint8_t k = 0; k < 4; k++)
    add(all, wsr_fast_unary[op][k],
        (wsr_shape){.kind = CELL_UNARY, .op = op, .a = k / 2, .writes = k % 2});
  for (uint8_t k = 0; k < 12; k++)
    add(all, wsr_fast_binary[op][k],
        (wsr_shape){.kind = CELL_BINARY, .op = op, .a = k / 6, .b = k / 2 % 3, .writes = k % 2});
  for (uint8_t k = 0; k < 24; k++)
    add(all, wsr_fast_branch[op][k],
        (wsr_shape){.kind = CELL_BRANCH,
                    .op = op,
                    .a = k / 12,
                    .b = k / 4 % 3,
                    .if_false = k / 2 % 2,
                    .back = k % 2});
}

static void add_memory(known_handlers *all, uint16_t op) {
  for (uint8_t k = 0; k < 6; k++)
    add(all, wsr_fast_load[op][k],
        (wsr_shape){.kind = CELL_LOAD, .op = op, .a = k / 2, .writes = k % 2});
  for (uint8_t k = 0; k < 8; k++)
    add(all, wsr_fast_load_sum[op][k],
        (wsr_shape){.kind = CELL_LOAD_SUM, .op = op, .a = k / 2, .writes = k % 2});
  for (uint8_t k = 0; k < 9; k++)
    add(all, wsr_fast_store[op][k],
        (wsr_shape){.kind = CELL_STORE, .op = op, .a = k / 3, .b = k % 3});
}

static uint8_t vector_kind(uint32_t op) {
  const wsr_opcode_row *const row = &wsr_opcode_table[op];
  switch (row->immediate) {
    case WSR_IMM_MEMARG: return row->result ? CELL_VECTOR_LOAD : CELL_VECTOR_STORE;
    case WSR_IMM_LANE: return row->n_params == 1 ? CELL_VECTOR_LANE : CELL_VECTOR_REPLACE;
    case WSR_IMM_LANES: return CELL_VECTOR_SHUFFLE;
    case WSR_IMM_MEMARG_LANE:
    case WSR_IMM_V128: return CELL_OTHER;
    default: break;
  }
  return row->n_params < 2 ? CELL_VECTOR_1 : row->n_params == 2 ? CELL_VECTOR_2 : CELL_VECTOR_3;
}

/* In the order of fast/translate_simd.h. */
static void add_vector(known_handlers *all, uint16_t op) {
  wsr_handler *const *const handlers = wsr_vector_handlers(op);
  const uint8_t kind = vector_kind(op);
  if (!handlers || kind == CELL_OTHER) return;
  static const uint8_t numbers[] = {
      [CELL_VECTOR_1] = 4,       [CELL_VECTOR_2] = 12,     [CELL_VECTOR_3] = 8,
      [CELL_VECTOR_LOAD] = 14,   [CELL_VECTOR_STORE] = 6,  [CELL_VECTOR_LANE] = 2,
      [CELL_VECTOR_REPLACE] = 8, [CELL_VECTOR_SHUFFLE] = 8};
  enum { LOADS = 6 };
  for (uint8_t k = 0; k < numbers[kind]; k++) {
    wsr_shape s = {.kind = kind, .op = op, .a = k / 2, .writes = k % 2};
    if (kind == CELL_VECTOR_2)
      s = (wsr_shape){.kind = kind, .op = op, .a = k / 6, .b = k / 2 % 3, .writes = k % 2};
    if (kind == CELL_VECTOR_SHUFFLE || kind == CELL_VECTOR_REPLACE)
      s = (wsr_shape){.kind = kind, .op = op, .a = k / 4, .b = k / 2 % 2, .writes = k % 2};
    if (kind == CELL_VECTOR_STORE) s = (wsr_shape){.kind = kind, .op = op, .a = k / 2, .b = k % 2};
    if (kind == CELL_VECTOR_LANE) s.a = WSR_S;
    if (kind == CELL_VECTOR_LOAD && k >= LOADS) {
      s.kind = CELL_VECTOR_LOAD_SUM;
      s.a = (uint8_t)(k - LOADS) / 2;
    }
    add(all, handlers[k], s);
  }
}

static known_handlers *gather(void) {
  known_handlers *all = calloc(1, sizeof *all);
  if (!all) return NULL;
  for (uint16_t i = 0; i < WSR_FAST_SPECIALS; i++)
    add(all, wsr_fast_special[i], (wsr_shape){.kind = CELL_SPECIAL, .op = i});
  for (uint16_t op = 0; op < WSR_OP_COUNT; op++) {
    add_numeric(all, op);
    add_memory(all, op);
    add_vector(all, op);
  }
  for (uint32_t i = 0; i < wsr_n_superinstructions; i++) {
    const wsr_superinstruction *s = &wsr_superinstructions[i];
    const known_handler *first = look_up(all, (uint64_t)(uintptr_t)s->cells[0]);
    if (!first->handler) continue;
    known_handler *const place = look_up(all, (uint64_t)(uintptr_t)s->all);
    if (place->handler) continue;
    place->handler = (uint64_t)(uintptr_t)s->all;
    place->shape = first->shape;
    all->n++;
  }
  return all;
}

static known_handlers *known(void) {
  static _Atomic(known_handlers *) made;
  known_handlers *all = WSR_PUBLISHED(&made);
  if (all) return all;
  all = gather();
  known_handlers *first = NULL;
  if (all && !WSR_PUBLISH_FIRST(&made, &first, all)) {
    free(all);
    all = first;
  }
  return all;
}

bool wsr_shape_of(uint64_t handler, wsr_shape *shape) {
  known_handlers *const all = known();
  if (!all) return false;
  const known_handler *const place = look_up(all, handler);
  *shape =
      place->handler ? place->shape : (wsr_shape){.handler = (wsr_handler *)(uintptr_t)handler};
  return true;
}

/* ---- operands and results ---- */

static uint8_t type_of(uint8_t wasm) {
  switch (wasm & 0x7F) {
    case 0x7D: return TYPE_F;
    case 0x7C: return TYPE_D;
    case 0x7B: return TYPE_V;
    default: return TYPE_I;
  }
}
static uint32_t accumulator(uint32_t n_slots, uint8_t type) {
  static const uint8_t of[] = {
      [TYPE_I] = ACC_I, [TYPE_F] = ACC_F, [TYPE_D] = ACC_D, [TYPE_V] = ACC_V};
  return n_slots + of[type];
}

typedef struct {
  wsr_native_cell *c;
  uint32_t n_slots, n_reads, n_writes;
} describing;

static wsr_access access_to(uint32_t slot, uint8_t type) {
  return (wsr_access){(uint16_t)slot, type};
}
static void reads(describing *d, uint32_t slot, uint8_t type) {
  d->c->reads[d->n_reads++] = access_to(slot, type);
  if (type == TYPE_V && slot < d->n_slots) d->c->reads[d->n_reads++] = access_to(slot + 1, type);
}
static void writes(describing *d, uint32_t slot, uint8_t type) {
  d->c->writes[d->n_writes++] = access_to(slot, type);
  if (type == TYPE_V && slot < d->n_slots) d->c->writes[d->n_writes++] = access_to(slot + 1, type);
}
/* An operand of a class, which a field names if it is in a slot. */
static void operand(describing *d, uint8_t class, unsigned k, uint8_t type) {
  if (class == WSR_S) reads(d, wsr_cell_field(d->c, k), type);
  if (class == WSR_A) reads(d, accumulator(d->n_slots, type), type);
}
static void result(describing *d, uint8_t type, unsigned k) {
  writes(d, accumulator(d->n_slots, type), type);
  if (d->c->shape.writes) writes(d, wsr_cell_field(d->c, k), type);
}

static void describe_regular(describing *d) {
  const wsr_shape *const s = &d->c->shape;
  const wsr_opcode_row *const row = &wsr_opcode_table[s->op];
  const uint8_t first = s->op == WSR_OP_CANONICAL_F32   ? TYPE_F
                        : s->op == WSR_OP_CANONICAL_F64 ? TYPE_D
                                                        : type_of(row->params[0]);
  const uint8_t given = row->result ? type_of(row->result) : first;
  switch (s->kind) {
    case CELL_UNARY:
      operand(d, s->a, 0, first);
      result(d, given, 3);
      break;
    case CELL_BINARY:
      operand(d, s->a, 0, first);
      operand(d, s->b, 1, type_of(row->params[1]));
      result(d, given, 3);
      break;
    case CELL_BRANCH:
      operand(d, s->a, 0, first);
      operand(d, s->b, 1, first);
      break;
    case CELL_LOAD:
      operand(d, s->a, 0, TYPE_I);
      result(d, given, 1);
      break;
    case CELL_LOAD_SUM:
    case CELL_VECTOR_LOAD_SUM:
      operand(d, s->a == SUM_ACC_CONSTANT ? WSR_A : WSR_S, 0, TYPE_I);
      if (s->a == SUM_SLOT_SLOT) operand(d, WSR_S, 2, TYPE_I);
      if (s->a == SUM_SLOT_ACC) operand(d, WSR_A, 0, TYPE_I);
      result(d, given, 1);
      break;
    default: operand(d, s->a, 0, TYPE_I); operand(d, s->b, 1, type_of(row->params[1]));
  }
}

static void describe_vector(describing *d) {
  const wsr_shape *const s = &d->c->shape;
  const wsr_opcode_row *const row = &wsr_opcode_table[s->op];
  const uint8_t given = row->result ? type_of(row->result) : TYPE_V;
  switch (s->kind) {
    case CELL_VECTOR_1:
      operand(d, s->a, 0, row->n_params ? type_of(row->params[0]) : TYPE_V);
      result(d, given, 3);
      break;
    case CELL_VECTOR_REPLACE:
    case CELL_VECTOR_2:
      operand(d, s->a, 0, TYPE_V);
      operand(d, s->b, 1, type_of(row->params[1]));
      result(d, given, 3);
      break;
    case CELL_VECTOR_3:
      for (uint8_t k = 0; k < 3; k++) operand(d, s->a == k + 1 ? WSR_A : WSR_S, k, TYPE_V);
      result(d, given, 3);
      break;
    case CELL_VECTOR_LOAD:
      operand(d, s->a, 0, TYPE_I);
      result(d, TYPE_V, 1);
      break;
    case CELL_VECTOR_LANE:
      operand(d, WSR_S, 0, TYPE_V);
      result(d, given, 3);
      break;
    case CELL_VECTOR_SHUFFLE:
      operand(d, s->a, 0, TYPE_V);
      operand(d, s->b, 1, TYPE_V);
      result(d, TYPE_V, 3);
      break;
    default: operand(d, s->a, 0, TYPE_I); operand(d, s->b, 1, TYPE_V);
  }
}

static void describe_vector_moves(describing *d) {
  wsr_native_cell *const c = d->c;
  switch (c->shape.op) {
    case WSR_FAST_move_acc_v:
      operand(d, WSR_A, 0, TYPE_V);
      writes(d, wsr_cell_field(c, 3), TYPE_V);
      break;
    case WSR_FAST_constant_v: writes(d, wsr_cell_field(c, 3), TYPE_V); break;
    case WSR_FAST_select_v_w: c->shape.writes = true; /* fall through */
    case WSR_FAST_select_v_a:
      operand(d, WSR_S, 0, TYPE_V);
      operand(d, WSR_S, 1, TYPE_V);
      operand(d, WSR_S, 2, TYPE_I);
      result(d, TYPE_V, 3);
      break;
    default: break;
  }
}

static void describe_moves(describing *d) {
  wsr_native_cell *const c = d->c;
  switch (c->shape.op) {
    case WSR_FAST_move:
      operand(d, WSR_S, 0, TYPE_ANY);
      writes(d, wsr_cell_field(c, 3), TYPE_ANY);
      break;
    case WSR_FAST_move_2: /* the second may read what the first writes */
      operand(d, WSR_S, 0, TYPE_ANY);
      if (wsr_cell_field(c, 2) != wsr_cell_field(c, 1)) operand(d, WSR_S, 2, TYPE_ANY);
      writes(d, wsr_cell_field(c, 1), TYPE_ANY);
      writes(d, wsr_cell_field(c, 3), TYPE_ANY);
      break;
    case WSR_FAST_constant: writes(d, wsr_cell_field(c, 3), TYPE_ANY); break;
    case WSR_FAST_move_acc_i:
      operand(d, WSR_A, 0, TYPE_I);
      writes(d, wsr_cell_field(c, 3), TYPE_I);
      break;
    case WSR_FAST_move_acc_f:
      operand(d, WSR_A, 0, TYPE_F);
      writes(d, wsr_cell_field(c, 3), TYPE_F);
      break;
    case WSR_FAST_move_acc_d:
      operand(d, WSR_A, 0, TYPE_D);
      writes(d, wsr_cell_field(c, 3), TYPE_D);
      break;
    case WSR_FAST_select_s:
    case WSR_FAST_select_a:
      operand(d, WSR_S, 0, TYPE_ANY);
      operand(d, WSR_S, 1, TYPE_ANY);
      operand(d, c->shape.op == WSR_FAST_select_a ? WSR_A : WSR_S, 2, TYPE_I);
      writes(d, wsr_cell_field(c, 3), TYPE_ANY);
      break;
    default: break;
  }
}

static void describe_globals(describing *d) {
  wsr_native_cell *const c = d->c;
  const uint16_t op = c->shape.op;
  c->shape.writes |= op == WSR_FAST_get_i_w || op == WSR_FAST_get_f_w || op == WSR_FAST_get_d_w ||
                     op == WSR_FAST_get_add_w;
  switch (op) {
    case WSR_FAST_get_i_a:
    case WSR_FAST_get_i_w:
    case WSR_FAST_get_add_a:
    case WSR_FAST_get_add_w: result(d, TYPE_I, 1); break;
    case WSR_FAST_get_f_a:
    case WSR_FAST_get_f_w: result(d, TYPE_F, 1); break;
    case WSR_FAST_get_d_a:
    case WSR_FAST_get_d_w: result(d, TYPE_D, 1); break;
    case WSR_FAST_set_s: operand(d, WSR_S, 0, TYPE_ANY); break;
    case WSR_FAST_set_add: operand(d, WSR_S, 0, TYPE_I); break;
    case WSR_FAST_set_i: operand(d, WSR_A, 0, TYPE_I); break;
    case WSR_FAST_set_f: operand(d, WSR_A, 0, TYPE_F); break;
    case WSR_FAST_set_d: operand(d, WSR_A, 0, TYPE_D); break;
    case WSR_FAST_load_2_w: c->shape.writes = true; /* fall through */
    case WSR_FAST_load_2_a:
      operand(d, WSR_S, 0, TYPE_I);
      if (wsr_cell_field(c, 2) != wsr_cell_field(c, 1)) operand(d, WSR_S, 2, TYPE_I);
      writes(d, wsr_cell_field(c, 1), TYPE_I);
      result(d, TYPE_I, 3);
      break;
    default: break;
  }
}

static void describe_control(describing *d) {
  wsr_native_cell *const c = d->c;
  switch (c->shape.op) {
    case WSR_FAST_branch_back: c->shape.back = true; /* fall through */
    case WSR_FAST_branch: c->falls = false; break;
    case WSR_FAST_true_back_s:
    case WSR_FAST_false_back_s: c->shape.back = true; /* fall through */
    case WSR_FAST_true_s:
    case WSR_FAST_false_s: operand(d, WSR_S, 0, TYPE_I); break;
    case WSR_FAST_true_back_a:
    case WSR_FAST_false_back_a: c->shape.back = true; /* fall through */
    case WSR_FAST_true_a:
    case WSR_FAST_false_a: operand(d, WSR_A, 0, TYPE_I); break;
    case WSR_FAST_table_s:
    case WSR_FAST_table_copy_s:
      operand(d, WSR_S, 0, TYPE_I);
      c->falls = false;
      break;
    case WSR_FAST_table_a:
    case WSR_FAST_table_copy_a:
      operand(d, WSR_A, 0, TYPE_I);
      c->falls = false;
      break;
    case WSR_FAST_return_0:
    case WSR_FAST_return_1:
    case WSR_FAST_return_n:
    case WSR_FAST_tail_call:
    case WSR_FAST_tail_call_indirect:
    case WSR_FAST_tail_call_ref:
    case WSR_FAST_raise:
    case WSR_FAST_unreachable: c->falls = false; break;
    default: break;
  }
  c->shape.if_false = c->shape.op == WSR_FAST_false_s || c->shape.op == WSR_FAST_false_a ||
                      c->shape.op == WSR_FAST_false_back_s || c->shape.op == WSR_FAST_false_back_a;
}

static bool is_branch(const wsr_shape *s) {
  if (s->kind == CELL_BRANCH) return true;
  if (s->kind != CELL_SPECIAL) return false;
  switch (s->op) {
    case WSR_FAST_branch:
    case WSR_FAST_branch_back:
    case WSR_FAST_true_s:
    case WSR_FAST_true_a:
    case WSR_FAST_false_s:
    case WSR_FAST_false_a:
    case WSR_FAST_true_back_s:
    case WSR_FAST_true_back_a:
    case WSR_FAST_false_back_s:
    case WSR_FAST_false_back_a: return true;
    default: return false;
  }
}

void wsr_describe_cell(wsr_native_cell *c, uint32_t n_slots) {
  describing d = {c, n_slots, 0, 0};
  for (unsigned i = 0; i < MOST_READS; i++) c->reads[i].slot = NO_SLOT;
  for (unsigned i = 0; i < MOST_WRITES; i++) c->writes[i].slot = NO_SLOT;
  c->falls = true;
  c->target = WSR_NONE;
  if (c->shape.kind == CELL_OTHER) return;
  if (c->shape.kind >= CELL_VECTOR_1 && c->shape.kind < CELL_SPECIAL &&
      c->shape.kind != CELL_VECTOR_LOAD_SUM) {
    describe_vector(&d);
  } else if (c->shape.kind != CELL_SPECIAL) {
    describe_regular(&d);
  } else {
    describe_moves(&d);
    describe_vector_moves(&d);
    describe_globals(&d);
    describe_control(&d);
  }
  if (is_branch(&c->shape)) c->target = c->word + wsr_cell_number(c); /* a word, for now */
}
#endif
