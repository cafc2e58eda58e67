/* The thread in the specification's terms: viewing frames for a snapshot, pushing restored ones,
 * and checking that a machine is one that execution could have reached. A position is a byte offset
 * in the module, an operand has the type that validation gives it. */
#include <stdio.h>
#include <stdlib.h>

#include "core/runtime/thread.h"

static bool scratch(wsr_thread *thread, uint32_t need) {
  if (need <= thread->scratch_room) return true;
  uint8_t *types = realloc(thread->scratch_types, need);
  if (types) thread->scratch_types = types;
  uint8_t *live = realloc(thread->scratch_live, need);
  if (live) thread->scratch_live = live;
  uint64_t *values = realloc(thread->scratch_values, need * sizeof *values);
  if (values) thread->scratch_values = values;
  if (!types || !live || !values) return false;
  thread->scratch_room = need;
  return true;
}

static bool is_call(const wsr_cell *cell) { return wsr_is_call(cell->op); }

/* The type that a call's callee has, or is a subtype of. */
static const wsr_composite_type *call_type(const wsr_module *m, const wsr_cell *cell) {
  const bool direct = cell->op == WSR_OP_CALL || cell->op == WSR_OP_RETURN_CALL;
  return direct ? wsr_type_of(m, cell->u.p.a) : &m->types[cell->u.p.a];
}

/* How many operands a call takes off the stack before the callee runs. */
static uint32_t call_operands(const wsr_module *m, const wsr_cell *cell) {
  const bool direct = cell->op == WSR_OP_CALL || cell->op == WSR_OP_RETURN_CALL;
  return call_type(m, cell)->n_params + !direct; /* the table's index, or the reference */
}

enum { MAX_POSITIONS = 64 }; /* kept for each function; beyond that they are found each time, */

/* by a map that is made then. NULL before, and without memory. */
static const wsr_operand_map *map_of(const wsr_module *m, wsr_code *code) {
  wsr_operand_map *map = WSR_PUBLISHED(&code->operands);
  if (map || atomic_load(&code->n_positions) < MAX_POSITIONS) return map;
  wsr_operand_map *made = wsr_map_operands(m, code);
  if (!made || WSR_PUBLISH_FIRST(&code->operands, &map, made)) return made;
  wsr_operand_map_free(made); /* another thread was faster */
  return map;
}

/* As wsr_types_before, for a cell. */
static uint32_t types_at(const wsr_operand_map *map, uint32_t cell, wsr_type *types,
                         uint32_t room) {
  uint32_t n = 0;
  if (map->top[cell] == WSR_UNREACHED) return WSR_NONE;
  for (uint32_t at = map->top[cell]; at != WSR_NONE; at = map->operands[at].below) n++;
  if (n > room) return WSR_NONE;
  uint32_t left = n;
  for (uint32_t at = map->top[cell]; at != WSR_NONE; at = map->operands[at].below)
    types[--left] = map->operands[at].type;
  return n;
}

static wsr_position *make_position(const wsr_module *m, wsr_code *code, uint32_t cell) {
  const uint32_t room = code->frame_slots - code->n_locals;
  wsr_position *p = malloc(sizeof *p + room * sizeof *p->types + code->n_locals);
  if (!p) return NULL;
  p->next = NULL;
  p->cell = cell;
  p->types = (wsr_type *)(p + 1);
  p->live = (uint8_t *)(p->types + room);
  const wsr_operand_map *map = map_of(m, code);
  p->n_operands = map ? types_at(map, cell, p->types, room)
                      : wsr_types_before(m, code->function, code->offsets[cell], p->types, room);
  if (p->n_operands != WSR_NONE) return p;
  free(p);
  return NULL;
}

/* What holds before `cell` (operands) and at `resume`, where the frame goes on (live locals).
 * `kept` says whether the code keeps it; if not, the caller frees it. NULL without memory. */
static wsr_position *position_at(const wsr_module *m, const wsr_code *shared, uint32_t cell,
                                 uint32_t resume, bool *kept) {
  wsr_code *code = (wsr_code *)(uintptr_t)shared; /* the list is a cache */
  *kept = true;
  const uint32_t key = 2 * cell + (resume != cell);
  wsr_position *head = WSR_PUBLISHED(&code->positions);
  for (wsr_position *p = head; p; p = p->next)
    if (p->cell == key) return p;
  wsr_position *made = make_position(m, code, cell);
  if (!made) return NULL;
  if (code->n_locals && !(resume == cell ? wsr_live_locals(code, cell, made->live)
                                         : wsr_live_behind(code, cell, made->live))) {
    free(made);
    return NULL;
  }
  made->cell = key;
  *kept = atomic_fetch_add(&code->n_positions, 1) < MAX_POSITIONS;
  if (!*kept) {
    atomic_fetch_sub(&code->n_positions, 1);
    return made;
  }
  made->next = head;
  while (!WSR_PUBLISH_FIRST(&code->positions, &made->next, made)) {
  }
  return made;
}

uint32_t wsr_frame_count(const wsr_store *store) { return store->main->n_frames; }

int wsr_view_frame(wsr_store *store, uint32_t number, int all, wsr_frame_view *out) {
  wsr_thread *const thread = store->main;
  const wsr_frame *frame = &thread->frames[number];
  const wsr_function_instance *f = &store->program.functions[frame->function];
  const wsr_code *code = wsr_code_of(f);
  const wsr_module *m = store->program.instances[f->instance]->module;
  const bool innermost = wsr_frame_is_top(thread, number);
  /* A waiting frame is after its call; the types are known before the call. */
  const uint32_t at = frame->cell - !innermost;
  const uint32_t resume =
      is_call(&code->cells[at]) ? frame->cell : at; /* after a tail call: none */
  if (!scratch(thread, code->frame_slots + 1)) return 0;
  bool kept;
  wsr_position *position = position_at(m, code, at, resume, &kept);
  if (!position) return 0;
  uint32_t operands = position->n_operands;
  if (!innermost) operands -= call_operands(m, &code->cells[at]);
  const uint32_t slots = code->n_locals + wsr_slots_of(position->types, operands);
  memcpy(thread->scratch_values, thread->stack + frame->slot, slots * sizeof *thread->stack);
  for (uint32_t i = 0, slot = 0; i < code->n_local_types; i++) {
    const wsr_type type = code->local_types[i];
    const uint32_t width = wsr_slots(type);
    thread->scratch_types[i] = (uint8_t)wsr_top_type(type);
    thread->scratch_live[i] = position->live[slot];
    if (!all && !position->live[slot])
      memset(thread->scratch_values + slot, 0, width * sizeof *thread->scratch_values);
    slot += width;
  }
  for (uint32_t i = 0; i < operands; i++)
    thread->scratch_types[code->n_local_types + i] = (uint8_t)wsr_top_type(position->types[i]);
  if (!kept) free(position);
  *out = (wsr_frame_view){
      .function = frame->function,
      .instance = f->instance,
      .index = f->index,
      .offset = innermost ? code->offsets[at] : wsr_instruction_end(m, code->offsets[at]),
      .n_locals = code->n_local_types,
      .n_operands = operands,
      .n_slots = slots,
      .types = thread->scratch_types,
      .values = thread->scratch_values,
      .live = thread->scratch_live,
  };
  return 1;
}

static bool wrong(wsr_error *error, uint32_t offset, const char *what) {
  return wsr_fail(error, WSR_STATE, offset, "%s", what);
}

/* The cell of a frame at `offset`; for a waiting frame, the call that it waits for. */
static uint32_t find_cell(const wsr_code *code, const wsr_module *m, uint32_t offset,
                          bool innermost) {
  uint32_t low = 0, high = code->n_cells; /* the first cell at `offset` or after it */
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (code->offsets[middle] < offset)
      low = middle + 1;
    else
      high = middle;
  }
  if (innermost)
    return low < code->n_cells && code->offsets[low] == offset &&
                   wsr_opcode_table[code->cells[low].op].counted
               ? low
               : WSR_NONE;
  if (low == 0 || !is_call(&code->cells[low - 1])) return WSR_NONE;
  return wsr_instruction_end(m, code->offsets[low - 1]) == offset ? low - 1 : WSR_NONE;
}

#if WSR_WATCH
const wsr_cell *wsr_cell_of_position(wsr_store *store, uint32_t function, uint32_t offset) {
  if (function >= store->program.n_functions) return NULL;
  const wsr_function_instance *const f = &store->program.functions[function];
  if (f->instance == WSR_NONE) return NULL;
  const wsr_code *const code = wsr_function_code(store->main, function);
  if (!code) return NULL;
  const uint32_t cell =
      find_cell(code, store->program.instances[f->instance]->module, offset, true);
  return cell == WSR_NONE ? NULL : code->cells + cell;
}
#endif

uint32_t wsr_module_live(wsr_module *m, uint32_t function, uint32_t offset, int waiting,
                         uint8_t *live, uint32_t room) {
  if (function < m->n.imported_functions || function >= m->n.functions) return WSR_NONE;
  const wsr_code *code = wsr_compile(m, function, false, NULL);
  if (!code) return WSR_NONE;
  const uint32_t cell = find_cell(code, m, offset, !waiting);
  if (cell == WSR_NONE) return WSR_NONE;
  bool kept;
  wsr_position *position = position_at(m, code, cell, waiting ? cell + 1 : cell, &kept);
  if (!position) return WSR_NONE;
  for (uint32_t i = 0, slot = 0; i < code->n_local_types && i < room; i++) {
    live[i] = position->live[slot];
    slot += wsr_slots(code->local_types[i]);
  }
  const uint32_t n = code->n_local_types;
  if (!kept) free(position);
  return n;
}

/* Whether a frame's values are of the types that its code has at the position: dead locals are
 * zero, whatever their types say. */
static const char *check_values(const wsr_store *store, const wsr_instance *instance,
                                const wsr_code *code, const wsr_position *position,
                                uint32_t operands, const uint64_t *values) {
  for (uint32_t i = 0; i < code->n_local_types; i++) {
    const wsr_type type = code->local_types[i];
    const bool fits = wsr_value_fits(store, wsr_store_type(instance->types, type), *values);
    if (!fits && *values) return "a frame holds a value that its type does not have";
    values += wsr_slots(type);
  }
  for (uint32_t i = 0; i < operands; i++) {
    const wsr_type type = position->types[i];
    if (!wsr_value_fits(store, wsr_store_type(instance->types, type), *values))
      return "a frame holds a value that its type does not have";
    values += wsr_slots(type);
  }
  return NULL;
}

static const char *check_types(const wsr_code *code, const wsr_position *position,
                               uint32_t operands, const uint8_t *types) {
  bool good = true;
  for (uint32_t i = 0; i < code->n_local_types; i++)
    good &= *types++ == wsr_top_type(code->local_types[i]);
  for (uint32_t i = 0; i < operands; i++) good &= *types++ == wsr_top_type(position->types[i]);
  return good ? NULL : "a frame's values are not of the types that its code has there";
}

/* Live locals whose type has no null must not be null: check_values passed them. */
static const char *check_live(const wsr_code *code, const wsr_position *position,
                              const uint64_t *values) {
  for (uint32_t i = 0, slot = 0; i < code->n_local_types; i++) {
    const wsr_type type = code->local_types[i];
    if (type & WSR_NOT_NULL && position->live[slot] && !values[slot])
      return "a frame holds a value that its type does not have";
    slot += wsr_slots(type);
  }
  return NULL;
}

/* What is wrong with the frame's values at the position, or NULL. */
static const char *check_view(const wsr_store *store, const wsr_instance *instance,
                              const wsr_code *code, const wsr_position *position, uint32_t operands,
                              const wsr_frame_view *view) {
  if (view->n_operands != operands) return "a frame has another number of operands than its code";
  const char *bad = check_types(code, position, operands, view->types);
  if (!bad && view->n_slots != code->n_locals + wsr_slots_of(position->types, operands))
    bad = "a frame has another number of slots than its types";
  if (!bad) bad = check_values(store, instance, code, position, operands, view->values);
  return bad ? bad : check_live(code, position, view->values);
}

int wsr_restore_frame(wsr_store *store, const wsr_frame_view *view, int innermost, uint32_t callee,
                      wsr_error *error) {
  wsr_thread *const thread = store->main;
  const uint32_t function = view->function, offset = view->offset;
  *error = (wsr_error){.kind = WSR_OK, .offset = UINT64_MAX};
  if (function >= store->program.n_functions ||
      store->program.functions[function].instance == WSR_NONE)
    return wrong(error, offset, "a frame's function is none of a module");
  const wsr_code *code = wsr_function_code(store->main, function);
  if (!code) {
    const wsr_module *own =
        store->program.instances[store->program.functions[function].instance]->module;
    if (wsr_module_invalid(own, error) != WSR_NONE) return 0;
    return wsr_fail(error, WSR_MEMORY, offset, "no memory left to compile a function");
  }
  const wsr_function_instance *f = &store->program.functions[function];
  const wsr_instance *instance = store->program.instances[f->instance];
  const wsr_module *m = instance->module;
  uint32_t cell = find_cell(code, m, offset, innermost);
  if (cell == WSR_NONE)
    return wrong(error, offset,
                 innermost ? "no instruction starts at a frame's position"
                           : "a waiting frame is not after a call");
  if (view->n_locals != code->n_local_types)
    return wrong(error, offset, "a frame has another number of locals or operands than its code");
  bool kept;
  wsr_position *position = position_at(m, code, cell, cell + !innermost, &kept);
  if (!position) return wrong(error, offset, "a frame is in unreachable code");
  uint32_t expected = position->n_operands;
  if (!innermost) expected -= call_operands(m, &code->cells[cell]);
  const char *bad = check_view(store, instance, code, position, expected, view);
  if (!kept) free(position);
  if (bad) return wrong(error, offset, bad);
  if (!innermost) {
    if (callee >= store->program.n_functions)
      return wrong(error, offset, "a frame's callee is unknown");
    /* Tail calls may have put another function in the callee's place: the results still agree. */
    const wsr_composite_type *call = call_type(m, &code->cells[cell]);
    const wsr_function_type is =
        wsr_function_of(&store->program.types[store->program.functions[callee].type]);
    const wsr_function_type was =
        wsr_function_of(&store->program.types[instance->types[call - m->types]]);
    if (!wsr_are_subtypes(store->program.subtypes, is.results, is.n_results, was.results,
                          was.n_results))
      return wrong(error, offset, "a frame's callee does not return what its caller expects");
    cell++;
  }
  uint32_t slot = thread->n_frames == 0 ? 0 : thread->now.entry_slot;
  if (thread->n_frames > thread->now.base_frame) {
    /* The callee's frame begins at the arguments, on top of what its caller keeps. */
    const wsr_frame *caller = &thread->frames[thread->n_frames - 1];
    const wsr_code *above = wsr_code_of(&store->program.functions[caller->function]);
    slot = caller->slot + above->cells[caller->cell - 1].s;
  }
  if (code->frame_slots > store->limits.stack_slots - slot ||
      thread->n_frames == store->limits.stack_frames)
    return wsr_fail(error, WSR_LIMIT, offset, "the frames do not fit the stack's limits");
  if (view->n_slots)
    memcpy(thread->stack + slot, view->values, view->n_slots * sizeof *view->values);
  if (thread->n_frames == 0) thread->now = (wsr_activation){0, 0};
  thread->returns[thread->n_frames].pc = NULL;
  thread->frames[thread->n_frames++] = (wsr_frame){function, cell, slot};
  return 1;
}

/* ---- invariants ---- */

/* `first` is the first frame that is checked. */
static const char *check_frame(wsr_store *store, uint32_t first, uint32_t number) {
  wsr_thread *const thread = store->main;
  const wsr_frame *frame = &thread->frames[number];
  const bool innermost = wsr_frame_is_top(thread, number);
  if (frame->function >= store->program.n_functions) return "a frame's function has no address";
  const wsr_function_instance *f = &store->program.functions[frame->function];
  const wsr_code *code = wsr_code_of(f);
  if (f->instance == WSR_NONE || !code) return "a frame runs a function without code";
  if (frame->cell >= code->n_cells) return "a frame's position is outside its code";
  if (frame->slot > store->limits.stack_slots ||
      code->frame_slots > store->limits.stack_slots - frame->slot)
    return "a frame is outside the stack";
  if (!innermost && (frame->cell == 0 || !is_call(&code->cells[frame->cell - 1])))
    return "a waiting frame is not after a call";
  if (number == thread->now.base_frame && frame->slot != thread->now.entry_slot)
    return "the outermost frame does not begin where its results go";
  if (number > 0 && wsr_frame_is_top(thread, number - 1)) {
    if (frame->slot != wsr_slot_above(thread, frame - 1))
      return "a pushed call does not begin above the frame below it";
  } else if (number > first) {
    const wsr_frame *caller = frame - 1;
    const wsr_code *above = wsr_code_of(&store->program.functions[caller->function]);
    if (frame->slot != caller->slot + above->cells[caller->cell - 1].s)
      return "a frame does not begin at its arguments";
  }
  const wsr_instance *instance = store->program.instances[f->instance];
  const uint32_t at = frame->cell - !innermost;
  const uint32_t resume = is_call(&code->cells[at]) ? frame->cell : at;
  bool kept;
  wsr_position *position = position_at(instance->module, code, at, resume, &kept);
  if (!position) return "a frame cannot be viewed";
  uint32_t operands = position->n_operands;
  if (!innermost) operands -= call_operands(instance->module, &code->cells[at]);
  const char *broken =
      check_values(store, instance, code, position, operands, thread->stack + frame->slot);
  if (!kept) free(position);
  return broken;
}

static bool values_fit(void *store, wsr_type type, const uint64_t *values, uint64_t n) {
  return wsr_values_fit(store, type, values, n) == n;
}

const char *wsr_check(wsr_store *store) {
  wsr_thread *const thread = store->main;
  if (thread->n_frames > store->limits.stack_frames) return "there are more frames than allowed";
  if (thread->now.base_frame > thread->n_frames) return "the invocation begins above its frames";
  /* Below a call-back, the frames wait for the host. Below pushed calls they are as always. */
  uint32_t first = thread->now.base_frame;
  for (uint32_t i = thread->n_pushed; i-- > 0 && thread->pushed[i].base_frame == first;)
    first = thread->pushed[i].outer.base_frame;
  for (uint32_t i = first; i < thread->n_frames; i++) {
    const char *broken = check_frame(store, first, i);
    if (broken) return broken;
  }
  for (uint32_t i = 0; i < store->n_tables; i++) {
    const wsr_table_instance *t = store->tables[i];
    if (t->size > t->room || (t->bounds.has_maximum && t->size > t->bounds.maximum))
      return "a table is larger than its bounds";
  }
  if (!wsr_visit_values(store, values_fit, store))
    return "a global, a table or a segment holds a value that its type does not have";
  for (uint32_t i = 0; i < store->n_memories; i++) {
    const wsr_memory_instance *m = store->memories[i];
    const wsr_space *space = &m->space;
    if (space->size > space->reserved || space->size % 65536)
      return "a memory's size is not one it can have";
    if (space->base > space->size) return "a memory's base is longer than the memory";
  }
  return NULL;
}

void wsr_fill_memory(wsr_store *store, uint32_t address, const uint8_t *data, size_t length) {
  wsr_copy_pages(store->memories[address]->space.data, data, length);
}
