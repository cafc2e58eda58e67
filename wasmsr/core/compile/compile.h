/* Between the validator, which walks a body and knows its types, and the compiler, which writes
 * cells. */
#ifndef WSR_COMPILE_H
#define WSR_COMPILE_H
#include "core/compile/code.h"

/* A forward reference to a label, filled in at the label's end: the `a` of a cell, or the `cell` of
 * a br_table target. */
typedef struct {
  uint32_t next; /* in the label's chain, WSR_NONE at its end */
  uint32_t at;
  bool target;
} wsr_fixup;

/* Precise code under construction. All functions do nothing once memory has run out (`failed`). */
typedef struct {
  wsr_cell *cells;
  uint32_t *offsets;
  wsr_target *targets;
  wsr_fixup *fixups;
  wsr_try *tries;
  wsr_catch *catches;
  uint32_t n_cells, n_targets, n_fixups, n_tries, n_catches;
  uint32_t room_cells, room_targets, room_fixups, room_tries, room_catches;
  uint32_t highest; /* most slots in use, locals included */
  bool failed, deterministic;
  const wsr_request *interrupt; /* give up (`failed`) when it is requested; or NULL */
} wsr_emitter;

/* Append a cell for the instruction at `offset`; returns its index. */
uint32_t wsr_emit(wsr_emitter *e, uint32_t op, uint32_t offset, uint32_t n, uint32_t s, uint32_t a,
                  uint32_t b);
uint32_t wsr_emit_target(wsr_emitter *e, uint32_t slot);
/* Begin a try at the next cell, inside the try `outer`; returns its index. */
uint32_t wsr_open_try(wsr_emitter *e, uint32_t outer);
/* Append a catch after `*last` of the try (WSR_NONE: its first), which becomes the new last. */
void wsr_emit_catch(wsr_emitter *e, uint32_t try_, uint32_t *last, uint32_t what, uint32_t tag,
                    uint32_t target);
void wsr_add_fixup(wsr_emitter *e, uint32_t *chain, uint32_t at, bool target);
/* Make all forward references in the chain lead to the next cell. */
void wsr_resolve(wsr_emitter *e, uint32_t chain);

/* Walk the body of a defined function: validate it, with an emitter also compile it; stop before
 * the instruction at `stop` (WSR_NONE: nowhere) and write the operand types there. */
typedef struct {
  const wsr_module *module;
  uint32_t function;
  wsr_emitter *emitter;
  uint32_t stop;
  wsr_type *types_out;
  uint32_t room, n_types; /* n_types: WSR_NONE until `stop` was met in reachable code */
  uint32_t n_locals, local_slots;
  const wsr_type *locals; /* their types, valid until the walker's next body */
  uint64_t *used;         /* validating: features that were met */
  wsr_operand_map *map;   /* to be filled, with */
  const wsr_code *code;
} wsr_walk;

typedef struct wsr_walker wsr_walker; /* the buffers, kept from one body to the next */
wsr_walker *wsr_walker_new(void);
void wsr_walker_free(wsr_walker *walker);
bool wsr_walk_body(wsr_walker *walker, wsr_walk *walk, wsr_error *error);

#endif
