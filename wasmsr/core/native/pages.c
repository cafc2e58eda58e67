/* Memory for native code, the stack on which it runs, and the way into it.
 *
 * Code is in a file without a name that is mapped twice: one mapping is written, the other one run.
 * No mapping is both, and none ever changes from one to the other, so this works where the system
 * refuses such changes (PR_SET_MDWE). After a fork the child does not have the mapping that is
 * written: it runs the code that is there, and makes a file of its own for more.
 *
 * Beside runtime/memory.c, this is the only file of the core that asks the operating system. */
#if defined(__linux__)
#define _GNU_SOURCE 1 /* memfd_create */
#endif
#include "core/native/native.h"

#if WSR_NATIVE
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/native/x64/encode.h"

enum { CODE_BYTES = 256 << 20, ALIGNMENT = 16 };
/* Room for signal handlers, and a gap that nothing can cross without a fault. */
enum { STACK_FOR_SIGNALS = 512 << 10, GUARD = 64 << 10, WORD = sizeof(uint64_t) };

static void *map_code(int file, int protection) {
  void *const at = mmap(NULL, CODE_BYTES, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
  return at == MAP_FAILED ? NULL : at;
}

/* A shadow stack ends a program that gives up a stack without returning. */
static bool has_shadow_stack(const uint8_t *routine) {
  typedef uint64_t shadow_stack(void);
  return ((shadow_stack *)(uintptr_t)routine)() != 0;
}

static wsr_code_space *make_space(void) {
  wsr_code_space *space = calloc(1, sizeof *space);
  wsr_buffer routines = {0};
  const int file = memfd_create("wasmsr-code", MFD_CLOEXEC);
  void *code = NULL, *writable = NULL;
  bool good = space && file >= 0 && ftruncate(file, CODE_BYTES) == 0 &&
              (code = map_code(file, PROT_READ | PROT_EXEC)) &&
              (writable = map_code(file, PROT_READ | PROT_WRITE)) &&
              madvise(writable, CODE_BYTES, MADV_DONTFORK) == 0 &&
              wsr_routines_write(&routines, &space->routines);
  if (file >= 0) close(file);
  if (good) {
    memcpy(writable, routines.bytes, routines.n);
    good = !has_shadow_stack((const uint8_t *)code + space->routines.shadow_stack);
  }
  if (good) {
    space->writable = writable;
    space->code = code;
    space->size = CODE_BYTES;
    space->used = (routines.n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    space->process = (long)getpid();
  } else {
    if (code) munmap(code, CODE_BYTES);
    if (writable) munmap(writable, CODE_BYTES);
    free(space);
    space = NULL;
  }
  free(routines.bytes);
  return space;
}

/* A space that is not used any more stays: code in it may run. */
static _Atomic(wsr_code_space *) made;

const wsr_code_space *wsr_code_space_any(void) { return WSR_PUBLISHED(&made); }

wsr_code_space *wsr_code_space_get(void) {
  wsr_code_space *space = WSR_PUBLISHED(&made);
  if (space && space->process == (long)getpid()) return space;
  wsr_code_space *const mine = make_space();
  if (!mine) return NULL;
  if (atomic_compare_exchange_strong(&made, &space, mine)) return mine;
  munmap(mine->writable, CODE_BYTES);
  munmap((void *)(uintptr_t)mine->code, CODE_BYTES);
  free(mine);
  return space;
}

uint32_t wsr_code_take(wsr_code_space *space, uint32_t size) {
  const uint32_t whole = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  uint32_t used = atomic_load(&space->used);
  do {
    if (whole < size || whole > space->size - used) return WSR_NONE;
  } while (!atomic_compare_exchange_weak(&space->used, &used, used + whole));
  return used;
}

/* ---- the stack ---- */

static size_t stack_bytes(const wsr_limits *limits) {
  const size_t page = 4096, bytes = ((size_t)limits->stack_frames + 2) * WORD;
  return GUARD + STACK_FOR_SIGNALS + (bytes + page - 1) / page * page;
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

int wsr_native_available(const char **why) {
  *why = wsr_code_space_get() ? "" : "this system does not let programs make code";
  return !**why;
}

int wsr_store_use_native(wsr_store *store) {
  if (store->program.n_functions || !wsr_code_space_get()) return 0;
  store->program.native = true;
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
int wsr_store_use_native(wsr_store *store) {
  (void)store;
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

int wsr_store_is_native(const wsr_store *store) { return store->program.native; }
