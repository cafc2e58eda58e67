/* The thread: the value stack and the frames, and invocations that begin and end on them.
 * Between the store and the hot loop (_core.c). Source: WebAssembly specification, sections 4.2.8
 * (Stack) and 4.6 (Modules, Invocation). */
#include <stdlib.h>

#include "core/array.h"
#include "core/native/native.h"
#include "core/runtime/thread.h"

/* Stack, returns and frames follow each other in one piece of address space. Each begins at another
 * place of a page: a store to one would otherwise look, to the CPU, like one to another. */
enum { HOST_PAGE = 4096, RETURNS_AT = 2048, FRAMES_AT = 3072 };

static size_t whole_pages(size_t bytes) { return (bytes + HOST_PAGE - 1) / HOST_PAGE * HOST_PAGE; }

/* One slot more than the limit: fast code zeroes locals in pairs. */
static size_t returns_begin(const wsr_limits *limits) {
  return whole_pages(((size_t)limits->stack_slots + 1) * sizeof(uint64_t)) + RETURNS_AT;
}

static size_t frames_begin(const wsr_limits *limits) {
  return whole_pages(returns_begin(limits) + limits->stack_frames * sizeof(wsr_return)) + FRAMES_AT;
}

static size_t thread_bytes(const wsr_limits *limits) {
  return frames_begin(limits) + limits->stack_frames * sizeof(wsr_frame);
}

wsr_thread *wsr_thread_new(wsr_store *store) {
  wsr_thread *const thread = calloc(1, sizeof *thread);
  if (!thread) return NULL;
  const wsr_limits *const limits = &store->limits;
  uint8_t *const space = wsr_reserve(thread_bytes(limits));
  if (!space || !wsr_commit(space, thread_bytes(limits))) {
    wsr_release(space, thread_bytes(limits));
    free(thread);
    return NULL;
  }
  thread->stack = (uint64_t *)(void *)space;
  thread->stack_end = thread->stack + limits->stack_slots;
  thread->returns = (wsr_return *)(void *)(space + returns_begin(limits));
  thread->frames = (wsr_frame *)(void *)(space + frames_begin(limits));
  thread->functions = store->program.functions;
  thread->globals = store->globals;
  thread->tables = store->tables;
  thread->memories = store->memories;
  thread->store = store;
  return thread;
}

void wsr_thread_free(wsr_thread *thread) {
  if (!thread) return;
  wsr_release(thread->stack, thread_bytes(&thread->store->limits));
  wsr_native_stack_free(thread);
  free(thread->scratch_types);
  free(thread->scratch_live);
  free(thread->scratch_values);
  free(thread->pushed);
  free(thread);
}

bool wsr_thread_assign(wsr_thread *thread, const wsr_thread *from) {
  if (!wsr_array_reserve(&thread->pushed, &thread->room_pushed, from->n_pushed,
                         sizeof *thread->pushed))
    return false;
  const uint32_t n = from->n_frames;
  if (n) {
    memcpy(thread->frames, from->frames, n * sizeof *thread->frames);
    memcpy(thread->stack, from->stack,
           wsr_slot_above(from, &from->frames[n - 1]) * sizeof *thread->stack);
  }
  for (uint32_t i = 0; i < n; i++) thread->returns[i].pc = NULL;
  if (from->n_pushed) memcpy(thread->pushed, from->pushed, from->n_pushed * sizeof *thread->pushed);
  thread->n_frames = n;
  thread->n_pushed = from->n_pushed;
  thread->now = from->now;
  return true;
}

const wsr_code *wsr_function_code(wsr_thread *thread, uint32_t address) {
  const wsr_store *const store = thread->store;
  wsr_function_instance *f = &store->program.functions[address];
  const wsr_code *code = wsr_code_of(f);
  if (code) return code;
  code = wsr_compile(store->program.instances[f->instance]->module, f->index,
                     store->limits.deterministic != 0, thread->interrupt ? &thread->pause : NULL);
  WSR_PUBLISH(&f->code, code);
  return code;
}

uint32_t wsr_slot_above(const wsr_thread *thread, const wsr_frame *frame) {
  return frame->slot + wsr_code_of(&thread->functions[frame->function])->frame_slots;
}

bool wsr_frame_is_top(const wsr_thread *thread, uint32_t number) {
  if (number + 1 == thread->n_frames) return true;
  for (uint32_t i = thread->n_pushed; i-- > 0;)
    if (thread->pushed[i].base_frame == number + 1) return true;
  return false;
}

/* Push the frame of a function that the host calls, above all that the innermost frame may use. */
static uint32_t push_frame(wsr_store *store, uint32_t function, const uint64_t *arguments) {
  wsr_thread *const thread = store->main;
  const wsr_code *code = wsr_function_code(thread, function);
  if (!code) return WSR_TRAP_NO_MEMORY;
  const uint32_t slot =
      thread->n_frames ? wsr_slot_above(thread, &thread->frames[thread->n_frames - 1]) : 0;
  if (code->frame_slots > store->limits.stack_slots - slot ||
      thread->n_frames == store->limits.stack_frames)
    return WSR_TRAP_EXHAUSTION;
  uint64_t *fp = thread->stack + slot;
  if (code->n_params) memcpy(fp, arguments, code->n_params * sizeof *fp);
  memset(fp + code->n_params, 0, (code->n_locals - code->n_params) * sizeof *fp);
  thread->now = (wsr_activation){thread->n_frames, slot};
  thread->returns[thread->n_frames].pc = NULL;
  thread->frames[thread->n_frames++] = (wsr_frame){function, 0, slot};
  return WSR_TRAP_NONE;
}

uint32_t wsr_begin(wsr_store *store, uint32_t function, const uint64_t *arguments,
                   wsr_activation *outer) {
  wsr_thread *const thread = store->main;
  *outer = thread->now;
  const uint32_t trap = push_frame(store, function, arguments);
  /* Like every frame that waits, the one below is after its call. */
  if (trap == WSR_TRAP_NONE && thread->n_frames > 1) thread->frames[thread->n_frames - 2].cell++;
  return trap;
}

static bool room_to_push(wsr_thread *thread) {
  return wsr_array_reserve(&thread->pushed, &thread->room_pushed, thread->n_pushed + 1,
                           sizeof *thread->pushed);
}

uint32_t wsr_push_call(wsr_store *store, uint32_t function, const uint64_t *arguments) {
  wsr_thread *const thread = store->main;
  const wsr_pushed_call made = {thread->n_frames, thread->now};
  if (!room_to_push(thread)) return WSR_TRAP_NO_MEMORY;
  const uint32_t trap = push_frame(store, function, arguments);
  if (trap == WSR_TRAP_NONE) thread->pushed[thread->n_pushed++] = made;
  return trap;
}

int wsr_end_pushed_call(wsr_store *store) {
  wsr_thread *const thread = store->main;
  /* What a call-back within it began has a higher frame. */
  if (!thread->n_pushed ||
      thread->pushed[thread->n_pushed - 1].base_frame != thread->now.base_frame)
    return 0;
  thread->now = thread->pushed[--thread->n_pushed].outer;
  return 1;
}

int wsr_restore_pushed_call(wsr_store *store) {
  wsr_thread *const thread = store->main;
  if (!thread->n_frames || !room_to_push(thread)) return 0;
  thread->pushed[thread->n_pushed++] = (wsr_pushed_call){thread->n_frames, thread->now};
  thread->now = (wsr_activation){thread->n_frames,
                                 wsr_slot_above(thread, &thread->frames[thread->n_frames - 1])};
  return 1;
}

uint32_t wsr_pushed_count(const wsr_store *store) { return store->main->n_pushed; }

uint32_t wsr_pushed_frame(const wsr_store *store, uint32_t call) {
  return store->main->pushed[call].base_frame;
}

void wsr_drop_frames(wsr_store *store) {
  wsr_thread *const thread = store->main;
  thread->n_frames = thread->n_pushed = 0;
  thread->now = (wsr_activation){0, 0};
}

void wsr_end(wsr_store *store, const wsr_activation *outer) {
  wsr_thread *const thread = store->main;
  thread->n_frames = thread->now.base_frame;
  thread->now = *outer;
  if (thread->n_frames)
    thread->frames[thread->n_frames - 1].cell--; /* its host call is in hand again */
}

void wsr_host_return(wsr_store *store) {
  wsr_thread *const thread = store->main;
  wsr_frame *frame = &thread->frames[thread->n_frames - 1];
  const wsr_code *code = wsr_code_of(&store->program.functions[frame->function]);
  const wsr_cell *cell = &code->cells[frame->cell];
  if (wsr_is_tail_call(cell->op)) {
    uint64_t *fp = thread->stack + frame->slot;
    memmove(fp, fp + cell->s, code->n_results * sizeof *fp);
    thread->n_frames--;
  } else {
    frame->cell++;
  }
}

void wsr_pause(wsr_store *store) {
  for (wsr_thread *t = store->main; t; t = t->next) atomic_store(&t->pause, 1);
  if (store->program.later) wsr_native_stop();
}

int wsr_pause_requested(const wsr_store *store) { return atomic_load(&store->main->pause) != 0; }

void wsr_clear_pause(wsr_store *store) {
  for (wsr_thread *t = store->main; t; t = t->next) atomic_store(&t->pause, 0);
}
