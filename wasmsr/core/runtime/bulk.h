/* The bulk and the atomic instructions of memories and tables, for both codes. */
#ifndef WSR_BULK_H
#define WSR_BULK_H
#include "core/runtime/thread.h"

enum {
  WSR_BULK_PAUSED = WSR_TRAP_COUNT
}; /* stopped between two pieces: the operands are what is left */

/* Perform a rare instruction (tables, memories, segments, ref.func) whose operands are in their
 * slots. Returns a trap code or WSR_BULK_PAUSED. */
uint32_t wsr_perform(const wsr_thread *thread, const wsr_instance *instance, const wsr_cell *cell,
                     uint64_t *fp);

/* runtime/atomics.c: an atomic instruction that has an address, its operands at `s`. Returns a trap
 * code. */
uint32_t wsr_atomic(const wsr_store *store, const wsr_instance *instance, const wsr_cell *cell,
                    uint64_t *s);

#endif
