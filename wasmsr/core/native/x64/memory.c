/* Templates of loads and stores of memory 0 with 32-bit addresses. Each checks its bounds, or one
 * before it by the same address has checked them (make_checks in analyse.c); the C handler traps.
 * The index register is always RAX, which has just got 32 bits, so no address reaches further than
 * 8 GiB and a few bytes from the start of the memory. */
#include "core/native/x64/emit.h"

#if WSR_NATIVE

/* Compare RAX + end with the size of the memory. */
static void compare_end(wsr_emission *e, int32_t end) {
  lea(e->out, WIDE, R10, at(RAX, end));
  alu(e->out, ALU_CMP, WIDE, R10, in_register(RCX));
  wsr_jump_to_handler(e, CC_A);
}

/* Check an access to `width` bytes at RAX + offset, and return its place. */
static wsr_rm checked(wsr_emission *e, uint64_t offset, unsigned width) {
  wsr_buffer *const b = e->out;
  if (offset + width <= INT32_MAX) {
    compare_end(e, (int32_t)(offset + width));
    return at_index(RDX, RAX, 0, (int32_t)offset);
  }
  load_constant(b, R10, offset);
  alu(b, ALU_ADD, WIDE, RAX, in_register(R10));
  lea(b, WIDE, R10, at(RAX, (int32_t)width));
  alu(b, ALU_CMP, WIDE, R10, in_register(RCX));
  wsr_jump_to_handler(e, CC_A);
  return at_index(RDX, RAX, 0, 0);
}

/* A constant address, offset included: at most 33 bits, or what `is_plain` allows. */
static wsr_rm checked_constant(wsr_emission *e, uint64_t address, unsigned width) {
  wsr_buffer *const b = e->out;
  if (address + width <= INT32_MAX) {
    alu_constant(b, ALU_CMP, WIDE, in_register(RCX), (int32_t)(address + width));
    wsr_jump_to_handler(e, CC_B);
    return at(RDX, (int32_t)address);
  }
  load_constant(b, R10, address + width);
  alu(b, ALU_CMP, WIDE, R10, in_register(RCX));
  wsr_jump_to_handler(e, CC_A);
  load_constant(b, RAX, address);
  return at_index(RDX, RAX, 0, 0);
}

wsr_rm wsr_address(wsr_emission *e, unsigned width) {
  const wsr_shape *const s = &e->c->shape;
  if (s->a == WSR_C) return checked_constant(e, e->c->pc[2], width);
  mov_to(e->out, 0, RAX, wsr_integer(e, s->a, 0, RAX));
  const uint32_t offset = wsr_cell_number(e->c), check = e->c->check;
  if (check == CHECK_DONE) return at_index(RDX, RAX, 0, (int32_t)offset);
  if (check != CHECK_OWN) {
    compare_end(e, (int32_t)check);
    return at_index(RDX, RAX, 0, (int32_t)offset);
  }
  return checked(e, offset, width);
}

wsr_rm wsr_address_sum(wsr_emission *e, unsigned width) {
  wsr_buffer *const b = e->out;
  const uint64_t third = e->c->pc[2];
  const uint8_t sum = e->c->shape.a;
  const wsr_rm first = wsr_integer(e, sum == SUM_ACC_CONSTANT ? WSR_A : WSR_S, 0, RAX);
  if (sum == SUM_SLOT_CONSTANT || sum == SUM_ACC_CONSTANT) {
    if (!first.memory) {
      lea(b, 0, RAX, at(first.base, (int32_t)(uint32_t)third));
    } else {
      mov_to(b, 0, RAX, first);
      alu_constant(b, ALU_ADD, 0, in_register(RAX), (int32_t)(uint32_t)third);
    }
  } else {
    const wsr_rm second =
        sum == SUM_SLOT_SLOT ? wsr_integer_slot(e, field_of(e, 2), R10) : in_register(R9);
    if (!first.memory && !second.memory) {
      lea(b, 0, RAX, at_index(first.base, second.base, 0, 0));
    } else {
      mov_to(b, 0, RAX, first);
      alu(b, ALU_ADD, 0, RAX, second);
    }
  }
  return checked(e, third >> 32, width);
}

/* The instruction that loads an integer. */
typedef struct {
  uint8_t map, opcode, flags;
} loading;

static loading loading_of(uint32_t op) {
  switch (op) {
    case WSR_OP_I32_LOAD8_S: return (loading){MAP_0F, 0xBE, 0};
    case WSR_OP_I64_LOAD8_S: return (loading){MAP_0F, 0xBE, WIDE};
    case WSR_OP_I32_LOAD8_U:
    case WSR_OP_I64_LOAD8_U: return (loading){MAP_0F, 0xB6, 0};
    case WSR_OP_I32_LOAD16_S: return (loading){MAP_0F, 0xBF, 0};
    case WSR_OP_I64_LOAD16_S: return (loading){MAP_0F, 0xBF, WIDE};
    case WSR_OP_I32_LOAD16_U:
    case WSR_OP_I64_LOAD16_U: return (loading){MAP_0F, 0xB7, 0};
    case WSR_OP_I64_LOAD32_S: return (loading){MAP_1, 0x63, WIDE};
    case WSR_OP_I64_LOAD: return (loading){MAP_1, 0x8B, WIDE};
    default: return (loading){MAP_1, 0x8B, 0};
  }
}

static void load(wsr_emission *e, bool sum) {
  wsr_buffer *const b = e->out;
  const uint32_t op = e->c->shape.op;
  const unsigned width = wsr_opcode_table[op].width;
  const wsr_rm place = sum ? wsr_address_sum(e, width) : wsr_address(e, width);
  if (op == WSR_OP_F32_LOAD || op == WSR_OP_F64_LOAD) {
    const uint8_t type = op == WSR_OP_F32_LOAD ? TYPE_F : TYPE_D;
    const int d = wsr_float_target(e, 1, type);
    ins(b, scalar(type), MAP_0F, 0x10, 0, d, place);
    wsr_float_result(e, 1, type, d);
    return;
  }
  const loading with = loading_of(op);
  const int d = wsr_integer_target(e, 1);
  ins(b, 0, with.map, with.opcode, with.flags, d, place);
  wsr_integer_result(e, 1, d);
}

static void store_integer(wsr_emission *e, wsr_rm to, unsigned width, int reg) {
  switch (width) {
    case 1: ins(e->out, 0, MAP_1, 0x88, BYTE_REG, reg, to); break;
    case 2: ins(e->out, 0x66, MAP_1, 0x89, 0, reg, to); break;
    case 4: ins(e->out, 0, MAP_1, 0x89, 0, reg, to); break;
    default: ins(e->out, 0, MAP_1, 0x89, WIDE, reg, to);
  }
}

static void store(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  const uint32_t op = s->op;
  const unsigned width = wsr_opcode_table[op].width;
  const bool is_float = op == WSR_OP_F32_STORE || op == WSR_OP_F64_STORE;
  if (s->b == WSR_C) { /* of a float these are the bits */
    const wsr_rm to = wsr_address(e, width);
    load_constant(b, R11, e->c->pc[s->a == WSR_C ? 3 : 2]);
    store_integer(e, to, width, R11);
    return;
  }
  if (is_float) {
    const uint8_t type = op == WSR_OP_F32_STORE ? TYPE_F : TYPE_D;
    wsr_rm value = wsr_float(e, s->b, 1, type, SCRATCH_XMM);
    if (value.memory) { /* before the address, which needs RAX and R10 */
      mov_to(b, type == TYPE_D ? WIDE : 0, R11, value);
      store_integer(e, wsr_address(e, width), width, R11);
      return;
    }
    ins(b, scalar(type), MAP_0F, 0x11, 0, value.base, wsr_address(e, width));
    return;
  }
  const int value = wsr_integer_register(e, s->b, 1, width == 8 ? 64 : 32, R11);
  store_integer(e, wsr_address(e, width), width, value);
}

void wsr_emit_memory(wsr_emission *e) {
  switch (e->c->shape.kind) {
    case CELL_LOAD: load(e, false); break;
    case CELL_LOAD_SUM: load(e, true); break;
    default: store(e);
  }
}
#endif
