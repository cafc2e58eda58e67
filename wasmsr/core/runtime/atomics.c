/* Atomic memory instructions, for both codes. A memory belongs to one thread (a shared one is
 * refused), so to read and then to write is atomic enough; what an address must be is what the
 * proposal says: a multiple of the width, which is checked before the bounds. Source: threads
 * proposal, "Atomic Memory Instructions" of the chapter on execution. */
#include "core/numeric/numeric.h"
#include "core/runtime/bulk.h"

uint32_t wsr_atomic(const wsr_store *store, const wsr_instance *instance, const wsr_cell *cell,
                    uint64_t *s) {
  const wsr_memory_instance *m = store->memories[instance->memories[cell->n ? cell->n - 1U : 0]];
  const uint32_t width = wsr_opcode_table[cell->op].width;
  const uint64_t address = m->bounds.address64 ? s[0] : (uint32_t)s[0];
  const uint64_t from = address + cell->u.imm;
  if (from & (width - 1)) return WSR_TRAP_UNALIGNED;
  if (cell->op == WSR_OP_MEMORY_ATOMIC_WAIT32 || cell->op == WSR_OP_MEMORY_ATOMIC_WAIT64)
    return WSR_TRAP_NOT_SHARED;
  if (from < address || !wsr_within(from, width, m->space.size)) return WSR_TRAP_MEMORY_BOUNDS;
  uint8_t *const at = m->space.data + from;
  switch (cell->op) {
    case WSR_OP_MEMORY_ATOMIC_NOTIFY: s[0] = 0; break; /* nobody can wait */
#define PLACE(BITS) const uint##BITS##_t a = wsr_get##BITS(at)
#define LOAD(N, BITS)                               \
  case WSR_OP_##N: s[0] = wsr_get##BITS(at); break;
#define STORE(N, BITS)                                             \
  case WSR_OP_##N: wsr_put##BITS(at, (uint##BITS##_t)s[1]); break;
#define MODIFY(N, BITS, X)                         \
  case WSR_OP_##N: {                               \
    PLACE(BITS);                                   \
    const uint##BITS##_t b = (uint##BITS##_t)s[1]; \
    wsr_put##BITS(at, (uint##BITS##_t)(X));        \
    s[0] = a;                                      \
    break;                                         \
  }
#define EXCHANGE(N, BITS)                                                   \
  case WSR_OP_##N: {                                                        \
    PLACE(BITS);                                                            \
    if (a == (uint##BITS##_t)s[1]) wsr_put##BITS(at, (uint##BITS##_t)s[2]); \
    s[0] = a;                                                               \
    break;                                                                  \
  }
#include "core/runtime/atomic_rows.h"
    default: break;
  }
  return WSR_TRAP_NONE;
}
