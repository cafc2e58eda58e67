/* The instructions that take long or are rare: copying, filling and growing memories and tables.
 * Called by both codes; state is the operands in their slots, before and after. */
#include "bulk.h"

enum { PAGE = 65536, PIECE = 65536 };

/* ---- bulk instructions ----
 * They work in pieces and can stop between two: the operands s[0..2] become what is left, a valid
 * state at the same position. Bounds are checked for the whole before anything is written. */

static bool pausing(const wsr_store *store) {
  return atomic_load_explicit(&store->pause, memory_order_relaxed) != 0;
}

uint32_t wsr_memory_fill(const wsr_store *store, uint8_t *memory, uint64_t size,
                                uint64_t *s) {
  const uint8_t byte = (uint8_t)s[1];
  if (s[0] + s[2] > size) return WSR_TRAP_MEMORY_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < PIECE ? s[2] : PIECE;
    memset(memory + s[0], byte, n);
    s[2] -= n;
    s[0] = (uint32_t)(s[0] + n);
    if (s[2] && pausing(store)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

uint32_t wsr_memory_copy(const wsr_store *store, uint8_t *memory, uint64_t size,
                                uint64_t *s) {
  if (s[0] + s[2] > size || s[1] + s[2] > size) return WSR_TRAP_MEMORY_BOUNDS;
  const bool forward = s[0] <= s[1];
  while (s[2]) {
    const uint64_t n = s[2] < PIECE ? s[2] : PIECE;
    s[2] -= n;
    if (forward) {
      memmove(memory + s[0], memory + s[1], n);
      s[0] = (uint32_t)(s[0] + n);
      s[1] = (uint32_t)(s[1] + n);
    } else { /* from the end, so that what is left is still to be read: only the length changes */
      memmove(memory + s[0] + s[2], memory + s[1] + s[2], n);
    }
    if (s[2] && pausing(store)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

uint32_t wsr_memory_write(const wsr_store *store, const wsr_instance *instance,
                                 uint32_t segment, uint8_t *memory, uint64_t size, uint64_t *s) {
  const wsr_data_def *d = &instance->module->data[segment];
  const uint64_t available = instance->dropped_data[segment] ? 0 : d->size;
  if (s[0] + s[2] > size || s[1] + s[2] > available) return WSR_TRAP_MEMORY_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < PIECE ? s[2] : PIECE;
    memcpy(memory + s[0], instance->module->bytes + d->bytes + s[1], n);
    s[2] -= n;
    s[0] = (uint32_t)(s[0] + n);
    s[1] = (uint32_t)(s[1] + n);
    if (s[2] && pausing(store)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

enum { TABLE_PIECE = PIECE / 8 };

uint32_t wsr_table_fill(const wsr_store *store, const wsr_instance *instance,
                               const wsr_cell *pc, uint64_t *s) {
  const wsr_table_instance *t = store->tables[instance->tables[pc->u.p.a]];
  if (s[0] + s[2] > t->size) return WSR_TRAP_TABLE_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < TABLE_PIECE ? s[2] : TABLE_PIECE;
    for (uint64_t i = 0; i < n; i++) t->elements[s[0] + i] = s[1];
    s[2] -= n;
    s[0] = (uint32_t)(s[0] + n);
    if (s[2] && pausing(store)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

uint32_t wsr_table_copy(const wsr_store *store, const wsr_instance *instance,
                               const wsr_cell *pc, uint64_t *s) {
  const wsr_table_instance *to = store->tables[instance->tables[pc->u.p.a]];
  const wsr_table_instance *from = store->tables[instance->tables[pc->u.p.b]];
  if (s[0] + s[2] > to->size || s[1] + s[2] > from->size) return WSR_TRAP_TABLE_BOUNDS;
  const bool forward = s[0] <= s[1];
  while (s[2]) {
    const uint64_t n = s[2] < TABLE_PIECE ? s[2] : TABLE_PIECE;
    s[2] -= n;
    const uint64_t skip = forward ? 0 : s[2];
    memmove(to->elements + s[0] + skip, from->elements + s[1] + skip, n * sizeof *to->elements);
    if (forward) {
      s[0] = (uint32_t)(s[0] + n);
      s[1] = (uint32_t)(s[1] + n);
    }
    if (s[2] && pausing(store)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

uint32_t wsr_table_init(const wsr_store *store, const wsr_instance *instance,
                               const wsr_cell *pc, uint64_t *s) {
  const wsr_table_instance *t = store->tables[instance->tables[pc->u.p.a]];
  const uint32_t segment = pc->u.p.b;
  const uint64_t available =
      instance->dropped_elements[segment] ? 0 : instance->module->elements[segment].n_items;
  if (s[0] + s[2] > t->size || s[1] + s[2] > available) return WSR_TRAP_TABLE_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < TABLE_PIECE ? s[2] : TABLE_PIECE;
    memcpy(t->elements + s[0], instance->elements[segment] + s[1], n * sizeof *t->elements);
    s[2] -= n;
    s[0] = (uint32_t)(s[0] + n);
    s[1] = (uint32_t)(s[1] + n);
    if (s[2] && pausing(store)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

uint32_t wsr_perform(wsr_store *store, const wsr_instance *instance, const wsr_cell *cell,
                     uint64_t *fp) {
  uint64_t *s = fp + cell->s;
  const uint32_t a = cell->u.p.a;
  const wsr_memory_instance *memory = wsr_memory_of(store, instance);
  wsr_table_instance *t = NULL;
  switch (cell->op) {
    case WSR_OP_TABLE_GET:
    case WSR_OP_TABLE_SET:
    case WSR_OP_TABLE_SIZE:
    case WSR_OP_TABLE_GROW: t = store->tables[instance->tables[a]]; break;
    default: break;
  }
  switch (cell->op) {
    case WSR_OP_REF_FUNC: s[0] = (uint64_t)instance->functions[a] + 1; break;
    case WSR_OP_GLOBAL_GET_V128:
      s[0] = store->globals[instance->globals[a]].value;
      s[1] = store->globals[instance->globals[a]].high;
      break;
    case WSR_OP_GLOBAL_SET_V128:
      store->globals[instance->globals[a]].value = s[0];
      store->globals[instance->globals[a]].high = s[1];
      break;
    case WSR_OP_TABLE_GET:
      if ((uint32_t)s[0] >= t->size) return WSR_TRAP_TABLE_BOUNDS;
      s[0] = t->elements[(uint32_t)s[0]];
      break;
    case WSR_OP_TABLE_SET:
      if ((uint32_t)s[0] >= t->size) return WSR_TRAP_TABLE_BOUNDS;
      t->elements[(uint32_t)s[0]] = s[1];
      break;
    case WSR_OP_TABLE_SIZE: s[0] = t->size; break;
    case WSR_OP_TABLE_GROW: s[0] = wsr_table_grow(t, (uint32_t)s[1], s[0]); break;
    case WSR_OP_TABLE_FILL: return wsr_table_fill(store, instance, cell, s);
    case WSR_OP_TABLE_COPY: return wsr_table_copy(store, instance, cell, s);
    case WSR_OP_TABLE_INIT: return wsr_table_init(store, instance, cell, s);
    case WSR_OP_ELEM_DROP: instance->dropped_elements[a] = 1; break;
    case WSR_OP_DATA_DROP: instance->dropped_data[a] = 1; break;
    case WSR_OP_MEMORY_SIZE: s[0] = memory->size / PAGE; break;
    case WSR_OP_MEMORY_GROW:
      s[0] = wsr_memory_grow(store->memories[instance->memories[0]], (uint32_t)s[0]);
      break;
    case WSR_OP_MEMORY_FILL: return wsr_memory_fill(store, memory->data, memory->size, s);
    case WSR_OP_MEMORY_COPY: return wsr_memory_copy(store, memory->data, memory->size, s);
    default: /* memory.init */
      return wsr_memory_write(store, instance, (uint32_t)cell->u.imm, memory->data, memory->size,
                              s);
  }
  return WSR_TRAP_NONE;
}
