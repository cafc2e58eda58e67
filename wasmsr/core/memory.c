/* Linear memories and tables: address space is reserved once, pages become usable on growth, so a
 * memory never moves while it grows. The one file of the core that asks the operating system. */
#if !defined(_WIN32)
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */
#include <sys/mman.h>
#endif
#include <stdlib.h>

#include "store.h"

enum { PAGE = 65536 };

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

void *wsr_reserve(size_t size) {
  void *start =
      mmap(NULL, size ? size : 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return start == MAP_FAILED ? NULL : start;
}

bool wsr_commit(void *start, size_t size) {
  return size == 0 || mprotect(start, size, PROT_READ | PROT_WRITE) == 0;
}

void wsr_release(void *start, size_t size) {
  if (start) munmap(start, size ? size : 1);
}

bool wsr_memory_init(wsr_memory_instance *memory, uint32_t pages) {
  uint32_t most = memory->limit;
  if (memory->bounds.has_maximum && memory->bounds.maximum < most) most = memory->bounds.maximum;
  if (pages > most) return false;
  memory->reserved = (uint64_t)most * PAGE;
  memory->size = (uint64_t)pages * PAGE;
  memory->data = wsr_reserve(memory->reserved);
  if (!memory->data && pages < most) { /* little address space: this memory will not grow */
    memory->reserved = memory->size;
    memory->data = wsr_reserve(memory->reserved);
  }
  return memory->data && wsr_commit(memory->data, memory->size);
}

uint32_t wsr_memory_grow(wsr_memory_instance *memory, uint32_t pages) {
  const uint64_t more = (uint64_t)pages * PAGE;
  const uint32_t old = (uint32_t)(memory->size / PAGE);
  if (more > memory->reserved - memory->size) return UINT32_MAX;
  if (!wsr_commit(memory->data + memory->size, more)) return UINT32_MAX;
  memory->size += more;
  return old;
}

uint32_t wsr_table_grow(wsr_table_instance *table, uint32_t count, uint64_t value) {
  const uint32_t old = table->size;
  uint32_t most = table->limit;
  if (table->bounds.has_maximum && table->bounds.maximum < most) most = table->bounds.maximum;
  if (count > most - old) return UINT32_MAX;
  if (old + count > table->room) {
    uint64_t room = (uint64_t)old + count + old / 2;
    if (room > most) room = most;
    uint64_t *grown = realloc(table->elements, room * sizeof *grown);
    if (!grown) return UINT32_MAX;
    table->elements = grown;
    table->room = (uint32_t)room;
  }
  for (uint32_t i = 0; i < count; i++) table->elements[old + i] = value;
  table->size = old + count;
  return old;
}
