/* The instructions that take long or are rare: copying, filling and growing memories and tables.
 * Called by both codes; state is the operands in their slots, before and after. */
#include "core/runtime/bulk.h"

enum { PAGE = 65536, PIECE = 65536 };

/* ---- bulk instructions ----
 * They work in pieces and can stop between two: the operands s[0..2] become what is left, a valid
 * state at the same position. Bounds are checked for the whole before anything is written. */

static bool pausing(const wsr_thread *thread) {
  return atomic_load_explicit(&thread->pause, memory_order_relaxed) != 0;
}

/* An address moved on, in its type. */
static uint64_t moved(uint64_t at, uint64_t n, const wsr_bounds *bounds) {
  return bounds->address64 ? at + n : (uint32_t)(at + n);
}

static uint32_t memory_fill(const wsr_thread *thread, const wsr_memory_instance *m, uint64_t *s) {
  const uint8_t byte = (uint8_t)s[1];
  if (!wsr_within(s[0], s[2], m->space.size)) return WSR_TRAP_MEMORY_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < PIECE ? s[2] : PIECE;
    memset(m->space.data + s[0], byte, n);
    s[2] -= n;
    s[0] = moved(s[0], n, &m->bounds);
    if (s[2] && pausing(thread)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t memory_copy(const wsr_thread *thread, const wsr_memory_instance *to,
                            const wsr_memory_instance *from, uint64_t *s) {
  if (!wsr_within(s[0], s[2], to->space.size) || !wsr_within(s[1], s[2], from->space.size))
    return WSR_TRAP_MEMORY_BOUNDS;
  const bool forward = to != from || s[0] <= s[1];
  while (s[2]) {
    const uint64_t n = s[2] < PIECE ? s[2] : PIECE;
    s[2] -= n;
    if (forward) {
      memmove(to->space.data + s[0], from->space.data + s[1], n);
      s[0] = moved(s[0], n, &to->bounds);
      s[1] = moved(s[1], n, &from->bounds);
    } else { /* from the end, so that what is left is still to be read: only the length changes */
      memmove(to->space.data + s[0] + s[2], to->space.data + s[1] + s[2], n);
    }
    if (s[2] && pausing(thread)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t memory_init(const wsr_thread *thread, const wsr_instance *instance,
                            uint32_t segment, const wsr_memory_instance *m, uint64_t *s) {
  const wsr_data_def *d = &instance->module->data[segment];
  const uint64_t available =
      wsr_is_dropped(thread->store, instance->dropped_at + instance->module->n.elements + segment)
          ? 0
          : d->size;
  if (!wsr_within(s[0], s[2], m->space.size) || !wsr_within(s[1], s[2], available))
    return WSR_TRAP_MEMORY_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < PIECE ? s[2] : PIECE;
    memcpy(m->space.data + s[0], instance->module->bytes + d->bytes + s[1], n);
    s[2] -= n;
    s[0] = moved(s[0], n, &m->bounds);
    s[1] += n;
    if (s[2] && pausing(thread)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

enum { TABLE_PIECE = PIECE / 8 };

static uint32_t table_fill(const wsr_thread *thread, const wsr_table_instance *t, uint64_t *s) {
  if (!wsr_within(s[0], s[2], t->size)) return WSR_TRAP_TABLE_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < TABLE_PIECE ? s[2] : TABLE_PIECE;
    for (uint64_t i = 0; i < n; i++) t->elements[s[0] + i] = s[1];
    s[2] -= n;
    s[0] = moved(s[0], n, &t->bounds);
    if (s[2] && pausing(thread)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t table_copy(const wsr_thread *thread, const wsr_table_instance *to,
                           const wsr_table_instance *from, uint64_t *s) {
  if (!wsr_within(s[0], s[2], to->size) || !wsr_within(s[1], s[2], from->size))
    return WSR_TRAP_TABLE_BOUNDS;
  const bool forward = to != from || s[0] <= s[1];
  while (s[2]) {
    const uint64_t n = s[2] < TABLE_PIECE ? s[2] : TABLE_PIECE;
    s[2] -= n;
    const uint64_t skip = forward ? 0 : s[2];
    memmove(to->elements + s[0] + skip, from->elements + s[1] + skip, n * sizeof *to->elements);
    if (forward) {
      s[0] = moved(s[0], n, &to->bounds);
      s[1] = moved(s[1], n, &from->bounds);
    }
    if (s[2] && pausing(thread)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t table_init(const wsr_thread *thread, const wsr_instance *instance, uint32_t segment,
                           const wsr_table_instance *t, uint64_t *s) {
  const uint64_t available = wsr_is_dropped(thread->store, instance->dropped_at + segment)
                                 ? 0
                                 : instance->module->elements[segment].n_items;
  if (!wsr_within(s[0], s[2], t->size) || !wsr_within(s[1], s[2], available))
    return WSR_TRAP_TABLE_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < TABLE_PIECE ? s[2] : TABLE_PIECE;
    memcpy(t->elements + s[0], instance->elements[segment] + s[1], n * sizeof *t->elements);
    s[2] -= n;
    s[0] = moved(s[0], n, &t->bounds);
    s[1] += n;
    if (s[2] && pausing(thread)) return WSR_BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

/* What growing gives: the old size, or -1 in the type of addresses. */
static uint64_t grown(uint64_t old, const wsr_bounds *bounds) {
  return bounds->address64 ? old : (uint32_t)old;
}

/* A growth that the limits allow and the host refuses depends on the host: it is counted. */
static uint64_t grow_memory(const wsr_thread *thread, wsr_memory_instance *m, uint64_t pages) {
  const uint64_t old = wsr_memory_grow(m, pages), size = m->space.size / PAGE;
  uint64_t most = m->limit;
  if (!m->bounds.address64 && most > WSR_MAX_PAGES) most = WSR_MAX_PAGES;
  if (m->bounds.has_maximum && m->bounds.maximum < most) most = m->bounds.maximum;
  if (old == UINT64_MAX && size <= most && pages <= most - size) thread->store->refused_growths++;
  return grown(old, &m->bounds);
}

static uint64_t grow_table(const wsr_thread *thread, wsr_table_instance *t, uint64_t count,
                           uint64_t value) {
  const uint64_t old = wsr_table_grow(t, count, value);
  uint64_t most = t->limit;
  if (t->bounds.has_maximum && t->bounds.maximum < most) most = t->bounds.maximum;
  if (old == UINT64_MAX && count <= most - t->size) thread->store->refused_growths++;
  return grown(old, &t->bounds);
}

static wsr_memory_instance *memory_at(const wsr_thread *thread, const wsr_instance *instance,
                                      uint32_t index) {
  return thread->memories[instance->memories[index]];
}

static wsr_table_instance *table_at(const wsr_thread *thread, const wsr_instance *instance,
                                    uint32_t index) {
  return thread->tables[instance->tables[index]];
}

/* a is the table or segment, b the source or the segment. */
static uint32_t perform_on_table(const wsr_thread *thread, const wsr_instance *instance,
                                 const wsr_cell *cell, uint64_t *s) {
  wsr_table_instance *const t = table_at(thread, instance, cell->u.p.a);
  switch (cell->op) {
    case WSR_OP_TABLE_GET:
      if (s[0] >= t->size) return WSR_TRAP_TABLE_BOUNDS;
      s[0] = t->elements[s[0]];
      return WSR_TRAP_NONE;
    case WSR_OP_TABLE_SET:
      if (s[0] >= t->size) return WSR_TRAP_TABLE_BOUNDS;
      t->elements[s[0]] = s[1];
      return WSR_TRAP_NONE;
    case WSR_OP_TABLE_SIZE: s[0] = t->size; return WSR_TRAP_NONE;
    case WSR_OP_TABLE_GROW: s[0] = grow_table(thread, t, s[1], s[0]); return WSR_TRAP_NONE;
    case WSR_OP_TABLE_FILL: return table_fill(thread, t, s);
    case WSR_OP_TABLE_COPY:
      return table_copy(thread, t, table_at(thread, instance, cell->u.p.b), s);
    default: return table_init(thread, instance, cell->u.p.b, t, s);
  }
}

/* a is the memory, b the source or the segment. */
static uint32_t perform_on_memory(const wsr_thread *thread, const wsr_instance *instance,
                                  const wsr_cell *cell, uint64_t *s) {
  wsr_memory_instance *const m = memory_at(thread, instance, cell->u.p.a);
  switch (cell->op) {
    case WSR_OP_MEMORY_SIZE: s[0] = m->space.size / PAGE; return WSR_TRAP_NONE;
    case WSR_OP_MEMORY_GROW: s[0] = grow_memory(thread, m, s[0]); return WSR_TRAP_NONE;
    case WSR_OP_MEMORY_FILL: return memory_fill(thread, m, s);
    case WSR_OP_MEMORY_COPY:
      return memory_copy(thread, m, memory_at(thread, instance, cell->u.p.b), s);
    default: return memory_init(thread, instance, cell->u.p.b, m, s);
  }
}

/* The upper half of a product of unsigned numbers. */
static uint64_t high_product(uint64_t a, uint64_t b) {
  const uint64_t low = (uint32_t)a, high = a >> 32, other = (uint32_t)b, upper = b >> 32;
  const uint64_t middle = (low * other >> 32) + (uint32_t)(low * upper) + (uint32_t)(high * other);
  return high * upper + (low * upper >> 32) + (high * other >> 32) + (middle >> 32);
}

/* Numbers of 128 bits, low half first. */
static void perform_wide(uint32_t op, uint64_t *s) {
  const uint64_t a = s[0], b = s[1];
  switch (op) {
    case WSR_OP_I64_ADD128:
      s[0] = a + s[2];
      s[1] = b + s[3] + (s[0] < a);
      return;
    case WSR_OP_I64_SUB128:
      s[0] = a - s[2];
      s[1] = b - s[3] - (a < s[2]);
      return;
    default:
      s[0] = a * b;
      s[1] = high_product(a, b);
      if (op == WSR_OP_I64_MUL_WIDE_S) s[1] -= (a >> 63 ? b : 0) + (b >> 63 ? a : 0);
  }
}

uint32_t wsr_perform(const wsr_thread *thread, const wsr_instance *instance, const wsr_cell *cell,
                     uint64_t *fp) {
  uint64_t *s = fp + cell->s;
  const uint32_t a = cell->u.p.a;
  switch (cell->op) {
    case WSR_OP_REF_FUNC: s[0] = (uint64_t)instance->functions[a] + 1; return WSR_TRAP_NONE;
    case WSR_OP_GLOBAL_GET_V128:
      s[0] = thread->globals[instance->globals[a]].value;
      s[1] = thread->globals[instance->globals[a]].high;
      return WSR_TRAP_NONE;
    case WSR_OP_GLOBAL_SET_V128:
      thread->globals[instance->globals[a]].value = s[0];
      thread->globals[instance->globals[a]].high = s[1];
      return WSR_TRAP_NONE;
    case WSR_OP_I64_ADD128:
    case WSR_OP_I64_SUB128:
    case WSR_OP_I64_MUL_WIDE_S:
    case WSR_OP_I64_MUL_WIDE_U: perform_wide(cell->op, s); return WSR_TRAP_NONE;
    case WSR_OP_ELEM_DROP:
      wsr_drop_segment(thread->store, instance->dropped_at + a);
      return WSR_TRAP_NONE;
    case WSR_OP_DATA_DROP:
      wsr_drop_segment(thread->store, instance->dropped_at + instance->module->n.elements + a);
      return WSR_TRAP_NONE;
    case WSR_OP_MEMORY_SIZE:
    case WSR_OP_MEMORY_GROW:
    case WSR_OP_MEMORY_FILL:
    case WSR_OP_MEMORY_COPY:
    case WSR_OP_MEMORY_INIT: return perform_on_memory(thread, instance, cell, s);
    default: return perform_on_table(thread, instance, cell, s);
  }
}
