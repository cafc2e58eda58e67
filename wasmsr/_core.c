/* The hot loop: it runs a paused machine until it finishes, traps, pauses or needs the host.
 *
 * Leaving is a return value; nothing of the program lives on the native stack. The loop's body is
 * core/loop.h, built here twice: plain and metered. It dispatches by computed goto where the
 * compiler has it, otherwise by a switch. Fast code (see ARCHITECTURE.md) will be a third variant.
 */
#include "core/numeric.h"
#include "core/store.h"

enum { PAGE = 65536, PIECE = 65536, BULK_PAUSED = WSR_TRAP_COUNT };

static const wsr_memory_instance no_memory = {0};

static inline void move(uint64_t *to, const uint64_t *from, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) to[i] = from[i];
}

static uint32_t wsr_resolve_indirect(const wsr_store *store, const wsr_instance *instance,
                                     const wsr_cell *pc, uint32_t index, uint32_t *address) {
  const wsr_table_instance *t = store->tables[instance->tables[pc->u.p.b]];
  if (index >= t->size) return WSR_TRAP_UNDEFINED_ELEMENT;
  const uint64_t reference = t->elements[index];
  if (!reference) return WSR_TRAP_UNINITIALIZED_ELEMENT;
  *address = (uint32_t)(reference - 1);
  if (store->functions[*address].type != instance->types[pc->u.p.a]) return WSR_TRAP_INDIRECT_TYPE;
  return WSR_TRAP_NONE;
}

/* ---- bulk instructions ----
 * They work in pieces and can stop between two: the operands s[0..2] become what is left, a valid
 * state at the same position. Bounds are checked for the whole before anything is written. */

static bool pausing(const wsr_store *store) {
  return atomic_load_explicit(&store->pause, memory_order_relaxed) != 0;
}

static uint32_t wsr_memory_fill(const wsr_store *store, uint8_t *memory, uint64_t size,
                                uint64_t *s) {
  const uint8_t byte = (uint8_t)s[1];
  if (s[0] + s[2] > size) return WSR_TRAP_MEMORY_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < PIECE ? s[2] : PIECE;
    memset(memory + s[0], byte, n);
    s[2] -= n;
    s[0] = (uint32_t)(s[0] + n);
    if (s[2] && pausing(store)) return BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t wsr_memory_copy(const wsr_store *store, uint8_t *memory, uint64_t size,
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
    if (s[2] && pausing(store)) return BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t wsr_memory_write(const wsr_store *store, const wsr_instance *instance,
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
    if (s[2] && pausing(store)) return BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

enum { TABLE_PIECE = PIECE / 8 };

static uint32_t wsr_table_fill(const wsr_store *store, const wsr_instance *instance,
                               const wsr_cell *pc, uint64_t *s) {
  const wsr_table_instance *t = store->tables[instance->tables[pc->u.p.a]];
  if (s[0] + s[2] > t->size) return WSR_TRAP_TABLE_BOUNDS;
  while (s[2]) {
    const uint64_t n = s[2] < TABLE_PIECE ? s[2] : TABLE_PIECE;
    for (uint64_t i = 0; i < n; i++) t->elements[s[0] + i] = s[1];
    s[2] -= n;
    s[0] = (uint32_t)(s[0] + n);
    if (s[2] && pausing(store)) return BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t wsr_table_copy(const wsr_store *store, const wsr_instance *instance,
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
    if (s[2] && pausing(store)) return BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

static uint32_t wsr_table_init(const wsr_store *store, const wsr_instance *instance,
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
    if (s[2] && pausing(store)) return BULK_PAUSED;
  }
  return WSR_TRAP_NONE;
}

/* ---- dispatch ---- */

#if defined(__GNUC__) && !defined(WSR_SWITCH)
/* Addresses of labels are no ISO C; this file alone is exempt, the switch below is the standard way. */
#pragma GCC diagnostic ignored "-Wpedantic"
#define LABEL(name) [WSR_OP_##name] = &&op_##name,
#define LABELS static const void *const labels[] = {WSR_EACH_OP(LABEL)}
#define GO goto *labels[pc->op]
#define GO_FIRST GO;
#define AT(name) op_##name:
#else
#define LABELS ((void)0)
#define GO goto dispatch
#define GO_FIRST dispatch: switch (pc->op)
#define AT(name) case WSR_OP_##name:
#endif

#define RUN run_plain
#define METERED 0
#include "core/loop.h"

#define RUN run_metered
#define METERED 1
#include "core/loop.h"

uint32_t wsr_run(wsr_store *store, uint64_t *fuel, wsr_exit *out) {
  return fuel ? run_metered(store, fuel, out) : run_plain(store, fuel, out);
}
