/* Operands and results of cells, wherever they are: in a pinned register, in an accumulator, in a
 * slot, or in the cell. */
#include "core/native/x64/emit.h"

#if WSR_NATIVE

wsr_rm wsr_integer_slot(wsr_emission *e, uint32_t slot, int scratch) {
  const wsr_pin pin = pin_to_read(e, slot);
  switch (pin.type) {
    case TYPE_I: return in_register(pin.reg);
    case TYPE_F: xmm_to(e->out, 0, scratch, pin.reg); return in_register(scratch);
    case TYPE_D: xmm_to(e->out, WIDE, scratch, pin.reg); return in_register(scratch);
    default: return slot_at(slot);
  }
}

wsr_rm wsr_integer(wsr_emission *e, uint8_t class, unsigned k, int scratch) {
  if (class == WSR_S) return wsr_integer_slot(e, field_of(e, k), scratch);
  if (class == WSR_A) return in_register(R9);
  load_constant(e->out, scratch, e->c->pc[2]);
  return in_register(scratch);
}

int wsr_integer_register(wsr_emission *e, uint8_t class, unsigned k, unsigned bits, int scratch) {
  const wsr_rm m = wsr_integer(e, class, k, scratch);
  if (!m.memory) return m.base;
  mov_to(e->out, wide(bits), scratch, m);
  return scratch;
}

wsr_rm wsr_float_slot(wsr_emission *e, uint32_t slot, uint8_t type, int scratch) {
  const wsr_pin pin = pin_to_read(e, slot);
  if (pin.type == TYPE_ANY) return slot_at(slot);
  if (pin.type != TYPE_I) return in_register(pin.reg);
  xmm_from(e->out, type == TYPE_D ? WIDE : 0, scratch, pin.reg);
  return in_register(scratch);
}

wsr_rm wsr_float(wsr_emission *e, uint8_t class, unsigned k, uint8_t type, int scratch) {
  if (class == WSR_S) return wsr_float_slot(e, field_of(e, k), type, scratch);
  if (class == WSR_A) return in_register(type == TYPE_D ? 0 : 1);
  load_constant(e->out, RAX, type == TYPE_D ? e->c->pc[2] : (uint32_t)e->c->pc[2]);
  xmm_from(e->out, type == TYPE_D ? WIDE : 0, scratch, RAX);
  return in_register(scratch);
}

int wsr_integer_target(const wsr_emission *e, unsigned k) {
  if (!e->c->shape.writes) return R9;
  const wsr_pin pin = pin_of(e, field_of(e, k));
  return pin.type == TYPE_I ? pin.reg : R9;
}

void wsr_set_integer(wsr_emission *e, uint32_t slot, int reg) {
  const wsr_pin pin = pin_of(e, slot);
  switch (pin.type) {
    case TYPE_I: mov_to(e->out, WIDE, pin.reg, in_register(reg)); break;
    case TYPE_F: xmm_from(e->out, 0, pin.reg, reg); break;
    case TYPE_D: xmm_from(e->out, WIDE, pin.reg, reg); break;
    default: mov_from(e->out, WIDE, slot_at(slot), reg);
  }
}

void wsr_integer_result(wsr_emission *e, unsigned k, int reg) {
  if (e->c->shape.writes) wsr_set_integer(e, field_of(e, k), reg);
  if (reg != R9 && (!e->c->shape.writes || accumulator_live(e, ACC_I)))
    mov_to(e->out, WIDE, R9, in_register(reg));
}

int wsr_float_target(const wsr_emission *e, unsigned k, uint8_t type) {
  const int accumulator = type == TYPE_D ? 0 : 1;
  if (!e->c->shape.writes) return accumulator;
  const wsr_pin pin = pin_of(e, field_of(e, k));
  return pin.type == type ? pin.reg : accumulator;
}

void wsr_set_float(wsr_emission *e, uint32_t slot, uint8_t type, int xmm) {
  const wsr_pin pin = pin_of(e, slot);
  const unsigned flags = type == TYPE_D ? WIDE : 0;
  if (pin.type == type) {
    xmm_copy(e->out, pin.reg, xmm);
  } else if (pin.type == TYPE_I) {
    xmm_to(e->out, flags, pin.reg, xmm);
  } else if (pin.type == TYPE_ANY && type == TYPE_D) {
    ins(e->out, 0xF2, MAP_0F, 0x11, 0, xmm, slot_at(slot));
  } else { /* the high half of an f32's slot is zero */
    xmm_to(e->out, flags, RAX, xmm);
    if (pin.type == TYPE_ANY)
      mov_from(e->out, WIDE, slot_at(slot), RAX);
    else
      xmm_from(e->out, WIDE, pin.reg, RAX);
  }
}

void wsr_float_result(wsr_emission *e, unsigned k, uint8_t type, int xmm) {
  const int accumulator = type == TYPE_D ? 0 : 1;
  if (e->c->shape.writes) wsr_set_float(e, field_of(e, k), type, xmm);
  if (!e->c->shape.writes || accumulator_live(e, type == TYPE_D ? ACC_D : ACC_F))
    xmm_copy(e->out, accumulator, xmm);
}

void wsr_move_slot(wsr_emission *e, uint32_t from, uint32_t to) {
  if (from == to) return;
  const wsr_pin source = pin_to_read(e, from), target = pin_of(e, to);
  if (target.type != TYPE_ANY) e->loaded |= (uint16_t)(1U << (e->pin_of[to] - 1));
  if (source.type == TYPE_D && target.type != TYPE_I) {
    if (target.type == TYPE_ANY)
      ins(e->out, 0xF2, MAP_0F, 0x11, 0, source.reg, slot_at(to));
    else
      xmm_copy(e->out, target.reg, source.reg);
    return;
  }
  if (target.type == TYPE_F && source.type == TYPE_F) {
    xmm_copy(e->out, target.reg, source.reg);
    return;
  }
  if (source.type == TYPE_ANY && target.type >= TYPE_F) {
    ins(e->out, scalar(target.type), MAP_0F, 0x10, 0, target.reg, slot_at(from));
    return;
  }
  const wsr_rm m = wsr_integer_slot(e, from, RAX);
  int reg = target.type == TYPE_I ? target.reg : RAX;
  if (m.memory)
    mov_to(e->out, WIDE, reg, m);
  else
    reg = m.base;
  wsr_set_integer(e, to, reg);
}
#endif
