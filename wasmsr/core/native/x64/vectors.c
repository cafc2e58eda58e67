/* Templates of vectors: the forms that programs use most, each as one SSE instruction or a few. All
 * others run in their C handlers. Instructions above SSE2 are used where this CPU has SSE4.2; every
 * CPU gives the same results. Vectors are in slots and in the accumulator, xmm2. */
#include "core/native/x64/emit.h"

#if WSR_NATIVE

enum { ACC_XMM = 2 };

/* How an instruction is encoded. `swaps`: the second operand is the destination. */
typedef struct {
  uint8_t prefix, map, opcode, immediate;
  bool known, swaps, compares; /* compares: `immediate` is the condition of cmpps */
} coding;

#define PLAIN(prefix, opcode) ((coding){prefix, MAP_0F, opcode, 0, true, false, false})
#define SWAPPED(prefix, opcode) ((coding){prefix, MAP_0F, opcode, 0, true, true, false})
#define NEWER(opcode) ((coding){0x66, MAP_0F38, opcode, 0, true, false, false})
#define COMPARED(prefix, condition, swaps)                       \
  ((coding){prefix, MAP_0F, 0xC2, condition, true, swaps, true})
enum { EQUAL, LESS, NOT_GREATER, NOT_EQUAL = 4 };

static coding of_integers(uint32_t op) {
  switch (op) {
    case WSR_OP_I8X16_ADD: return PLAIN(0x66, 0xFC);
    case WSR_OP_I8X16_SUB: return PLAIN(0x66, 0xF8);
    case WSR_OP_I8X16_ADD_SAT_S: return PLAIN(0x66, 0xEC);
    case WSR_OP_I8X16_ADD_SAT_U: return PLAIN(0x66, 0xDC);
    case WSR_OP_I8X16_SUB_SAT_S: return PLAIN(0x66, 0xE8);
    case WSR_OP_I8X16_SUB_SAT_U: return PLAIN(0x66, 0xD8);
    case WSR_OP_I8X16_MIN_U: return PLAIN(0x66, 0xDA);
    case WSR_OP_I8X16_MAX_U: return PLAIN(0x66, 0xDE);
    case WSR_OP_I8X16_MIN_S: return NEWER(0x38);
    case WSR_OP_I8X16_MAX_S: return NEWER(0x3C);
    case WSR_OP_I8X16_AVGR_U: return PLAIN(0x66, 0xE0);
    case WSR_OP_I8X16_EQ: return PLAIN(0x66, 0x74);
    case WSR_OP_I8X16_GT_S: return PLAIN(0x66, 0x64);
    case WSR_OP_I8X16_LT_S: return SWAPPED(0x66, 0x64);
    case WSR_OP_I16X8_ADD: return PLAIN(0x66, 0xFD);
    case WSR_OP_I16X8_SUB: return PLAIN(0x66, 0xF9);
    case WSR_OP_I16X8_MUL: return PLAIN(0x66, 0xD5);
    case WSR_OP_I16X8_ADD_SAT_S: return PLAIN(0x66, 0xED);
    case WSR_OP_I16X8_ADD_SAT_U: return PLAIN(0x66, 0xDD);
    case WSR_OP_I16X8_SUB_SAT_S: return PLAIN(0x66, 0xE9);
    case WSR_OP_I16X8_SUB_SAT_U: return PLAIN(0x66, 0xD9);
    case WSR_OP_I16X8_MIN_S: return PLAIN(0x66, 0xEA);
    case WSR_OP_I16X8_MAX_S: return PLAIN(0x66, 0xEE);
    case WSR_OP_I16X8_MIN_U: return NEWER(0x3A);
    case WSR_OP_I16X8_MAX_U: return NEWER(0x3E);
    case WSR_OP_I16X8_AVGR_U: return PLAIN(0x66, 0xE3);
    case WSR_OP_I16X8_EQ: return PLAIN(0x66, 0x75);
    case WSR_OP_I16X8_GT_S: return PLAIN(0x66, 0x65);
    case WSR_OP_I16X8_LT_S: return SWAPPED(0x66, 0x65);
    case WSR_OP_I32X4_ADD: return PLAIN(0x66, 0xFE);
    case WSR_OP_I32X4_SUB: return PLAIN(0x66, 0xFA);
    case WSR_OP_I32X4_MUL: return NEWER(0x40);
    case WSR_OP_I32X4_MIN_S: return NEWER(0x39);
    case WSR_OP_I32X4_MIN_U: return NEWER(0x3B);
    case WSR_OP_I32X4_MAX_S: return NEWER(0x3D);
    case WSR_OP_I32X4_MAX_U: return NEWER(0x3F);
    case WSR_OP_I32X4_EQ: return PLAIN(0x66, 0x76);
    case WSR_OP_I32X4_GT_S: return PLAIN(0x66, 0x66);
    case WSR_OP_I32X4_LT_S: return SWAPPED(0x66, 0x66);
    case WSR_OP_I32X4_DOT_I16X8_S: return PLAIN(0x66, 0xF5);
    case WSR_OP_I64X2_ADD: return PLAIN(0x66, 0xD4);
    case WSR_OP_I64X2_SUB: return PLAIN(0x66, 0xFB);
    case WSR_OP_I64X2_EQ: return NEWER(0x29);
    case WSR_OP_I64X2_GT_S: return NEWER(0x37);
    case WSR_OP_V128_AND: return PLAIN(0x66, 0xDB);
    case WSR_OP_V128_OR: return PLAIN(0x66, 0xEB);
    case WSR_OP_V128_XOR: return PLAIN(0x66, 0xEF);
    case WSR_OP_V128_ANDNOT: return SWAPPED(0x66, 0xDF);
    case WSR_OP_I8X16_NARROW_I16X8_S: return PLAIN(0x66, 0x63);
    case WSR_OP_I8X16_NARROW_I16X8_U: return PLAIN(0x66, 0x67);
    case WSR_OP_I16X8_NARROW_I32X4_S: return PLAIN(0x66, 0x6B);
    case WSR_OP_I16X8_NARROW_I32X4_U: return NEWER(0x2B);
    default: return (coding){0};
  }
}

/* The first operand is the destination, so of two NaNs the result is the first, as in C handlers.
 */
static coding of_floats(uint32_t op) {
  switch (op) {
    case WSR_OP_F32X4_ADD: return PLAIN(0, 0x58);
    case WSR_OP_F32X4_SUB: return PLAIN(0, 0x5C);
    case WSR_OP_F32X4_MUL: return PLAIN(0, 0x59);
    case WSR_OP_F32X4_DIV: return PLAIN(0, 0x5E);
    case WSR_OP_F32X4_PMIN: return SWAPPED(0, 0x5D);
    case WSR_OP_F32X4_PMAX: return SWAPPED(0, 0x5F);
    case WSR_OP_F32X4_EQ: return COMPARED(0, EQUAL, false);
    case WSR_OP_F32X4_NE: return COMPARED(0, NOT_EQUAL, false);
    case WSR_OP_F32X4_LT: return COMPARED(0, LESS, false);
    case WSR_OP_F32X4_LE: return COMPARED(0, NOT_GREATER, false);
    case WSR_OP_F32X4_GT: return COMPARED(0, LESS, true);
    case WSR_OP_F32X4_GE: return COMPARED(0, NOT_GREATER, true);
    case WSR_OP_F64X2_ADD: return PLAIN(0x66, 0x58);
    case WSR_OP_F64X2_SUB: return PLAIN(0x66, 0x5C);
    case WSR_OP_F64X2_MUL: return PLAIN(0x66, 0x59);
    case WSR_OP_F64X2_DIV: return PLAIN(0x66, 0x5E);
    case WSR_OP_F64X2_PMIN: return SWAPPED(0x66, 0x5D);
    case WSR_OP_F64X2_PMAX: return SWAPPED(0x66, 0x5F);
    case WSR_OP_F64X2_EQ: return COMPARED(0x66, EQUAL, false);
    case WSR_OP_F64X2_NE: return COMPARED(0x66, NOT_EQUAL, false);
    case WSR_OP_F64X2_LT: return COMPARED(0x66, LESS, false);
    case WSR_OP_F64X2_LE: return COMPARED(0x66, NOT_GREATER, false);
    case WSR_OP_F64X2_GT: return COMPARED(0x66, LESS, true);
    case WSR_OP_F64X2_GE: return COMPARED(0x66, NOT_GREATER, true);
    default: return (coding){0};
  }
}

static coding of_two(uint32_t op) {
  const coding found = of_integers(op);
  return found.known ? found : of_floats(op);
}

/* Comparisons that take more: `first`, then a comparison for equality with the first operand (or
 * with nothing, if `first` compares); then all bits change, if `negates`. */
typedef struct {
  coding first;
  uint8_t equal;
  bool negates;
} comparing;

static comparing of_comparison(uint32_t op) {
  switch (op) {
    case WSR_OP_I8X16_NE: return (comparing){PLAIN(0x66, 0x74), 0, true};
    case WSR_OP_I16X8_NE: return (comparing){PLAIN(0x66, 0x75), 0, true};
    case WSR_OP_I32X4_NE: return (comparing){PLAIN(0x66, 0x76), 0, true};
    case WSR_OP_I8X16_LE_S: return (comparing){PLAIN(0x66, 0x64), 0, true};
    case WSR_OP_I16X8_LE_S: return (comparing){PLAIN(0x66, 0x65), 0, true};
    case WSR_OP_I32X4_LE_S: return (comparing){PLAIN(0x66, 0x66), 0, true};
    case WSR_OP_I8X16_GE_S: return (comparing){SWAPPED(0x66, 0x64), 0, true};
    case WSR_OP_I16X8_GE_S: return (comparing){SWAPPED(0x66, 0x65), 0, true};
    case WSR_OP_I32X4_GE_S: return (comparing){SWAPPED(0x66, 0x66), 0, true};
    case WSR_OP_I8X16_LE_U: return (comparing){PLAIN(0x66, 0xDA), 0x74, false};
    case WSR_OP_I8X16_GE_U: return (comparing){PLAIN(0x66, 0xDE), 0x74, false};
    case WSR_OP_I8X16_GT_U: return (comparing){PLAIN(0x66, 0xDA), 0x74, true};
    case WSR_OP_I8X16_LT_U: return (comparing){PLAIN(0x66, 0xDE), 0x74, true};
    case WSR_OP_I16X8_LE_U: return (comparing){NEWER(0x3A), 0x75, false};
    case WSR_OP_I16X8_GE_U: return (comparing){NEWER(0x3E), 0x75, false};
    case WSR_OP_I16X8_GT_U: return (comparing){NEWER(0x3A), 0x75, true};
    case WSR_OP_I16X8_LT_U: return (comparing){NEWER(0x3E), 0x75, true};
    case WSR_OP_I32X4_LE_U: return (comparing){NEWER(0x3B), 0x76, false};
    case WSR_OP_I32X4_GE_U: return (comparing){NEWER(0x3F), 0x76, false};
    case WSR_OP_I32X4_GT_U: return (comparing){NEWER(0x3B), 0x76, true};
    case WSR_OP_I32X4_LT_U: return (comparing){NEWER(0x3F), 0x76, true};
    default: return (comparing){0};
  }
}

/* Products of halves: both operands are widened, then multiplied. Lanes of 64 bits come from two
 * lanes of each operand, which `widening` chooses. */
typedef struct {
  coding widening, product;
  bool high, known;
} multiplying;
#define HALVES(low, high_, widening, product)                      \
  case low: return (multiplying){widening, product, false, true};  \
  case high_: return (multiplying) { widening, product, true, true \
    }

static multiplying of_product(uint32_t op) {
  switch (op) {
    HALVES(WSR_OP_I16X8_EXTMUL_LOW_I8X16_S, WSR_OP_I16X8_EXTMUL_HIGH_I8X16_S, NEWER(0x20),
           PLAIN(0x66, 0xD5));
    HALVES(WSR_OP_I16X8_EXTMUL_LOW_I8X16_U, WSR_OP_I16X8_EXTMUL_HIGH_I8X16_U, NEWER(0x30),
           PLAIN(0x66, 0xD5));
    HALVES(WSR_OP_I32X4_EXTMUL_LOW_I16X8_S, WSR_OP_I32X4_EXTMUL_HIGH_I16X8_S, NEWER(0x23),
           NEWER(0x40));
    HALVES(WSR_OP_I32X4_EXTMUL_LOW_I16X8_U, WSR_OP_I32X4_EXTMUL_HIGH_I16X8_U, NEWER(0x33),
           NEWER(0x40));
    HALVES(WSR_OP_I64X2_EXTMUL_LOW_I32X4_S, WSR_OP_I64X2_EXTMUL_HIGH_I32X4_S, (coding){0},
           NEWER(0x28));
    HALVES(WSR_OP_I64X2_EXTMUL_LOW_I32X4_U, WSR_OP_I64X2_EXTMUL_HIGH_I32X4_U, (coding){0},
           PLAIN(0x66, 0xF4));
    default: return (multiplying){0};
  }
}

/* One instruction from the operand to the result. */
static coding of_one(uint32_t op) {
  switch (op) {
    case WSR_OP_I8X16_ABS: return NEWER(0x1C);
    case WSR_OP_I16X8_ABS: return NEWER(0x1D);
    case WSR_OP_I32X4_ABS: return NEWER(0x1E);
    case WSR_OP_I16X8_EXTEND_LOW_I8X16_S: return NEWER(0x20);
    case WSR_OP_I16X8_EXTEND_LOW_I8X16_U: return NEWER(0x30);
    case WSR_OP_I32X4_EXTEND_LOW_I16X8_S: return NEWER(0x23);
    case WSR_OP_I32X4_EXTEND_LOW_I16X8_U: return NEWER(0x33);
    case WSR_OP_I64X2_EXTEND_LOW_I32X4_S: return NEWER(0x25);
    case WSR_OP_I64X2_EXTEND_LOW_I32X4_U: return NEWER(0x35);
    case WSR_OP_F32X4_SQRT: return PLAIN(0, 0x51);
    case WSR_OP_F64X2_SQRT: return PLAIN(0x66, 0x51);
    case WSR_OP_F32X4_CONVERT_I32X4_S: return PLAIN(0, 0x5B);
    default: return (coding){0};
  }
}

/* The same, from the high half. */
static coding of_high_half(uint32_t op) {
  switch (op) {
    case WSR_OP_I16X8_EXTEND_HIGH_I8X16_S: return NEWER(0x20);
    case WSR_OP_I16X8_EXTEND_HIGH_I8X16_U: return NEWER(0x30);
    case WSR_OP_I32X4_EXTEND_HIGH_I16X8_S: return NEWER(0x23);
    case WSR_OP_I32X4_EXTEND_HIGH_I16X8_U: return NEWER(0x33);
    case WSR_OP_I64X2_EXTEND_HIGH_I32X4_S: return NEWER(0x25);
    case WSR_OP_I64X2_EXTEND_HIGH_I32X4_U: return NEWER(0x35);
    default: return (coding){0};
  }
}

/* Shifts: opcode by a register, opcode and number by a constant, and the width of a lane. */
typedef struct {
  uint8_t opcode, by_constant, number, width;
} shifting;

static shifting of_shift(uint32_t op) {
  switch (op) {
    case WSR_OP_I16X8_SHL: return (shifting){0xF1, 0x71, 6, 16};
    case WSR_OP_I16X8_SHR_S: return (shifting){0xE1, 0x71, 4, 16};
    case WSR_OP_I16X8_SHR_U: return (shifting){0xD1, 0x71, 2, 16};
    case WSR_OP_I32X4_SHL: return (shifting){0xF2, 0x72, 6, 32};
    case WSR_OP_I32X4_SHR_S: return (shifting){0xE2, 0x72, 4, 32};
    case WSR_OP_I32X4_SHR_U: return (shifting){0xD2, 0x72, 2, 32};
    case WSR_OP_I64X2_SHL: return (shifting){0xF3, 0x73, 6, 64};
    case WSR_OP_I64X2_SHR_U: return (shifting){0xD3, 0x73, 2, 64};
    default: return (shifting){0};
  }
}

/* Loads of whole vectors, and of 8 bytes that become 16. */
static coding of_load(uint32_t op) {
  switch (op) {
    case WSR_OP_V128_LOAD: return PLAIN(0, 0x10);
    case WSR_OP_V128_LOAD8X8_S: return NEWER(0x20);
    case WSR_OP_V128_LOAD8X8_U: return NEWER(0x30);
    case WSR_OP_V128_LOAD16X4_S: return NEWER(0x23);
    case WSR_OP_V128_LOAD16X4_U: return NEWER(0x33);
    case WSR_OP_V128_LOAD32X2_S: return NEWER(0x25);
    case WSR_OP_V128_LOAD32X2_U: return NEWER(0x35);
    case WSR_OP_V128_LOAD32_SPLAT:
    case WSR_OP_V128_LOAD32_ZERO: return PLAIN(0xF3, 0x10);
    case WSR_OP_V128_LOAD64_SPLAT:
    case WSR_OP_V128_LOAD64_ZERO: return PLAIN(0xF2, 0x10);
    default: return (coding){0};
  }
}

static bool is_new(void) {
  static _Atomic int found; /* 1 no, 2 yes */
  if (!found) found = __builtin_cpu_supports("sse4.2") ? 2 : 1;
  return found == 2;
}
static bool can(coding c) { return c.known && (c.map != MAP_0F38 || is_new()); }

bool wsr_has_vector(const wsr_shape *s) {
  switch (s->kind) {
    case CELL_VECTOR_LOAD: return can(of_load(s->op));
    case CELL_VECTOR_LOAD_SUM: return can(of_load(s->op));
    case CELL_VECTOR_STORE: return s->op == WSR_OP_V128_STORE;
    case CELL_VECTOR_2:
      return can(of_two(s->op)) || of_shift(s->op).width || can(of_comparison(s->op).first) ||
             (is_new() && (of_product(s->op).known || s->op == WSR_OP_I8X16_SWIZZLE));
    case CELL_VECTOR_3: return s->op == WSR_OP_V128_BITSELECT;
    case CELL_VECTOR_LANE: return true;
    case CELL_VECTOR_REPLACE:
    case CELL_VECTOR_SHUFFLE: return is_new();
    default: break;
  }
  switch (s->op) {
    case WSR_OP_V128_NOT:
    case WSR_OP_V128_ANY_TRUE:
    case WSR_OP_I8X16_ALL_TRUE:
    case WSR_OP_I16X8_ALL_TRUE:
    case WSR_OP_I32X4_ALL_TRUE:
    case WSR_OP_I32X4_EXTADD_PAIRWISE_I16X8_S:
    case WSR_OP_I32X4_EXTADD_PAIRWISE_I16X8_U:
    case WSR_OP_I8X16_BITMASK:
    case WSR_OP_I32X4_BITMASK:
    case WSR_OP_I64X2_BITMASK:
    case WSR_OP_F32X4_ABS:
    case WSR_OP_F32X4_NEG:
    case WSR_OP_F64X2_ABS:
    case WSR_OP_F64X2_NEG:
    case WSR_OP_I16X8_NEG:
    case WSR_OP_I32X4_NEG:
    case WSR_OP_I16X8_SPLAT:
    case WSR_OP_I32X4_SPLAT:
    case WSR_OP_I64X2_SPLAT:
    case WSR_OP_F32X4_SPLAT:
    case WSR_OP_F64X2_SPLAT: return true;
    case WSR_OP_I16X8_EXTADD_PAIRWISE_I8X16_S:
    case WSR_OP_I16X8_EXTADD_PAIRWISE_I8X16_U:
    case WSR_OP_I8X16_SPLAT: return is_new();
    default: return can(of_one(s->op)) || can(of_high_half(s->op));
  }
}

/* ---- operands and results ---- */

static void load_unaligned(wsr_emission *e, int xmm, wsr_rm from) {
  ins(e->out, 0, MAP_0F, 0x10, 0, xmm, from);
}
static void store_unaligned(wsr_emission *e, wsr_rm to, int xmm) {
  ins(e->out, 0, MAP_0F, 0x11, 0, xmm, to);
}

/* An operand in `xmm`, or in the accumulator where that will do. */
static int operand(wsr_emission *e, uint8_t class, unsigned k, int xmm) {
  if (class == WSR_A) return ACC_XMM;
  if (class == WSR_S) {
    load_unaligned(e, xmm, slot_at(field_of(e, k)));
  } else { /* in the cell, which never moves */
    load_constant(e->out, RAX, (uint64_t)(uintptr_t)(e->c->pc + 2));
    load_unaligned(e, xmm, at(RAX, 0));
  }
  return xmm;
}
static void operand_in(wsr_emission *e, uint8_t class, unsigned k, int xmm) {
  xmm_copy(e->out, xmm, operand(e, class, k, xmm));
}

static void result(wsr_emission *e, unsigned k, int xmm) {
  if (e->c->shape.writes) store_unaligned(e, slot_at(field_of(e, k)), xmm);
  if (!e->c->shape.writes || accumulator_live(e, ACC_V)) xmm_copy(e->out, ACC_XMM, xmm);
}

static void apply(wsr_emission *e, coding c, int to, int from) {
  ins(e->out, c.prefix, c.map, c.opcode, 0, to, in_register(from));
  if (c.compares) put8(e->out, c.immediate);
}
static void packed(wsr_emission *e, unsigned opcode, int to, int from) {
  ins(e->out, 0x66, MAP_0F, opcode, 0, to, in_register(from));
}
static void packed_constant(wsr_emission *e, unsigned opcode, int to, int from, unsigned value) {
  packed(e, opcode, to, from);
  put8(e->out, value);
}

/* ---- templates ---- */

enum { FIRST = SCRATCH_XMM, SECOND = SCRATCH_XMM_2 };

static void shift(wsr_emission *e, shifting with) {
  const wsr_shape *const s = &e->c->shape;
  operand_in(e, s->a, 0, FIRST);
  if (s->b == WSR_C) {
    packed(e, with.by_constant, with.number, FIRST);
    put8(e->out, (unsigned)e->c->pc[2] & (with.width - 1U));
  } else {
    mov_to(e->out, 0, RAX, wsr_integer(e, s->b, 1, RAX));
    alu_constant(e->out, ALU_AND, 0, in_register(RAX), with.width - 1);
    xmm_from(e->out, 0, SECOND, RAX);
    packed(e, with.opcode, FIRST, SECOND);
  }
  result(e, 3, FIRST);
}

static void compare(wsr_emission *e, comparing with) {
  const wsr_shape *const s = &e->c->shape;
  const bool swaps = with.first.swaps;
  enum { OTHER = 5 };
  operand_in(e, swaps ? s->b : s->a, swaps, FIRST);
  if (with.equal) xmm_copy(e->out, OTHER, FIRST);
  apply(e, with.first, FIRST, operand(e, swaps ? s->a : s->b, !swaps, SECOND));
  if (with.equal) packed(e, with.equal, FIRST, OTHER);
  if (with.negates) {
    packed(e, 0x76, SECOND, SECOND);
    packed(e, 0xEF, FIRST, SECOND);
  }
  result(e, 3, FIRST);
}

static void multiply(wsr_emission *e, multiplying with) {
  const wsr_shape *const s = &e->c->shape;
  for (unsigned k = 0; k < 2; k++) {
    const int to = k ? SECOND : FIRST, v = operand(e, k ? s->b : s->a, k, to);
    if (!with.widening.known) {
      packed_constant(e, 0x70, to, v, with.high ? 0xFA : 0x50); /* pshufd: two lanes, each twice */
    } else {
      if (with.high) packed_constant(e, 0x70, to, v, 0xEE);
      apply(e, with.widening, to, with.high ? to : v);
    }
  }
  apply(e, with.product, FIRST, SECOND);
  result(e, 3, FIRST);
}

/* An index above 15 gives zero: with 0x70 added, its highest bit is set. */
static void swizzle(wsr_emission *e) {
  const wsr_shape *const s = &e->c->shape;
  enum { OTHER = 5 };
  operand_in(e, s->b, 1, SECOND);
  load_constant(e->out, RAX, UINT64_C(0x7070707070707070));
  xmm_from(e->out, WIDE, OTHER, RAX);
  packed_constant(e, 0x70, OTHER, OTHER, 0x44);
  packed(e, 0xDC, SECOND, OTHER);
  operand_in(e, s->a, 0, FIRST);
  ins(e->out, 0x66, MAP_0F38, 0x00, 0, FIRST, in_register(SECOND));
  result(e, 3, FIRST);
}

static void of_two_vectors(wsr_emission *e) {
  const wsr_shape *const s = &e->c->shape;
  const coding c = of_two(s->op);
  if (!c.known) {
    if (of_shift(s->op).width)
      shift(e, of_shift(s->op));
    else if (of_comparison(s->op).first.known)
      compare(e, of_comparison(s->op));
    else if (s->op == WSR_OP_I8X16_SWIZZLE)
      swizzle(e);
    else
      multiply(e, of_product(s->op));
    return;
  }
  if (c.swaps) {
    operand_in(e, s->b, 1, FIRST);
    apply(e, c, FIRST, operand(e, s->a, 0, SECOND));
  } else {
    operand_in(e, s->a, 0, FIRST);
    apply(e, c, FIRST, operand(e, s->b, 1, SECOND));
  }
  result(e, 3, FIRST);
}

/* (a & c) | (b & ~c), as b ^ ((a ^ b) & c) */
static void select_bits(wsr_emission *e) {
  const uint8_t from_acc = e->c->shape.a; /* 1 + the operand that is in the accumulator, or 0 */
  operand_in(e, from_acc == 1 ? WSR_A : WSR_S, 0, FIRST);
  const int b = operand(e, from_acc == 2 ? WSR_A : WSR_S, 1, SECOND);
  packed(e, 0xEF, FIRST, b);
  enum { THIRD = 5 };
  packed(e, 0xDB, FIRST, operand(e, from_acc == 3 ? WSR_A : WSR_S, 2, THIRD));
  packed(e, 0xEF, FIRST, b);
  result(e, 3, FIRST);
}

/* Bytes 0 to 15 are of the first operand, the rest of the second: each is shuffled with the other's
 * bytes out of range, which gives zeros. */
static void shuffle(wsr_emission *e) {
  const wsr_shape *const s = &e->c->shape;
  enum { MASK = 5 };
  uint8_t lanes[16];
  memcpy(lanes, e->c->pc + 2, sizeof lanes);
  for (unsigned part = 0; part < 2; part++) {
    uint64_t halves[2] = {0, 0};
    for (unsigned i = 0; i < 16; i++) {
      const unsigned from = lanes[i] - 16 * part;
      halves[i / 8] |= (uint64_t)(from < 16 ? from : 0x80) << 8 * (i % 8);
    }
    load_constant(e->out, RAX, halves[0]);
    xmm_from(e->out, WIDE, MASK, RAX);
    load_constant(e->out, RAX, halves[1]);
    ins(e->out, 0x66, MAP_0F3A, 0x22, WIDE, MASK, in_register(RAX)); /* pinsrq */
    put8(e->out, 1);
    const int to = part ? SECOND : FIRST;
    operand_in(e, part ? s->b : s->a, part, to);
    ins(e->out, 0x66, MAP_0F38, 0x00, 0, to, in_register(MASK));
  }
  packed(e, 0xEB, FIRST, SECOND);
  result(e, 3, FIRST);
}

static void splat(wsr_emission *e) {
  const uint8_t class = e->c->shape.a;
  wsr_buffer *const b = e->out;
  switch (e->c->shape.op) {
    case WSR_OP_F32X4_SPLAT:
    case WSR_OP_F64X2_SPLAT: {
      const uint8_t type = e->c->shape.op == WSR_OP_F32X4_SPLAT ? TYPE_F : TYPE_D;
      const wsr_rm m = wsr_float(e, class, 0, type, FIRST);
      if (m.memory)
        ins(b, scalar(type), MAP_0F, 0x10, 0, FIRST, m);
      else
        xmm_copy(b, FIRST, m.base);
      packed_constant(e, 0x70, FIRST, FIRST, type == TYPE_F ? 0x00 : 0x44);
      break;
    }
    case WSR_OP_I64X2_SPLAT:
      mov_to(b, WIDE, RAX, wsr_integer(e, class, 0, RAX));
      xmm_from(b, WIDE, FIRST, RAX);
      packed_constant(e, 0x70, FIRST, FIRST, 0x44);
      break;
    default:
      mov_to(b, 0, RAX, wsr_integer(e, class, 0, RAX));
      xmm_from(b, 0, FIRST, RAX);
      if (e->c->shape.op == WSR_OP_I8X16_SPLAT) {
        packed(e, 0xEF, SECOND, SECOND);
        ins(b, 0x66, MAP_0F38, 0x00, 0, FIRST, in_register(SECOND));
      } else {
        if (e->c->shape.op == WSR_OP_I16X8_SPLAT) {
          ins(b, 0xF2, MAP_0F, 0x70, 0, FIRST, in_register(FIRST));
          put8(b, 0);
        }
        packed_constant(e, 0x70, FIRST, FIRST, 0);
      }
  }
  result(e, 3, FIRST);
}

/* Whether a bit is set; the highest bits of lanes. */
static void to_number(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const int v = operand(e, e->c->shape.a, 0, FIRST), d = wsr_integer_target(e, 3);
  switch (e->c->shape.op) {
    case WSR_OP_I8X16_BITMASK: ins(b, 0x66, MAP_0F, 0xD7, 0, d, in_register(v)); break;
    case WSR_OP_I32X4_BITMASK: ins(b, 0, MAP_0F, 0x50, 0, d, in_register(v)); break;
    case WSR_OP_I64X2_BITMASK: ins(b, 0x66, MAP_0F, 0x50, 0, d, in_register(v)); break;
    default: { /* not all bytes are zero, or no lane is */
      const bool any = e->c->shape.op == WSR_OP_V128_ANY_TRUE;
      const unsigned equal = e->c->shape.op == WSR_OP_I16X8_ALL_TRUE   ? 0x75
                             : e->c->shape.op == WSR_OP_I32X4_ALL_TRUE ? 0x76
                                                                       : 0x74;
      packed(e, 0xEF, SECOND, SECOND);
      packed(e, equal, SECOND, v);
      ins(b, 0x66, MAP_0F, 0xD7, 0, RAX, in_register(SECOND));
      load_constant(b, R10, 0);
      alu_constant(b, ALU_CMP, 0, in_register(RAX), any ? 0xFFFF : 0);
      ins(b, 0, MAP_0F, any ? 0x95 : 0x94, BYTE_RM, 0, in_register(R10)); /* setne, sete */
      mov_to(b, WIDE, d, in_register(R10));
    }
  }
  wsr_integer_result(e, 3, d);
}

/* All ones, shifted: the sign of each lane, or all but that. */
static void change_sign(wsr_emission *e, bool wide_lanes, bool negate) {
  operand_in(e, e->c->shape.a, 0, FIRST);
  packed(e, 0x76, SECOND, SECOND);
  packed(e, wide_lanes ? 0x73 : 0x72, negate ? 6 : 2, SECOND);
  put8(e->out, !negate ? 1 : wide_lanes ? 63 : 31);
  packed(e, negate ? 0xEF : 0xDB, FIRST, SECOND);
  result(e, 3, FIRST);
}

static void subtracted_from_zero(wsr_emission *e, unsigned opcode) {
  const int v = operand(e, e->c->shape.a, 0, SECOND);
  packed(e, 0xEF, FIRST, FIRST);
  packed(e, opcode, FIRST, v);
  result(e, 3, FIRST);
}

/* Sums of neighbours, in lanes twice as wide. */
static void add_pairs(wsr_emission *e) {
  const uint8_t class = e->c->shape.a;
  const coding by_bytes = NEWER(0x04), absolute = NEWER(0x1C);
  switch (e->c->shape.op) {
    case WSR_OP_I16X8_EXTADD_PAIRWISE_I8X16_U: /* pmaddubsw: unsigned by signed, here ones */
    case WSR_OP_I16X8_EXTADD_PAIRWISE_I8X16_S: {
      const bool is_signed = e->c->shape.op == WSR_OP_I16X8_EXTADD_PAIRWISE_I8X16_S;
      const int ones = is_signed ? FIRST : SECOND, v = is_signed ? SECOND : FIRST;
      operand_in(e, class, 0, v);
      packed(e, 0x76, ones, ones);
      apply(e, absolute, ones, ones);
      apply(e, by_bytes, FIRST, SECOND);
      break;
    }
    case WSR_OP_I32X4_EXTADD_PAIRWISE_I16X8_S: /* pmaddwd by ones */
      operand_in(e, class, 0, FIRST);
      packed(e, 0x76, SECOND, SECOND);
      packed_constant(e, 0x71, 2, SECOND, 15);
      packed(e, 0xF5, FIRST, SECOND);
      break;
    default:
      operand_in(e, class, 0, FIRST);
      xmm_copy(e->out, SECOND, FIRST);
      packed_constant(e, 0x72, 2, SECOND, 16);
      packed_constant(e, 0x72, 6, FIRST, 16);
      packed_constant(e, 0x72, 2, FIRST, 16);
      packed(e, 0xFE, FIRST, SECOND);
  }
  result(e, 3, FIRST);
}

static void of_one_vector(wsr_emission *e) {
  const wsr_shape *const s = &e->c->shape;
  switch (s->op) {
    case WSR_OP_I8X16_SPLAT:
    case WSR_OP_I16X8_SPLAT:
    case WSR_OP_I32X4_SPLAT:
    case WSR_OP_I64X2_SPLAT:
    case WSR_OP_F32X4_SPLAT:
    case WSR_OP_F64X2_SPLAT: splat(e); return;
    case WSR_OP_V128_ANY_TRUE:
    case WSR_OP_I8X16_ALL_TRUE:
    case WSR_OP_I16X8_ALL_TRUE:
    case WSR_OP_I32X4_ALL_TRUE:
    case WSR_OP_I8X16_BITMASK:
    case WSR_OP_I32X4_BITMASK:
    case WSR_OP_I64X2_BITMASK: to_number(e); return;
    case WSR_OP_I16X8_EXTADD_PAIRWISE_I8X16_S:
    case WSR_OP_I16X8_EXTADD_PAIRWISE_I8X16_U:
    case WSR_OP_I32X4_EXTADD_PAIRWISE_I16X8_S:
    case WSR_OP_I32X4_EXTADD_PAIRWISE_I16X8_U: add_pairs(e); return;
    case WSR_OP_F32X4_ABS: change_sign(e, false, false); return;
    case WSR_OP_F32X4_NEG: change_sign(e, false, true); return;
    case WSR_OP_F64X2_ABS: change_sign(e, true, false); return;
    case WSR_OP_F64X2_NEG: change_sign(e, true, true); return;
    case WSR_OP_I16X8_NEG: subtracted_from_zero(e, 0xF9); return;
    case WSR_OP_I32X4_NEG: subtracted_from_zero(e, 0xFA); return;
    case WSR_OP_V128_NOT:
      operand_in(e, s->a, 0, FIRST);
      packed(e, 0x76, SECOND, SECOND);
      packed(e, 0xEF, FIRST, SECOND);
      result(e, 3, FIRST);
      return;
    default: break;
  }
  const int v = operand(e, s->a, 0, SECOND);
  const coding high = of_high_half(s->op);
  if (high.known) {
    packed_constant(e, 0x70, FIRST, v, 0xEE); /* pshufd: the high half twice */
    apply(e, high, FIRST, FIRST);
  } else {
    apply(e, of_one(s->op), FIRST, v);
  }
  result(e, 3, FIRST);
}

static void load_vector(wsr_emission *e, bool sum) {
  const uint32_t op = e->c->shape.op;
  const coding c = of_load(op);
  const unsigned width = wsr_opcode_table[op].width;
  const wsr_rm place = sum ? wsr_address_sum(e, width) : wsr_address(e, width);
  ins(e->out, c.prefix, c.map, c.opcode, 0, FIRST, place);
  if (op == WSR_OP_V128_LOAD32_SPLAT) packed_constant(e, 0x70, FIRST, FIRST, 0x00);
  if (op == WSR_OP_V128_LOAD64_SPLAT) packed_constant(e, 0x70, FIRST, FIRST, 0x44);
  result(e, 1, FIRST);
}

static void store_vector(wsr_emission *e) {
  const int v = e->c->shape.b == WSR_A ? ACC_XMM : FIRST;
  if (v == FIRST) load_unaligned(e, FIRST, slot_at(field_of(e, 1)));
  store_unaligned(e, wsr_address(e, 16), v);
}

/* A lane is read where the vector's slots are. */
static void extract_lane(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const wsr_rm from = at(RSI, (int32_t)(field_of(e, 0) * 8 + field_of(e, 1)));
  const uint32_t op = e->c->shape.op;
  if (op == WSR_OP_F32X4_EXTRACT_LANE || op == WSR_OP_F64X2_EXTRACT_LANE) {
    const uint8_t type = op == WSR_OP_F32X4_EXTRACT_LANE ? TYPE_F : TYPE_D;
    const int d = wsr_float_target(e, 3, type);
    ins(b, scalar(type), MAP_0F, 0x10, 0, d, from);
    wsr_float_result(e, 3, type, d);
    return;
  }
  const int d = wsr_integer_target(e, 3);
  switch (op) {
    case WSR_OP_I8X16_EXTRACT_LANE_S: ins(b, 0, MAP_0F, 0xBE, 0, d, from); break;
    case WSR_OP_I8X16_EXTRACT_LANE_U: ins(b, 0, MAP_0F, 0xB6, 0, d, from); break;
    case WSR_OP_I16X8_EXTRACT_LANE_S: ins(b, 0, MAP_0F, 0xBF, 0, d, from); break;
    case WSR_OP_I16X8_EXTRACT_LANE_U: ins(b, 0, MAP_0F, 0xB7, 0, d, from); break;
    case WSR_OP_I32X4_EXTRACT_LANE: mov_to(b, 0, d, from); break;
    default: mov_to(b, WIDE, d, from);
  }
  wsr_integer_result(e, 3, d);
}

static void replace_float(wsr_emission *e, uint8_t type, uint32_t lane) {
  wsr_buffer *const b = e->out;
  const wsr_rm m = wsr_float(e, e->c->shape.b, 1, type, SECOND);
  const int from = m.memory ? SECOND : m.base;
  if (m.memory) ins(b, scalar(type), MAP_0F, 0x10, 0, SECOND, m);
  operand_in(e, e->c->shape.a, 0, FIRST);
  if (type == TYPE_F) {
    ins(b, 0x66, MAP_0F3A, 0x21, 0, FIRST, in_register(from)); /* insertps */
    put8(b, lane << 4);
  } else if (lane == 0) {
    ins(b, 0xF2, MAP_0F, 0x10, 0, FIRST, in_register(from)); /* movsd: the high half stays */
  } else {
    packed(e, 0x14, FIRST, from); /* unpcklpd */
  }
}

static void replace_lane(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  const wsr_shape *const s = &e->c->shape;
  const uint32_t lane = field_of(e, 2);
  if (s->op == WSR_OP_F32X4_REPLACE_LANE || s->op == WSR_OP_F64X2_REPLACE_LANE) {
    replace_float(e, s->op == WSR_OP_F32X4_REPLACE_LANE ? TYPE_F : TYPE_D, lane);
    result(e, 3, FIRST);
    return;
  }
  operand_in(e, s->a, 0, FIRST);
  const bool wide_lanes = s->op == WSR_OP_I64X2_REPLACE_LANE;
  const wsr_rm from = in_register(wsr_integer_register(e, s->b, 1, wide_lanes ? 64 : 32, RAX));
  switch (s->op) {
    case WSR_OP_I8X16_REPLACE_LANE: ins(b, 0x66, MAP_0F3A, 0x20, 0, FIRST, from); break;
    case WSR_OP_I16X8_REPLACE_LANE: ins(b, 0x66, MAP_0F, 0xC4, 0, FIRST, from); break;
    default: ins(b, 0x66, MAP_0F3A, 0x22, wide_lanes ? WIDE : 0, FIRST, from);
  }
  put8(b, lane);
  result(e, 3, FIRST);
}

void wsr_emit_vector(wsr_emission *e) {
  switch (e->c->shape.kind) {
    case CELL_VECTOR_LOAD: load_vector(e, false); break;
    case CELL_VECTOR_LOAD_SUM: load_vector(e, true); break;
    case CELL_VECTOR_STORE: store_vector(e); break;
    case CELL_VECTOR_2: of_two_vectors(e); break;
    case CELL_VECTOR_3: select_bits(e); break;
    case CELL_VECTOR_SHUFFLE: shuffle(e); break;
    case CELL_VECTOR_LANE: extract_lane(e); break;
    case CELL_VECTOR_REPLACE: replace_lane(e); break;
    default: of_one_vector(e);
  }
}

/* ---- constants, moves and globals ---- */

void wsr_emit_vector_move(wsr_emission *e) {
  wsr_buffer *const b = e->out;
  switch (e->c->shape.op) {
    case WSR_FAST_move_acc_v: store_unaligned(e, slot_at(field_of(e, 3)), ACC_XMM); break;
    case WSR_FAST_constant_v:
      load_constant(b, RAX, (uint64_t)(uintptr_t)(e->c->pc + 2));
      load_unaligned(e, FIRST, at(RAX, 0));
      store_unaligned(e, slot_at(field_of(e, 3)), FIRST);
      break;
    default: { /* select_v: c ? a : b */
      lea(b, WIDE, RAX, slot_at(field_of(e, 0)));
      lea(b, WIDE, R10, slot_at(field_of(e, 1)));
      const int test = wsr_integer_register(e, WSR_S, 2, 32, R11);
      test_self(b, 0, test);
      ins(b, 0, MAP_0F, 0x44, WIDE, RAX, in_register(R10)); /* cmove */
      load_unaligned(e, FIRST, at(RAX, 0));
      result(e, 3, FIRST);
    }
  }
}
#endif
