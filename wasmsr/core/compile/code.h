/* Precise code: cells, and what belongs to a compiled function body. Derived from the module, and
 * never saved. */
#ifndef WSR_CODE_H
#define WSR_CODE_H
#include "core/binary/module.h"
#include "core/publish.h"

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

/* A load or store of one lane has offset and lane in `imm`: 60 and 4 bits. A greater offset is out
 * of bounds in every memory. */
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
  uint32_t cell, slot; /* the label's cell, and the slot of its first operand */
} wsr_target;

/* What holds at one cell for every frame at that position: found by a walk over the body, so it is
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
  uint32_t below; /* index of the operand below, or WSR_NONE */
} wsr_operand;

typedef struct {
  wsr_operand *operands;
  uint32_t n, room;
  uint32_t top[]; /* by cell: index of the topmost operand, WSR_NONE or WSR_UNREACHED */
} wsr_operand_map;

typedef struct wsr_fast wsr_fast;
/* Fast code of a function: plain and with counts; the same with native code. */
enum { WSR_FAST_PLAIN, WSR_FAST_METERED, WSR_FAST_NATIVE, WSR_FAST_METERED_NATIVE, WSR_FAST_KINDS };
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
  uint32_t what; /* WSR_CATCH…: what the target gets besides the fields */
  uint32_t tag;  /* tag index, or WSR_NONE: catches all */
  uint32_t target;
} wsr_catch;

/* A compiled function body. */
struct wsr_code {
  uint32_t function;                      /* index in its module */
  uint32_t n_params, n_results, n_locals; /* in slots: a v128 has two */
  uint32_t n_local_types;                 /* number of locals, as the module counts */
  uint32_t frame_slots;                   /* locals and the greatest number of operands */
  uint32_t n_cells, n_targets, n_tries, n_catches;
  wsr_try *tries;
  wsr_catch *catches;
  wsr_cell *cells;
  uint32_t *offsets; /* of each cell's instruction in the module */
  wsr_target *targets;
  wsr_type *local_types;
  _Atomic(uint64_t *) live;                 /* see compile/liveness.c; made on demand */
  _Atomic(wsr_fast *) fast[WSR_FAST_KINDS]; /* see fast/translate_fast.c; made on demand */
  _Atomic(wsr_position *) positions;
  _Atomic uint32_t n_positions;
  _Atomic(wsr_operand_map *) operands;
};

/* ---- what a cell does ---- */

static inline bool wsr_is_call(uint32_t op) {
  return op == WSR_OP_CALL || op == WSR_OP_CALL_INDIRECT || op == WSR_OP_CALL_REF;
}
static inline bool wsr_is_tail_call(uint32_t op) {
  return op == WSR_OP_RETURN_CALL || op == WSR_OP_RETURN_CALL_INDIRECT ||
         op == WSR_OP_RETURN_CALL_REF;
}
/* An exception may leave a frame that is at such a cell, or that waits after it. */
static inline bool wsr_may_throw(uint32_t op) {
  return wsr_is_call(op) || op == WSR_OP_THROW || op == WSR_OP_THROW_REF || op == WSR_OP_RETHROW;
}
/* The cell branches to `a` or goes on with the next cell. */
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

/* ---- compile/validate.c and compile/precise.c ---- */

/* Validate the next `bytes` bytes of function bodies or a little more, and note the features that
 * they use: 1 all bodies are valid, 0 there are more, -1 error. */
int wsr_validate(wsr_module *module, uint64_t bytes, uint64_t *used, wsr_error *error);
bool wsr_validate_function(const wsr_module *module, uint32_t function, uint64_t *used,
                           wsr_error *error);

/* A request to pause. Work that takes long and can be begun again polls it on every turn; every
 * 1,024th turn reads the flag. */
typedef _Atomic uint32_t wsr_request;
static inline bool wsr_pause_requested_at(const wsr_request *request, uint32_t turn) {
  return request && (turn & 1023) == 1023 &&
         (atomic_load_explicit(request, memory_order_relaxed) & 1) != 0;
}

/* The compiled body of a defined function. It is compiled now if need be. NULL without memory, or
 * when `interrupt` (or NULL) is requested first. */
const wsr_code *wsr_compile(wsr_module *module, uint32_t function, bool deterministic,
                            const wsr_request *interrupt);
void wsr_code_free(wsr_code *code);
/* The operand types before the instruction at `offset`. Writes up to `room` codes, bottom first;
 * returns their number, or WSR_NONE where no reachable instruction starts there. */
uint32_t wsr_types_before(const wsr_module *module, uint32_t function, uint32_t offset,
                          wsr_type *types, uint32_t room);
/* The operand types before every cell; NULL without memory. */
wsr_operand_map *wsr_map_operands(const wsr_module *module, const wsr_code *code);
void wsr_operand_map_free(wsr_operand_map *map);
/* The end of the instruction at `offset` of a validated body. */
uint32_t wsr_instruction_end(const wsr_module *module, uint32_t offset);

/* ---- runtime/exceptions.c ---- */
/* The innermost try that contains the cell, or WSR_NONE. */
uint32_t wsr_try_at(const wsr_code *code, uint32_t cell);

/* ---- compile/liveness.c ---- */
/* Mark the slots of locals that are live when the call at `cell` has returned or thrown. */
bool wsr_live_behind(wsr_code *code, uint32_t cell, uint8_t *live);
/* Mark with 1 the slots of locals that are live before cell `cell` (of a v128 the first). False
 * without memory. */
bool wsr_live_locals(wsr_code *code, uint32_t cell, uint8_t *live);
/* Visit the marked cells, the last first, with the set of locals that are live before each: a bit
 * for each slot. False without memory, or if the function is too large to keep all sets. */
typedef void wsr_live_visitor(void *context, uint32_t cell, const uint64_t *set, uint32_t words);
bool wsr_live_at_marked(wsr_code *code, const uint8_t *marked, wsr_live_visitor *visit,
                        void *context);

#endif
