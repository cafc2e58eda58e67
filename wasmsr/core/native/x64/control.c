/* Templates of moves, globals, branches, calls and returns. */
#include "core/native/x64/emit.h"

#if WSR_NATIVE

#define THREAD(member) at(R8, (int32_t)offsetof(wsr_thread, member))
#define INSTANCE(reg, member) at(reg, (int32_t)offsetof(wsr_instance, member))

/* ---- moves ---- */

static void constant(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const uint64_t value = e->c->pc[2];
  const uint32_t slot = field_of(e, 3);
  const wsr_pin pin = pin_of(e, slot);
  if (pin.type == TYPE_I) {
    load_constant(b, pin.reg, value);
  } else if (pin.type == TYPE_ANY && (int64_t)value >= INT32_MIN && (int64_t)value <= INT32_MAX) {
    ins(b, 0, MAP_1, 0xC7, WIDE, 0, slot_at(slot));
    put32(b, (uint32_t)value);
  } else if (pin.type != TYPE_ANY && value == 0) {
    ins(b, 0, MAP_0F, 0x57, 0, pin.reg, in_register(pin.reg));
  } else {
    load_constant(b, RAX, value);
    wsr_set_integer(e, slot, RAX);
  }
}

/* d = test ? a : b; all 64 bits move, whatever the type. */
static void select_slot(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const uint8_t class = e->c->shape.op == WSR_FAST_select_a ? WSR_A : WSR_S;
  mov_to(b, WIDE, RAX, wsr_integer_slot(e, field_of(e, 1), RAX));
  const wsr_rm first = wsr_integer_slot(e, field_of(e, 0), R10);
  const int test = wsr_integer_register(e, class, 2, 32, R11);
  test_self(b, 0, test);
  ins(b, 0, MAP_0F, 0x45, WIDE, RAX, first);
  wsr_set_integer(e, field_of(e, 3), RAX);
}

/* ---- globals ---- */

/* The place of the global's value: no code knows where a store has it. */
static wsr_rm global(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  mov_to(b, WIDE, RAX, THREAD(instance));
  mov_to(b, WIDE, RAX, INSTANCE(RAX, globals));
  mov_to(b, 0, RAX, at(RAX, (int32_t)(wsr_cell_number(e->c) * sizeof(uint32_t))));
  _Static_assert(sizeof(wsr_global_instance) == 24, "three times eight");
  lea(b, WIDE, RAX, at_index(RAX, RAX, 1, 0));
  mov_to(b, WIDE, R10, THREAD(globals));
  return at_index(R10, RAX, 3, (int32_t)offsetof(wsr_global_instance, value));
}

static void get_global(wsr_emission *e, uint8_t type) {
  const wsr_rm from = global(e);
  if (type == TYPE_I) {
    const int d = wsr_integer_target(e, 1);
    mov_to(e->out, WIDE, d, from);
    wsr_integer_result(e, 1, d);
  } else {
    const int d = wsr_float_target(e, 1, type);
    ins(e->out, scalar(type), MAP_0F, 0x10, 0, d, from);
    wsr_float_result(e, 1, type, d);
  }
}

static void get_and_add(wsr_emission *e) {
  const wsr_rm from = global(e);
  const int d = wsr_integer_target(e, 1);
  mov_to(e->out, 0, d, from);
  alu_constant(e->out, ALU_ADD, 0, in_register(d), (int32_t)(uint32_t)e->c->pc[2]);
  wsr_integer_result(e, 1, d);
}

static void set_global(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  switch (e->c->shape.op) {
    case WSR_FAST_set_i: mov_to(b, WIDE, R11, in_register(R9)); break;
    case WSR_FAST_set_f: xmm_to(b, 0, R11, 1); break;
    case WSR_FAST_set_d: xmm_to(b, WIDE, R11, 0); break;
    case WSR_FAST_set_add:
      mov_to(b, 0, R11, wsr_integer_slot(e, field_of(e, 0), R11));
      alu_constant(b, ALU_ADD, 0, in_register(R11), (int32_t)(uint32_t)e->c->pc[2]);
      break;
    default: mov_to(b, WIDE, R11, wsr_integer_slot(e, field_of(e, 0), R11));
  }
  mov_from(b, WIDE, global(e), R11);
}

/* ---- two loads ---- */

/* Nothing is written before both are checked: the C handler does all of it again to trap. */
static void load_2(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const uint64_t offsets = e->c->pc[2];
  const uint32_t first = (uint32_t)offsets, second = (uint32_t)(offsets >> 32);
  const uint32_t to = field_of(e, 1), then = field_of(e, 2);
  const uint32_t parts[2] = {first, second};
  for (int k = 0; k < 2; k++) {
    if (k == 1 && then == to)
      mov_to(b, 0, RAX, in_register(RDI));
    else
      mov_to(b, 0, RAX, wsr_integer_slot(e, k ? then : field_of(e, 0), RAX));
    load_constant(b, R10, parts[k]);
    alu(b, ALU_ADD, WIDE, RAX, in_register(R10));
    lea(b, WIDE, R10, at(RAX, 4));
    alu(b, ALU_CMP, WIDE, R10, in_register(RCX));
    wsr_jump_to_handler(e, CC_A);
    mov_to(b, 0, k ? RAX : RDI, at_index(RDX, RAX, 0, 0));
  }
  wsr_set_integer(e, to, RDI);
  wsr_integer_result(e, 3, RAX);
}

/* ---- branches ---- */

static void test(wsr_emission *e, bool in_slot) {
  const wsr_rm a = wsr_integer(e, in_slot ? WSR_S : WSR_A, 0, RAX);
  if (a.memory)
    alu_constant(e->out, ALU_CMP, 0, a, 0);
  else
    test_self(e->out, 0, a.base);
  wsr_jump_to_cell(e, e->c->shape.if_false ? CC_E : CC_NE, e->c->target);
}

/* A table of distances follows the code; each way has a jump of its own if it has work to do. */
static void table(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const wsr_native_cell *const c = e->c;
  const bool in_slot = c->shape.op == WSR_FAST_table_s || c->shape.op == WSR_FAST_table_copy_s;
  const uint32_t n = wsr_n_targets(c), add = (uint32_t)(c->pc[2] >> 32), arity = field_of(e, 1);
  mov_to(b, 0, RAX, wsr_integer(e, in_slot ? WSR_S : WSR_A, 0, RAX));
  if (add) alu_constant(b, ALU_ADD, 0, in_register(RAX), (int32_t)add);
  if (arity) wsr_flush(e, c->dirty);
  load_constant(b, R10, n - 1);
  alu(b, ALU_CMP, 0, RAX, in_register(R10));
  ins(b, 0, MAP_0F, 0x43, 0, RAX, in_register(R10)); /* the last one if it is not below */
  const uint32_t from = load_address(b, R10);
  ins(b, 0, MAP_1, 0x63, WIDE, RAX, at_index(R10, RAX, 2, 0));
  alu(b, ALU_ADD, WIDE, RAX, in_register(R10));
  jump_register(b, RAX);
  const uint32_t start = b->n;
  set_distance(b, from, start);
  const uint16_t dirty = arity ? 0 : c->dirty;
  for (uint32_t k = 0; k < n; k++) {
    put32(b, 0);
    wsr_table_way(e, start, k, dirty);
  }
}

/* ---- calls ---- */

static void enter_frame(wsr_emission *e) {
  alu_constant(e->out, ALU_ADD, WIDE, in_register(RSI), (int32_t)field_of(e, 0) * 8);
}

/* Go on behind a call. */
static void called(wsr_emission *e) {
  wsr_mark_site(e);
  alu_constant(e->out, ALU_SUB, WIDE, in_register(RSI), (int32_t)field_of(e, 0) * 8);
  wsr_load_pins(e, e->i + 1);
}

/* The callee polls and finds out whether there is room. */
static void call_own(wsr_emission *e) {
  enter_frame(e);
  wsr_call(e, (uint32_t)e->c->pc[2]);
  called(e);
}

/* Traps, subtypes and other instances are for the C handler. The index is masked, so that no
 * element behind the table is read when the CPU guesses wrong. */
static void call_indirect(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  mov_to(b, WIDE, R10, THREAD(instance));
  mov_to(b, WIDE, RAX, INSTANCE(R10, tables));
  mov_to(b, 0, RAX, at(RAX, (int32_t)((uint32_t)e->c->pc[3] * sizeof(uint32_t))));
  mov_to(b, WIDE, R11, THREAD(tables));
  mov_to(b, WIDE, R11, at_index(R11, RAX, 3, 0));
  mov_to(b, WIDE, RDI, wsr_integer_slot(e, field_of(e, 2), RDI));
  mov_to(b, 0, RAX, at(R11, (int32_t)offsetof(wsr_table_instance, size)));
  alu(b, ALU_CMP, WIDE, RDI, in_register(RAX));
  wsr_jump_to_handler(e, CC_AE);
  ins(b, 0, MAP_1, 0x1B, WIDE, RAX, in_register(RAX)); /* sbb: all ones if it is below */
  alu(b, ALU_AND, WIDE, RDI, in_register(RAX));
  mov_to(b, WIDE, R11, at(R11, (int32_t)offsetof(wsr_table_instance, elements)));
  mov_to(b, WIDE, R9, at_index(R11, RDI, 3, 0));
  alu_constant(b, ALU_SUB, WIDE, in_register(R9), 1);
  wsr_jump_to_handler(e, CC_B);
  _Static_assert(sizeof(wsr_function_instance) == 32, "the shift");
  mov_to(b, WIDE, R11, in_register(R9));
  ins(b, 0, MAP_1, 0xC1, WIDE, 4, in_register(R11));
  put8(b, 5);
  alu(b, ALU_ADD, WIDE, R11, THREAD(functions));
  mov_to(b, WIDE, RAX, INSTANCE(R10, types));
  mov_to(b, 0, RAX, at(RAX, (int32_t)((uint32_t)e->c->pc[2] * sizeof(uint32_t))));
  alu(b, ALU_CMP, 0, RAX, at(R11, (int32_t)offsetof(wsr_function_instance, type)));
  wsr_jump_to_handler(e, CC_NE);
  alu(b, ALU_CMP, WIDE, R10, at(R11, (int32_t)offsetof(wsr_function_instance, owner)));
  wsr_jump_to_handler(e, CC_NE);
  mov_to(b, 0, RAX, at(R11, (int32_t)offsetof(wsr_function_instance, index)));
  load_constant(b, R11, (uint64_t)(uintptr_t)e->callees);
  enter_frame(e);
  ins(b, 0, MAP_1, 0xFF, 0, 2, at_index(R11, RAX, 3, 0)); /* call */
  called(e);
}

static void return_results(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const uint32_t from = field_of(e, 0);
  uint32_t n = 0;
  const unsigned first = e->a->n_slots ? e->pin_of[0] - 1U : PINS;
  const uint16_t result = first < PINS ? (uint16_t)(e->c->dirty & 1U << first) : 0;
  if (e->c->shape.op == WSR_FAST_return_0) {
    wsr_flush(e, result);
  } else if (e->c->shape.op == WSR_FAST_return_1) {
    n = 1;
  } else {
    n = field_of(e, 1);
    wsr_flush(e, e->c->dirty);
  }
  for (uint32_t k = 0; k < n && from; k++) {
    const wsr_rm value = n == 1 ? wsr_integer_slot(e, from, RAX) : slot_at(from + k);
    const int reg = value.memory ? RAX : value.base;
    if (value.memory) mov_to(b, WIDE, RAX, value);
    mov_from(b, WIDE, slot_at(k), reg);
  }
  if (n == 1 && from == 0) wsr_flush(e, result);
  ret(b);
}

static void move_from_accumulator(wsr_emission *e) {
  const uint32_t slot = field_of(e, 3);
  switch (e->c->shape.op) {
    case WSR_FAST_move_acc_i: wsr_set_integer(e, slot, R9); break;
    case WSR_FAST_move_acc_f: wsr_set_float(e, slot, TYPE_F, 1); break;
    default: wsr_set_float(e, slot, TYPE_D, 0);
  }
}

/* ---- counts ---- */

/* Decide whether the fuel suffices for the longest way to the next decision, then spend. */
static void spend(wsr_emission *e, bool decides) {
  const uint32_t longest = (uint32_t)e->c->pc[2], n = wsr_cell_number(e->c);
  if (decides) {
    if (longest <= INT32_MAX) {
      alu_constant(e->out, ALU_CMP, WIDE, in_register(FUEL), (int32_t)longest);
    } else {
      load_constant(e->out, RAX, longest);
      alu(e->out, ALU_CMP, WIDE, FUEL, in_register(RAX));
    }
    wsr_jump_to_handler(e, CC_B);
  }
  if (n) alu_constant(e->out, ALU_SUB, WIDE, in_register(FUEL), (int32_t)n);
}

static bool emit_simple(wsr_emission *e) {
  switch (e->c->shape.op) {
    case WSR_FAST_move: wsr_move_slot(e, field_of(e, 0), field_of(e, 3)); return true;
    case WSR_FAST_move_2:
      wsr_move_slot(e, field_of(e, 0), field_of(e, 1));
      wsr_move_slot(e, field_of(e, 2), field_of(e, 3));
      return true;
    case WSR_FAST_constant: constant(e); return true;
    case WSR_FAST_move_acc_i:
    case WSR_FAST_move_acc_f:
    case WSR_FAST_move_acc_d: move_from_accumulator(e); return true;
    case WSR_FAST_move_acc_v:
    case WSR_FAST_constant_v:
    case WSR_FAST_select_v_a:
    case WSR_FAST_select_v_w: wsr_emit_vector_move(e); return true;
    case WSR_FAST_select_s:
    case WSR_FAST_select_a: select_slot(e); return true;
    case WSR_FAST_get_i_a:
    case WSR_FAST_get_i_w: get_global(e, TYPE_I); return true;
    case WSR_FAST_get_f_a:
    case WSR_FAST_get_f_w: get_global(e, TYPE_F); return true;
    case WSR_FAST_get_d_a:
    case WSR_FAST_get_d_w: get_global(e, TYPE_D); return true;
    case WSR_FAST_get_add_a:
    case WSR_FAST_get_add_w: get_and_add(e); return true;
    case WSR_FAST_set_s:
    case WSR_FAST_set_i:
    case WSR_FAST_set_f:
    case WSR_FAST_set_d:
    case WSR_FAST_set_add: set_global(e); return true;
    case WSR_FAST_load_2_a:
    case WSR_FAST_load_2_w: load_2(e); return true;
    case WSR_FAST_spend:
    case WSR_FAST_decide: spend(e, e->c->shape.op == WSR_FAST_decide); return true;
    default: return false;
  }
}

void wsr_emit_special(wsr_emission *e) {
  if (emit_simple(e)) return;
  switch (e->c->shape.op) {
    case WSR_FAST_branch_back:
    case WSR_FAST_branch: wsr_jump_to_cell(e, ALWAYS, e->c->target); break;
    case WSR_FAST_true_s:
    case WSR_FAST_false_s:
    case WSR_FAST_true_back_s:
    case WSR_FAST_false_back_s: test(e, true); break;
    case WSR_FAST_true_a:
    case WSR_FAST_false_a:
    case WSR_FAST_true_back_a:
    case WSR_FAST_false_back_a: test(e, false); break;
    case WSR_FAST_table_s:
    case WSR_FAST_table_a:
    case WSR_FAST_table_copy_s:
    case WSR_FAST_table_copy_a: table(e); break;
    case WSR_FAST_call_own: call_own(e); break;
    case WSR_FAST_call_indirect: call_indirect(e); break;
    default: return_results(e);
  }
}
#endif
