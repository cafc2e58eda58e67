/* The store: the specification's configuration as one struct. What is derived from modules and what
 * is state are apart; the state holds numbers only, no pointer into code or memory. */
#ifndef WSR_STORE_H
#define WSR_STORE_H
#include "core/compile/code.h"

/* ---- derived: rebuilt from modules and snapshot, never saved ---- */

typedef struct wsr_instance wsr_instance;

typedef struct {
  const wsr_code *code; /* NULL until first called, and for host functions */
  wsr_instance *owner;
  uint32_t instance; /* WSR_NONE for a host function */
  uint32_t index;
  uint32_t type; /* canonical in the store: equal numbers are equal types */
} wsr_function_instance;

struct wsr_instance {
  wsr_module *module;
  uint32_t *functions, *tables, *memories, *globals, *tags; /* index to address */
  uint32_t own;        /* a defined function's address is its index and this, modulo 2^32 */
  uint32_t *types;     /* type index to the store's type number */
  uint64_t **elements; /* evaluated segments */
  /* saved half of an instance */
  uint8_t *dropped_elements, *dropped_data;
};

/* How fast code goes on when a frame returns; pc is NULL where the caller ran in precise code. */
typedef struct {
  const uint64_t *pc;
  uint64_t *fp;
  wsr_instance *instance;
} wsr_return;

enum { WSR_PAUSE_IN_LOOPS = 2 }; /* for tests: even, so that the poll of calls does not see it */

/* ---- state: exactly what a snapshot holds ---- */
/* saved: begin */

typedef struct {
  uint32_t function; /* address */
  uint32_t cell;     /* next cell of the function's precise code: the position */
  uint32_t slot;     /* the frame's start on the value stack */
} wsr_frame;

typedef struct {
  uint64_t value, high; /* high: of a v128 */
  wsr_type type;
  uint32_t mutability;
} wsr_global_instance;

/* saved: end */

typedef struct {
  uint8_t *data;
  uint64_t size;     /* bytes in use */
  uint64_t reserved; /* bytes of address space, beyond which it cannot grow */
  wsr_bounds bounds;
  uint32_t limit; /* pages */
} wsr_memory_instance;

typedef struct {
  uint64_t *elements;
  uint32_t size, room;
  wsr_bounds bounds;
  uint32_t limit;
} wsr_table_instance;

typedef struct wsr_exception wsr_exception;

typedef struct wsr_thread wsr_thread;

/* The arrays of functions, globals, tables, memories, instances and fast code lie in address space
 * of their own (`space`), so they never move: a thread keeps pointers to them. */
struct wsr_store {
  wsr_limits limits;
  wsr_function_type *types; /* canonical function types; their arrays are owned */
  wsr_subtype *subtypes;
  uint32_t n_types;
  wsr_groups groups;
  wsr_module *linking;  /* whose types were entered last, */
  uint32_t *link_types; /* and their numbers */
  wsr_function_instance *functions;
  const wsr_fast **fast[2]; /* by address: plain and metered fast code, NULL until called */
  wsr_instance **instances;
  wsr_table_instance **tables;
  wsr_memory_instance **memories;
  wsr_global_instance *globals;
  uint32_t *tags; /* type numbers */
  uint32_t n_tags, room_tags;
  uint32_t n_functions, n_instances, n_tables, n_memories, n_globals;
  uint32_t room_types, room_subtypes, room_functions, room_fast, room_instances, room_tables,
      room_memories, room_globals;

  /* the heap of exceptions, see runtime/exceptions.c: a free place is NULL */
  wsr_exception **exceptions;
  uint32_t *free_exceptions; /* places */
  uint32_t n_exceptions, n_free_exceptions, room_exceptions;
  size_t exception_bytes, collect_at;

  uint8_t *space; /* of those arrays */
  size_t space_bytes;
  uint32_t share; /* they have room for 1/2^share of the most items that there can be */

  wsr_thread *main; /* the thread that the host invokes; others would follow it */
};

/* A thread: the specification's value stack and frames, and what one run of them needs. Handlers of
 * fast code have it in a register; `store` is for what is rare. */
struct wsr_thread {
  /* state: what a snapshot holds of it */
  uint64_t *stack; /* limits.stack_slots of address space, committed by use */
  wsr_frame *frames;
  uint32_t n_frames;
  wsr_activation now; /* the invocation that runs */

  wsr_request pause; /* not 0: requested; WSR_PAUSE_IN_LOOPS: calls take no notice */
  bool interrupt;    /* what is compiled now makes way for a pause */
  uint32_t gave_up;  /* one more than the function that did so last: next time it is finished */

  /* derived while it runs in fast code */
  wsr_return *returns; /* by frame */
  wsr_frame *frame, *last_frame;
  uintptr_t returns_from; /* the return of a frame is at returns_from + 2 x the frame's address */
  uint64_t *stack_end;
  wsr_instance *instance;
  wsr_exit *out;
  const wsr_fast **codes; /* = store->fast[metered] */
  uint64_t left;          /* fuel of a metered run */
  bool metered;           /* which of the two `returns` leads to */

  /* the store's arrays, which never move */
  wsr_function_instance *functions;
  wsr_global_instance *globals;
  wsr_table_instance **tables;
  wsr_memory_instance **memories;

  uint64_t points; /* wsr_pause_after: how many are left, 0 for off */
  uint64_t points_executed;
  uint32_t points_how;

  uint8_t *scratch_types; /* for wsr_view_frame */
  uint64_t *scratch_values;
  uint32_t scratch_room; /* slots; there are at most as many types */

  wsr_store *store;
  wsr_thread *next; /* of the same store */
};

/* ---- thread.c ---- */
wsr_thread *wsr_thread_new(wsr_store *store); /* NULL without memory */
void wsr_thread_free(wsr_thread *thread);

/* ---- runtime/memory.c ---- */
void *wsr_reserve(size_t size);            /* address space; NULL where there is none */
bool wsr_commit(void *start, size_t size); /* make zeroed pages of it usable */
void wsr_release(void *start, size_t size);
bool wsr_memory_init(wsr_memory_instance *memory, uint64_t pages);
uint64_t wsr_memory_grow(wsr_memory_instance *memory, uint64_t pages);
uint64_t wsr_table_grow(wsr_table_instance *table, uint64_t count, uint64_t value);

/* Memory 0 of an instance; without one, a memory of no bytes. */
static inline const wsr_memory_instance *wsr_memory_of(wsr_memory_instance *const *memories,
                                                       const wsr_instance *instance) {
  static const wsr_memory_instance none = {0};
  return instance->memories ? memories[instance->memories[0]] : &none;
}

/* Where the load or store in hand, of `width` bytes at address `address`, finds its bytes, in any
 * memory; NULL where they are out of bounds. */
static inline uint8_t *wsr_locate(const wsr_store *store, const wsr_instance *instance,
                                  const wsr_cell *cell, uint64_t address, uint32_t width) {
  const wsr_memory_instance *m = store->memories[instance->memories[cell->n - 1]];
  const uint64_t at = address + cell->u.imm;
  return at >= address && wsr_within(at, width, m->size) ? m->data + at : NULL;
}

/* ---- runtime/store.c: values ---- */
/* Visit all values that have a type in the store, in runs of one type: globals, elements of tables
 * and evaluated element segments. Stacks and the fields of exceptions are the caller's to visit.
 * Stops, and returns false, when the visitor does. */
typedef bool wsr_visitor(void *context, wsr_type type, const uint64_t *values, uint64_t n);
bool wsr_visit_values(const wsr_store *store, wsr_visitor *visit, void *context);

/* ---- runtime/exceptions.c ---- */
enum { WSR_NOT_CAUGHT, WSR_CAUGHT, WSR_CAUGHT_BACK /* by the label of a loop */ };
/* Throw an exception at the innermost frame's `cell`: make the frame that catches it
 * the innermost, standing at the label. Where none of the invocation does, nothing is changed. */
uint32_t wsr_throw(wsr_thread *thread, uint64_t reference);
/* Do what the innermost frame's cell says, a throw, throw_ref or rethrow; the
 * outcome is WSR_SWITCH where the program goes on. */
uint32_t wsr_throw_cell(wsr_thread *thread, const wsr_instance *instance, const wsr_cell *cell,
                        const uint64_t *fp, wsr_exit *out);
void wsr_free_exceptions(wsr_store *store);

/* Outcomes between the codes: go on in the other one; too little fuel is left for fast code. */
enum { WSR_SWITCH = 100, WSR_SHORT };

/* ---- runtime/store.c ---- */
/* A type of the instance's module in the store's numbers. */
static inline wsr_type wsr_store_type(const uint32_t *numbers, wsr_type type) {
  if (!(type & WSR_INDEXED)) return type;
  return numbers[type >> WSR_INDEX_SHIFT] << WSR_INDEX_SHIFT |
         (type & ((1U << WSR_INDEX_SHIFT) - 1));
}
/* The code of a module's function, compiled now if need be; NULL without memory. */
const wsr_code *wsr_function_code(wsr_thread *thread, uint32_t address);
/* Around the compiling of what is called: it makes way for a pause, but only once for a function,
 * or frequent pauses could keep the program from ever getting on. */
static inline void wsr_compile_interruptible(wsr_thread *thread, uint32_t address) {
  thread->interrupt = thread->gave_up != address + 1;
}
/* Whether it did so, where nothing was made; otherwise memory is short. */
static inline bool wsr_compile_interrupted(wsr_thread *thread, uint32_t address, bool made) {
  const bool gave_up =
      !made && thread->interrupt && atomic_load_explicit(&thread->pause, memory_order_relaxed);
  thread->interrupt = false;
  if (gave_up) thread->gave_up = address + 1;
  return gave_up;
}
uint64_t wsr_element(const wsr_instance *instance, uint32_t segment, uint32_t item);

/* ---- precise/vectors.c: vector instructions of precise code ---- */

/* Where a vector's load or store finds its bytes; NULL where they are out of bounds. */
static inline uint8_t *wsr_locate_vector(const wsr_store *store, const wsr_instance *instance,
                                         const wsr_cell *cell, uint64_t address) {
  const uint32_t index = instance->memories[cell->n ? cell->n - 1 : 0];
  const wsr_memory_instance *m = store->memories[index];
  const uint64_t at = address + wsr_offset_of(cell);
  return at >= address && wsr_within(at, wsr_opcode_table[cell->op].width, m->size) ? m->data + at
                                                                                    : NULL;
}

/* Operands and result at `s`; the module's bytes hold the 16 after the opcode of those that have
 * them. */
void wsr_vector_step(const wsr_cell *cell, uint64_t *s, const uint8_t *bytes);
/* A load or store, the address at `s`, then the vector; its bytes are at `p`. */
void wsr_vector_access(const wsr_cell *cell, uint64_t *s, uint8_t *p);

#endif
