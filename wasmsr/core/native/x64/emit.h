/* What the parts of the x86-64 compiler share: the function that is being compiled, and operands
 * and results as registers or places. */
#ifndef WSR_EMIT_H
#define WSR_EMIT_H
#include <stddef.h>

#include "core/native/native.h"

#if WSR_NATIVE
#include "core/native/x64/encode.h"

enum { TO_CELL, TO_COLD, TO_ROUTINE, TO_SITE, TO_START };
enum { ALWAYS = -1 };
/* A 32-bit distance that is known when all code is. */
typedef struct {
  bool cold; /* it is in the cold part */
  uint8_t kind;
  uint32_t place; /* where it is */
  uint32_t from;  /* from where it counts, in the same part */
  uint32_t to;    /* a cell, or an offset in the cold part, the code space or the sites */
} wsr_distance;

typedef struct {
  uint32_t word, cold; /* the word that leads to this offset in the cold part */
} wsr_entry;

typedef struct {
  const wsr_analysis *a;
  const wsr_routines *routines;
  const wsr_code_space *space;
  _Atomic uint64_t *callees; /* of the module: where native code calls each function */
  wsr_buffer hot, cold, sites;
  wsr_buffer *out; /* one of the first two */
  uint32_t *label; /* by cell, in the hot part */
  uint8_t *pin_of; /* by slot: register plus one, in the region `pinned` */
  uint16_t loaded; /* registers that have the values of their slots now */
  uint32_t pinned;
  wsr_distance *distances;
  uint32_t n_distances, room_distances;
  wsr_entry *entries;
  uint32_t n_entries, room_entries;
  uint32_t i;
  const wsr_native_cell *c; /* the current cell */
  uint32_t to_own_handler;  /* in the cold part: what ways to the word's handler share */
  uint32_t handler_path;    /* its way to the C handler, in the cold part, or WSR_NONE */
  bool failed;
} wsr_emission;

/* Scratch registers: any template may change them. */
enum { SCRATCH_XMM = 3, SCRATCH_XMM_2 = 4 };

/* ---- compile.c ---- */
/* Jump, on a condition or always, to where the C handler of this cell does its work again. */
void wsr_jump_to_handler(wsr_emission *e, unsigned condition);
/* Flush registers, and run the C handler of the cell. */
void wsr_run_handler(wsr_emission *e, uint16_t dirty);
void wsr_flush(wsr_emission *e, uint16_t dirty);
void wsr_jump_to_cell(wsr_emission *e, int condition, uint32_t to);
/* One way of a branch table that starts at `start`: its distance is the last thing written. */
void wsr_table_way(wsr_emission *e, uint32_t start, uint32_t number, uint16_t dirty);
/* Load the registers of the current region that are live before the cell `to`. */
void wsr_load_pins(wsr_emission *e, uint32_t to);
/* Call a function of the same module, by index. */
void wsr_call(wsr_emission *e, uint32_t function);
/* Say what the call is that has just been emitted. */
void wsr_mark_site(wsr_emission *e);

/* ---- templates ---- */
void wsr_emit_numeric(wsr_emission *e); /* numeric.c: CELL_UNARY, CELL_BINARY, CELL_BRANCH */
void wsr_emit_memory(wsr_emission *e);  /* memory.c: loads and stores */
/* vectors.c; moves: move_acc_v, constant_v, select_v */
void wsr_emit_vector(wsr_emission *e);
void wsr_emit_vector_move(wsr_emission *e);
void wsr_emit_special(wsr_emission *e); /* control.c */
bool wsr_has_numeric(const wsr_shape *shape);
bool wsr_has_vector(const wsr_shape *shape);

/* The place of an access of memory 0 to so many bytes, behind its check (memory.c). */
wsr_rm wsr_address(wsr_emission *e, unsigned width);
wsr_rm wsr_address_sum(wsr_emission *e, unsigned width);

/* ---- operands ---- */

static inline int pin_register(unsigned r) {
  static const int8_t integers[INTEGER_PINS] = {RBX, RBP, R12, R13, R14, R15};
  return r < INTEGER_PINS ? integers[r] : (int)(8 + r - INTEGER_PINS);
}
static inline wsr_rm slot_at(uint32_t slot) { return at(RSI, (int32_t)(slot * 8)); }

typedef struct {
  uint8_t type; /* TYPE_ANY: the slot has no register */
  int reg;
} wsr_pin;

static inline wsr_pin pin_of(const wsr_emission *e, uint32_t slot) {
  const unsigned r = e->pin_of[slot] - 1U;
  if (r >= PINS) return (wsr_pin){TYPE_ANY, NO_REGISTER};
  return (wsr_pin){e->a->regions[e->pinned].type[r], pin_register(r)};
}
/* The register from which a slot is read: if it is not loaded, the slot has the value. */
static inline wsr_pin pin_to_read(const wsr_emission *e, uint32_t slot) {
  const unsigned r = e->pin_of[slot] - 1U;
  if (r < PINS && e->loaded >> r & 1) return pin_of(e, slot);
  return (wsr_pin){TYPE_ANY, NO_REGISTER};
}
static inline uint32_t field_of(const wsr_emission *e, unsigned k) {
  return wsr_cell_field(e->c, k);
}
static inline bool accumulator_live(const wsr_emission *e, unsigned accumulator) {
  return wsr_is_live(e->a, e->i + 1, e->a->n_slots + accumulator);
}

/* A slot as an integer; if it is in an xmm register, by way of `scratch`. */
wsr_rm wsr_integer_slot(wsr_emission *e, uint32_t slot, int scratch);
/* An operand of a class (slots by field k; a constant is the third word). */
wsr_rm wsr_integer(wsr_emission *e, uint8_t class, unsigned k, int scratch);
int wsr_integer_register(wsr_emission *e, uint8_t class, unsigned k, unsigned bits, int scratch);
wsr_rm wsr_float_slot(wsr_emission *e, uint32_t slot, uint8_t type, int scratch);
wsr_rm wsr_float(wsr_emission *e, uint8_t class, unsigned k, uint8_t type, int scratch);
/* The register in which an integer result is best made; the result, which goes to the slot of
 * field k if the cell writes one, and to the accumulator if it is used. */
int wsr_integer_target(const wsr_emission *e, unsigned k);
void wsr_integer_result(wsr_emission *e, unsigned k, int reg);
void wsr_set_integer(wsr_emission *e, uint32_t slot, int reg);
int wsr_float_target(const wsr_emission *e, unsigned k, uint8_t type);
void wsr_float_result(wsr_emission *e, unsigned k, uint8_t type, int xmm);
void wsr_set_float(wsr_emission *e, uint32_t slot, uint8_t type, int xmm);
void wsr_move_slot(wsr_emission *e, uint32_t from, uint32_t to);

static inline unsigned scalar(uint8_t type) { return type == TYPE_D ? 0xF2 : 0xF3; }

#endif
#endif
