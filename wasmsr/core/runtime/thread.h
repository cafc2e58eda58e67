/* The thread of the specification as one struct: value stack, frames, and what a run of them needs.
 * Source: WebAssembly specification, sections 4.2.8 (Stack) and 4.2.13 (Configurations). */
#ifndef WSR_THREAD_H
#define WSR_THREAD_H
#include "core/runtime/store.h"

/* saved: begin */

typedef struct {
  uint32_t function; /* address */
  uint32_t cell;     /* next cell of the function's precise code: the position */
  uint32_t slot;     /* the frame's start on the value stack */
} wsr_frame;

/* A call that the host has pushed above paused frames. */
typedef struct {
  uint32_t base_frame;  /* its outermost frame */
  wsr_activation outer; /* the invocation that goes on when it has finished */
} wsr_pushed_call;

/* saved: end */

/* Where fast code goes on when a frame returns. pc is NULL if the caller runs in precise code. */
typedef struct {
  const uint64_t *pc;
  uint64_t *fp;
  wsr_instance *instance;
} wsr_return;

enum { WSR_PAUSE_IN_LOOPS = 2 }; /* for tests; calls poll bit 0 only, which it lacks */

#if WSR_WATCH
enum { WSR_HIT_NOTHING, WSR_HIT_POSITION, WSR_HIT_RETURN, WSR_HIT_WRITE };

/* What stops a metered run of precise code before its fuel ends (core/precise/watch.h). */
typedef struct {
  const wsr_cell *cell; /* before this instruction; NULL for none */
  uint32_t frames;      /* after a return or throw that leaves so many frames at most */
  uint32_t memory;      /* after a write to these bytes of this memory; `end` 0 for none */
  uint64_t begin, end;
  uint32_t hit; /* which of them it was */
} wsr_watch;

/* runtime/capture.c: the cell of the instruction at an offset in a function, by its address; NULL
 * if none starts there, or memory is short. */
const wsr_cell *wsr_cell_of_position(wsr_store *store, uint32_t function, uint32_t offset);
#endif

/* Handlers of fast code have the thread in a register. They reach the store through the thread, and
 * need the store only for what is rare. */
struct wsr_thread {
  /* state: what a snapshot holds of it */
  uint64_t *stack; /* limits.stack_slots of address space, committed by use */
  wsr_frame *frames;
  uint32_t n_frames;
  wsr_activation now; /* the invocation that runs */

  wsr_request pause; /* not 0: a pause is requested; WSR_PAUSE_IN_LOOPS: calls do not see it */
  bool interrupt;    /* a compilation that runs now gives up for a pause */
  uint32_t gave_up;  /* 1 + the function whose compilation gave up last */

  /* derived, while the thread runs fast code */
  uint64_t native_top; /* the end of the native stack: where its outermost frame returns to */
  wsr_frame *frame, *last_frame;
  uintptr_t returns_from; /* the return of a frame is at returns_from + 2 x the frame's address */
  uint64_t *stack_end;
  wsr_instance *instance;
  uint64_t native_limit; /* native code calls only where its stack is above this */
  wsr_fast_place *codes; /* = store->program.fast[metered] */
  uint64_t left;         /* fuel of a metered run */
  bool metered;          /* `returns` lead into metered fast code */

  /* the store's arrays, which never move */
  wsr_function_instance *functions;
  wsr_global_instance *globals;
  wsr_table_instance **tables;
  wsr_memory_instance **memories;

  wsr_return *returns; /* by frame; derived, like these */
  wsr_exit *out;

  uint64_t executed; /* instructions of metered runs; exact while the thread is stopped */

#if WSR_WATCH
  wsr_watch watch;
#endif

  uint64_t points; /* wsr_pause_after: how many are left, 0 for off */
  uint32_t points_how;

  uint8_t *scratch_types, *scratch_live; /* for wsr_view_frame */
  uint64_t *scratch_values;
  uint32_t scratch_room; /* slots; there are at most as many types */

  void *native_stack;  /* see native/native.h; NULL where no native code has run */
  uint64_t host_stack; /* the C stack, on which handlers run: where they return to */
  const uint64_t *native_pc;
  uint64_t *native_fp; /* a call that a C handler is to do, see wsr_native_redo */

  wsr_store *store;
  wsr_thread *next; /* of the same store */

  wsr_pushed_call *pushed; /* state; here because handlers do not use it */
  uint32_t n_pushed, room_pushed;
};

/* Whether a frame is before its next instruction: it is the innermost one, or a call was pushed
 * above it. All others wait, after their calls. */
bool wsr_frame_is_top(const wsr_thread *thread, uint32_t number);
/* The first slot above all that a frame may use. */
uint32_t wsr_slot_above(const wsr_thread *thread, const wsr_frame *frame);
/* NULL without memory. */
wsr_thread *wsr_thread_new(wsr_store *store);
void wsr_thread_free(wsr_thread *thread);
/* Give a thread the frames of another one. False without memory. */
bool wsr_thread_assign(wsr_thread *thread, const wsr_thread *from);

/* Outcomes for the driver only. WSR_SWITCH: go on in the other code. WSR_SHORT: there is too little
 * fuel for fast code. */
enum { WSR_SWITCH = 100, WSR_SHORT };

/* The precise code of a module's function. It is compiled now if need be. NULL without memory, or
 * if the compilation gave up for a pause. */
const wsr_code *wsr_function_code(wsr_thread *thread, uint32_t address);
/* Call before the code of a callee is made. Its compilation then gives up for a pause, but only
 * once for each function: otherwise frequent pauses could stop the program for ever. */
static inline void wsr_compile_interruptible(wsr_thread *thread, uint32_t address) {
  thread->interrupt = thread->gave_up != address + 1;
}
/* Call afterwards; `made` says whether there is code now. Returns whether the compilation gave up
 * for a pause. If it did not give up and there is no code, memory is short. */
static inline bool wsr_compile_interrupted(wsr_thread *thread, uint32_t address, bool made) {
  const bool gave_up =
      !made && thread->interrupt && atomic_load_explicit(&thread->pause, memory_order_relaxed);
  thread->interrupt = false;
  if (gave_up) thread->gave_up = address + 1;
  return gave_up;
}

/* ---- native/heat.c ---- */
/* A program is to stand: compilation in the background makes way, and goes on a little later. */
void wsr_native_stop(void);

/* ---- runtime/exceptions.c ---- */
enum { WSR_NOT_CAUGHT, WSR_CAUGHT, WSR_CAUGHT_BACK /* by the label of a loop */ };
/* Throw an exception at the position of the innermost frame. The frame that catches it becomes the
 * innermost one, at the label of the catch. If no frame of the invocation catches it, nothing
 * changes. */
uint32_t wsr_throw(wsr_thread *thread, uint64_t reference);
/* Execute the throw, throw_ref or rethrow at the position of the innermost frame. WSR_SWITCH: the
 * program goes on. */
uint32_t wsr_throw_cell(wsr_thread *thread, const wsr_instance *instance, const wsr_cell *cell,
                        const uint64_t *fp, wsr_exit *out);

#endif
