/* Templates of numeric instructions, and of comparisons that are part of a branch. What is not here
 * runs in its C handler. */
#include "core/native/x64/emit.h"

#if WSR_NATIVE

enum { NO_ALU = 0xFF };

/* ---- what there is a template for ---- */

typedef struct {
  uint8_t bits;     /* of an integer operation: 32 or 64 */
  uint8_t alu;      /* ALU_ or NO_ALU */
  uint8_t shift;    /* the number in the shift group (rol 0, ror 1, shl 4, shr 5, sar 7), or 0xFF */
  int8_t condition; /* of an integer comparison, or -1 */
} integer_operation;

#define INTEGER(OP, ALU, SHIFT, CONDITION)                                                \
  case WSR_OP_I32_##OP: *o = (integer_operation){32, ALU, SHIFT, CONDITION}; return true; \
  case WSR_OP_I64_##OP: *o = (integer_operation){64, ALU, SHIFT, CONDITION}; return true

static bool integer_of(uint32_t op, integer_operation *o) {
  switch (op) {
    INTEGER(ADD, ALU_ADD, 0xFF, -1);
    INTEGER(SUB, ALU_SUB, 0xFF, -1);
    INTEGER(AND, ALU_AND, 0xFF, -1);
    INTEGER(OR, ALU_OR, 0xFF, -1);
    INTEGER(XOR, ALU_XOR, 0xFF, -1);
    INTEGER(MUL, NO_ALU, 0xFF, -1);
    INTEGER(SHL, NO_ALU, 4, -1);
    INTEGER(SHR_U, NO_ALU, 5, -1);
    INTEGER(SHR_S, NO_ALU, 7, -1);
    INTEGER(ROTL, NO_ALU, 0, -1);
    INTEGER(ROTR, NO_ALU, 1, -1);
    INTEGER(EQ, NO_ALU, 0xFF, CC_E);
    INTEGER(NE, NO_ALU, 0xFF, CC_NE);
    INTEGER(LT_S, NO_ALU, 0xFF, CC_L);
    INTEGER(LT_U, NO_ALU, 0xFF, CC_B);
    INTEGER(GT_S, NO_ALU, 0xFF, CC_G);
    INTEGER(GT_U, NO_ALU, 0xFF, CC_A);
    INTEGER(LE_S, NO_ALU, 0xFF, CC_LE);
    INTEGER(LE_U, NO_ALU, 0xFF, CC_BE);
    INTEGER(GE_S, NO_ALU, 0xFF, CC_GE);
    INTEGER(GE_U, NO_ALU, 0xFF, CC_AE);
    INTEGER(DIV_S, NO_ALU, 0xFF, -1);
    INTEGER(DIV_U, NO_ALU, 0xFF, -1);
    INTEGER(REM_S, NO_ALU, 0xFF, -1);
    INTEGER(REM_U, NO_ALU, 0xFF, -1);
    default: return false;
  }
}

typedef struct {
  uint8_t type;
  uint8_t opcode; /* of an arithmetic instruction, or 0 */
  int8_t compare; /* the predicate of cmpsd, or -1 */
  bool swap;      /* compare the second operand with the first */
} float_operation;

#define FLOAT(OP, OPCODE, COMPARE, SWAP)                                                    \
  case WSR_OP_F32_##OP: *o = (float_operation){TYPE_F, OPCODE, COMPARE, SWAP}; return true; \
  case WSR_OP_F64_##OP: *o = (float_operation){TYPE_D, OPCODE, COMPARE, SWAP}; return true

static bool float_of(uint32_t op, float_operation *o) {
  switch (op) {
    FLOAT(ADD, 0x58, -1, false);
    FLOAT(SUB, 0x5C, -1, false);
    FLOAT(MUL, 0x59, -1, false);
    FLOAT(DIV, 0x5E, -1, false);
    FLOAT(EQ, 0, 0, false);
    FLOAT(NE, 0, 4, false);
    FLOAT(LT, 0, 1, false);
    FLOAT(LE, 0, 2, false);
    FLOAT(GT, 0, 1, true);
    FLOAT(GE, 0, 2, true);
    default: return false;
  }
}

static bool has_unary(uint32_t op) {
  switch (op) {
    case WSR_OP_I32_CLZ:
    case WSR_OP_I64_CLZ:
    case WSR_OP_I32_CTZ:
    case WSR_OP_I64_CTZ:
    case WSR_OP_I32_WRAP_I64:
    case WSR_OP_I64_EXTEND_I32_S:
    case WSR_OP_I64_EXTEND_I32_U:
    case WSR_OP_I32_EXTEND8_S:
    case WSR_OP_I32_EXTEND16_S:
    case WSR_OP_I64_EXTEND8_S:
    case WSR_OP_I64_EXTEND16_S:
    case WSR_OP_I64_EXTEND32_S:
    case WSR_OP_F32_ABS:
    case WSR_OP_F64_ABS:
    case WSR_OP_F32_NEG:
    case WSR_OP_F64_NEG:
    case WSR_OP_F32_SQRT:
    case WSR_OP_F64_SQRT:
    case WSR_OP_F32_CONVERT_I32_S:
    case WSR_OP_F32_CONVERT_I32_U:
    case WSR_OP_F32_CONVERT_I64_S:
    case WSR_OP_F64_CONVERT_I32_S:
    case WSR_OP_F64_CONVERT_I32_U:
    case WSR_OP_F64_CONVERT_I64_S:
    case WSR_OP_F32_DEMOTE_F64:
    case WSR_OP_F64_PROMOTE_F32:
    case WSR_OP_I32_REINTERPRET_F32:
    case WSR_OP_I64_REINTERPRET_F64:
    case WSR_OP_F32_REINTERPRET_I32:
    case WSR_OP_F64_REINTERPRET_I64:
    case WSR_OP_I32_TRUNC_F32_S:
    case WSR_OP_I32_TRUNC_F32_U:
    case WSR_OP_I32_TRUNC_F64_S:
    case WSR_OP_I32_TRUNC_F64_U:
    case WSR_OP_I64_TRUNC_F32_S:
    case WSR_OP_I64_TRUNC_F64_S:
    case WSR_OP_I32_TRUNC_SAT_F32_S:
    case WSR_OP_I32_TRUNC_SAT_F32_U:
    case WSR_OP_I32_TRUNC_SAT_F64_S:
    case WSR_OP_I32_TRUNC_SAT_F64_U:
    case WSR_OP_I64_TRUNC_SAT_F32_S:
    case WSR_OP_I64_TRUNC_SAT_F64_S: return true;
    default: return false;
  }
}

static bool extreme_of(uint32_t op, uint8_t *type, bool *least);

bool wsr_has_numeric(const wsr_shape *s) {
  integer_operation i;
  float_operation f;
  uint8_t type;
  bool least;
  return s->kind == CELL_UNARY
             ? has_unary(s->op)
             : integer_of(s->op, &i) || float_of(s->op, &f) || extreme_of(s->op, &type, &least);
}

static bool has_bmi2(void) { return __builtin_cpu_supports("bmi2"); }

/* ---- integers ---- */

/* The constant operand of the current cell, as the instruction takes it, if it has 32 bits. */
static bool small_constant(const wsr_emission *e, unsigned bits, int32_t *value) {
  if (e->c->shape.b != WSR_C) return false;
  const uint64_t k = e->c->pc[2];
  *value = (int32_t)(uint32_t)k;
  return bits == 32 || (uint64_t)(int64_t)*value == k;
}

/* Compare the operands; the condition that then means that the comparison is true. */
static unsigned compare_integers(wsr_emission *e, const integer_operation *o) {
  const wsr_shape *const s = &e->c->shape;
  int32_t k;
  const wsr_rm a = wsr_integer(e, s->a, 0, RAX);
  if (small_constant(e, o->bits, &k)) {
    if (k == 0 && !a.memory && (o->condition == CC_E || o->condition == CC_NE))
      test_self(e->out, wide(o->bits), a.base);
    else
      alu_constant(e->out, ALU_CMP, wide(o->bits), a, k);
    return (unsigned)o->condition;
  }
  const wsr_rm b = wsr_integer(e, s->b, 1, R10);
  int reg = a.base;
  if (a.memory) mov_to(e->out, wide(o->bits), reg = RAX, a);
  alu(e->out, ALU_CMP, wide(o->bits), reg, b);
  return (unsigned)o->condition;
}

static void set_condition(wsr_emission *e, unsigned condition) {
  ins(e->out, 0, MAP_0F, 0x90 | condition, BYTE_RM, 0, in_register(RAX));
  const int d = wsr_integer_target(e, 3);
  ins(e->out, 0, MAP_0F, 0xB6, BYTE_RM, d, in_register(RAX));
  wsr_integer_result(e, 3, d);
}

static void shift(wsr_emission *e, const integer_operation *o) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  const unsigned w = wide(o->bits);
  const int d = wsr_integer_target(e, 3);
  const wsr_rm value = wsr_integer(e, s->a, 0, RAX);
  if (s->b == WSR_C) {
    const unsigned by = (unsigned)e->c->pc[2] & (o->bits - 1U);
    copy_to(b, w, d, value);
    if (by) {
      ins(b, 0, MAP_1, 0xC1, w, o->shift, in_register(d));
      put8(b, by);
    } else if (o->bits == 32) {
      mov_to(b, 0, d, in_register(d));
    }
    wsr_integer_result(e, 3, d);
    return;
  }
  const wsr_rm by = wsr_integer(e, s->b, 1, R11);
  if (o->shift >= 4 && has_bmi2()) {
    int count = by.base;
    if (by.memory) mov_to(b, 0, count = R11, by);
    shift_vex(b, o->shift == 4 ? 0x66 : o->shift == 5 ? 0xF2 : 0xF3, w, d, value, count);
  } else {
    mov_to(b, w, RAX, value);
    mov_to(b, WIDE, R10, in_register(RCX));
    mov_to(b, 0, RCX, by);
    ins(b, 0, MAP_1, 0xD3, w, o->shift, in_register(RAX));
    mov_to(b, WIDE, RCX, in_register(R10));
    mov_to(b, WIDE, d, in_register(RAX));
  }
  wsr_integer_result(e, 3, d);
}

static bool is_division(uint32_t op, bool *is_signed, bool *remainder) {
  switch (op) {
    case WSR_OP_I32_DIV_S:
    case WSR_OP_I64_DIV_S:
      *is_signed = true;
      *remainder = false;
      return true;
    case WSR_OP_I32_DIV_U:
    case WSR_OP_I64_DIV_U:
      *is_signed = false;
      *remainder = false;
      return true;
    case WSR_OP_I32_REM_S:
    case WSR_OP_I64_REM_S:
      *is_signed = true;
      *remainder = true;
      return true;
    case WSR_OP_I32_REM_U:
    case WSR_OP_I64_REM_U:
      *is_signed = false;
      *remainder = true;
      return true;
    default: return false;
  }
}

/* The C handler traps for a divisor of zero, and for the overflow of a quotient. */
static void divide(wsr_emission *e, unsigned bits, bool is_signed, bool remainder) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  const unsigned w = wide(bits);
  const wsr_rm by = wsr_integer(e, s->b, 1, R11);
  mov_to(b, w, R11, by);
  const wsr_rm value = wsr_integer(e, s->a, 0, RAX);
  mov_to(b, w, RAX, value);
  test_self(b, w, R11);
  wsr_jump_to_handler(e, CC_E);
  uint32_t over = 0, end = 0;
  if (is_signed) {
    alu_constant(b, ALU_CMP, w, in_register(R11), -1);
    over = jump_short(b, CC_NE);
    if (remainder) {
      load_constant(b, RAX, 0);
      end = jump_always_short(b);
    } else { /* x / -1 is -x, which overflows for the least x alone */
      ins(b, 0, MAP_1, 0xF7, w, 3, in_register(RAX));
      wsr_jump_to_handler(e, CC_O);
      end = jump_always_short(b);
    }
    land(b, over);
  }
  mov_to(b, WIDE, R10, in_register(RDX));
  if (is_signed) {
    if (w) put8(b, 0x48);
    put8(b, 0x99); /* cdq, cqo */
  } else {
    load_constant(b, RDX, 0);
  }
  ins(b, 0, MAP_1, 0xF7, w, is_signed ? 7 : 6, in_register(R11));
  if (remainder) mov_to(b, WIDE, RAX, in_register(RDX));
  mov_to(b, WIDE, RDX, in_register(R10));
  if (is_signed) land(b, end);
  const int d = wsr_integer_target(e, 3);
  mov_to(b, WIDE, d, in_register(RAX));
  wsr_integer_result(e, 3, d);
}

static void multiply(wsr_emission *e, unsigned bits) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  int32_t k;
  const int d = wsr_integer_target(e, 3);
  const wsr_rm value = wsr_integer(e, s->a, 0, RAX);
  if (small_constant(e, bits, &k)) {
    ins(b, 0, MAP_1, 0x69, wide(bits), d, value);
    put32(b, (uint32_t)k);
    wsr_integer_result(e, 3, d);
    return;
  }
  const wsr_rm by = wsr_integer(e, s->b, 1, R10);
  if (is_register(by, d)) {
    ins(b, 0, MAP_0F, 0xAF, wide(bits), d, value);
  } else {
    copy_to(b, wide(bits), d, value);
    ins(b, 0, MAP_0F, 0xAF, wide(bits), d, by);
  }
  wsr_integer_result(e, 3, d);
}

static void add_and_the_like(wsr_emission *e, const integer_operation *o) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  const unsigned w = wide(o->bits);
  int32_t k;
  const int d = wsr_integer_target(e, 3);
  const wsr_rm value = wsr_integer(e, s->a, 0, RAX);
  if (small_constant(e, o->bits, &k)) {
    const bool add = o->alu == ALU_ADD || (o->alu == ALU_SUB && k != INT32_MIN);
    if (add && !value.memory && value.base != d) {
      lea(b, w, d, at(value.base, o->alu == ALU_ADD ? k : -k));
    } else {
      copy_to(b, w, d, value);
      alu_constant(b, o->alu, w, in_register(d), k);
    }
    wsr_integer_result(e, 3, d);
    return;
  }
  const wsr_rm by = wsr_integer(e, s->b, 1, R10);
  const bool both = !value.memory && !by.memory;
  if (o->alu == ALU_ADD && both && value.base != d && by.base != d) {
    lea(b, w, d, at_index(value.base, by.base, 0, 0));
  } else if (!is_register(by, d)) {
    copy_to(b, w, d, value);
    alu(b, o->alu, w, d, by);
  } else if (o->alu != ALU_SUB) {
    alu(b, o->alu, w, d, value);
  } else {
    mov_to(b, w, R11, value);
    alu(b, o->alu, w, R11, by);
    mov_to(b, WIDE, d, in_register(R11));
  }
  wsr_integer_result(e, 3, d);
}

static void integer_binary(wsr_emission *e, const integer_operation *o) {
  bool is_signed, remainder;
  if (o->condition >= 0)
    set_condition(e, compare_integers(e, o));
  else if (o->shift != 0xFF)
    shift(e, o);
  else if (is_division(e->c->shape.op, &is_signed, &remainder))
    divide(e, o->bits, is_signed, remainder);
  else if (o->alu == NO_ALU)
    multiply(e, o->bits);
  else
    add_and_the_like(e, o);
}

/* ---- floats ---- */

static void float_binary(wsr_emission *e, const float_operation *o) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  wsr_rm x = wsr_float(e, s->a, 0, o->type, SCRATCH_XMM);
  wsr_rm y = wsr_float(e, s->b, 1, o->type, SCRATCH_XMM_2);
  const bool compare = o->compare >= 0;
  if (compare && o->swap) {
    const wsr_rm other = x;
    x = y;
    y = other;
  }
  /* The order of operands decides which of two NaNs the result is. */
  int d = compare ? SCRATCH_XMM : wsr_float_target(e, 3, o->type);
  if (is_register(y, d) && !is_register(x, d)) {
    if (d == SCRATCH_XMM) {
      d = 5;
    } else {
      d = SCRATCH_XMM;
    }
  }
  if (x.memory)
    ins(b, scalar(o->type), MAP_0F, 0x10, 0, d, x);
  else
    xmm_copy(b, d, x.base);
  ins(b, scalar(o->type), MAP_0F, compare ? 0xC2 : o->opcode, 0, d, y);
  if (!compare) {
    wsr_float_result(e, 3, o->type, d);
    return;
  }
  put8(b, (unsigned)o->compare);
  const int to = wsr_integer_target(e, 3);
  xmm_to(b, 0, to, d);
  alu_constant(b, ALU_AND, 0, in_register(to), 1);
  wsr_integer_result(e, 3, to);
}

/* The least or greatest. Of zeros, the sign decides; a NaN is as that of a sum. */
static void extreme(wsr_emission *e, uint8_t type, bool least) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  const unsigned prefix = scalar(type);
  const uint8_t classes[2] = {s->a, s->b};
  for (unsigned k = 0; k < 2; k++) {
    const int to = k ? SCRATCH_XMM_2 : SCRATCH_XMM;
    const wsr_rm m = wsr_float(e, classes[k], k, type, to);
    if (m.memory)
      ins(b, prefix, MAP_0F, 0x10, 0, to, m);
    else
      xmm_copy(b, to, m.base);
  }
  const wsr_rm second = in_register(SCRATCH_XMM_2);
  ins(b, type == TYPE_D ? 0x66 : 0, MAP_0F, 0x2E, 0, SCRATCH_XMM, second);
  const uint32_t nan = jump_short(b, CC_P), equal = jump_short(b, CC_E);
  ins(b, prefix, MAP_0F, least ? 0x5D : 0x5F, 0, SCRATCH_XMM, second);
  const uint32_t done = jump_always_short(b);
  land(b, nan);
  ins(b, prefix, MAP_0F, 0x58, 0, SCRATCH_XMM, second);
  const uint32_t done_too = jump_always_short(b);
  land(b, equal);
  ins(b, 0, MAP_0F, least ? 0x56 : 0x54, 0, SCRATCH_XMM, second); /* orps, andps */
  land(b, done);
  land(b, done_too);
  const int d = wsr_float_target(e, 3, type);
  xmm_copy(b, d, SCRATCH_XMM);
  wsr_float_result(e, 3, type, d);
}

static bool extreme_of(uint32_t op, uint8_t *type, bool *least) {
  switch (op) {
    case WSR_OP_F32_MIN:
    case WSR_OP_F32_MAX: *type = TYPE_F; break;
    case WSR_OP_F64_MIN:
    case WSR_OP_F64_MAX: *type = TYPE_D; break;
    default: return false;
  }
  *least = op == WSR_OP_F32_MIN || op == WSR_OP_F64_MIN;
  return true;
}

/* Branch on a comparison of floats. Where one is a NaN, all flags are set. */
static void float_branch(wsr_emission *e, const float_operation *o) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  const bool equality = o->compare == 0 || o->compare == 4;
  wsr_rm x = wsr_float(e, s->a, 0, o->type, SCRATCH_XMM);
  wsr_rm y = wsr_float(e, s->b, 1, o->type, SCRATCH_XMM_2);
  if (!equality && !o->swap) { /* a < b is b above a */
    const wsr_rm other = x;
    x = y;
    y = other;
  }
  int reg = x.base;
  if (x.memory) ins(b, scalar(o->type), MAP_0F, 0x10, 0, reg = 5, x);
  ins(b, o->type == TYPE_D ? 0x66 : 0, MAP_0F, 0x2E, 0, reg, y);
  if (!equality) {
    const unsigned condition = o->compare == 1 ? CC_A : CC_AE;
    wsr_jump_to_cell(e, (int)(condition ^ (s->if_false ? 1U : 0)), e->c->target);
    return;
  }
  const bool if_equal = (o->compare == 0) != s->if_false;
  if (!if_equal) {
    wsr_jump_to_cell(e, CC_P, e->c->target);
    wsr_jump_to_cell(e, CC_NE, e->c->target);
    return;
  }
  const uint32_t over = jump_short(b, CC_P);
  wsr_jump_to_cell(e, CC_E, e->c->target);
  land(b, over);
}

/* ---- one operand ---- */

static void count_zeros(wsr_emission *e, unsigned bits, bool leading) {
  wsr_buffer *const b = e->out;
  const wsr_rm a = wsr_integer(e, e->c->shape.a, 0, RAX);
  load_constant(b, R10, leading ? 2 * bits - 1 : bits);
  ins(b, 0, MAP_0F, leading ? 0xBD : 0xBC, wide(bits), RAX, a);
  ins(b, 0, MAP_0F, 0x44, 0, RAX, in_register(R10)); /* if it is zero */
  if (leading) alu_constant(b, ALU_XOR, 0, in_register(RAX), (int32_t)bits - 1);
  const int d = wsr_integer_target(e, 3);
  mov_to(b, WIDE, d, in_register(RAX));
  wsr_integer_result(e, 3, d);
}

/* Copy an integer, extending its sign or cutting it. */
static void extend(wsr_emission *e, unsigned map, unsigned opcode, unsigned flags) {
  const wsr_rm a = wsr_integer(e, e->c->shape.a, 0, RAX);
  const int d = wsr_integer_target(e, 3);
  ins(e->out, 0, map, opcode, flags, d, a);
  wsr_integer_result(e, 3, d);
}

static void change_sign(wsr_emission *e, uint8_t type, bool negate) {
  wsr_buffer *const b = e->out;
  const unsigned w = type == TYPE_D ? WIDE : 0;
  const wsr_rm a = wsr_float(e, e->c->shape.a, 0, type, SCRATCH_XMM);
  if (a.memory)
    mov_to(b, w, RAX, a);
  else
    xmm_to(b, w, RAX, a.base);
  ins(b, 0, MAP_0F, 0xBA, w, negate ? 7 : 6, in_register(RAX)); /* btc, btr */
  put8(b, type == TYPE_D ? 63 : 31);
  const int d = wsr_float_target(e, 3, type);
  xmm_from(b, w, d, RAX);
  wsr_float_result(e, 3, type, d);
}

static void from_integer(wsr_emission *e, uint8_t type, unsigned bits, bool is_signed) {
  wsr_buffer *const b = e->out;
  const wsr_rm a = wsr_integer(e, e->c->shape.a, 0, RAX);
  const int d = wsr_float_target(e, 3, type);
  ins(b, 0, MAP_0F, 0x57, 0, SCRATCH_XMM, in_register(SCRATCH_XMM)); /* no false dependency */
  if (!is_signed) mov_to(b, 0, RAX, a);
  ins(b, scalar(type), MAP_0F, 0x2A, is_signed ? wide(bits) : WIDE, SCRATCH_XMM,
      is_signed ? a : in_register(RAX));
  xmm_copy(b, d, SCRATCH_XMM);
  wsr_float_result(e, 3, type, d);
}

/* A float to an integer. What is out of range, or may be, is for the C handler. */
static void to_integer(wsr_emission *e, uint8_t type, unsigned bits, bool is_signed) {
  wsr_buffer *const b = e->out;
  const wsr_rm a = wsr_float(e, e->c->shape.a, 0, type, SCRATCH_XMM);
  ins(b, scalar(type), MAP_0F, 0x2C, WIDE, RAX, a);
  if (bits == 64) {
    load_constant(b, R10, UINT64_C(1) << 63);
    alu(b, ALU_CMP, WIDE, RAX, in_register(R10));
    wsr_jump_to_handler(e, CC_E);
  } else {
    if (is_signed)
      ins(b, 0, MAP_1, 0x63, WIDE, R10, in_register(RAX));
    else
      mov_to(b, 0, R10, in_register(RAX));
    alu(b, ALU_CMP, WIDE, RAX, in_register(R10));
    wsr_jump_to_handler(e, CC_NE);
    mov_to(b, 0, RAX, in_register(RAX));
  }
  const int d = wsr_integer_target(e, 3);
  mov_to(b, WIDE, d, in_register(RAX));
  wsr_integer_result(e, 3, d);
}

static void float_to_float(wsr_emission *e, uint8_t from, uint8_t to, unsigned opcode) {
  const wsr_rm a = wsr_float(e, e->c->shape.a, 0, from, SCRATCH_XMM);
  const int d = wsr_float_target(e, 3, to);
  ins(e->out, scalar(from), MAP_0F, opcode, 0, d, a);
  wsr_float_result(e, 3, to, d);
}

static void reinterpret(wsr_emission *e, uint8_t type, bool to_float) {
  wsr_buffer *const b = e->out;
  const unsigned w = type == TYPE_D ? WIDE : 0;
  if (to_float) {
    const int from = wsr_integer_register(e, e->c->shape.a, 0, 64, RAX);
    const int d = wsr_float_target(e, 3, type);
    xmm_from(b, w, d, from);
    wsr_float_result(e, 3, type, d);
    return;
  }
  const wsr_rm a = wsr_float(e, e->c->shape.a, 0, type, SCRATCH_XMM);
  const int d = wsr_integer_target(e, 3);
  if (a.memory)
    mov_to(b, w, d, a);
  else
    xmm_to(b, w, d, a.base);
  wsr_integer_result(e, 3, d);
}

static void convert(wsr_emission *e) {
  switch (e->c->shape.op) {
    case WSR_OP_F32_CONVERT_I32_S: from_integer(e, TYPE_F, 32, true); break;
    case WSR_OP_F32_CONVERT_I32_U: from_integer(e, TYPE_F, 32, false); break;
    case WSR_OP_F32_CONVERT_I64_S: from_integer(e, TYPE_F, 64, true); break;
    case WSR_OP_F64_CONVERT_I32_S: from_integer(e, TYPE_D, 32, true); break;
    case WSR_OP_F64_CONVERT_I32_U: from_integer(e, TYPE_D, 32, false); break;
    case WSR_OP_F64_CONVERT_I64_S: from_integer(e, TYPE_D, 64, true); break;
    case WSR_OP_I32_TRUNC_F32_S:
    case WSR_OP_I32_TRUNC_SAT_F32_S: to_integer(e, TYPE_F, 32, true); break;
    case WSR_OP_I32_TRUNC_F32_U:
    case WSR_OP_I32_TRUNC_SAT_F32_U: to_integer(e, TYPE_F, 32, false); break;
    case WSR_OP_I32_TRUNC_F64_S:
    case WSR_OP_I32_TRUNC_SAT_F64_S: to_integer(e, TYPE_D, 32, true); break;
    case WSR_OP_I32_TRUNC_F64_U:
    case WSR_OP_I32_TRUNC_SAT_F64_U: to_integer(e, TYPE_D, 32, false); break;
    case WSR_OP_I64_TRUNC_F32_S:
    case WSR_OP_I64_TRUNC_SAT_F32_S: to_integer(e, TYPE_F, 64, true); break;
    case WSR_OP_I64_TRUNC_F64_S:
    case WSR_OP_I64_TRUNC_SAT_F64_S: to_integer(e, TYPE_D, 64, true); break;
    case WSR_OP_F32_DEMOTE_F64: float_to_float(e, TYPE_D, TYPE_F, 0x5A); break;
    case WSR_OP_F64_PROMOTE_F32: float_to_float(e, TYPE_F, TYPE_D, 0x5A); break;
    case WSR_OP_F32_SQRT: float_to_float(e, TYPE_F, TYPE_F, 0x51); break;
    case WSR_OP_F64_SQRT: float_to_float(e, TYPE_D, TYPE_D, 0x51); break;
    case WSR_OP_I32_REINTERPRET_F32: reinterpret(e, TYPE_F, false); break;
    case WSR_OP_I64_REINTERPRET_F64: reinterpret(e, TYPE_D, false); break;
    case WSR_OP_F32_REINTERPRET_I32: reinterpret(e, TYPE_F, true); break;
    default: reinterpret(e, TYPE_D, true);
  }
}

static void unary(wsr_emission *e) {
  switch (e->c->shape.op) {
    case WSR_OP_I32_CLZ: count_zeros(e, 32, true); break;
    case WSR_OP_I64_CLZ: count_zeros(e, 64, true); break;
    case WSR_OP_I32_CTZ: count_zeros(e, 32, false); break;
    case WSR_OP_I64_CTZ: count_zeros(e, 64, false); break;
    case WSR_OP_I32_WRAP_I64:
    case WSR_OP_I64_EXTEND_I32_U: extend(e, MAP_1, 0x8B, 0); break;
    case WSR_OP_I64_EXTEND32_S:
    case WSR_OP_I64_EXTEND_I32_S: extend(e, MAP_1, 0x63, WIDE); break;
    case WSR_OP_I32_EXTEND8_S: extend(e, MAP_0F, 0xBE, BYTE_RM); break;
    case WSR_OP_I64_EXTEND8_S: extend(e, MAP_0F, 0xBE, BYTE_RM | WIDE); break;
    case WSR_OP_I32_EXTEND16_S: extend(e, MAP_0F, 0xBF, 0); break;
    case WSR_OP_I64_EXTEND16_S: extend(e, MAP_0F, 0xBF, WIDE); break;
    case WSR_OP_F32_ABS: change_sign(e, TYPE_F, false); break;
    case WSR_OP_F64_ABS: change_sign(e, TYPE_D, false); break;
    case WSR_OP_F32_NEG: change_sign(e, TYPE_F, true); break;
    case WSR_OP_F64_NEG: change_sign(e, TYPE_D, true); break;
    default: convert(e);
  }
}

void wsr_emit_numeric(wsr_emission *e) {
  const wsr_shape *const s = &e->c->shape;
  integer_operation i;
  float_operation f;
  uint8_t type;
  bool least;
  if (s->kind == CELL_UNARY) {
    unary(e);
  } else if (extreme_of(s->op, &type, &least)) {
    extreme(e, type, least);
  } else if (integer_of(s->op, &i)) {
    if (s->kind == CELL_BINARY)
      integer_binary(e, &i);
    else
      wsr_jump_to_cell(e, (int)(compare_integers(e, &i) ^ (s->if_false ? 1U : 0)), e->c->target);
  } else if (float_of(s->op, &f)) {
    if (s->kind == CELL_BINARY)
      float_binary(e, &f);
    else
      float_branch(e, &f);
  }
}
#endif
