/* An encoder for the x86-64 instructions that native code consists of. It appends to a buffer; a
 * buffer without room notes that and goes on, so only the end asks. Source: Intel 64 and IA-32
 * Architectures Software Developer's Manual, volume 2. */
#ifndef WSR_ENCODE_H
#define WSR_ENCODE_H
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/native/native.h"

enum {
  RAX,
  RCX,
  RDX,
  RBX,
  RSP,
  RBP,
  RSI,
  RDI,
  R8,
  R9,
  R10,
  R11,
  R12,
  R13,
  R14,
  R15,
  FUEL = R15, /* in code with counts */
  NO_REGISTER = -1
};

/* Conditions, as the low half of a jump's opcode; the lowest bit inverts. */
enum {
  CC_O,
  CC_B = 2,
  CC_AE,
  CC_E,
  CC_NE,
  CC_BE,
  CC_A,
  CC_P = 10,
  CC_NP,
  CC_L,
  CC_GE,
  CC_LE,
  CC_G
};

typedef struct {
  uint8_t *bytes;
  uint32_t n, room;
  bool failed;
} wsr_buffer;

/* A register, or [base + index * 2^scale + disp]. */
typedef struct {
  bool memory;
  int8_t base, index; /* of a register: base */
  uint8_t scale;
  int32_t disp;
} wsr_rm;

static inline wsr_rm in_register(int r) {
  return (wsr_rm){.base = (int8_t)r, .index = NO_REGISTER};
}
static inline wsr_rm at(int base, int32_t disp) {
  return (wsr_rm){.memory = true, .base = (int8_t)base, .index = NO_REGISTER, .disp = disp};
}
static inline wsr_rm at_index(int base, int index, unsigned scale, int32_t disp) {
  return (wsr_rm){true, (int8_t)base, (int8_t)index, (uint8_t)scale, disp};
}
static inline bool is_register(wsr_rm m, int r) { return !m.memory && m.base == r; }

static inline void put8(wsr_buffer *b, unsigned byte) {
  if (b->n == b->room && !b->failed) {
    const uint32_t room = b->room ? b->room * 2 : 4096;
    uint8_t *bytes = room > b->room ? realloc(b->bytes, room) : NULL;
    if (bytes) {
      b->bytes = bytes;
      b->room = room;
    } else {
      b->failed = true;
    }
  }
  if (!b->failed) b->bytes[b->n++] = (uint8_t)byte;
}
static inline void put32(wsr_buffer *b, uint32_t value) {
  for (unsigned i = 0; i < 4; i++) put8(b, value >> 8 * i & 0xFF);
}
static inline void put64(wsr_buffer *b, uint64_t value) {
  put32(b, (uint32_t)value);
  put32(b, (uint32_t)(value >> 32));
}

/* Opcode maps. */
enum { MAP_1, MAP_0F, MAP_0F38, MAP_0F3A };
/* Flags of an instruction. */
enum { WIDE = 1, BYTE_REG = 2, BYTE_RM = 4 };

static inline void put_modrm(wsr_buffer *b, int reg, wsr_rm m) {
  const unsigned r = (unsigned)(reg & 7) << 3, base = (unsigned)(m.base & 7);
  if (!m.memory) {
    put8(b, 0xC0 | r | base);
    return;
  }
  const bool sib = m.index != NO_REGISTER || base == RSP;
  const bool small = m.disp >= -128 && m.disp < 128;
  const unsigned mod = m.disp == 0 && base != RBP ? 0 : small ? 1 : 2;
  put8(b, mod << 6 | r | (sib ? 4 : base));
  if (sib) {
    const unsigned index = m.index == NO_REGISTER ? 4 : (unsigned)(m.index & 7);
    put8(b, (unsigned)m.scale << 6 | index << 3 | base);
  }
  if (mod == 1) put8(b, (unsigned)m.disp & 0xFF);
  if (mod == 2) put32(b, (uint32_t)m.disp);
}

/* prefix: 0, 0x66, 0xF2 or 0xF3 */
static inline void ins(wsr_buffer *b, unsigned prefix, unsigned map, unsigned opcode,
                       unsigned flags, int reg, wsr_rm m) {
  if (prefix) put8(b, prefix);
  unsigned rex = (flags & WIDE ? 8U : 0) | (reg >= 8 ? 4U : 0) | (m.base >= 8 ? 1U : 0);
  if (m.memory && m.index >= 8) rex |= 2;
  const bool byte = (flags & BYTE_REG && reg >= 4) || (flags & BYTE_RM && !m.memory && m.base >= 4);
  if (rex || byte) put8(b, 0x40 | rex);
  if (map != MAP_1) put8(b, 0x0F);
  if (map == MAP_0F38) put8(b, 0x38);
  if (map == MAP_0F3A) put8(b, 0x3A);
  put8(b, opcode);
  put_modrm(b, reg, m);
}

/* VEX-encoded shifts of BMI2: reg = m shifted by `by`. */
static inline void shift_vex(wsr_buffer *b, unsigned prefix, unsigned flags, int reg, wsr_rm m,
                             int by) {
  const unsigned x = m.memory && m.index >= 8;
  put8(b, 0xC4);
  put8(b, (reg < 8) << 7 | (unsigned)!x << 6 | (unsigned)(m.base < 8) << 5 | 2);
  const unsigned pp = prefix == 0x66 ? 1 : prefix == 0xF3 ? 2 : 3;
  put8(b, (flags & WIDE ? 0x80U : 0) | (unsigned)(~by & 15) << 3 | pp);
  put8(b, 0xF7);
  put_modrm(b, reg, m);
}

static inline unsigned wide(unsigned bits) { return bits == 64 ? WIDE : 0; }

static inline void mov_to(wsr_buffer *b, unsigned flags, int reg, wsr_rm from) {
  if (!from.memory && from.base == reg && flags & WIDE) return;
  ins(b, 0, MAP_1, 0x8B, flags, reg, from);
}
/* The same where the upper half does not matter. */
static inline void copy_to(wsr_buffer *b, unsigned flags, int reg, wsr_rm from) {
  if (from.memory || from.base != reg) mov_to(b, flags, reg, from);
}
static inline void mov_from(wsr_buffer *b, unsigned flags, wsr_rm to, int reg) {
  ins(b, 0, MAP_1, 0x89, flags, reg, to);
}
static inline void load_constant(wsr_buffer *b, int reg, uint64_t value) {
  if (value == 0) {
    ins(b, 0, MAP_1, 0x33, 0, reg, in_register(reg));
  } else if (value <= UINT32_MAX) {
    if (reg >= 8) put8(b, 0x41);
    put8(b, 0xB8U + (unsigned)(reg & 7));
    put32(b, (uint32_t)value);
  } else if ((int64_t)value >= INT32_MIN && (int64_t)value < 0) {
    ins(b, 0, MAP_1, 0xC7, WIDE, 0, in_register(reg));
    put32(b, (uint32_t)value);
  } else {
    put8(b, reg >= 8 ? 0x49 : 0x48);
    put8(b, 0xB8U + (unsigned)(reg & 7));
    put64(b, value);
  }
}
static inline void lea(wsr_buffer *b, unsigned flags, int reg, wsr_rm m) {
  ins(b, 0, MAP_1, 0x8D, flags, reg, m);
}
/* operation: 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp */
enum { ALU_ADD, ALU_OR, ALU_AND = 4, ALU_SUB, ALU_XOR, ALU_CMP };
static inline void alu(wsr_buffer *b, unsigned operation, unsigned flags, int reg, wsr_rm m) {
  ins(b, 0, MAP_1, operation << 3 | 3, flags, reg, m);
}
static inline void alu_constant(wsr_buffer *b, unsigned operation, unsigned flags, wsr_rm m,
                                int32_t value) {
  const bool small = value >= -128 && value < 128;
  ins(b, 0, MAP_1, small ? 0x83 : 0x81, flags, (int)operation, m);
  if (small)
    put8(b, (unsigned)value & 0xFF);
  else
    put32(b, (uint32_t)value);
}
static inline void test_self(wsr_buffer *b, unsigned flags, int reg) {
  ins(b, 0, MAP_1, 0x85, flags, reg, in_register(reg));
}
static inline void push(wsr_buffer *b, int reg) {
  if (reg >= 8) put8(b, 0x41);
  put8(b, 0x50U + (unsigned)(reg & 7));
}
static inline void pop(wsr_buffer *b, int reg) {
  if (reg >= 8) put8(b, 0x41);
  put8(b, 0x58U + (unsigned)(reg & 7));
}
static inline void ret(wsr_buffer *b) { put8(b, 0xC3); }
static inline void jump_register(wsr_buffer *b, int reg) {
  ins(b, 0, MAP_1, 0xFF, 0, 4, in_register(reg));
}
static inline void call_register(wsr_buffer *b, int reg) {
  ins(b, 0, MAP_1, 0xFF, 0, 2, in_register(reg));
}

/* Between an integer register and the low bits of an xmm register. */
static inline void xmm_from(wsr_buffer *b, unsigned flags, int xmm, int reg) {
  ins(b, 0x66, MAP_0F, 0x6E, flags, xmm, in_register(reg));
}
static inline void xmm_to(wsr_buffer *b, unsigned flags, int reg, int xmm) {
  ins(b, 0x66, MAP_0F, 0x7E, flags, xmm, in_register(reg));
}
static inline void xmm_copy(wsr_buffer *b, int to, int from) {
  if (to != from) ins(b, 0, MAP_0F, 0x28, 0, to, in_register(from));
}

/* reg = the address at a distance, which `set_distance` sets; returns the place behind it. */
static inline uint32_t load_address(wsr_buffer *b, int reg) {
  put8(b, reg >= 8 ? 0x4C : 0x48);
  put8(b, 0x8D);
  put8(b, (unsigned)(reg & 7) << 3 | 5);
  put32(b, 0);
  return b->n;
}
static inline void set_distance(wsr_buffer *b, uint32_t behind, uint32_t to) {
  const uint32_t distance = to - behind;
  if (!b->failed) memcpy(b->bytes + behind - 4, &distance, sizeof distance);
}

/* A jump within 128 bytes: the place of its distance, for `land`. */
static inline uint32_t jump_short(wsr_buffer *b, unsigned condition) {
  put8(b, 0x70 | condition);
  put8(b, 0);
  return b->n;
}
static inline uint32_t jump_always_short(wsr_buffer *b) {
  put8(b, 0xEB);
  put8(b, 0);
  return b->n;
}
static inline void land(wsr_buffer *b, uint32_t from) {
  if (!b->failed) b->bytes[from - 1] = (uint8_t)(b->n - from);
}

/* ---- native/x64/routines.c ---- */
bool wsr_routines_write(wsr_buffer *b, wsr_routines *to);

#endif
