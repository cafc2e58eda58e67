/* The specification's store as one struct. Data that is derived from modules is separate from the
 * state. The structs that are saved contain only numbers: no pointer into code or memory.
 * Source: WebAssembly specification, section 4.2.3 (Store). */
#ifndef WSR_STORE_H
#define WSR_STORE_H
#include "core/compile/code.h"

/* ---- derived: rebuilt from modules and a snapshot, never saved ---- */

typedef struct wsr_instance wsr_instance;

typedef struct {
  _Atomic(const wsr_code *) code; /* NULL until first called, and for host functions */
  wsr_instance *owner;
  uint32_t instance; /* WSR_NONE for a host function */
  uint32_t index;
  uint32_t type; /* the store's number; two types with one number are equal */
} wsr_function_instance;

/* Where the fast code of a function is published. */
typedef _Atomic(const wsr_fast *) wsr_fast_place;

/* Nothing of an instance changes once it is allocated, so copies of a store share it. */
struct wsr_instance {
  _Atomic uint32_t uses; /* by the static halves of stores */
  wsr_module *module;
  uint32_t *functions, *tables, *memories, *globals, *tags; /* from index to address */
  uint32_t own;        /* the address of a defined function is its index + own, modulo 2^32 */
  uint32_t *types;     /* from type index to the store's type number */
  uint64_t **elements; /* evaluated segments */
  uint64_t dropped_at; /* the store's flag of the first element segment; those of data follow */
};

/* The static half of a store: what does not change while the program runs. Copies of a store share
 * it. A store that adds to it while others share it gets one of its own first. Each store has this
 * struct by value, so its loop reads no pointer more.
 *
 * `area` is reserved address space for the arrays of functions, fast code and instances. */
typedef struct {
  _Atomic uint32_t *sharers; /* how many stores share what is here */
  wsr_composite_type *types; /* each type once, with fields of their own */
  wsr_subtype *subtypes;
  wsr_groups groups;
  wsr_module *linking;  /* the module whose types were entered last */
  uint32_t *link_types; /* the store's numbers for these types */
  uint32_t *tags;       /* type numbers */
  wsr_function_instance *functions;
  wsr_fast_place *fast[2]; /* by address: plain and metered fast code, NULL until called */
  wsr_instance **instances;
  uint32_t n_types, n_tags, n_functions, n_instances;
  uint32_t room_types, room_subtypes, room_tags, room_functions, room_fast[2], room_instances;
  bool native; /* plain fast code leads into native code */
  bool later;  /* native code is made of functions that have run often enough */
  uint8_t *area;
  size_t area_bytes;
} wsr_program;

/* ---- state: exactly what a snapshot holds ---- */
/* saved: begin */

typedef struct {
  uint64_t value, high; /* high: the high half of a v128 */
  wsr_type type;
  uint32_t mutability;
} wsr_global_instance;

/* saved: end */

/* A run of bytes that grows in place: a memory has one. */
typedef struct {
  uint8_t *data;
  uint64_t size;     /* bytes in use */
  uint64_t reserved; /* bytes of address space; the space cannot grow further */
  uint64_t base;     /* bytes from the start that are a private mapping of a base (a file); the rest
                        is anonymous. 0: there is no base. */
} wsr_space;

typedef struct {
  wsr_space space;
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

/* `area` is reserved address space for the arrays of globals, tables and memories. They grow in
 * place and never move, so a thread can keep pointers to them. Those of the static half move only
 * when the store gets a half of its own, while its thread does not run. */
struct wsr_store {
  wsr_limits limits;
  wsr_program program;
  wsr_table_instance **tables;
  wsr_memory_instance **memories;
  wsr_global_instance *globals;
  uint32_t n_tables, n_memories, n_globals;
  uint32_t room_tables, room_memories, room_globals;

  uint64_t *dropped; /* a bit for each segment of each instance, set if the segment is dropped */
  uint64_t n_dropped;
  uint32_t room_dropped; /* words */

  /* the heap of exceptions, see runtime/exceptions.c */
  wsr_exception **exceptions; /* NULL: a free place */
  uint32_t *free_exceptions;  /* the free places */
  uint32_t n_exceptions, n_free_exceptions, room_exceptions;
  size_t exception_bytes, collect_at;

  uint64_t refused_growths; /* of the program, by the host */

  uint8_t *area;
  size_t area_bytes;
  uint32_t share; /* each array has room for the largest number of its items / 2^share */

  wsr_thread *main; /* the thread that the host invokes; the first of a list */
};

/* The precise code of a function; NULL until it is first called. */
static inline const wsr_code *wsr_code_of(const wsr_function_instance *function) {
  return WSR_PUBLISHED(&function->code);
}

static inline bool wsr_is_dropped(const wsr_store *store, uint64_t segment) {
  return store->dropped[segment / 64] >> segment % 64 & 1;
}
static inline void wsr_drop_segment(wsr_store *store, uint64_t segment) {
  store->dropped[segment / 64] |= (uint64_t)1 << segment % 64;
}

/* ---- runtime/memory.c ---- */
void *wsr_reserve(size_t size);            /* reserve address space; NULL if there is none left */
bool wsr_commit(void *start, size_t size); /* make it usable, as zeroed pages */
void wsr_release(void *start, size_t size);
/* Reserve `most` bytes, or less if the host has less address space, and commit `size` of them. */
bool wsr_space_init(wsr_space *space, uint64_t size, uint64_t most);
bool wsr_space_grow(wsr_space *space, uint64_t bytes);  /* zeroed; false if there is no room */
bool wsr_space_resize(wsr_space *space, uint64_t size); /* what is added is zeroed */
void wsr_space_free(wsr_space *space);
bool wsr_memory_init(wsr_memory_instance *memory, uint64_t pages);
uint64_t wsr_memory_grow(wsr_memory_instance *memory, uint64_t pages);
uint64_t wsr_table_grow(wsr_table_instance *table, uint64_t count, uint64_t value);

/* Memory 0 of an instance; if the instance has no memory, a memory of zero bytes. */
static inline const wsr_memory_instance *wsr_memory_of(wsr_memory_instance *const *memories,
                                                       const wsr_instance *instance) {
  static const wsr_memory_instance none = {0};
  return instance->memories ? memories[instance->memories[0]] : &none;
}

/* Return a pointer to the `width` bytes that a load or store at `address` accesses, in any memory;
 * NULL if they are out of bounds. */
static inline uint8_t *wsr_locate(const wsr_store *store, const wsr_instance *instance,
                                  const wsr_cell *cell, uint64_t address, uint32_t width) {
  const wsr_memory_instance *m = store->memories[instance->memories[cell->n - 1]];
  const uint64_t at = address + cell->u.imm;
  return at >= address && wsr_within(at, width, m->space.size) ? m->space.data + at : NULL;
}

/* ---- runtime/store.c: values ---- */
/* Visit all values whose type is in the store: globals, elements of tables and evaluated element
 * segments. Each visit gets `n` values of one type. The caller must visit stacks and the fields of
 * exceptions. If the visitor returns false, this function stops and returns false. */
typedef bool wsr_visitor(void *context, wsr_type type, const uint64_t *values, uint64_t n);
bool wsr_visit_values(const wsr_store *store, wsr_visitor *visit, void *context);

/* ---- runtime/exceptions.c ---- */
void wsr_free_exceptions(wsr_store *store);
/* Give a store the exceptions of another one, with the same references; the host holds none. */
bool wsr_copy_exceptions(wsr_store *to, const wsr_store *from);

/* ---- runtime/store.c ---- */
/* A store without a static half and without a thread; NULL without memory. */
wsr_store *wsr_store_begin(const wsr_limits *limits, uint32_t share);
bool wsr_room_for_values(wsr_store *store, uint32_t globals, uint32_t tables, uint32_t memories);
/* Free all but the first so many tables and memories. */
void wsr_drop_parts(wsr_store *store, uint32_t tables, uint32_t memories);
/* Share the static half of another store; the store has none. */
void wsr_share_program(wsr_store *store, const wsr_program *program);
void wsr_release_program(wsr_store *store);
/* Convert a module's type to the store's type: replace the type index by the store's number. */
static inline wsr_type wsr_store_type(const uint32_t *numbers, wsr_type type) {
  if (!(type & WSR_INDEXED)) return type;
  return numbers[type >> WSR_INDEX_SHIFT] << WSR_INDEX_SHIFT |
         (type & ((1U << WSR_INDEX_SHIFT) - 1));
}
uint64_t wsr_element(const wsr_instance *instance, uint32_t segment, uint32_t item);

/* ---- precise/vectors.c: vector instructions of precise code ---- */

/* Return a pointer to the bytes that a load or store of a vector accesses; NULL if they are out of
 * bounds. */
static inline uint8_t *wsr_locate_vector(const wsr_store *store, const wsr_instance *instance,
                                         const wsr_cell *cell, uint64_t address) {
  const uint32_t index = instance->memories[cell->n ? cell->n - 1 : 0];
  const wsr_memory_instance *m = store->memories[index];
  const uint64_t at = address + wsr_offset_of(cell);
  return at >= address && wsr_within(at, wsr_opcode_table[cell->op].width, m->space.size)
             ? m->space.data + at
             : NULL;
}

/* Execute a vector instruction with operands and result at `s`. Some instructions have 16 bytes
 * after the opcode; these are in `bytes`, the bytes of the module. */
void wsr_vector_step(const wsr_cell *cell, uint64_t *s, const uint8_t *bytes);
/* Execute a load or store of a vector. The address is at `s`, the vector follows it, and the bytes
 * in memory are at `p`. */
void wsr_vector_access(const wsr_cell *cell, uint64_t *s, uint8_t *p);

#endif
