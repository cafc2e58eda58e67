/* Handlers of fast code for loads and stores other than those on memory 0 with 32-bit addresses,
 * which are in handlers.c.
 *
 * memory64: memory 0 with 64-bit addresses. Like the handlers of memory 0, with the address a
 * 64-bit slot, the accumulator or a sum, and a check that address, offset and width together stay
 * below 2^64. (Constant addresses are those of memory 0 already.) Third word of a sum: the offset;
 * fourth: the constant. any_memory: any memory. The address, and the value to be stored, are in
 * slots; third word: the offset; fourth: the memory's index, with bit 32 set where its addresses
 * have 64 bits. */

#include "core/fast/handler.h"

#if WSR_FAST

/* Where an access of `width` bytes finds its bytes; NULL where they are out of bounds. */
INLINE uint8_t *locate(const wsr_thread *thread, const uint64_t *pc, const uint64_t *fp,
                       uint32_t width) {
  const wsr_memory_instance *const m = thread->memories[thread->instance->memories[low(pc[3])]];
  const uint64_t base = high(pc[3]) ? fp[field(pc, 0)] : (uint32_t)fp[field(pc, 0)];
  const uint64_t from = base + pc[2];
  return from >= base && wsr_within(from, width, m->space.size) ? m->space.data + from : NULL;
}

#include "core/fast/handlers_other_memories.inc"

#include "core/fast/handler_tables_other_memories.inc"
#endif
