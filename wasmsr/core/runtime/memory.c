/* Linear memories and tables: address space is reserved once, pages become usable on growth, so a
 * memory never moves while it grows. The one file of the core that asks the operating system; where
 * the core itself is a WebAssembly module, it asks its own linear memory. */
#if defined(__wasm__)
#include <string.h>
#elif !defined(_WIN32)
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */
#include <sys/mman.h>
#endif
#include <stdlib.h>

#include "core/runtime/store.h"

enum { PAGE = 65536 };

#if defined(__wasm__)

/* Address space is what our own memory can still grow by: an engine gives it pages when they are
 * touched first, as `mmap` does. It cannot be given back, so what is released is kept, all zeros,
 * for the next one who asks. */
typedef struct free_area {
  struct free_area *next;
  size_t size;
} free_area;

static free_area *free_areas;

enum { MODEST = 64 << 20 };

void *wsr_reserve(size_t size) {
  if (size > SIZE_MAX - PAGE) return NULL;
  const size_t pages = (size + PAGE - 1) / PAGE + !size;
  for (free_area **at = &free_areas; *at; at = &(*at)->next) {
    free_area *const found = *at;
    if (found->size / PAGE < pages) continue;
    const size_t rest = found->size - pages * PAGE;
    if (rest) {
      free_area *const left = (free_area *)((uint8_t *)found + pages * PAGE);
      *left = (free_area){found->next, rest};
      *at = left;
    } else {
      *at = found->next;
    }
    *found = (free_area){NULL, 0};
    return found;
  }
  /* A space takes at most half of what there is, so that others find room. */
  const size_t left = PAGE - __builtin_wasm_memory_size(0);
  if (size > MODEST && pages > left / 2) return NULL;
  const size_t old = __builtin_wasm_memory_grow(0, pages);
  return old == SIZE_MAX ? NULL : (void *)(old * PAGE);
}

/* Which pages somebody could have written to: the others are zeros still. */
static uint8_t usable[PAGE];

bool wsr_commit(void *start, size_t size) {
  const size_t first = (size_t)start / PAGE, end = ((size_t)start + size + PAGE - 1) / PAGE;
  if (size) memset(usable + first, 1, end - first);
  return true;
}

void wsr_release(void *start, size_t size) {
  if (!start) return;
  const size_t first = (size_t)start / PAGE, pages = (size + PAGE - 1) / PAGE + !size;
  for (size_t i = first; i < first + pages; i++) {
    if (usable[i]) memset((void *)(i * PAGE), 0, PAGE);
    usable[i] = 0;
  }
  free_area *const area = start;
  *area = (free_area){free_areas, pages * PAGE};
  free_areas = area;
}

#else

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

#endif

bool wsr_space_init(wsr_space *space, uint64_t size, uint64_t most) {
  *space = (wsr_space){.size = size};
  while (!(space->data = wsr_reserve(most)) && most > size) {
    /* Less address space than the limit: this space can grow less far. */
    most = most / 2 / PAGE * PAGE;
    if (most < size) most = size;
  }
  space->reserved = most;
  return space->data && wsr_commit(space->data, size);
}

bool wsr_space_grow(wsr_space *space, uint64_t bytes) {
  if (bytes > space->reserved - space->size) return false;
  if (!wsr_commit(space->data + space->size, bytes)) return false;
  space->size += bytes;
  return true;
}

bool wsr_space_resize(wsr_space *space, uint64_t size) {
  if (size >= space->size) return wsr_space_grow(space, size - space->size);
#if defined(__wasm__)
  memset(space->data + size, 0, space->size - size);
#else
  uint64_t anew = space->size; /* from `size` up to here, the mapping is replaced */
#ifdef __linux__
  /* Pages without a base are given up where they are: whoever watches the mapping goes on. */
  anew = space->base > size ? space->base : size;
  const uint64_t rest = space->size - anew;
  if (rest && (madvise(space->data + anew, rest, MADV_DONTNEED) != 0 ||
               mprotect(space->data + anew, rest, PROT_NONE) != 0))
    return false;
#endif
  if (anew > size &&
      mmap(space->data + size, anew - size, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
    return false;
#endif
  space->size = size;
  if (space->base > size) space->base = size;
  return true;
}

void wsr_space_free(wsr_space *space) { wsr_release(space->data, space->reserved); }

#if defined(__wasm__)

int wsr_lay_memory(wsr_store *store, uint32_t address, int file, uint64_t offset, uint64_t first,
                   uint64_t length) {
  (void)store;
  (void)address;
  (void)file;
  (void)offset;
  (void)first;
  (void)length;
  return 0; /* there are no mappings of files */
}

int wsr_drop_pages(wsr_store *store, uint32_t address, const wsr_page_run *runs, size_t n) {
  const wsr_space *space = &store->memories[address]->space;
  if (wsr_run_pages(runs, n, space->size / WSR_PAGE) == SIZE_MAX) return 0;
  for (size_t i = 0; i < n; i++)
    memset(space->data + runs[i].first * WSR_PAGE, 0, runs[i].count * WSR_PAGE);
  return 1;
}

int wsr_clear_memory(wsr_store *store, uint32_t address, uint64_t pages) {
  const wsr_memory_instance *memory = store->memories[address];
  wsr_space *space = &store->memories[address]->space;
  if (pages > space->reserved / PAGE || pages < memory->bounds.minimum) return 0;
  memset(space->data, 0, space->size);
  space->size = 0;
  return wsr_space_grow(space, pages * PAGE);
}

#else

/* Where `mmap` may cut a mapping: at multiples of 64 KiB, whatever the host's pages are. */
static bool cuts(uint64_t offset) { return offset % PAGE == 0; }

int wsr_lay_memory(wsr_store *store, uint32_t address, int file, uint64_t offset, uint64_t first,
                   uint64_t length) {
  wsr_space *space = &store->memories[address]->space;
  if (!cuts(offset) || !cuts(first) || !cuts(length) || offset > INT64_MAX - length) return 0;
  if (length > space->size || length < space->base || first > space->base) return 0;
  if (length > first &&
      mmap(space->data + first, length - first, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file, (off_t)(offset + first)) == MAP_FAILED)
    return 0;
  space->base = length;
  return 1;
}

int wsr_drop_pages(wsr_store *store, uint32_t address, const wsr_page_run *runs, size_t n) {
  const wsr_space *space = &store->memories[address]->space;
  if (wsr_run_pages(runs, n, space->size / WSR_PAGE) == SIZE_MAX) return 0;
#ifdef __linux__
  for (size_t i = 0; i < n; i++) {
    uint8_t *start = space->data + runs[i].first * WSR_PAGE;
    if (runs[i].count && madvise(start, runs[i].count * WSR_PAGE, MADV_DONTNEED) != 0) return 0;
  }
  return 1;
#else
  return n == 0; /* elsewhere the call does not promise that the old bytes come back */
#endif
}

int wsr_clear_memory(wsr_store *store, uint32_t address, uint64_t pages) {
  const wsr_memory_instance *memory = store->memories[address];
  wsr_space *space = &store->memories[address]->space;
  if (pages > space->reserved / PAGE || pages < memory->bounds.minimum) return 0;
  if (space->reserved &&
      mmap(space->data, space->reserved, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
    return 0;
  space->base = 0;
  space->size = 0;
  return wsr_space_grow(space, pages * PAGE);
}

#endif

bool wsr_memory_init(wsr_memory_instance *memory, uint64_t pages) {
  const wsr_bounds *bounds = &memory->bounds;
  uint64_t most = memory->limit;
  if (!bounds->address64 && most > WSR_MAX_PAGES) most = WSR_MAX_PAGES;
  if (bounds->has_maximum && bounds->maximum < most) most = bounds->maximum;
  if (pages > most || pages > SIZE_MAX / PAGE) return false;
  if (most > SIZE_MAX / PAGE) most = SIZE_MAX / PAGE; /* as little as a host of 32 bits has */
  return wsr_space_init(&memory->space, pages * PAGE, most * PAGE);
}

uint64_t wsr_memory_grow(wsr_memory_instance *memory, uint64_t pages) {
  const uint64_t old = memory->space.size / PAGE;
  if (pages > UINT64_MAX / PAGE || !wsr_space_grow(&memory->space, pages * PAGE)) return UINT64_MAX;
  return old;
}

uint64_t wsr_table_grow(wsr_table_instance *table, uint64_t count, uint64_t value) {
  const uint32_t old = table->size;
  uint64_t most = table->limit;
  if (table->bounds.has_maximum && table->bounds.maximum < most) most = table->bounds.maximum;
  if (count > most - old) return UINT64_MAX;
  if (old + count > table->room) {
    uint64_t room = old + count + old / 2;
    if (room > most) room = most;
    uint64_t *grown = realloc(table->elements, room * sizeof *grown);
    if (!grown) return UINT64_MAX;
    table->elements = grown;
    table->room = (uint32_t)room;
  }
  for (uint64_t i = 0; i < count; i++) table->elements[old + i] = value;
  table->size = (uint32_t)(old + count);
  return old;
}
