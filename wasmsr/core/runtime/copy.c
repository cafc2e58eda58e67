/* Copies of stores: forks, and states in memory to which a program goes back.
 * A copy shares the static half. What changes is small, but for the memories, whose bytes are for
 * the caller: it lays them over a base. Source: WebAssembly specification, section 4.2.3 (Store).
 */
#include <stdlib.h>

#include "core/array.h"
#include "core/runtime/thread.h"

static bool assign_table(wsr_table_instance *table, const wsr_table_instance *from) {
  if (table->room < from->size || !table->elements) {
    uint64_t *const elements = malloc(((size_t)from->size + 1) * sizeof *elements);
    if (!elements) return false;
    free(table->elements);
    table->elements = elements;
    table->room = from->size;
  }
  if (from->size) memcpy(table->elements, from->elements, from->size * sizeof *table->elements);
  table->size = from->size;
  table->bounds = from->bounds;
  table->limit = from->limit;
  return true;
}

static bool same_memory(const wsr_memory_instance *a, const wsr_memory_instance *b) {
  return a->limit == b->limit && a->bounds.minimum == b->bounds.minimum &&
         a->bounds.has_maximum == b->bounds.has_maximum &&
         (!a->bounds.has_maximum || a->bounds.maximum == b->bounds.maximum) &&
         a->bounds.address64 == b->bounds.address64;
}

/* The memory has its size and address space, or neither. */
static bool begin_memory(wsr_memory_instance *memory, const wsr_memory_instance *from, bool real) {
  *memory = (wsr_memory_instance){.bounds = from->bounds, .limit = from->limit};
  if (real) return wsr_memory_init(memory, from->space.size / 65536);
  memory->space.size = from->space.size;
  return true;
}

static bool assign_memory(wsr_memory_instance *memory, const wsr_memory_instance *from) {
  if (!memory->space.data) {
    memory->space.size = from->space.size;
    return true;
  }
  if (same_memory(memory, from)) return wsr_space_resize(&memory->space, from->space.size);
  wsr_space_free(&memory->space);
  return begin_memory(memory, from, true);
}

static bool assign_values(wsr_store *to, const wsr_store *from, bool memories) {
  wsr_drop_parts(to, from->n_tables, from->n_memories);
  if (!wsr_room_for_values(to, from->n_globals, from->n_tables, from->n_memories)) return false;
  if (from->n_globals) memcpy(to->globals, from->globals, from->n_globals * sizeof *to->globals);
  to->n_globals = from->n_globals;
  for (uint32_t i = 0; i < from->n_tables; i++) {
    if (i == to->n_tables) {
      if (!(to->tables[i] = calloc(1, sizeof **to->tables))) return false;
      to->n_tables++;
    }
    if (!assign_table(to->tables[i], from->tables[i])) return false;
  }
  for (uint32_t i = 0; i < from->n_memories; i++) {
    if (i == to->n_memories) {
      if (!(to->memories[i] = calloc(1, sizeof **to->memories))) return false;
      to->n_memories++;
      if (!begin_memory(to->memories[i], from->memories[i], memories)) return false;
    } else if (!assign_memory(to->memories[i], from->memories[i])) {
      return false;
    }
  }
  return true;
}

static bool assign_dropped(wsr_store *to, const wsr_store *from) {
  const uint32_t words = (uint32_t)((from->n_dropped + 63) / 64);
  if (!wsr_array_reserve(&to->dropped, &to->room_dropped, words, sizeof *to->dropped)) return false;
  if (words) memcpy(to->dropped, from->dropped, words * sizeof *to->dropped);
  to->n_dropped = from->n_dropped;
  return true;
}

static bool assign(wsr_store *to, const wsr_store *from, bool memories) {
  return assign_values(to, from, memories) && assign_dropped(to, from) &&
         wsr_copy_exceptions(to, from) && wsr_thread_assign(to->main, from->main);
}

wsr_store *wsr_store_copy(const wsr_store *from, int memories, wsr_error *error) {
  *error = (wsr_error){.kind = WSR_OK, .offset = UINT64_MAX};
  wsr_store *to = wsr_store_begin(&from->limits, from->share);
  if (to) {
    wsr_share_program(to, &from->program);
    to->main = wsr_thread_new(to);
    if (to->main && assign(to, from, memories != 0)) return to;
  }
  wsr_store_free(to);
  wsr_fail(error, WSR_MEMORY, UINT64_MAX, "no memory left for a copy of the store");
  return NULL;
}

int wsr_store_assign(wsr_store *store, const wsr_store *from) {
  if (store->program.sharers != from->program.sharers) {
    wsr_release_program(store);
    wsr_share_program(store, &from->program);
  }
  return assign(store, from, true);
}
