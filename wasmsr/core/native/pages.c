/* Memory for native code, the stack on which it runs, and the way into it.
 *
 * Code is in a file without a name that is mapped twice: one mapping is written, the other one run.
 * No mapping is both, and none ever changes from one to the other, so this works where the system
 * refuses such changes (PR_SET_MDWE). After a fork the child does not have the mapping that is
 * written: it runs the code that is there, and makes a file of its own for more. The parent does
 * not write again where code was when it forked.
 *
 * Beside runtime/memory.c, this is the only file of the core that asks the operating system. */
#if defined(__linux__)
#define _GNU_SOURCE 1 /* memfd_create */
#endif
#include "core/native/native.h"

#if WSR_NATIVE
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/array.h"
#include "core/native/x64/encode.h"

enum { CODE_BYTES = 256 << 20, ALIGNMENT = 16, PAGE = 4096 };
/* Room for signal handlers, and a gap that nothing can cross without a fault. */
enum { STACK_FOR_SIGNALS = 512 << 10, GUARD = 64 << 10, WORD = sizeof(uint64_t) };

static uint32_t aligned(uint32_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static void *map_code(int file, int protection) {
  void *const at = mmap(NULL, CODE_BYTES, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
  return at == MAP_FAILED ? NULL : at;
}

/* A shadow stack ends a program that gives up a stack without returning. */
static bool has_shadow_stack(const uint8_t *routine) {
  typedef uint64_t shadow_stack(void);
  return ((shadow_stack *)(uintptr_t)routine)() != 0;
}

/* What a process may use for code, in bytes. */
static _Atomic uint64_t budget = CODE_BYTES;

/* The space for new code of this process, or the last one before a fork. */
static _Atomic(wsr_code_space *) made;
/* Bytes of code that this process may still run. */
static uint64_t used;
/* Somebody reads or writes the spaces. These sections are short, and who waits has just compiled a
 * function. */
static atomic_flag busy = ATOMIC_FLAG_INIT;

static void lock(void) {
  while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
  }
}
static void unlock(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

static void free_space(wsr_code_space *space) {
  if (!space) return;
  if (space->code) munmap((void *)(uintptr_t)space->code, CODE_BYTES);
  if (space->writable) munmap(space->writable, CODE_BYTES);
  free(space);
}

static wsr_code_space *make_space(void) {
  wsr_code_space *const space = calloc(1, sizeof *space);
  wsr_buffer routines = {0};
  const int file = memfd_create("wasmsr-code", MFD_CLOEXEC);
  bool good = space && file >= 0 && ftruncate(file, CODE_BYTES) == 0 &&
              (space->code = map_code(file, PROT_READ | PROT_EXEC)) &&
              (space->writable = map_code(file, PROT_READ | PROT_WRITE)) &&
              madvise(space->writable, CODE_BYTES, MADV_DONTFORK) == 0 &&
              wsr_routines_write(&routines, &space->routines);
  if (file >= 0) close(file);
  if (good) {
    memcpy(space->writable, routines.bytes, routines.n);
    good = !has_shadow_stack(space->code + space->routines.shadow_stack);
  }
  if (good) {
    space->size = CODE_BYTES;
    space->start = space->end = aligned(routines.n);
    space->ours = true;
  } else {
    free_space(space);
  }
  free(routines.bytes);
  return good ? space : NULL;
}

/* ---- forks ---- */

/* A child runs the code that is there when it is made, from the same memory. So the parent never
 * writes there again, whatever it frees. */
static void before_fork(void) {
  lock();
  wsr_code_space *const space = WSR_PUBLISHED(&made);
  if (space) space->sealed = space->end;
}
static void after_fork_in_child(void) {
  for (wsr_code_space *space = WSR_PUBLISHED(&made); space; space = space->before)
    space->ours = false;
  used = 0;
  unlock();
}

/* Under the lock: make the space into which new code goes. */
static wsr_code_space *make_next(wsr_code_space *before) {
  static bool watched;
  if (!watched && pthread_atfork(before_fork, unlock, after_fork_in_child) != 0) return NULL;
  watched = true;
  wsr_code_space *const space = make_space();
  if (!space) return NULL;
  space->before = before;
  if (!before || !before->ours) used = space->end;
  WSR_PUBLISH(&made, space);
  return space;
}

const wsr_code_space *wsr_code_space_any(void) { return WSR_PUBLISHED(&made); }

wsr_code_space *wsr_code_space_get(void) {
  wsr_code_space *space = WSR_PUBLISHED(&made);
  if (space && space->ours) return space;
  lock();
  space = WSR_PUBLISHED(&made);
  if (!space || !space->ours) space = make_next(space);
  unlock();
  return space;
}

/* ---- ranges ---- */

static void remove_free(wsr_code_space *space, uint32_t i) {
  space->n_free--;
  memmove(&space->free[i], &space->free[i + 1], (space->n_free - i) * sizeof *space->free);
}

static uint32_t take(wsr_code_space *space, uint32_t size) {
  for (uint32_t i = 0; i < space->n_free; i++) {
    wsr_code_range *const range = &space->free[i];
    if (range->size < size) continue;
    const uint32_t offset = range->offset;
    range->offset += size;
    range->size -= size;
    if (!range->size) remove_free(space, i);
    return offset;
  }
  if (size > space->size - space->end) return WSR_NONE;
  space->end += size;
  return space->end - size;
}

/* A space into which no new code goes, and none of which is run: all but its routines go. A thread
 * may be on its way through these. */
static void retire(wsr_code_space *space) {
  const uint32_t kept = (space->start + PAGE - 1) / PAGE * PAGE;
  if (space->writable) munmap(space->writable, CODE_BYTES);
  munmap((void *)(uintptr_t)(space->code + kept), CODE_BYTES - kept);
  space->writable = NULL;
  space->size = kept;
  free(space->free);
  space->free = NULL;
  space->n_free = space->room_free = 0;
}

/* Too much is lost: let new code go into another space, if there can be one. */
static wsr_code_space *move_on(wsr_code_space *space) {
  wsr_code_space *const next = make_next(space);
  if (!next) return space;
  if (!space->live) retire(space);
  return next;
}

wsr_code_space *wsr_code_take(uint32_t size, uint32_t *offset) {
  const uint32_t whole = aligned(size);
  *offset = WSR_NONE;
  if (whole < size || !wsr_code_space_get()) return NULL;
  lock();
  wsr_code_space *space = WSR_PUBLISHED(&made);
  const uint64_t most = atomic_load(&budget);
  if (used <= most && whole <= most - used) {
    if (space->lost > most / 2) space = move_on(space);
    *offset = take(space, whole);
  }
  if (*offset != WSR_NONE) {
    used += whole;
    space->live += whole;
  }
  unlock();
  return *offset == WSR_NONE ? NULL : space;
}

/* Without memory for the list, the range stays unused. */
static void give(wsr_code_space *space, wsr_code_range range) {
  uint32_t i = space->n_free;
  while (i > 0 && space->free[i - 1].offset > range.offset) i--;
  if (i > 0 && space->free[i - 1].offset + space->free[i - 1].size == range.offset) {
    range.offset = space->free[i - 1].offset;
    range.size += space->free[i - 1].size;
    remove_free(space, --i);
  }
  if (i < space->n_free && range.offset + range.size == space->free[i].offset) {
    range.size += space->free[i].size;
    remove_free(space, i);
  }
  if (range.offset + range.size == space->end) {
    space->end = range.offset;
    return;
  }
  if (!wsr_array_reserve(&space->free, &space->room_free, space->n_free + 1, sizeof *space->free))
    return;
  memmove(&space->free[i + 1], &space->free[i], (space->n_free - i) * sizeof *space->free);
  space->free[i] = range;
  space->n_free++;
}

/* A child never gives back what its parent made: that is the parent's. */
void wsr_code_give(uint64_t start, uint32_t size) {
  if (!start) return;
  lock();
  wsr_code_space *const newest = WSR_PUBLISHED(&made), *space = newest;
  while (space && start - (uint64_t)(uintptr_t)space->code >= space->size) space = space->before;
  if (space && space->ours) {
    const wsr_code_range range = {(uint32_t)(start - (uint64_t)(uintptr_t)space->code),
                                  aligned(size)};
    used -= range.size;
    space->live -= range.size;
    if (space == newest && range.offset >= space->sealed) {
      memset(space->writable + range.offset, 0xCC, range.size); /* int3 */
      give(space, range);
    } else {
      space->lost += range.size;
      if (space != newest && !space->live) retire(space);
    }
  }
  unlock();
}

/* ---- the stack ---- */

static size_t stack_bytes(const wsr_limits *limits) {
  const size_t bytes = ((size_t)limits->stack_frames + 2) * WORD;
  return GUARD + STACK_FOR_SIGNALS + (bytes + PAGE - 1) / PAGE * PAGE;
}

bool wsr_native_stack_make(wsr_thread *thread) {
  if (thread->native_stack) return true;
  const size_t bytes = stack_bytes(&thread->store->limits);
  uint8_t *const stack = wsr_reserve(bytes);
  if (!stack || !wsr_commit(stack + GUARD, bytes - GUARD)) {
    wsr_release(stack, bytes);
    return false;
  }
  thread->native_stack = stack;
  thread->native_top = (uint64_t)(uintptr_t)(stack + bytes) - WORD;
  return true;
}

void wsr_native_stack_free(wsr_thread *thread) {
  if (thread->native_stack) wsr_release(thread->native_stack, stack_bytes(&thread->store->limits));
  thread->native_stack = NULL;
}

/* ---- what the other wings call ---- */

void wsr_native_budget(uint64_t bytes) { atomic_store(&budget, bytes); }

uint64_t wsr_native_used(void) {
  lock();
  const wsr_code_space *const space = WSR_PUBLISHED(&made);
  const uint64_t found = space && space->ours ? used : 0;
  unlock();
  return found;
}

int wsr_native_available(const char **why) {
  *why = wsr_code_space_get() ? "" : "this system does not let programs make code";
  return !**why;
}

int wsr_store_use_native(wsr_store *store, int later) {
  if (store->program.n_functions || !wsr_code_space_get()) return 0;
  store->program.native = true;
  store->program.later = later != 0;
  return 1;
}

int wsr_native_code(wsr_store *store, uint32_t function, int counts, wsr_native_view *out) {
  *out = (wsr_native_view){0};
  if (function >= store->program.n_functions) return 0;
  const wsr_fast *const fast = WSR_PUBLISHED(&store->program.fast[counts != 0][function]);
  if (!fast || !fast->native) return 0;
  out->code = (const uint8_t *)(uintptr_t)fast->native;
  out->bytes = fast->native_bytes;
  return 1;
}

uint32_t wsr_native_run(wsr_thread *thread, const uint64_t *pc, uint64_t *fp, uint8_t *memory,
                        uint64_t size) {
  typedef uint32_t enter(wsr_thread *, const uint64_t *, uint64_t *, uint8_t *, uint64_t, uint64_t);
  const wsr_code_space *const space = wsr_code_space_any();
  const bool metered = thread->codes == thread->store->program.fast[1];
  uint64_t *const outermost = (uint64_t *)(uintptr_t)thread->native_top;
  *outermost = (uint64_t)(uintptr_t)(space->code + space->routines.generic_return[metered]);
  const uintptr_t at = (uintptr_t)space->code + space->routines.enter;
  return ((enter *)at)(thread, pc, fp, memory, size, pc[0]);
}

#else

int wsr_native_available(const char **why) {
  *why = "this CPU, system or build has none";
  return 0;
}
int wsr_native_list(wsr_module *module, uint32_t function, wsr_native_listing *out) {
  (void)module, (void)function;
  *out = (wsr_native_listing){0};
  return 0;
}
void wsr_native_list_free(wsr_native_listing *listing) { (void)listing; }
void wsr_native_budget(uint64_t bytes) { (void)bytes; }
uint64_t wsr_native_used(void) { return 0; }
int wsr_store_use_native(wsr_store *store, int later) {
  (void)store, (void)later;
  return 0;
}
int wsr_native_code(wsr_store *store, uint32_t function, int counts, wsr_native_view *out) {
  (void)store, (void)function, (void)counts;
  *out = (wsr_native_view){0};
  return 0;
}
bool wsr_native_stack_make(wsr_thread *thread) {
  (void)thread;
  return false;
}
void wsr_native_stack_free(wsr_thread *thread) { (void)thread; }
#endif

int wsr_store_is_native(const wsr_store *store) {
  return store->program.native + store->program.later;
}
