/* Write precise code: one cell for each Wasm instruction, in the order of the walk in
 * compile/validate.c. Code is derived from the module alone, so it is shared by all stores and
 * never saved. (The fast code of later versions is made beside it, on the same frame layout.) */
#include "core/array.h"
#include "core/compile/compile.h"

#include <stdlib.h>

static bool room_for(wsr_emitter *e, void *array, uint32_t *room, uint32_t need, size_t size) {
  if (!e->failed) e->failed = !wsr_array_reserve(array, room, need, size);
  return !e->failed;
}

uint32_t wsr_emit(wsr_emitter *e, uint32_t op, uint32_t offset, uint32_t n, uint32_t s, uint32_t a,
                  uint32_t b) {
  uint32_t room = e->room_cells;
  if (!room_for(e, &e->cells, &e->room_cells, e->n_cells + 1, sizeof *e->cells) ||
      !room_for(e, &e->offsets, &room, e->n_cells + 1, sizeof *e->offsets))
    return 0;
  e->cells[e->n_cells] =
      (wsr_cell){.op = (uint16_t)op, .n = (uint16_t)n, .s = s, .u = {.p = {a, b}}};
  e->offsets[e->n_cells] = offset;
  return e->n_cells++;
}

uint32_t wsr_emit_target(wsr_emitter *e, uint32_t slot) {
  if (!room_for(e, &e->targets, &e->room_targets, e->n_targets + 1, sizeof *e->targets)) return 0;
  e->targets[e->n_targets] = (wsr_target){.cell = 0, .slot = slot};
  return e->n_targets++;
}

uint32_t wsr_open_try(wsr_emitter *e, uint32_t outer) {
  if (!room_for(e, &e->tries, &e->room_tries, e->n_tries + 1, sizeof *e->tries)) return 0;
  e->tries[e->n_tries] = (wsr_try){e->n_cells, WSR_NONE, outer, outer, WSR_NONE};
  return e->n_tries++;
}

void wsr_emit_catch(wsr_emitter *e, uint32_t try_, uint32_t *last, uint32_t what, uint32_t tag,
                    uint32_t target) {
  if (!room_for(e, &e->catches, &e->room_catches, e->n_catches + 1, sizeof *e->catches)) return;
  e->catches[e->n_catches] = (wsr_catch){WSR_NONE, what, tag, target};
  if (*last == WSR_NONE)
    e->tries[try_].first = e->n_catches;
  else
    e->catches[*last].next = e->n_catches;
  *last = e->n_catches++;
}

void wsr_add_fixup(wsr_emitter *e, uint32_t *chain, uint32_t at, bool target) {
  if (!room_for(e, &e->fixups, &e->room_fixups, e->n_fixups + 1, sizeof *e->fixups)) return;
  e->fixups[e->n_fixups] = (wsr_fixup){*chain, at, target};
  *chain = e->n_fixups++;
}

void wsr_resolve(wsr_emitter *e, uint32_t chain) {
  if (e->failed) return;
  for (; chain != WSR_NONE; chain = e->fixups[chain].next) {
    const wsr_fixup *f = &e->fixups[chain];
    if (f->target)
      e->targets[f->at].cell = e->n_cells;
    else
      e->cells[f->at].u.p.a = e->n_cells;
  }
}

static wsr_code *make(wsr_module *m, uint32_t function, bool deterministic,
                      const wsr_request *interrupt) {
  wsr_emitter e = {.deterministic = deterministic, .interrupt = interrupt};
  wsr_walk walk = {.module = m, .function = function, .emitter = &e, .stop = WSR_NONE};
  wsr_error error = {.kind = WSR_OK};
  wsr_walker *walker = wsr_walker_new();
  wsr_code *code = malloc(sizeof *code);
  bool good = walker && code && wsr_walk_body(walker, &walk, &error) && !e.failed;
  uint32_t none = WSR_NONE;
  /* Not every body has been validated before (wsr_module_new): who asks why can be told. */
  if (error.kind != WSR_OK && error.kind != WSR_MEMORY)
    atomic_compare_exchange_strong(&m->invalid, &none, function);
  wsr_type *local_types = good ? malloc(((size_t)walk.n_locals + 1) * sizeof *local_types) : NULL;
  if (local_types && walk.n_locals)
    memcpy(local_types, walk.locals, walk.n_locals * sizeof *local_types);
  good = good && local_types;
  wsr_walker_free(walker);
  free(e.fixups);
  if (!good) {
    free(e.cells);
    free(e.offsets);
    free(e.targets);
    free(e.tries);
    free(e.catches);
    free(code);
    return NULL;
  }
  const wsr_function_type type = wsr_function_of(wsr_type_of(m, function));
  *code = (wsr_code){
      .function = function,
      .n_params = wsr_slots_of(type.params, type.n_params),
      .n_results = wsr_slots_of(type.results, type.n_results),
      .n_locals = walk.local_slots,
      .n_local_types = walk.n_locals,
      .frame_slots = e.highest,
      .n_cells = e.n_cells,
      .n_targets = e.n_targets,
      .n_tries = e.n_tries,
      .n_catches = e.n_catches,
      .tries = e.tries,
      .catches = e.catches,
      .cells = e.cells,
      .offsets = e.offsets,
      .targets = e.targets,
      .local_types = local_types,
  };
  return code;
}

const wsr_code *wsr_compile(wsr_module *m, uint32_t function, bool deterministic,
                            const wsr_request *interrupt) {
  _Atomic(wsr_code *) *place = &m->code[deterministic][function - m->n.imported_functions];
  wsr_code *code = WSR_PUBLISHED(place);
  if (code) return code;
  code = make(m, function, deterministic, interrupt);
  wsr_code *first = NULL;
  if (code && !WSR_PUBLISH_FIRST(place, &first, code)) {
    wsr_code_free(code); /* another thread published its code first: use that */
    code = first;
  }
  return code;
}

void wsr_code_free(wsr_code *code) {
  if (!code) return;
  free(code->cells);
  free(code->offsets);
  free(code->targets);
  free(code->tries);
  free(code->catches);
  free(code->local_types);
  free(atomic_load(&code->live));
  for (unsigned kind = 0; kind < WSR_FAST_KINDS; kind++)
    wsr_fast_free(atomic_load(&code->fast[kind]));
  wsr_operand_map_free(atomic_load(&code->operands));
  for (wsr_position *p = atomic_load(&code->positions), *next; p; p = next) {
    next = p->next;
    free(p);
  }
  free(code);
}

uint32_t wsr_instruction_end(const wsr_module *m, uint32_t offset) {
  wsr_reader r = {m->bytes, m->bytes + offset, m->bytes + m->size, NULL, 0, NULL};
  uint32_t op, index;
  /* Only calls are asked about: opcode, one index, and with a table a second one. */
  if (!wsr_read_opcode(&r, &op) || !wsr_read_u32(&r, &index)) return WSR_NONE;
  if (wsr_opcode_table[op].immediate == WSR_IMM_TYPE_TABLE && !wsr_read_u32(&r, &index))
    return WSR_NONE;
  return (uint32_t)wsr_at(&r);
}
