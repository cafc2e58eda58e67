/* The bulk instructions of memories and tables, for both codes. `s` are the three operands. */
#ifndef WSR_BULK_H
#define WSR_BULK_H
#include "store.h"

enum { WSR_BULK_PAUSED = WSR_TRAP_COUNT }; /* stopped between two pieces: the operands are what is left */

uint32_t wsr_memory_fill(const wsr_store *store, uint8_t *memory, uint64_t size,
                                uint64_t *s);
uint32_t wsr_memory_copy(const wsr_store *store, uint8_t *memory, uint64_t size,
                                uint64_t *s);
uint32_t wsr_memory_write(const wsr_store *store, const wsr_instance *instance,
                                 uint32_t segment, uint8_t *memory, uint64_t size, uint64_t *s);
uint32_t wsr_table_fill(const wsr_store *store, const wsr_instance *instance,
                               const wsr_cell *pc, uint64_t *s);
uint32_t wsr_table_copy(const wsr_store *store, const wsr_instance *instance,
                               const wsr_cell *pc, uint64_t *s);
uint32_t wsr_table_init(const wsr_store *store, const wsr_instance *instance,
                               const wsr_cell *pc, uint64_t *s);

/* Perform a rare instruction (tables, memories, segments, ref.func) whose operands are in their slots.
 * Returns a trap code or WSR_BULK_PAUSED. */
uint32_t wsr_perform(wsr_store *store, const wsr_instance *instance, const wsr_cell *cell,
                     uint64_t *fp);

#endif
