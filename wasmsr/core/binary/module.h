/* A decoded module, and the reading of LEB128 that decoder, validator and compiler share.
 * Part of what is derived from the bytes; none of it is ever saved. */
#ifndef WSR_MODULE_H
#define WSR_MODULE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "core/binary/opcode_table.h"
#include "core/wsr.h"

enum {
  WSR_I32 = 0x7F,
  WSR_I64 = 0x7E,
  WSR_F32 = 0x7D,
  WSR_F64 = 0x7C,
  WSR_V128 = 0x7B,
  WSR_FUNCREF = 0x70, /* heap types: alone, the nullable references to them */
  WSR_EXTERNREF = 0x6F,
  WSR_EXNREF = 0x69,
  WSR_NOFUNC = 0x73,
  WSR_NOEXTERN = 0x72,
  WSR_NOEXN = 0x74,
  WSR_ANY = 0,               /* the validator's unknown type in unreachable code, */
  WSR_ANY_REFERENCE = 0x100, /* and its unknown reference that is not null */
  /* what wsr.h says of a wsr_type's other bits */
  WSR_NOT_NULL = 0x100,
  WSR_INDEXED = 0x200,
  WSR_INDEX_SHIFT = 10
};

#define WSR_NONE UINT32_MAX
#define WSR_UNREACHED (UINT32_MAX - 1)
/* Limits of the implementation (specification, appendix A.3). */
#define WSR_MAX_LOCALS 50000U
#define WSR_MAX_ARITY 1000U
#define WSR_MAX_PAGES 65536U                /* with 32-bit addresses */
#define WSR_MAX_PAGES64 ((uint64_t)1 << 48) /* with 64-bit addresses */
#define WSR_MAX_MEMORIES 1000U
#define WSR_MAX_ITEMS 1000000U   /* of one section */
#define WSR_MAX_TYPES (1U << 22) /* of a store: a wsr_type has no room for more */
#define WSR_MAX_SUPERTYPES 63U   /* of one type, in a chain */

/* One Wasm instruction in precise code. `s` is the slot of the first operand (and of the result),
 * from the frame's start; what n, a, b and imm mean is said at each handler in precise/loop.h. Of a
 * load or store imm is the offset; n is 0 for memory 0 with 32-bit addresses, which is what
 * programs use, and otherwise the memory's index plus one. */
typedef struct {
  uint16_t op;
  uint16_t n;
  uint32_t s;
  union {
    uint64_t imm;
    struct {
      uint32_t a, b;
    } p;
  } u;
} wsr_cell;

/* A load or store of one lane has both in `imm`; offsets so great are out of bounds everywhere. */
static inline uint64_t wsr_offset_and_lane(uint64_t offset, uint32_t lane) {
  const uint64_t most = ((uint64_t)1 << 60) - 1;
  return (offset < most ? offset : most) | (uint64_t)lane << 60;
}
static inline uint64_t wsr_offset_of(const wsr_cell *cell) {
  const bool lane = wsr_opcode_table[cell->op].immediate == WSR_IMM_MEMARG_LANE;
  return lane ? cell->u.imm & (((uint64_t)1 << 60) - 1) : cell->u.imm;
}
static inline uint32_t wsr_lane_of(const wsr_cell *cell) { return (uint32_t)(cell->u.imm >> 60); }

typedef struct {
  uint32_t cell, slot; /* where a label of br_table leads, and where its operands go */
} wsr_target;

/* What holds at one cell for every frame that stands there: found by a walk over the body, so it is
 * kept with the code. The first `n_operands` of `types` are the operands before the instruction;
 * `live` has one byte for each slot of locals. */
typedef struct wsr_position {
  struct wsr_position *next;
  uint32_t cell, n_operands;
  wsr_type *types;
  uint8_t *live;
} wsr_position;

/* The operand types before every cell of a function: made when it is asked about at many positions,
 * so that these take one walk over its body. Each list of types shares with others what they have
 * in common: one entry for each push of the walk. */
typedef struct {
  wsr_type type;
  uint32_t below; /* the next operand down, or WSR_NONE */
} wsr_operand;

typedef struct {
  wsr_operand *operands;
  uint32_t n, room;
  uint32_t top[]; /* by cell: the topmost operand, WSR_NONE for none, WSR_UNREACHED */
} wsr_operand_map;

typedef struct wsr_fast wsr_fast;
void wsr_fast_free(wsr_fast *fast);

/* A try: its cells, and who catches. Ascending by `begin`; `outer` is the next around it in the
 * code, `parent` the one that an exception goes on to, which `delegate` chooses. */
typedef struct {
  uint32_t begin, end, outer, parent;
  uint32_t first; /* catch, WSR_NONE for none */
} wsr_try;

enum { WSR_CATCH, WSR_CATCH_REF, WSR_CATCH_LEGACY };

typedef struct {
  uint32_t next; /* of the same try */
  uint32_t what; /* WSR_CATCH_: what goes to the target beside the fields */
  uint32_t tag;  /* index, or WSR_NONE for all */
  uint32_t target;
} wsr_catch;

/* A compiled function body. */
typedef struct {
  uint32_t function;                      /* index in its module */
  uint32_t n_params, n_results, n_locals; /* in slots: a v128 has two */
  uint32_t n_local_types;                 /* their number as the module counts */
  uint32_t frame_slots;                   /* locals and the greatest number of operands */
  uint32_t n_cells, n_targets, n_tries, n_catches;
  wsr_try *tries;
  wsr_catch *catches;
  wsr_cell *cells;
  uint32_t *offsets; /* of each cell's instruction in the module */
  wsr_target *targets;
  wsr_type *local_types;
  _Atomic(uint64_t *) live;    /* see compile/liveness.c; made on demand */
  _Atomic(wsr_fast *) fast[2]; /* plain and metered, see fast/translate_fast.c; made on demand */
  _Atomic(wsr_position *) positions;
  _Atomic uint32_t n_positions;
  _Atomic(wsr_operand_map *) operands;
} wsr_code;

typedef struct {
  uint32_t type;
  uint32_t body, end; /* byte range of the body; 0 for an import */
} wsr_function_def;

typedef struct {
  wsr_global_type type;
  uint32_t init; /* offset of the constant expression */
} wsr_global_def;

/* What the type section says of a type beside its parameters and results. */
typedef struct {
  uint32_t canonical;   /* in a module: the lowest index of an equal type */
  uint32_t super;       /* canonical, or WSR_NONE */
  uint32_t group, size; /* the recursive group that it stands in: its first type, and how many */
  uint8_t depth;        /* supertypes above it */
  bool final;
} wsr_subtype;

/* Recursive groups by content: a hash table, and how many it holds. */
typedef struct {
  uint32_t *slots;     /* a group's first type plus one, 0 is free */
  uint32_t n_slots, n; /* n_slots is a power of two */
} wsr_groups;

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
  wsr_function_type *types;
  wsr_subtype *subtypes;
  wsr_type *type_pool; /* all parameters and results */
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
  uint32_t n_validated;     /* own functions, from the first */
  _Atomic uint32_t invalid; /* one that could not be compiled for its body, or WSR_NONE */
  _Atomic uint32_t uses;    /* by its owner and by the stores that hold instances of it */
};

/* What a cell does, where it matters in several places. */
static inline bool wsr_is_call(uint32_t op) {
  return op == WSR_OP_CALL || op == WSR_OP_CALL_INDIRECT || op == WSR_OP_CALL_REF;
}
static inline bool wsr_is_tail_call(uint32_t op) {
  return op == WSR_OP_RETURN_CALL || op == WSR_OP_RETURN_CALL_INDIRECT ||
         op == WSR_OP_RETURN_CALL_REF;
}
/* A frame that stands at such a cell, or waits behind it, may be left by an exception. */
static inline bool wsr_may_throw(uint32_t op) {
  return wsr_is_call(op) || op == WSR_OP_THROW || op == WSR_OP_THROW_REF || op == WSR_OP_RETHROW;
}
/* A branch to `a`, or on to the next cell. */
static inline bool wsr_may_branch(uint32_t op) {
  switch (op) {
    case WSR_OP_IF:
    case WSR_OP_BR_IF:
    case WSR_OP_BR_IF_BACK:
    case WSR_OP_BR_ON_NULL:
    case WSR_OP_BR_ON_NULL_BACK:
    case WSR_OP_BR_ON_NON_NULL:
    case WSR_OP_BR_ON_NON_NULL_BACK: return true;
    default: return false;
  }
}

/* ---- reading ---- */

typedef struct {
  const uint8_t *base, *at, *end;
  wsr_error *error;
  uint64_t off;   /* features that are off; none where the bytes have been validated before */
  uint64_t *used; /* features that were met, or NULL */
} wsr_reader;

bool wsr_fail(wsr_error *error, uint32_t kind, uint64_t offset, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 4, 5), cold))
#endif
    ;
bool wsr_lack(wsr_error *error, uint64_t offset, uint32_t feature);
/* What stands at `offset` belongs to that feature (WSR_FEATURE_): false with the error set where it
 * is off. */
bool wsr_use(wsr_reader *r, uint64_t offset, uint32_t feature);

static inline uint64_t wsr_at(const wsr_reader *r) { return (uint64_t)(r->at - r->base); }

/* The value of a LEB128 number of up to `bits` bits; false with the error set. */
bool wsr_read_unsigned(wsr_reader *r, unsigned bits, uint64_t *out);
bool wsr_read_signed(wsr_reader *r, unsigned bits, int64_t *out);

static inline bool wsr_read_u32(wsr_reader *r, uint32_t *out) {
  if (r->at < r->end && *r->at < 0x80) {
    *out = *r->at++;
    return true;
  }
  uint64_t wide = 0;
  if (!wsr_read_unsigned(r, 32, &wide)) return false;
  *out = (uint32_t)wide;
  return true;
}
bool wsr_read_byte(wsr_reader *r, uint8_t *out);
/* The row index of the next instruction; refuses what is no opcode or needs a lacking feature. */
bool wsr_read_opcode(wsr_reader *r, uint32_t *op);

/* Whether the n bytes (or elements) from `at` lie within `size`. */
static inline bool wsr_within(uint64_t at, uint64_t n, uint64_t size) {
  return n <= size && at <= size - n;
}

/* ---- binary/types.c ---- */

static inline bool wsr_is_reference(wsr_type type) {
  const uint32_t code = type & 0xFF;
  return code >= WSR_EXNREF && code <= WSR_NOEXN;
}
/* Slots that a value takes, of one or of many. */
static inline uint32_t wsr_slots(wsr_type type) { return type == WSR_V128 ? 2 : 1; }
static inline uint32_t wsr_slots_of(const wsr_type *types, uint32_t n) {
  uint32_t slots = n;
  for (uint32_t i = 0; i < n; i++) slots += types[i] == WSR_V128;
  return slots;
}
static inline wsr_type wsr_reference_to(uint32_t type_index, bool null) {
  return type_index << WSR_INDEX_SHIFT | WSR_INDEXED | (null ? 0 : WSR_NOT_NULL) | WSR_FUNCREF;
}
const char *wsr_type_name(wsr_type type);
/* Read a type; the module knows which type indices there are. */
bool wsr_read_value_type(const wsr_module *module, wsr_reader *r, wsr_type *out);
bool wsr_read_reference_type(const wsr_module *module, wsr_reader *r, wsr_type *out);
/* A heap type, as the reference to it that may be null. */
bool wsr_read_heap_type(const wsr_module *module, wsr_reader *r, wsr_type *out);
/* Whether every value of type `a` is one of type `b` (3.3). */
bool wsr_is_subtype(const wsr_subtype *subtypes, wsr_type a, wsr_type b);
bool wsr_are_subtypes(const wsr_subtype *subtypes, const wsr_type *a, uint32_t n, const wsr_type *b,
                      uint32_t m);
/* Whether function type `a` is `b` or declared a subtype of it; both canonical. */
static inline bool wsr_descends(const wsr_subtype *subtypes, uint32_t a, uint32_t b) {
  while (a != b && a != WSR_NONE) a = subtypes[a].super;
  return a == b;
}
/* The first type of the group that equals the one at `start`, entered before; if there is none,
 * enter this one and return `start`. WSR_NONE without memory. */
uint32_t wsr_find_group(wsr_groups *groups, const wsr_function_type *types,
                        const wsr_subtype *subtypes, uint32_t start);

/* The type of addresses in a memory or table. */
static inline wsr_type wsr_address_type(const wsr_bounds *bounds) {
  return bounds->address64 ? WSR_I64 : WSR_I32;
}

/* ---- compile/validate.c and compile/precise.c ---- */

/* Validate all bodies, and note the features that they use. */
/* The next `bytes` bytes of bodies or a little more: 1 all are valid, 0 there are more, -1 error.
 */
int wsr_validate(wsr_module *module, uint64_t bytes, uint64_t *used, wsr_error *error);
bool wsr_validate_function(const wsr_module *module, uint32_t function, uint64_t *used,
                           wsr_error *error);

/* A store's request to pause. What takes long and can be begun again gives up for it: such work
 * asks at each of its `turns`, and is answered at every 1,024th. */
typedef _Atomic uint32_t wsr_request;
static inline bool wsr_pause_requested_at(const wsr_request *request, uint32_t turn) {
  return request && (turn & 1023) == 1023 &&
         (atomic_load_explicit(request, memory_order_relaxed) & 1) != 0;
}

/* The compiled body of a defined function, made now if need be; NULL without memory, or when
 * `interrupt` (or NULL) is requested first. */
const wsr_code *wsr_compile(wsr_module *module, uint32_t function, bool deterministic,
                            const wsr_request *interrupt);
void wsr_code_free(wsr_code *code);
/* The operand types before the instruction at `offset`. Writes up to `room` codes, bottom first;
 * returns their number, or WSR_NONE where no reachable instruction starts there. */
uint32_t wsr_types_before(const wsr_module *module, uint32_t function, uint32_t offset,
                          wsr_type *types, uint32_t room);
/* What that says of every cell; NULL without memory. */
wsr_operand_map *wsr_map_operands(const wsr_module *module, const wsr_code *code);
void wsr_operand_map_free(wsr_operand_map *map);
/* The end of the instruction at `offset` of a validated body. */
uint32_t wsr_instruction_end(const wsr_module *module, uint32_t offset);

/* ---- runtime/exceptions.c ---- */
/* The innermost try around the cell, or WSR_NONE. */
uint32_t wsr_try_at(const wsr_code *code, uint32_t cell);

/* ---- compile/liveness.c ---- */
/* Mark the slots of locals that are live when the call at `cell` has returned or thrown. */
bool wsr_live_behind(wsr_code *code, uint32_t cell, uint8_t *live);
/* Mark with 1 the slots of locals that are live before cell `cell` (of a v128 the first). False
 * without memory. */
bool wsr_live_locals(wsr_code *code, uint32_t cell, uint8_t *live);

/* ---- binary/decode.c ---- */
/* Check a constant expression of that type and move behind it; globals below `n_globals` are
 * visible. */
bool wsr_check_constant(const wsr_module *module, wsr_reader *r, wsr_type type, uint32_t n_globals,
                        uint8_t *declared);

#endif
