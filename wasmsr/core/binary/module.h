/* A decoded module. Everything in it is derived from the bytes; none of it is ever saved. */
#ifndef WSR_MODULE_H
#define WSR_MODULE_H
#include <stdatomic.h>

#include "core/binary/types.h"

/* Limits of the implementation (specification, appendix A.3). */
#define WSR_MAX_LOCALS 50000U
#define WSR_MAX_ARITY 1000U
#define WSR_MAX_PAGES 65536U                /* with 32-bit addresses */
#define WSR_MAX_PAGES64 ((uint64_t)1 << 48) /* with 64-bit addresses */
#define WSR_MAX_MEMORIES 1000U
#define WSR_MAX_ITEMS 1000000U   /* of one section */
#define WSR_MAX_TYPES (1U << 22) /* of a store: a wsr_type has no room for more */
#define WSR_MAX_SUPERTYPES 63U   /* of one type, in a chain */

typedef struct wsr_code wsr_code; /* compile/code.h */
typedef struct wsr_fast wsr_fast; /* fast/fast.h */

typedef struct {
  uint32_t type;
  uint32_t body, end; /* byte range of the body; 0 for an import */
} wsr_function_def;

typedef struct {
  wsr_global_type type;
  uint32_t init; /* offset of the constant expression */
} wsr_global_def;

enum { WSR_ACTIVE, WSR_PASSIVE, WSR_DECLARATIVE };

typedef struct {
  uint8_t mode;
  wsr_type type;
  bool expressions;   /* items are constant expressions, not function indices */
  uint32_t table;     /* active: which, and the offset's constant expression */
  uint32_t at, items; /* offsets in the module */
  uint32_t n_items;
} wsr_element_def;

typedef struct {
  uint8_t mode;
  uint32_t memory, at;
  uint32_t bytes, size; /* offset in the module and length */
} wsr_data_def;

struct wsr_module {
  const uint8_t *bytes;
  uint32_t size;
  wsr_composite_type *types;
  wsr_subtype *subtypes;
  wsr_type *type_pool; /* the fields of all types */
  wsr_extern *imports, *exports;
  wsr_function_def *functions;
  wsr_bounds *tables, *memories;
  uint32_t *table_inits; /* by table: offset of the constant expression for its elements, or 0 */
  wsr_global_def *globals;
  uint32_t *tags; /* type indices */
  wsr_element_def *elements;
  wsr_data_def *data;
  wsr_counts n;
  uint32_t n_data_declared; /* data count section, or WSR_NONE */
  uint8_t *declared;        /* functions that ref.func may name, one byte each */
  uint64_t off;             /* features that are off */
  /* Compiled bodies by [deterministic][defined function]; published once, by compare and swap. */
  _Atomic(wsr_code *) *code[2];
  /* Where native code calls each function, without and with counts; or NULL. */
  _Atomic(_Atomic uint64_t *) native[2];
  _Atomic(wsr_fast *) wanted; /* a list of functions that are to get native code */
  uint32_t n_validated;       /* own functions, from the first */
  _Atomic uint32_t invalid;   /* one that could not be compiled for its body, or WSR_NONE */
  _Atomic uint32_t uses;      /* by its owner and by the stores that hold instances of it */
};

/* Whether the index names a function type. */
static inline bool wsr_is_function_type(const wsr_module *module, uint64_t index) {
  return index < module->n.types && module->types[index].kind == WSR_FUNCTION_TYPE;
}
/* The type of the function of that index. */
static inline const wsr_composite_type *wsr_type_of(const wsr_module *module, uint32_t function) {
  return &module->types[module->functions[function].type];
}

/* Check a constant expression of that type and move past it; globals below `n_globals` are
 * visible. */
bool wsr_check_constant(const wsr_module *module, wsr_reader *r, wsr_type type, uint32_t n_globals,
                        uint8_t *declared);

#endif
