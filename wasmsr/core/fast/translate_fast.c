/* Translate precise code into fast code. Operands that are locals or constants emit no cell.
 * Results stay in accumulators for the next instruction. Comparisons become part of branches.
 *
 * The translator makes one pass over the cells of precise code. For each operand it records where
 * the value is: in its slot, in a local, in a constant, or in an accumulator. At every label,
 * branch and call it puts all operands into their slots. So a frame at a canonical point is the
 * same in both codes. Writing an accumulator to a slot costs no cell: the cell that made the value
 * gets another handler, which also writes the slot.
 */
#include "core/array.h"
#include "core/fast/fast.h"
#include "core/native/native.h"

#if WSR_FAST
#include <stdlib.h>

enum { IN_SLOT, IN_LOCAL, IN_CONSTANT, IN_ACC };
/* accumulators: integers and references, f32, f64, v128 (which takes two slots) */
enum { KIND_I, KIND_F, KIND_D, KIND_V, KINDS };
enum { MOST_SLOTS = 60000 }; /* a field has 16 bits */

typedef struct {
  uint8_t where, kind;
  uint64_t value; /* local or constant */
} operand;

typedef struct {
  uint8_t class; /* WSR_S, WSR_A, WSR_C */
  uint32_t slot;
  uint64_t value;
} source;

typedef struct {
  uint32_t slot;        /* operand whose value is only in the accumulator, or WSR_NONE */
  uint32_t mirror;      /* slot that holds the same value, or WSR_NONE */
  uint32_t producer;    /* if `slot` is set: the word of the cell that made the value */
  wsr_handler *writing; /* the handler for that cell that also writes a slot */
  uint8_t field;        /* the field of that cell that names the slot to write */
} accumulator;

typedef struct {
  uint32_t from, at; /* the branch's cell, and the word that holds the distance */
  uint32_t cell;     /* the precise cell to which it branches */
  bool entry;        /* entry of a branch table: the distance is the low half of the word */
} fixup;

typedef struct {
  const wsr_module *m;
  const wsr_code *code;
  uint64_t *words;
  wsr_place *map, *canonical;
  fixup *fixups;
  uint32_t n, n_map, n_canonical, n_fixups, n_heads;
  uint32_t room, room_map, room_canonical, room_fixups, room_heads;
  uint32_t *heads; /* as in wsr_fast, if `has_heads` */
  bool has_heads;
  uint32_t *word_of; /* by cell */
  uint8_t *leader;   /* by cell, bits: 1 a label, 2 the start of a loop's body */
  operand *operands; /* by slot */
  uint32_t *pending; /* slots whose operand is not IN_SLOT, ascending */
  uint32_t n_pending;
  accumulator acc[KINDS];
  uint32_t at;        /* the current precise cell */
  uint32_t last;      /* word of the last cell if it can still be changed, or WSR_NONE */
  uint32_t binary;    /* = last if that cell has two operands and an integer result */
  uint32_t binary_op; /* the instruction of that cell */
  source a, b;
  accumulator before; /* the integer accumulator before the last cell that gives an integer */
  uint32_t got;       /* = last if that cell is a global.get of an integer */
  uint32_t got_index;
  uint32_t moved; /* word of the last cell if it is a single move, or WSR_NONE */
  struct {        /* the last i32.load from an address in a slot */
    uint32_t start, slot, offset, cell;
    uint32_t to; /* the slot that it writes, while it is the last cell; or WSR_NONE */
  } loaded;
  bool failed;
  const wsr_request *interrupt; /* give up (`failed`) when it is requested; or NULL */
  uint32_t *longest; /* metered: by cell, the most instructions from it to the next decision */
} translator;

static bool room_for(translator *f, void *array, uint32_t *room, uint32_t need, size_t size) {
  if (!f->failed) f->failed = !wsr_array_reserve(array, room, need, size);
  return !f->failed;
}

static void word(translator *f, uint64_t value) {
  if (room_for(f, &f->words, &f->room, f->n + 1, sizeof *f->words)) f->words[f->n++] = value;
}

/* The 16 bytes at `offset` of the module. */
static void word_16(translator *f, uint64_t offset) {
  const uint8_t *const bytes = f->m->bytes + offset;
  uint64_t halves[2];
  memcpy(halves, bytes, sizeof halves);
  word(f, halves[0]);
  word(f, halves[1]);
}

static uint64_t fields(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const uint16_t parts[4] = {(uint16_t)a, (uint16_t)b, (uint16_t)c, (uint16_t)d};
  uint64_t value;
  memcpy(&value, parts, sizeof value);
  return value;
}

/* a, b and a 32-bit number, as the handlers read them. */
static uint64_t fields_and_number(uint32_t a, uint32_t b, uint32_t number) {
  uint64_t value = fields(a, b, 0, 0);
  memcpy((char *)&value + 4, &number, sizeof number);
  return value;
}

static uint64_t pair(uint32_t low, uint32_t high) { return low | (uint64_t)high << 32; }

static uint32_t begin(translator *f, wsr_handler *handler, uint64_t second) {
  const uint32_t start = f->n;
  if (room_for(f, &f->map, &f->room_map, f->n_map + 1, sizeof *f->map))
    f->map[f->n_map++] = (wsr_place){f->at, start};
  if (!handler) f->failed = true;
  word(f, (uint64_t)(uintptr_t)handler);
  word(f, second);
  f->last = f->binary = f->got = f->moved = f->loaded.to = WSR_NONE;
  return start;
}

static uint32_t special(translator *f, uint32_t which, uint64_t second) {
  return begin(f, wsr_fast_special[which], second);
}

static void move(translator *f, uint32_t from, uint32_t to) {
  if (f->moved == WSR_NONE || f->failed) {
    const uint32_t start = special(f, WSR_FAST_move, fields(from, 0, 0, to));
    f->moved = start;
    return;
  }
  uint16_t first[4]; /* join two moves in one cell */
  memcpy(first, &f->words[f->moved + 1], sizeof first);
  f->words[f->moved] = (uint64_t)(uintptr_t)wsr_fast_special[WSR_FAST_move_2];
  f->words[f->moved + 1] = fields(first[0], first[3], from, to);
  f->moved = WSR_NONE;
}

static void add_canonical(translator *f, uint32_t cell) {
  if (room_for(f, &f->canonical, &f->room_canonical, f->n_canonical + 1, sizeof *f->canonical))
    f->canonical[f->n_canonical++] = (wsr_place){cell, f->n};
}

static void add_head(translator *f) {
  if (!f->has_heads || (f->n_heads && f->heads[f->n_heads - 1] == f->n)) return;
  if (room_for(f, &f->heads, &f->room_heads, f->n_heads + 1, sizeof *f->heads))
    f->heads[f->n_heads++] = f->n;
}

static void add_fixup(translator *f, uint32_t from, uint32_t at, uint32_t cell, bool entry) {
  if (room_for(f, &f->fixups, &f->room_fixups, f->n_fixups + 1, sizeof *f->fixups))
    f->fixups[f->n_fixups++] = (fixup){from, at, cell, entry};
}

static int kind_of(wsr_type type) {
  switch (type) {
    case WSR_F32: return KIND_F;
    case WSR_F64: return KIND_D;
    case WSR_V128: return KIND_V;
    default: return KIND_I;
  }
}

/* ---- where operands are ---- */

static void set_operand(translator *f, uint32_t slot, uint8_t where, int kind, uint64_t value) {
  f->operands[slot] = (operand){where, (uint8_t)kind, value};
  if (where != IN_SLOT) f->pending[f->n_pending++] = slot;
}

/* Remove the operand `slot` and all operands above it from the stack. */
static void pop_operands(translator *f, uint32_t slot) {
  while (f->n_pending && f->pending[f->n_pending - 1] >= slot) {
    operand *o = &f->operands[f->pending[--f->n_pending]];
    if (o->where == IN_ACC) f->acc[o->kind].slot = WSR_NONE;
    o->where = IN_SLOT;
  }
}

/* A slot gets another value, so no accumulator has the slot's value any longer. */
static void overwritten(translator *f, uint32_t slot) {
  for (int k = 0; k < KINDS; k++)
    if (f->acc[k].mirror == slot) f->acc[k].mirror = WSR_NONE;
  if (slot && f->acc[KIND_V].mirror == slot - 1) f->acc[KIND_V].mirror = WSR_NONE;
}

/* After a label or a call the accumulators can have any values. */
static void forget(translator *f) {
  for (int k = 0; k < KINDS; k++) f->acc[k] = (accumulator){.slot = WSR_NONE, .mirror = WSR_NONE};
  f->last = f->binary = f->got = f->moved = f->loaded.to = WSR_NONE;
}

/* Let the cell that made the accumulator's value write it to `slot` too. */
static void write_through(translator *f, int kind, uint32_t slot) {
  accumulator *acc = &f->acc[kind];
  overwritten(f, slot);
  if (kind == KIND_V) overwritten(f, slot + 1);
  acc->slot = WSR_NONE;
  acc->mirror = slot;
  if (f->failed) return;
  f->words[acc->producer] = (uint64_t)(uintptr_t)acc->writing;
  const uint16_t destination = (uint16_t)slot;
  memcpy((char *)&f->words[acc->producer + 1] + 2 * acc->field, &destination, sizeof destination);
  if (f->last != acc->producer) return;
  f->last = f->binary = f->got = WSR_NONE;
  if (f->loaded.start == acc->producer) f->loaded.to = slot;
}

/* Write the value of a local or a constant to a slot. */
static void copy(translator *f, const operand *o, uint32_t to) {
  const bool vector = o->kind == KIND_V;
  if (o->where == IN_LOCAL) {
    move(f, (uint32_t)o->value, to);
    if (vector) move(f, (uint32_t)o->value + 1, to + 1);
  } else {
    special(f, vector ? WSR_FAST_constant_v : WSR_FAST_constant, fields(0, 0, 0, to));
    if (vector)
      word_16(f, o->value);
    else
      word(f, o->value);
  }
  overwritten(f, to);
  if (vector) overwritten(f, to + 1);
}

/* Put an operand into its slot. The caller removes it from the list of pending operands. */
static void materialize(translator *f, uint32_t slot) {
  operand *o = &f->operands[slot];
  switch (o->where) {
    case IN_LOCAL:
    case IN_CONSTANT: copy(f, o, slot); break;
    case IN_ACC: write_through(f, o->kind, slot); break;
    default: break;
  }
  o->where = IN_SLOT;
}

static void drop_materialized(translator *f) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < f->n_pending; i++)
    if (f->operands[f->pending[i]].where != IN_SLOT) f->pending[kept++] = f->pending[i];
  f->n_pending = kept;
}

/* Put all operands below `slot` into their slots. */
static void flush(translator *f, uint32_t slot) {
  for (uint32_t i = 0; i < f->n_pending && f->pending[i] < slot; i++) materialize(f, f->pending[i]);
  drop_materialized(f);
}

static void flush_all(translator *f) { flush(f, WSR_NONE); }

/* Return where an instruction finds an operand. */
static source find(translator *f, uint32_t slot, int kind, bool constants) {
  operand *o = &f->operands[slot];
  if (o->where == IN_CONSTANT && !constants) {
    materialize(f, slot);
    drop_materialized(f);
  }
  if (o->where == IN_CONSTANT) return (source){WSR_C, 0, o->value};
  if (o->where == IN_ACC) return (source){WSR_A, WSR_NONE, 0};
  const uint32_t place = o->where == IN_LOCAL ? (uint32_t)o->value : slot;
  return (source){f->acc[kind].mirror == place ? WSR_A : WSR_S, place, 0};
}

/* Two operands of one kind cannot both come from its accumulator. One of them gets a slot. */
static void separate(source *a, source *b) {
  if (a->class != WSR_A || b->class != WSR_A) return;
  if (b->slot != WSR_NONE)
    b->class = WSR_S;
  else
    a->class = WSR_S;
}

/* Emit a cell whose result is operand `slot`, in the accumulator. */
static uint32_t produce(translator *f, uint32_t slot, int kind, wsr_handler *const pair_[2],
                        uint8_t field, uint64_t second) {
  accumulator *acc = &f->acc[kind];
  if (acc->slot != WSR_NONE) {
    const uint32_t other = acc->slot;
    materialize(f, other);
    drop_materialized(f);
  }
  if (kind == KIND_I) f->before = *acc;
  const uint32_t start = begin(f, pair_[0], second);
  *acc = (accumulator){slot, WSR_NONE, start, pair_[1], field};
  set_operand(f, slot, IN_ACC, kind, 0);
  f->last = start;
  return start;
}

/* ---- instructions ---- */

static void unary(translator *f, uint32_t op, uint32_t s) {
  const wsr_opcode_row *row = &wsr_opcode_table[op];
  const uint8_t type = op == WSR_OP_CANONICAL_F32   ? WSR_F32
                       : op == WSR_OP_CANONICAL_F64 ? WSR_F64
                                                    : row->params[0];
  const source a = find(f, s, kind_of(type), false);
  pop_operands(f, s);
  const int result = kind_of(row->result ? row->result : type);
  produce(f, s, result, &wsr_fast_unary[op][a.class * 2], 3, fields(a.slot, 0, 0, 0));
}

static void emit_binary(translator *f, uint32_t op, uint32_t s, source a, source b) {
  const wsr_opcode_row *row = &wsr_opcode_table[op];
  const uint32_t start =
      produce(f, s, kind_of(row->result), &wsr_fast_binary[op][(a.class * 3 + b.class) * 2], 3,
              fields(a.slot, b.slot, 0, 0));
  if (b.class == WSR_C) word(f, b.value);
  if (kind_of(row->result) != KIND_I) return;
  f->binary = start;
  f->binary_op = op;
  f->a = a;
  f->b = b;
}

/* Remove the last cell, which made an integer. The next cell does the work of both. */
static void take_back(translator *f) {
  f->n = f->last;
  f->n_map--;
  f->acc[KIND_I] = f->before;
  f->acc[KIND_I].slot = WSR_NONE;
  f->last = f->binary = f->got = f->moved = f->loaded.to = WSR_NONE;
}

/* Return whether operand `slot` is the result of the last cell and that cell has two operands. */
static bool just_made(const translator *f, uint32_t slot) {
  return !f->failed && f->binary != WSR_NONE && f->operands[slot].where == IN_ACC &&
         f->acc[KIND_I].slot == slot && f->acc[KIND_I].producer == f->binary;
}

static bool just_compared(const translator *f, uint32_t slot) {
  return just_made(f, slot) && wsr_fast_branch[f->binary_op][0];
}

/* Return whether the last cell made operand `slot` by adding a constant (or subtracting one). */
static bool just_added(translator *f, uint32_t slot, uint32_t *constant) {
  if (!just_made(f, slot) || f->b.class != WSR_C) return false;
  *constant = (uint32_t)(f->binary_op == WSR_OP_I32_SUB ? -f->b.value : f->b.value);
  return f->binary_op == WSR_OP_I32_ADD || f->binary_op == WSR_OP_I32_SUB;
}

/* Add a constant to a global in one cell, or subtract it. C programs do so with a stack pointer. */
static bool global_and_constant(translator *f, uint32_t op, uint32_t s) {
  if ((op != WSR_OP_I32_ADD && op != WSR_OP_I32_SUB) || f->got == WSR_NONE || f->failed ||
      f->operands[s].where != IN_ACC || f->acc[KIND_I].producer != f->got ||
      f->operands[s + 1].where != IN_CONSTANT)
    return false;
  const uint64_t by = f->operands[s + 1].value;
  pop_operands(f, s);
  take_back(f);
  produce(f, s, KIND_I, &wsr_fast_special[WSR_FAST_get_add_a], 1,
          fields_and_number(0, 0, f->got_index));
  word(f, (uint32_t)(op == WSR_OP_I32_SUB ? -by : by));
  return true;
}

static void binary(translator *f, uint32_t op, uint32_t s) {
  if (global_and_constant(f, op, s)) return;
  const int kind = kind_of(wsr_opcode_table[op].params[0]);
  if (f->operands[s].where == IN_CONSTANT && wsr_fast_commutes[op] &&
      f->operands[s + 1].where != IN_CONSTANT) {
    const source b = find(f, s, kind, true), a = find(f, s + 1, kind, false);
    pop_operands(f, s);
    emit_binary(f, op, s, a, b);
    return;
  }
  source a = find(f, s, kind, false), b = find(f, s + 1, kind, true);
  separate(&a, &b);
  pop_operands(f, s);
  emit_binary(f, op, s, a, b);
}

/* x == 0, of an integer or a reference. */
static void is_zero(translator *f, uint32_t equal, uint32_t s) {
  if (just_compared(f, s) && wsr_fast_inverse[f->binary_op]) {
    const source a = f->a, b = f->b;
    const uint32_t op = wsr_fast_inverse[f->binary_op] - 1U;
    pop_operands(f, s);
    take_back(f);
    emit_binary(f, op, s, a, b);
    return;
  }
  const source a = find(f, s, KIND_I, false), b = {WSR_C, 0, 0};
  pop_operands(f, s);
  emit_binary(f, equal, s, a, b);
}

/* A load whose address is the sum that the last cell made: one cell does both. */
static bool load_sum(translator *f, wsr_handler *const *handlers, int kind, const wsr_cell *c) {
  enum { SLOT_CONSTANT, ACC_CONSTANT, SLOT_SLOT, SLOT_ACC };
  source a = f->a, b = f->b;
  uint32_t by = 0, shape;
  if (just_added(f, c->s, &by)) {
    shape = a.class == WSR_A ? ACC_CONSTANT : SLOT_CONSTANT;
  } else if (just_made(f, c->s) && f->binary_op == WSR_OP_I32_ADD) {
    if (a.class == WSR_A) {
      const source other = a;
      a = b;
      b = other;
    }
    shape = b.class == WSR_A ? SLOT_ACC : SLOT_SLOT;
  } else {
    return false;
  }
  pop_operands(f, c->s);
  take_back(f);
  produce(f, c->s, kind, handlers + shape * 2, 1, fields(a.slot, 0, b.slot, 0));
  word(f, pair(by, (uint32_t)c->u.imm));
  return true;
}

/* Return a slot that has the operand's value. Write the value to its own slot if there is none. */
static uint32_t any_slot(translator *f, uint32_t slot) {
  const operand *o = &f->operands[slot];
  if (o->where == IN_LOCAL) return (uint32_t)o->value;
  materialize(f, slot);
  drop_materialized(f);
  return slot;
}

/* Return whether the memory is memory 0 with 64-bit addresses and the offset fits into the cell. */
static bool is_memory64(const wsr_cell *c) { return c->n == 1 && c->u.imm <= UINT32_MAX; }

static uint64_t memory_word(const translator *f, const wsr_cell *c) {
  const uint32_t index = c->n - 1U;
  return pair(index, f->m->memories[index].address64);
}

/* The same as load_sum for memory 0 with 64-bit addresses. */
static bool load_memory64_sum(translator *f, uint32_t op, const wsr_cell *c) {
  enum { SLOT_CONSTANT, ACC_CONSTANT, SLOT_SLOT, SLOT_ACC };
  if (!just_made(f, c->s) || (f->binary_op != WSR_OP_I64_ADD && f->binary_op != WSR_OP_I64_SUB))
    return false;
  const bool sum = f->binary_op == WSR_OP_I64_ADD, constant = f->b.class == WSR_C;
  if (!sum && !constant) return false;
  const bool exchange = !constant && f->a.class == WSR_A;
  const source a = exchange ? f->b : f->a, b = exchange ? f->a : f->b;
  const uint32_t shape = constant ? (a.class == WSR_A ? ACC_CONSTANT : SLOT_CONSTANT)
                                  : (b.class == WSR_A ? SLOT_ACC : SLOT_SLOT);
  pop_operands(f, c->s);
  take_back(f);
  produce(f, c->s, kind_of(wsr_opcode_table[op].result), &wsr_memory64_load_sum[op][shape * 2], 1,
          fields(a.slot, 0, b.slot, 0));
  word(f, c->u.imm);
  if (constant) word(f, sum ? b.value : -b.value);
  return true;
}

/* Return whether the operand is a constant address in memory 0 with 64-bit addresses, and address
 * and offset are below 2**62. Their sum cannot wrap then, so the handlers for 32-bit addresses
 * serve it. */
static bool is_plain(const translator *f, const wsr_cell *c) {
  const operand *o = &f->operands[c->s];
  return c->n == 1 && o->where == IN_CONSTANT && (o->value | c->u.imm) >> 62 == 0;
}

/* Load from any memory except memory 0 with 32-bit addresses (handlers_other_memories.c). */
static void load_other_memory(translator *f, uint32_t op, const wsr_cell *c) {
  const int kind = kind_of(wsr_opcode_table[op].result);
  f->loaded.start = WSR_NONE;
  if (is_plain(f, c)) {
    const uint64_t at = f->operands[c->s].value + c->u.imm;
    pop_operands(f, c->s);
    produce(f, c->s, kind, &wsr_fast_load[op][WSR_C * 2], 1, 0);
    word(f, at);
    return;
  }
  if (is_memory64(c)) {
    if (load_memory64_sum(f, op, c)) return;
    const source a = find(f, c->s, KIND_I, false);
    pop_operands(f, c->s);
    produce(f, c->s, kind, &wsr_memory64_load[op][a.class * 2], 1,
            fields_and_number(a.slot, 0, (uint32_t)c->u.imm));
    return;
  }
  const uint32_t slot = any_slot(f, c->s);
  pop_operands(f, c->s);
  produce(f, c->s, kind, wsr_any_memory_load[op], 1, fields(slot, 0, 0, 0));
  word(f, c->u.imm);
  word(f, memory_word(f, c));
}

static void store_other_memory(translator *f, uint32_t op, const wsr_cell *c) {
  if (is_plain(f, c)) {
    const uint64_t at = f->operands[c->s].value + c->u.imm;
    const source b = find(f, c->s + 1, kind_of(wsr_opcode_table[op].params[1]), true);
    pop_operands(f, c->s);
    begin(f, wsr_fast_store[op][WSR_C * 3 + b.class], fields_and_number(0, b.slot, 0));
    word(f, at);
    if (b.class == WSR_C) word(f, b.value);
    return;
  }
  if (is_memory64(c)) {
    const int kind = kind_of(wsr_opcode_table[op].params[1]);
    source a = find(f, c->s, KIND_I, false), b = find(f, c->s + 1, kind, true);
    if (kind == KIND_I) separate(&a, &b);
    pop_operands(f, c->s);
    begin(f, wsr_memory64_store[op][a.class * 3 + b.class],
          fields_and_number(a.slot, b.slot, (uint32_t)c->u.imm));
    if (b.class == WSR_C) word(f, b.value);
    return;
  }
  const uint32_t a = any_slot(f, c->s), b = any_slot(f, c->s + 1);
  pop_operands(f, c->s);
  begin(f, wsr_any_memory_store[op], fields(a, b, 0, 0));
  word(f, c->u.imm);
  word(f, memory_word(f, c));
}

static void load(translator *f, uint32_t op, const wsr_cell *c) {
  const wsr_opcode_row *row = &wsr_opcode_table[op];
  if (c->n) {
    load_other_memory(f, op, c);
    return;
  }
  if (load_sum(f, wsr_fast_load_sum[op], kind_of(row->result), c)) return;
  const source a = find(f, c->s, KIND_I, true);
  const uint32_t offset = (uint32_t)c->u.imm;
  pop_operands(f, c->s);
  if (op == WSR_OP_I32_LOAD && f->loaded.to != WSR_NONE && a.class != WSR_C && a.slot != WSR_NONE &&
      !f->failed) { /* the second of two loads: one cell does both */
    const uint32_t to = f->loaded.to, slot = f->loaded.slot, first = f->loaded.offset;
    f->n = f->loaded.start;
    f->n_map--;
    produce(f, c->s, KIND_I, &wsr_fast_special[WSR_FAST_load_2_a], 3, fields(slot, to, a.slot, 0));
    word(f, pair(first, offset));
    word(f, f->loaded.cell);
    f->loaded.start = WSR_NONE;
    return;
  }
  const uint32_t start = produce(f, c->s, kind_of(row->result), &wsr_fast_load[op][a.class * 2], 1,
                                 fields_and_number(a.slot, 0, offset));
  if (a.class == WSR_C) word(f, (uint32_t)a.value + c->u.imm);
  f->loaded.start = WSR_NONE;
  if (op == WSR_OP_I32_LOAD && a.class == WSR_S) {
    f->loaded.start = start;
    f->loaded.slot = a.slot;
    f->loaded.offset = offset;
    f->loaded.cell = f->at;
  }
}

static void store(translator *f, uint32_t op, const wsr_cell *c) {
  if (c->n) {
    store_other_memory(f, op, c);
    return;
  }
  const int kind = kind_of(wsr_opcode_table[op].params[1]);
  source a = find(f, c->s, KIND_I, true), b = find(f, c->s + 1, kind, true);
  if (kind == KIND_I) separate(&a, &b);
  pop_operands(f, c->s);
  begin(f, wsr_fast_store[op][a.class * 3 + b.class],
        fields_and_number(a.slot, b.slot, (uint32_t)c->u.imm));
  if (a.class == WSR_C) word(f, (uint32_t)a.value + c->u.imm);
  if (b.class == WSR_C) word(f, b.value);
}

/* A local is about to change. Operands that are aliases of this local keep its old value. */
static void materialize_aliases(translator *f, uint32_t local) {
  bool any = false;
  for (uint32_t i = 0; i < f->n_pending; i++) {
    const operand *o = &f->operands[f->pending[i]];
    if (o->where != IN_LOCAL || o->value != local) continue;
    materialize(f, f->pending[i]);
    any = true;
  }
  if (any) drop_materialized(f);
}

static bool has_alias(const translator *f, uint32_t local) {
  for (uint32_t i = 0; i < f->n_pending; i++) {
    const operand *o = &f->operands[f->pending[i]];
    if (o->where == IN_LOCAL && o->value == local) return true;
  }
  return false;
}

/* Return whether the last cell makes one value only. A pair of loads first sets a slot, which can
 * be the local. */
static bool makes_one_value(const translator *f) {
  const uint64_t pair_of_loads = (uint64_t)(uintptr_t)wsr_fast_special[WSR_FAST_load_2_a];
  return !f->failed && f->words[f->last] != pair_of_loads;
}

/* The last cell makes the local's new value. Insert cells before it that put the local's aliases
 * into their slots. So the last cell itself can write the local. */
static void materialize_aliases_before(translator *f, uint32_t local, accumulator *acc) {
  uint64_t cell[8];
  const uint32_t start = f->last, size = f->n - start;
  const wsr_place place = f->map[f->n_map - 1];
  memcpy(cell, f->words + start, size * sizeof *cell);
  f->n = start;
  f->n_map--;
  f->moved = WSR_NONE;
  materialize_aliases(f, local);
  if (f->failed) return;
  if (!room_for(f, &f->map, &f->room_map, f->n_map + 1, sizeof *f->map)) return;
  acc->producer = f->n;
  f->map[f->n_map++] = (wsr_place){place.cell, f->n};
  for (uint32_t i = 0; i < size; i++) word(f, cell[i]);
  f->last = acc->producer;
  f->binary = f->got = f->moved = f->loaded.to = f->loaded.start = WSR_NONE;
}

static void local_set(translator *f, uint32_t local, uint32_t s, bool vector, bool tee) {
  operand o = f->operands[s];
  if (o.where != IN_SLOT)
    f->n_pending--; /* the topmost operand; materialize_aliases must not see it */
  if (o.where == IN_ACC && f->acc[o.kind].producer == f->last && has_alias(f, local) &&
      makes_one_value(f))
    materialize_aliases_before(f, local, &f->acc[o.kind]);
  else
    materialize_aliases(f, local);
  if (o.where != IN_SLOT) f->pending[f->n_pending++] = s;
  switch (o.where) {
    case IN_ACC:
      if (f->acc[o.kind].producer == f->last) {
        write_through(f, o.kind, local);
      } else {
        special(f, WSR_FAST_move_acc_i + (uint32_t)o.kind, fields(0, 0, 0, local));
        overwritten(f, local);
        if (vector) overwritten(f, local + 1);
        f->acc[o.kind].mirror = local;
      }
      break;
    case IN_CONSTANT: copy(f, &o, local); break;
    default:
      if (o.where == IN_LOCAL && o.value == local) break;
      if (o.where == IN_SLOT) o = (operand){IN_LOCAL, vector ? KIND_V : KIND_I, s};
      copy(f, &o, local);
  }
  pop_operands(f, s);
  if (tee) set_operand(f, s, IN_LOCAL, vector ? KIND_V : KIND_I, local);
}

static void global(translator *f, const wsr_cell *c, bool get) {
  const uint32_t index = c->u.p.a;
  const int kind = kind_of(f->m->globals[index].type.type);
  if (get) {
    static const uint8_t rows[KINDS] = {WSR_FAST_get_i_a, WSR_FAST_get_f_a, WSR_FAST_get_d_a};
    const uint32_t start =
        produce(f, c->s, kind, &wsr_fast_special[rows[kind]], 1, fields_and_number(0, 0, index));
    if (kind == KIND_I) {
      f->got = start;
      f->got_index = index;
    }
    return;
  }
  uint32_t by;
  if (kind == KIND_I && just_added(f, c->s, &by) && f->a.class == WSR_S) {
    const uint32_t slot = f->a.slot;
    pop_operands(f, c->s);
    take_back(f);
    special(f, WSR_FAST_set_add, fields_and_number(slot, 0, index));
    word(f, by);
    return;
  }
  const source a = find(f, c->s, kind, false);
  pop_operands(f, c->s);
  const uint32_t from_acc = WSR_FAST_set_i + (uint32_t)kind;
  special(f, a.class == WSR_A ? from_acc : WSR_FAST_set_s, fields_and_number(a.slot, 0, index));
}

static void select_one(translator *f, uint32_t s) {
  const uint32_t a = any_slot(f, s), b = any_slot(f, s + 1);
  const source test = find(f, s + 2, KIND_I, false);
  pop_operands(f, s);
  special(f, test.class == WSR_A ? WSR_FAST_select_a : WSR_FAST_select_s,
          fields(a, b, test.slot, s));
  overwritten(f, s);
}

/* Emit a cell that works as precise code does, with operands and result in their slots. This is for
 * atomic instructions, and for vectors in any memory except memory 0 with 32-bit addresses. */
static void as_precise(translator *f, uint32_t which, const wsr_cell *c) {
  uint32_t first = f->n_pending;
  while (first && f->pending[first - 1] >= c->s) first--;
  for (uint32_t i = first; i < f->n_pending; i++) materialize(f, f->pending[i]);
  pop_operands(f, c->s);
  special(f, which, 0);
  word(f, (uint64_t)(uintptr_t)c);
  overwritten(f, c->s);
  overwritten(f, c->s + 1);
}

#include "core/fast/translate_simd.h"

/* ---- control ---- */

static bool is_back(const translator *f, uint32_t target) { return target <= f->at; }

/* Emit a branch that is taken if operand `s` is true (or false). If the last cell is the comparison
 * that made `s`, and all other operands are in their slots, one cell compares and branches. */
static void branch_if(translator *f, uint32_t s, bool truth, uint32_t target) {
  const bool back = is_back(f, target);
  uint32_t start;
  if (just_compared(f, s) && f->n_pending == 1) {
    const source a = f->a, b = f->b;
    const uint32_t op = f->binary_op;
    pop_operands(f, s);
    take_back(f);
    start = begin(f, wsr_fast_branch[op][((a.class * 3 + b.class) * 2 + !truth) * 2 + back],
                  fields_and_number(a.slot, b.slot, 0));
    if (b.class == WSR_C) word(f, b.value);
  } else {
    flush(f, s);
    const source a = find(f, s, KIND_I, false);
    pop_operands(f, s);
    const uint32_t first = truth ? (back ? WSR_FAST_true_back_s : WSR_FAST_true_s)
                                 : (back ? WSR_FAST_false_back_s : WSR_FAST_false_s);
    start = special(f, first + (a.class == WSR_A), fields_and_number(a.slot, 0, 0));
  }
  if (back) word(f, target);
  add_fixup(f, start, start + 1, target, false);
}

static void branch(translator *f, uint32_t target) {
  const bool back = is_back(f, target);
  const uint32_t start = special(f, back ? WSR_FAST_branch_back : WSR_FAST_branch, 0);
  if (back) word(f, target);
  add_fixup(f, start, start + 1, target, false);
}

/* Move `n` operands, in the slots below `top`, to the slots that the label expects. */
static void move_results(translator *f, uint32_t top, uint32_t n, uint32_t to) {
  for (uint32_t i = 0; i < n && to != top - n; i++) {
    move(f, top - n + i, to + i);
    overwritten(f, to + i);
  }
}

static void set_distance(translator *f, uint32_t start, uint32_t to) {
  if (f->failed) return;
  const int32_t by = (int32_t)(to - start);
  memcpy((char *)&f->words[start + 1] + 4, &by, sizeof by);
}

static void br_if(translator *f, const wsr_cell *c) {
  if (c->n == 0 || c->u.p.b == c->s - c->n) {
    branch_if(f, c->s, true, c->u.p.a);
    return;
  }
  flush(f, c->s);
  const source a = find(f, c->s, KIND_I, false);
  pop_operands(f, c->s);
  const uint32_t over =
      special(f, WSR_FAST_false_s + (a.class == WSR_A), fields_and_number(a.slot, 0, 0));
  move_results(f, c->s, c->n, c->u.p.b);
  branch(f, c->u.p.a);
  set_distance(f, over, f->n);
  forget(f); /* only one of the two ways has the moves */
}

/* Branch if the reference is null, with the operands below it; or if it is not, with it too. */
static void br_on(translator *f, const wsr_cell *c) {
  const bool null = c->op == WSR_OP_BR_ON_NULL || c->op == WSR_OP_BR_ON_NULL_BACK;
  const uint32_t end = null ? c->s : c->s + 1;
  flush_all(f);
  if (c->n && c->u.p.b != end - c->n) {
    const uint32_t over =
        special(f, null ? WSR_FAST_true_s : WSR_FAST_false_s, fields_and_number(c->s, 0, 0));
    move_results(f, end, c->n, c->u.p.b);
    branch(f, c->u.p.a);
    set_distance(f, over, f->n);
    forget(f);
    return;
  }
  const bool back = is_back(f, c->u.p.a);
  const uint32_t first = null ? (back ? WSR_FAST_false_back_s : WSR_FAST_false_s)
                              : (back ? WSR_FAST_true_back_s : WSR_FAST_true_s);
  const uint32_t start = special(f, first, fields_and_number(c->s, 0, 0));
  if (back) word(f, c->u.p.a);
  add_fixup(f, start, start + 1, c->u.p.a, false);
}

static void br_table(translator *f, const wsr_cell *c) {
  source a;
  uint32_t by = 0;
  if (f->n_pending == 1 && just_added(f, c->s, &by)) { /* index minus the lowest case */
    a = f->a;
    pop_operands(f, c->s);
    take_back(f);
  } else {
    by = 0;
    flush(f, c->s);
    a = find(f, c->s, KIND_I, false);
    pop_operands(f, c->s);
  }
  const bool in_acc = a.class == WSR_A;
  const uint32_t which = c->n ? (in_acc ? WSR_FAST_table_copy_a : WSR_FAST_table_copy_s)
                              : (in_acc ? WSR_FAST_table_a : WSR_FAST_table_s);
  const uint32_t start = special(f, which, fields(a.slot, c->n, c->s - c->n, 0));
  word(f, pair(c->u.p.b, by));
  for (uint32_t i = 0; i < c->u.p.b; i++) {
    const wsr_target *t = &f->code->targets[c->u.p.a + i];
    add_fixup(f, start, f->n, t->cell, true);
    word(f, pair(0, t->slot));
    word(f, t->cell);
  }
}

static void return_results(translator *f, uint32_t s, uint32_t n) {
  if (n == 0) {
    flush_all(f); /* no operand is used any more, but the translator expects all in slots */
    special(f, WSR_FAST_return_0, 0);
    return;
  }
  const operand o = f->operands[s];
  const bool one = n == 1 || (n == 2 && o.where == IN_ACC && o.kind == KIND_V);
  if (one && o.where == IN_ACC && f->acc[o.kind].producer == f->last) {
    write_through(f, o.kind, 0); /* the last cell writes the result where the caller expects it */
    f->operands[s].where = IN_SLOT;
    drop_materialized(f);
    special(f, WSR_FAST_return_0, 0);
  } else if (n == 1 && o.where == IN_LOCAL) {
    special(f, WSR_FAST_return_1, fields((uint32_t)o.value, 0, 0, 0));
  } else {
    flush_all(f);
    special(f, n == 1 ? WSR_FAST_return_1 : WSR_FAST_return_n, fields(s, n, 0, 0));
  }
  pop_operands(f, 0);
}

static void call(translator *f, const wsr_cell *c) {
  flush_all(f);
  if (!f->longest) add_canonical(f, f->at); /* metered code has already counted the block */
  switch (c->op) {
    case WSR_OP_CALL: {
      const bool own = c->u.p.a >= f->m->n.imported_functions;
      special(f, own ? WSR_FAST_call_own : WSR_FAST_call, fields(c->s, c->n, 0, 3));
      break;
    }
    case WSR_OP_RETURN_CALL: special(f, WSR_FAST_tail_call, fields(c->s, c->n, 0, 3)); break;
    case WSR_OP_CALL_INDIRECT:
      special(f, WSR_FAST_call_indirect, fields(c->s, c->n, c->s + c->n, 4));
      break;
    case WSR_OP_CALL_REF: special(f, WSR_FAST_call_ref, fields(c->s, c->n, c->s + c->n, 3)); break;
    case WSR_OP_RETURN_CALL_REF:
      special(f, WSR_FAST_tail_call_ref, fields(c->s, c->n, c->s + c->n, 3));
      break;
    default: special(f, WSR_FAST_tail_call_indirect, fields(c->s, c->n, c->s + c->n, 4));
  }
  word(f, pair(c->u.p.a, f->at));
  if (c->op == WSR_OP_CALL_INDIRECT || c->op == WSR_OP_RETURN_CALL_INDIRECT) word(f, c->u.p.b);
  forget(f);
  if (wsr_is_call(c->op)) {
    f->at++;
    add_canonical(f, f->at);
    f->at--;
  }
}

static void slow(translator *f, const wsr_cell *c) {
  flush_all(f);
  if (!f->longest) add_canonical(f, f->at);
  special(f, WSR_FAST_slow, 0);
  word(f, (uint64_t)(uintptr_t)c);
  word(f, f->at);
  forget(f);
}

/* Translate a control instruction; false if the cell is none. */
static bool translate_control(translator *f, const wsr_cell *c) {
  switch (c->op) {
    case WSR_OP_NOP:
    case WSR_OP_ATOMIC_FENCE:
    case WSR_OP_BLOCK:
    case WSR_OP_LOOP:
    case WSR_OP_TRY_TABLE:
    case WSR_OP_TRY: return true;
    case WSR_OP_THROW:
    case WSR_OP_THROW_REF:
    case WSR_OP_RETHROW:
      flush_all(f);
      special(f, WSR_FAST_raise, 0);
      word(f, (uint64_t)(uintptr_t)c);
      word(f, f->at);
      return true;
    case WSR_OP_UNREACHABLE:
      flush_all(f);
      special(f, WSR_FAST_unreachable, 0);
      return true;
    case WSR_OP_IF: branch_if(f, c->s, false, c->u.p.a); return true;
    case WSR_OP_JUMP:
      flush_all(f);
      branch(f, c->u.p.a);
      return true;
    case WSR_OP_BR:
    case WSR_OP_BR_BACK:
    case WSR_OP_LEAVE_CATCH:
      flush_all(f);
      move_results(f, c->s, c->n, c->u.p.b);
      branch(f, c->u.p.a);
      return true;
    case WSR_OP_BR_IF:
    case WSR_OP_BR_IF_BACK: br_if(f, c); return true;
    case WSR_OP_BR_TABLE: br_table(f, c); return true;
    case WSR_OP_RETURN:
    case WSR_OP_RETURN_AT_END: return_results(f, c->s, c->n); return true;
    case WSR_OP_CALL:
    case WSR_OP_CALL_INDIRECT:
    case WSR_OP_CALL_REF:
    case WSR_OP_RETURN_CALL:
    case WSR_OP_RETURN_CALL_INDIRECT:
    case WSR_OP_RETURN_CALL_REF: call(f, c); return true;
    case WSR_OP_BR_ON_NULL:
    case WSR_OP_BR_ON_NULL_BACK:
    case WSR_OP_BR_ON_NON_NULL:
    case WSR_OP_BR_ON_NON_NULL_BACK: br_on(f, c); return true;
    default: return false;
  }
}

/* Translate references, parametric instructions, locals and globals; false if the cell is none. */
static bool translate_variable(translator *f, const wsr_cell *c) {
  switch (c->op) {
    case WSR_OP_REF_AS_NON_NULL:
      special(f, WSR_FAST_non_null, fields(any_slot(f, c->s), 0, 0, 0));
      return true;
    case WSR_OP_REF_NULL: set_operand(f, c->s, IN_CONSTANT, 0, 0); return true;
    case WSR_OP_REF_IS_NULL: is_zero(f, WSR_OP_I64_EQ, c->s); return true;
    case WSR_OP_I32_EQZ: is_zero(f, WSR_OP_I32_EQ, c->s); return true;
    case WSR_OP_I64_EQZ: is_zero(f, WSR_OP_I64_EQ, c->s); return true;
    case WSR_OP_DROP: pop_operands(f, c->s); return true;
    case WSR_OP_SELECT: select_one(f, c->s); return true;
    case WSR_OP_LOCAL_GET: set_operand(f, c->s, IN_LOCAL, 0, c->u.p.a); return true;
    case WSR_OP_LOCAL_SET: local_set(f, c->u.p.a, c->s, false, false); return true;
    case WSR_OP_LOCAL_TEE: local_set(f, c->u.p.a, c->s, false, true); return true;
    case WSR_OP_LOCAL_GET_V128: set_operand(f, c->s, IN_LOCAL, KIND_V, c->u.p.a); return true;
    case WSR_OP_LOCAL_SET_V128: local_set(f, c->u.p.a, c->s, true, false); return true;
    case WSR_OP_LOCAL_TEE_V128: local_set(f, c->u.p.a, c->s, true, true); return true;
    case WSR_OP_SELECT_V128: select_v128(f, c->s); return true;
    case WSR_OP_GLOBAL_GET_V128: global_v128(f, c, true); return true;
    case WSR_OP_GLOBAL_SET_V128: global_v128(f, c, false); return true;
    case WSR_OP_GLOBAL_GET: global(f, c, true); return true;
    case WSR_OP_GLOBAL_SET: global(f, c, false); return true;
    case WSR_OP_CANONICAL_F32:
    case WSR_OP_CANONICAL_F64: unary(f, c->op, c->s); return true;
    case WSR_OP_CANONICAL_F32X4:
    case WSR_OP_CANONICAL_F64X2: vector(f, c); return true;
    default: return false;
  }
}

static void translate_cell(translator *f, const wsr_cell *c) {
  if (translate_control(f, c) || translate_variable(f, c)) return;
  const wsr_opcode_row *row = &wsr_opcode_table[c->op];
  switch (row->kind) {
    case WSR_KIND_CONST: set_operand(f, c->s, IN_CONSTANT, 0, c->u.imm); return;
    case WSR_KIND_LOAD: load(f, c->op, c); return;
    case WSR_KIND_STORE: store(f, c->op, c); return;
    case WSR_KIND_VECTOR: vector(f, c); return;
    case WSR_KIND_ATOMIC: as_precise(f, WSR_FAST_atomic, c); return;
    case WSR_KIND_NUMERIC:
      if (row->n_params == 1)
        unary(f, c->op, c->s);
      else
        binary(f, c->op, c->s);
      return;
    default: slow(f, c);
  }
}

static void mark_leaders(translator *f) {
  const wsr_code *code = f->code;
  for (uint32_t i = 0; i < code->n_catches; i++) /* canonical: a throw enters there */
    f->leader[code->targets[code->catches[i].target].cell] = 2;
  for (uint32_t i = 0; i < code->n_cells; i++) {
    const wsr_cell *c = &code->cells[i];
    switch (c->op) {
      case WSR_OP_BR_BACK:
      case WSR_OP_BR_IF_BACK:
      case WSR_OP_BR_ON_NULL_BACK:
      case WSR_OP_BR_ON_NON_NULL_BACK: f->leader[c->u.p.a] = 2; break;
      case WSR_OP_IF:
      case WSR_OP_JUMP:
      case WSR_OP_BR:
      case WSR_OP_LEAVE_CATCH:
      case WSR_OP_BR_IF:
      case WSR_OP_BR_ON_NULL:
      case WSR_OP_BR_ON_NON_NULL: f->leader[c->u.p.a] |= 1; break;
      case WSR_OP_BR_TABLE:
        for (uint32_t k = 0; k < c->u.p.b; k++) {
          const uint32_t to = code->targets[c->u.p.a + k].cell;
          f->leader[to] |= to <= i ? 2 : 1;
        }
        break;
      default: break;
    }
  }
}

static void resolve(translator *f) {
  for (uint32_t i = 0; i < f->n_fixups && !f->failed; i++) {
    const fixup *x = &f->fixups[i];
    const uint32_t to = f->word_of[x->cell];
    if (x->entry)
      f->words[x->at] |= (uint32_t)(to - x->from);
    else
      set_distance(f, x->from, to);
  }
}

/* ---- metered code: blocks and what they count ---- */

static bool is_slow(const wsr_cell *c) {
  switch (c->op) {
    case WSR_OP_REF_FUNC:
    case WSR_OP_I64_ADD128:
    case WSR_OP_I64_SUB128:
    case WSR_OP_I64_MUL_WIDE_S:
    case WSR_OP_I64_MUL_WIDE_U:
    case WSR_OP_TABLE_GET:
    case WSR_OP_TABLE_SET:
    case WSR_OP_TABLE_INIT:
    case WSR_OP_ELEM_DROP:
    case WSR_OP_TABLE_COPY:
    case WSR_OP_TABLE_GROW:
    case WSR_OP_TABLE_SIZE:
    case WSR_OP_TABLE_FILL: return true;
    default:
      return wsr_opcode_table[c->op].immediate == WSR_IMM_MEMORY ||
             wsr_opcode_table[c->op].immediate == WSR_IMM_DATA ||
             wsr_opcode_table[c->op].immediate == WSR_IMM_DATA_MEMORY ||
             wsr_opcode_table[c->op].immediate == WSR_IMM_MEMORY_MEMORY;
  }
}

static bool is_call(const wsr_cell *c) { return wsr_is_call(c->op); }

/* Return whether a block ends with this cell: control can leave there, or a pause can stop it. */
static bool ends_block(const wsr_cell *c) {
  switch (c->op) {
    case WSR_OP_UNREACHABLE:
    case WSR_OP_JUMP:
    case WSR_OP_BR:
    case WSR_OP_BR_BACK:
    case WSR_OP_BR_TABLE:
    case WSR_OP_LEAVE_CATCH:
    case WSR_OP_RETURN:
    case WSR_OP_RETURN_AT_END: return true;
    default:
      return wsr_may_throw(c->op) || wsr_may_branch(c->op) || wsr_is_tail_call(c->op) ||
             is_call(c) || is_slow(c);
  }
}

uint64_t wsr_left_in_block(const wsr_code *code, uint32_t cell) {
  uint64_t n = 0;
  /* Labels end blocks too. A trap is rare, so this function finds the labels again. */
  uint8_t *leader = calloc(code->n_cells, 1);
  if (!leader) return 0;
  translator f = {.code = code, .leader = leader};
  mark_leaders(&f);
  while (!ends_block(&code->cells[cell]) && ++cell < code->n_cells && !leader[cell])
    n += wsr_opcode_table[code->cells[cell].op].counted;
  free(leader);
  return n;
}

/* Return whether metered code checks the fuel here: at a canonical point where a block begins. */
static bool decides(const translator *f, uint32_t cell) {
  return cell == 0 || f->leader[cell] & 2 || is_call(&f->code->cells[cell - 1]);
}

static bool begins_block(const translator *f, uint32_t cell) {
  return cell == 0 || f->leader[cell] || ends_block(&f->code->cells[cell - 1]);
}

static void longer(const translator *f, uint32_t from, uint32_t to, uint32_t *most) {
  if (to <= from || to >= f->code->n_cells || decides(f, to)) return;
  if (f->longest[to] > *most) *most = f->longest[to];
}

/* Go backward over the blocks. Forward ways have no cycle, because every loop begins at a check of
 * the fuel. */
static void find_longest(translator *f) {
  const wsr_code *code = f->code;
  uint32_t n = 0, most = 0; /* instructions of this block; of the longest way after it */
  for (uint32_t at = code->n_cells; at-- > 0;) {
    const wsr_cell *c = &code->cells[at];
    if (at + 1 == code->n_cells || begins_block(f, at + 1)) {
      n = most = 0;
      switch (c->op) {
        case WSR_OP_JUMP:
        case WSR_OP_BR:
        case WSR_OP_LEAVE_CATCH:
        case WSR_OP_BR_BACK: longer(f, at, c->u.p.a, &most); break;
        case WSR_OP_BR_TABLE:
          for (uint32_t i = 0; i < c->u.p.b; i++)
            longer(f, at, code->targets[c->u.p.a + i].cell, &most);
          break;
        case WSR_OP_UNREACHABLE:
        case WSR_OP_RETURN:
        case WSR_OP_RETURN_AT_END:
        case WSR_OP_RETURN_CALL:
        case WSR_OP_RETURN_CALL_INDIRECT:
        case WSR_OP_RETURN_CALL_REF:
        case WSR_OP_THROW:
        case WSR_OP_THROW_REF:
        case WSR_OP_RETHROW: break;
        default:
          if (wsr_may_branch(c->op)) longer(f, at, c->u.p.a, &most);
          longer(f, at, at + 1, &most);
      }
    }
    n += wsr_opcode_table[c->op].counted;
    f->longest[at] = n + most;
  }
}

/* The first cell of a block in metered code. */
static void meter(translator *f) {
  const wsr_code *code = f->code;
  uint32_t n = 0;
  for (uint32_t at = f->at;; at++) {
    n += wsr_opcode_table[code->cells[at].op].counted;
    if (at + 1 == code->n_cells || begins_block(f, at + 1)) break;
  }
  if (decides(f, f->at)) {
    special(f, WSR_FAST_decide, fields_and_number(0, 0, n));
    word(f, pair(f->longest[f->at], f->at));
  } else if (n) {
    special(f, WSR_FAST_spend, fields_and_number(0, 0, n));
  }
}

static void translate_all(translator *f) {
  const wsr_code *code = f->code;
  mark_leaders(f);
  forget(f);
  if (f->longest) find_longest(f);
  add_canonical(f, 0);
  add_head(f);
  for (f->at = 0; f->at < code->n_cells && !f->failed; f->at++) {
    if (wsr_pause_requested_at(f->interrupt, f->at)) f->failed = true;
    if (f->leader[f->at]) {
      flush_all(f);
      forget(f);
      if (f->leader[f->at] & 2 && f->at) {
        add_canonical(f, f->at);
        add_head(f);
      }
    }
    f->word_of[f->at] = f->n;
    if (f->longest && begins_block(f, f->at)) meter(f);
    translate_cell(f, &code->cells[f->at]);
  }
  resolve(f);
  if (!f->failed) f->failed = !wsr_join_cells(f->words, f->map, f->n_map);
}

static int by_cell(const void *a, const void *b) {
  const wsr_place *x = a, *y = b;
  return (x->cell > y->cell) - (x->cell < y->cell);
}

static wsr_fast *make(const wsr_module *m, const wsr_code *code, bool metered, bool heads,
                      const wsr_request *interrupt) {
  wsr_fast *fast = calloc(1, sizeof *fast);
  if (!fast) return NULL;
  fast->code = code;
  fast->metered = metered;
  fast->n_params = code->n_params;
  fast->n_locals = code->n_locals;
  fast->frame_bytes = code->frame_slots * sizeof(uint64_t);
  translator f = {
      .m = m, .code = code, .interrupt = interrupt, .has_heads = heads, .loaded.start = WSR_NONE};
  if (code->frame_slots > MOST_SLOTS) {
    special(&f, WSR_FAST_not_here, 0);
    fast->words = f.words;
    free(f.map);
    if (!f.failed) return fast;
    free(f.words);
    free(fast);
    return NULL;
  }
  f.word_of = calloc(code->n_cells, sizeof *f.word_of);
  f.leader = calloc(code->n_cells, 1);
  f.operands = calloc((size_t)code->frame_slots + 4, sizeof *f.operands);
  f.pending = calloc((size_t)code->frame_slots + 4, sizeof *f.pending);
  if (metered) f.longest = calloc(code->n_cells, sizeof *f.longest);
  f.failed = !f.word_of || !f.leader || !f.operands || !f.pending || (metered && !f.longest);
  if (!f.failed) translate_all(&f);
  free(f.word_of);
  free(f.leader);
  free(f.operands);
  free(f.pending);
  free(f.fixups);
  free(f.longest);
  if (f.failed) {
    free(f.words);
    free(f.map);
    free(f.canonical);
    free(f.heads);
    free(fast);
    return NULL;
  }
  if (f.n_canonical) qsort(f.canonical, f.n_canonical, sizeof *f.canonical, by_cell);
  fast->words = f.words;
  fast->n_words = f.n;
  fast->map = f.map;
  fast->n_map = f.n_map;
  fast->canonical = f.canonical;
  fast->n_canonical = f.n_canonical;
  fast->heads = f.heads;
  fast->n_heads = f.n_heads;
  while (fast->n_heads && f.heads[fast->n_heads - 1] >= f.n) fast->n_heads--;
  return fast;
}

wsr_fast *wsr_fast_copy(const wsr_module *m, const wsr_code *code) {
  return make(m, code, false, false, NULL);
}

const wsr_fast *wsr_translate_fast(const wsr_module *m, const wsr_code *code, unsigned kind,
                                   bool later, const wsr_request *interrupt,
                                   const wsr_request *no_native) {
  (void)no_native;
  const bool counts_heat = kind >= WSR_FAST_NATIVE && later;
  /* each code is made once, when it is first needed */
  _Atomic(wsr_fast *) *place = &((wsr_code *)(uintptr_t)code)->fast[kind];
  wsr_fast *fast = WSR_PUBLISHED(place);
#if WSR_NATIVE
  if (fast && kind >= WSR_FAST_NATIVE && !later) wsr_native_now(m, fast);
#endif
  if (fast) return fast;
  fast = make(m, code, kind % 2 != 0, counts_heat, interrupt);
#if WSR_NATIVE
  if (fast && counts_heat) {
    wsr_native_count(fast);
  } else if (fast && kind >= WSR_FAST_NATIVE) {
    atomic_store(&fast->claimed, true);
    wsr_native_compile(m, fast, no_native);
    if (!fast->native && wsr_pause_requested_at(interrupt, 1023)) { /* later, then */
      wsr_fast_free(fast);
      return NULL;
    }
  }
#endif
  wsr_fast *first = NULL;
  if (fast && !WSR_PUBLISH_FIRST(place, &first, fast)) {
    wsr_fast_free(fast);
    fast = first;
  }
#if WSR_NATIVE
  if (fast && fast->native) wsr_native_publish(m, fast);
#endif
  return fast;
}

const wsr_fast *wsr_function_fast(wsr_thread *thread, uint32_t address, bool metered) {
  wsr_store *const store = thread->store;
  wsr_fast_place *place = &store->program.fast[metered][address];
  const wsr_function_instance *f = &store->program.functions[address];
  const wsr_fast *fast = WSR_PUBLISHED(place);
  if (fast || f->instance == WSR_NONE) return fast;
  const wsr_code *code = wsr_function_code(thread, address);
  if (!code) return NULL;
  const unsigned kind = (store->program.native ? WSR_FAST_NATIVE : WSR_FAST_PLAIN) + metered;
  const wsr_request *const interrupt = thread->interrupt ? &thread->pause : NULL;
  fast = wsr_translate_fast(store->program.instances[f->instance]->module, code, kind,
                            store->program.later, interrupt,
                            thread->points ? interrupt : &thread->pause);
  WSR_PUBLISH(place, fast);
  return fast;
}

uint32_t wsr_fast_entry(const wsr_fast *fast, uint32_t cell) {
  uint32_t first = 0, last = fast->n_canonical;
  while (first < last) {
    const uint32_t middle = first + (last - first) / 2;
    if (fast->canonical[middle].cell < cell)
      first = middle + 1;
    else
      last = middle;
  }
  return first < fast->n_canonical && fast->canonical[first].cell == cell
             ? fast->canonical[first].word
             : WSR_NONE;
}
#endif

void wsr_fast_free(wsr_fast *fast) {
  if (!fast) return;
#if WSR_FAST
#if WSR_NATIVE
  wsr_code_give(fast->native, fast->native_bytes);
#endif
  free(fast->words);
  free(fast->map);
  free(fast->canonical);
  free(fast->heads);
  free(fast->heat);
  free(fast);
#endif
}
