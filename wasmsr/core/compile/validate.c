/* Walk a function body with the types of its operands: the specification's validation algorithm.
 * One walk serves three: validating a module, compiling a body (compile/precise.c writes the
 * cells), and telling the operand types at a position, which a snapshot stores and a restore
 * checks. Source: WebAssembly specification, section 3.3 (Instructions) and appendix A.5
 * (algorithm). */
#include <stdlib.h>

#include "core/array.h"
#include "core/compile/compile.h"

/* A list of types, or the one type of a block that gives a value. */
typedef struct {
  const wsr_type *types; /* NULL: `one` */
  uint32_t n;
  wsr_type one;
} type_list;

typedef struct {
  uint32_t op; /* WSR_OP_BLOCK, LOOP, IF, ELSE; WSR_OP_CALL for the function itself */
  type_list params, results;
  uint32_t height;  /* number of operands below the parameters */
  uint32_t slots;   /* slots that these operands take */
  uint32_t n_set;   /* locals known to be set where the block begins */
  uint32_t hidden;  /* 1 in a legacy catch: the exception is under its operands */
  uint32_t handler; /* the try that catches what is thrown here, or WSR_NONE */
  uint32_t own;     /* the try that this block is, or WSR_NONE */
  uint32_t last;    /* the last catch of that try so far */
  bool unreachable; /* the rest of this block is unreachable */
  bool dead;        /* the block is in unreachable code: it emits nothing */
  uint32_t first;   /* loop: its body's first cell */
  uint32_t fixups;  /* chain of branches to the end */
  uint32_t test;    /* if: its cell, or WSR_NONE */
} label;

struct wsr_walker {
  wsr_type *types; /* of the operands */
  uint32_t n, room;
  uint32_t *entries; /* if there is a map: its entry for each operand */
  uint32_t entry_room;
  uint32_t slots; /* slots that the operands take */
  label *labels;
  uint32_t depth, label_room;
  wsr_type *locals;
  uint32_t *local_slot; /* first slot of each local */
  uint8_t *unset;       /* locals without a default value that may not have been set: 1 */
  uint32_t *set;        /* such locals that were set, in this order */
  uint32_t n_set, set_room;
  uint32_t n_locals, local_slots, local_room, slot_room, unset_room;
  wsr_reader r;
  const wsr_module *m;
  wsr_walk *walk;
  uint64_t start; /* offset of the current instruction */
};

typedef wsr_walker walker;

#define NEED(call)             \
  do {                         \
    if (!(call)) return false; \
  } while (0)

static bool invalid(walker *w, const char *what) {
  return wsr_fail(w->r.error, WSR_INVALID, w->start, "%s", what);
}

static bool unknown(walker *w, const char *what, uint32_t index) {
  return wsr_fail(w->r.error, WSR_INVALID, w->start, "unknown %s %u", what, index);
}

static bool no_memory(walker *w) {
  return wsr_fail(w->r.error, WSR_MEMORY, w->start, "no memory left to read a function body");
}

/* ---- operands ---- */

/* Add the operand that is being pushed to the map. */
static bool enter(walker *w, wsr_type type) {
  wsr_operand_map *map = w->walk->map;
  if (!wsr_array_reserve(&w->entries, &w->entry_room, w->n + 1, sizeof *w->entries) ||
      !wsr_array_reserve(&map->operands, &map->room, map->n + 1, sizeof *map->operands))
    return no_memory(w);
  map->operands[map->n] = (wsr_operand){type, w->n ? w->entries[w->n - 1] : WSR_NONE};
  w->entries[w->n] = map->n++;
  return true;
}

/* Note in the map what the operands are before the instruction in hand, which has this first cell
 * or a later one; returns the first cell after it. */
static uint32_t note_operands(const walker *w, uint32_t cell) {
  const wsr_code *code = w->walk->code;
  const label *l = &w->labels[w->depth - 1];
  for (; cell < code->n_cells && code->offsets[cell] <= w->start; cell++)
    if (code->offsets[cell] == w->start && !l->unreachable && !l->dead)
      w->walk->map->top[cell] = w->n ? w->entries[w->n - 1] : WSR_NONE;
  return cell;
}

static bool push(walker *w, wsr_type type) {
  if (w->n >= w->room && !wsr_array_reserve(&w->types, &w->room, w->n + 1, sizeof *w->types))
    return no_memory(w);
  if (w->walk->map) NEED(enter(w, type));
  w->types[w->n++] = type;
  w->slots += wsr_slots(type);
  wsr_emitter *e = w->walk->emitter;
  if (e && w->local_slots + w->slots > e->highest) e->highest = w->local_slots + w->slots;
  return true;
}

static bool pop_any(walker *w, wsr_type *type) {
  const label *l = &w->labels[w->depth - 1];
  if (w->n == l->height + l->hidden) {
    *type = WSR_ANY;
    return l->unreachable ? true : invalid(w, "type mismatch: the operand stack is empty");
  }
  *type = w->types[--w->n];
  w->slots -= wsr_slots(*type);
  return true;
}

static bool pop(walker *w, wsr_type expected) {
  wsr_type type;
  NEED(pop_any(w, &type));
  if (type == expected || expected == WSR_ANY || wsr_is_subtype(w->m->subtypes, type, expected))
    return true;
  return wsr_fail(w->r.error, WSR_INVALID, w->start, "type mismatch: expected %s, found %s",
                  wsr_type_name(expected), wsr_type_name(type));
}

static wsr_type type_at(const type_list *list, uint32_t i) {
  return list->types ? list->types[i] : list->one;
}

static uint32_t slots_of(type_list list) {
  return list.types ? wsr_slots_of(list.types, list.n) : list.n ? wsr_slots(list.one) : 0;
}

static bool push_all(walker *w, type_list list) {
  for (uint32_t i = 0; i < list.n; i++) NEED(push(w, type_at(&list, i)));
  return true;
}

static bool pop_all(walker *w, type_list list) {
  for (uint32_t i = list.n; i-- > 0;) NEED(pop(w, type_at(&list, i)));
  return true;
}

static type_list params_of(const wsr_composite_type *type) {
  const wsr_function_type function = wsr_function_of(type);
  return (type_list){.types = function.params, .n = function.n_params};
}

static type_list results_of(const wsr_composite_type *type) {
  const wsr_function_type function = wsr_function_of(type);
  return (type_list){.types = function.results, .n = function.n_results};
}

/* ---- emitting ---- */

static bool live(const walker *w) {
  const label *l = &w->labels[w->depth - 1];
  return w->walk->emitter && !l->unreachable && !l->dead;
}

/* The slot of the operand that would be pushed next. */
static uint32_t top(const walker *w) { return w->local_slots + w->slots; }

static uint32_t emit(walker *w, uint32_t op, uint32_t n, uint32_t s, uint32_t a, uint32_t b) {
  return live(w) ? wsr_emit(w->walk->emitter, op, (uint32_t)w->start, n, s, a, b) : WSR_NONE;
}

/* ---- labels ---- */

static void set_unreachable(walker *w) {
  label *l = &w->labels[w->depth - 1];
  w->n = l->height + l->hidden;
  w->slots = l->slots + l->hidden;
  l->unreachable = true;
}

static bool push_label(walker *w, uint32_t op, type_list params, type_list results, uint32_t test) {
  if (!wsr_array_reserve(&w->labels, &w->label_room, w->depth + 1, sizeof *w->labels))
    return no_memory(w);
  const label *outer = w->depth ? &w->labels[w->depth - 1] : NULL;
  w->labels[w->depth++] = (label){
      .op = op,
      .params = params,
      .results = results,
      .height = w->n,
      .slots = w->slots,
      .n_set = w->n_set,
      .dead = outer && (outer->dead || outer->unreachable),
      .first = w->walk->emitter ? w->walk->emitter->n_cells : 0,
      .fixups = WSR_NONE,
      .test = test,
      .handler = outer ? outer->handler : WSR_NONE,
      .own = WSR_NONE,
      .last = WSR_NONE,
  };
  return push_all(w, params);
}

static bool find_label(walker *w, uint32_t index, label **out) {
  if (index >= w->depth) return unknown(w, "label", index);
  *out = &w->labels[w->depth - 1 - index];
  return true;
}

static type_list label_types(const label *l) {
  return l->op == WSR_OP_LOOP ? l->params : l->results;
}

/* The operands of the label are on top; let the cell, whose `a` and `b` are free, branch there.
 */
static void aim(walker *w, uint32_t cell, label *l) {
  wsr_emitter *e = w->walk->emitter;
  if (cell == WSR_NONE || e->failed) return;
  wsr_cell *c = &e->cells[cell];
  c->u.p.b = w->local_slots + l->slots;
  if (l->op == WSR_OP_LOOP) {
    c->u.p.a = l->first;
    if (c->op == WSR_OP_BR) c->op = WSR_OP_BR_BACK;
    if (c->op == WSR_OP_BR_IF) c->op = WSR_OP_BR_IF_BACK;
    if (c->op == WSR_OP_BR_ON_NULL) c->op = WSR_OP_BR_ON_NULL_BACK;
    if (c->op == WSR_OP_BR_ON_NON_NULL) c->op = WSR_OP_BR_ON_NON_NULL_BACK;
  } else {
    wsr_add_fixup(e, &l->fixups, cell, false);
  }
}

static bool end_of_block(walker *w, label *l) {
  NEED(pop_all(w, l->results));
  if (w->n != l->height + l->hidden)
    return invalid(w, "type mismatch: operands are left at the block's end");
  w->n = l->height; /* without the exception of a catch */
  w->slots = l->slots;
  return true;
}

static bool same(type_list a, type_list b) {
  if (a.n != b.n) return false;
  for (uint32_t i = 0; i < a.n; i++)
    if (type_at(&a, i) != type_at(&b, i)) return false;
  return true;
}

static bool are_subtypes(const walker *w, type_list a, type_list b) {
  if (a.n != b.n) return false;
  for (uint32_t i = 0; i < a.n; i++)
    if (!wsr_is_subtype(w->m->subtypes, type_at(&a, i), type_at(&b, i))) return false;
  return true;
}

/* At the end of a block, what was set in it counts as unset again. */
static void forget_set(walker *w, const label *l) {
  while (w->n_set > l->n_set) w->unset[w->set[--w->n_set]] = 1;
}

static bool do_else(walker *w) {
  label *l = &w->labels[w->depth - 1];
  if (l->op != WSR_OP_IF) return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "else without if");
  NEED(end_of_block(w, l));
  forget_set(w, l);
  const uint32_t jump = emit(w, WSR_OP_JUMP, 0, 0, 0, 0);
  if (jump != WSR_NONE) wsr_add_fixup(w->walk->emitter, &l->fixups, jump, false);
  wsr_emitter *e = w->walk->emitter;
  if (l->test != WSR_NONE && !e->failed) e->cells[l->test].u.p.a = e->n_cells;
  l->op = WSR_OP_ELSE;
  l->unreachable = false;
  return push_all(w, l->params);
}

static bool read_block_type(walker *w, type_list *params, type_list *results) {
  *params = *results = (type_list){NULL, 0, WSR_ANY};
  const uint8_t *at = w->r.at;
  if (at < w->r.end && *at == 0x40) {
    w->r.at++;
    return true;
  }
  if (at < w->r.end && *at > 0x40 && *at < 0x80) { /* a negative one-byte number: a value type */
    results->n = 1;
    return wsr_read_value_type(w->m, &w->r, &results->one);
  }
  int64_t index;
  NEED(wsr_read_signed(&w->r, 33, &index));
  if (index < 0) return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "malformed block type");
  if (!wsr_is_function_type(w->m, (uint64_t)index)) return unknown(w, "type", (uint32_t)index);
  *params = params_of(&w->m->types[index]);
  *results = results_of(&w->m->types[index]);
  return true;
}

/* ---- exceptions ---- */

/* End the cells of a try here. */
static void close_try(walker *w, const label *l) {
  wsr_emitter *e = w->walk->emitter;
  if (l->own != WSR_NONE && !e->failed) e->tries[l->own].end = e->n_cells;
}

/* Falling off a legacy catch: the results move down over the exception, and the code after the
 * block follows. */
static void leave_catch(walker *w, label *l) {
  const uint32_t n = slots_of(l->results);
  const uint32_t cell = emit(w, WSR_OP_LEAVE_CATCH, n, top(w), 0, 0);
  if (cell == WSR_NONE || w->walk->emitter->failed) return;
  w->walk->emitter->cells[cell].u.p.b = w->local_slots + l->slots;
  wsr_add_fixup(w->walk->emitter, &l->fixups, cell, false);
}

static bool read_tag(walker *w, uint32_t *index, type_list *params) {
  NEED(wsr_read_u32(&w->r, index));
  if (*index >= w->m->n.tags) return unknown(w, "tag", *index);
  *params = params_of(&w->m->types[w->m->tags[*index]]);
  return true;
}

static bool do_throw(walker *w, uint32_t op) {
  uint32_t index = 0;
  label *l = NULL;
  type_list params = {NULL, 0, WSR_ANY};
  switch (op) {
    case WSR_OP_THROW:
      NEED(read_tag(w, &index, &params));
      emit(w, op, slots_of(params), top(w) - slots_of(params), index, 0);
      NEED(pop_all(w, params));
      break;
    case WSR_OP_THROW_REF:
      NEED(pop(w, WSR_EXNREF));
      emit(w, op, 0, top(w), 0, 0);
      break;
    default: /* rethrow */
      NEED(wsr_read_u32(&w->r, &index) && find_label(w, index, &l));
      if (!l->hidden) return invalid(w, "invalid rethrow label");
      emit(w, op, 0, w->local_slots + l->slots, 0, 0);
      break;
  }
  set_unreachable(w);
  return true;
}

/* One catch of a try_table: 3.4.9, catch clauses. */
static bool read_catch(walker *w, uint32_t try_, uint32_t *last) {
  uint8_t kind;
  uint32_t tag = WSR_NONE, index;
  label *l = NULL;
  type_list given = {NULL, 0, WSR_ANY};
  NEED(wsr_read_byte(&w->r, &kind));
  if (kind > 3) return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "malformed catch clause");
  if (kind < 2) NEED(read_tag(w, &tag, &given));
  NEED(wsr_read_u32(&w->r, &index) && find_label(w, index, &l));
  const type_list types = label_types(l);
  const uint32_t reference = kind & 1;
  bool fits = types.n == given.n + reference;
  for (uint32_t i = 0; fits && i < given.n; i++)
    fits = wsr_is_subtype(w->m->subtypes, type_at(&given, i), type_at(&types, i));
  if (fits && reference)
    fits = wsr_is_subtype(w->m->subtypes, WSR_EXNREF | WSR_NOT_NULL, type_at(&types, given.n));
  if (!fits) return invalid(w, "type mismatch: a catch gives its label other values");
  if (try_ == WSR_NONE) return true;
  wsr_emitter *e = w->walk->emitter;
  const uint32_t target = wsr_emit_target(e, w->local_slots + l->slots);
  wsr_emit_catch(e, try_, last, reference ? WSR_CATCH_REF : WSR_CATCH, tag, target);
  if (e->failed) return true;
  if (l->op == WSR_OP_LOOP)
    e->targets[target].cell = l->first;
  else
    wsr_add_fixup(e, &l->fixups, target, true);
  return true;
}

/* try_table, and legacy try. */
static bool do_try(walker *w, uint32_t op) {
  type_list params, results;
  uint32_t n = 0, last = WSR_NONE, try_ = WSR_NONE;
  NEED(read_block_type(w, &params, &results));
  if (live(w)) {
    emit(w, op, 0, top(w), 0, 0);
    try_ = wsr_open_try(w->walk->emitter, w->labels[w->depth - 1].handler);
  }
  if (op == WSR_OP_TRY_TABLE) NEED(wsr_read_u32(&w->r, &n));
  for (uint32_t i = 0; i < n; i++) NEED(read_catch(w, try_, &last));
  NEED(pop_all(w, params));
  NEED(push_label(w, op, params, results, WSR_NONE));
  label *l = &w->labels[w->depth - 1];
  l->own = try_;
  if (try_ != WSR_NONE) l->handler = try_;
  return true;
}

/* The label outside the innermost one. */
static const label *outer_label(const walker *w) { return &w->labels[w->depth - 2]; }

/* A legacy catch or catch_all: the block before it ends, and a new one begins. */
static bool do_catch(walker *w, uint32_t op) {
  label *l = &w->labels[w->depth - 1];
  if (l->op != WSR_OP_TRY && l->op != WSR_OP_CATCH)
    return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "catch without try");
  uint32_t tag = WSR_NONE;
  type_list params = {NULL, 0, WSR_ANY};
  if (op == WSR_OP_CATCH) NEED(read_tag(w, &tag, &params));
  wsr_emitter *e = w->walk->emitter;
  if (l->op == WSR_OP_CATCH) leave_catch(w, l);
  NEED(end_of_block(w, l));
  if (l->op == WSR_OP_TRY) {
    close_try(w, l);
    const uint32_t jump = emit(w, WSR_OP_JUMP, 0, 0, 0, 0);
    if (jump != WSR_NONE) wsr_add_fixup(e, &l->fixups, jump, false);
  }
  forget_set(w, l);
  l->op = op;
  l->unreachable = false;
  l->hidden = 1;
  l->handler = outer_label(w)->handler;
  if (l->own != WSR_NONE) {
    const uint32_t target = wsr_emit_target(e, w->local_slots + l->slots);
    if (!e->failed) e->targets[target].cell = e->n_cells;
    wsr_emit_catch(e, l->own, &l->last, WSR_CATCH_LEGACY, tag, target);
  }
  NEED(push(w, WSR_EXNREF | WSR_NOT_NULL));
  return push_all(w, params);
}

/* The end of a legacy try without catches: an outer try catches instead. */
static bool do_delegate(walker *w) {
  label *l = &w->labels[w->depth - 1], *to = NULL;
  uint32_t index;
  if (l->op != WSR_OP_TRY)
    return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "delegate without try");
  NEED(wsr_read_u32(&w->r, &index));
  NEED(end_of_block(w, l));
  forget_set(w, l);
  close_try(w, l);
  const uint32_t own = l->own, fixups = l->fixups;
  const bool dead = l->dead;
  const type_list results = l->results;
  w->depth--;
  NEED(find_label(w, index, &to));
  wsr_emitter *e = w->walk->emitter;
  if (own != WSR_NONE && !e->failed) e->tries[own].parent = to->handler;
  if (e && !dead) wsr_resolve(e, fixups);
  return push_all(w, results);
}

/* `*more` becomes false at the end of the function. */
static bool do_end(walker *w, bool *more) {
  label *l = &w->labels[w->depth - 1];
  wsr_emitter *e = w->walk->emitter;
  if (l->hidden) leave_catch(w, l);
  NEED(end_of_block(w, l));
  if (l->op == WSR_OP_TRY_TABLE || l->op == WSR_OP_TRY) close_try(w, l);
  forget_set(w, l);
  if (l->op == WSR_OP_IF) {
    if (!are_subtypes(w, l->params, l->results))
      return invalid(w, "type mismatch: an if without else must give what it takes");
    if (l->test != WSR_NONE && !e->failed) e->cells[l->test].u.p.a = e->n_cells;
  }
  if (e && !l->dead) wsr_resolve(e, l->fixups);
  const type_list results = l->results;
  if (--w->depth) return push_all(w, results);
  if (e)
    wsr_emit(e, WSR_OP_RETURN_AT_END, (uint32_t)w->start, slots_of(results), w->local_slots, 0, 0);
  if (e && w->local_slots + slots_of(results) > e->highest)
    e->highest = w->local_slots + slots_of(results);
  *more = false;
  return true;
}

static bool do_block(walker *w, uint32_t op) {
  type_list params, results;
  NEED(read_block_type(w, &params, &results));
  uint32_t cell = WSR_NONE;
  if (op == WSR_OP_IF) {
    NEED(pop(w, WSR_I32));
    cell = emit(w, op, 0, top(w), 0, 0);
  } else {
    emit(w, op, 0, top(w), 0, 0);
  }
  NEED(pop_all(w, params));
  return push_label(w, op, params, results, cell);
}

static bool do_br_table(walker *w) {
  uint32_t n, index;
  NEED(wsr_read_u32(&w->r, &n));
  if (n > (uint64_t)(w->r.end - w->r.at))
    return wsr_fail(w->r.error, WSR_MALFORMED, wsr_at(&w->r), "length out of bounds");
  NEED(pop(w, WSR_I32));
  wsr_emitter *e = w->walk->emitter;
  const bool emitting = live(w);
  const uint32_t cell = emit(w, WSR_OP_BR_TABLE, 0, top(w), emitting ? e->n_targets : 0, n + 1);
  uint32_t arity = WSR_NONE;
  type_list first = {NULL, 0, WSR_ANY};
  for (uint32_t i = 0; i <= n; i++) {
    label *l = NULL;
    NEED(wsr_read_u32(&w->r, &index));
    NEED(find_label(w, index, &l));
    const type_list types = label_types(l);
    if (arity == WSR_NONE) arity = types.n;
    if (types.n != arity) return invalid(w, "type mismatch: labels of br_table differ in arity");
    /* Check without consuming: pop what the label takes, put it back as it was. Equal labels are
     * checked once, or a hostile table of long types would take minutes. */
    if (i == 0 || !same(types, first)) {
      const uint32_t before = w->n, slots = w->slots;
      NEED(pop_all(w, types));
      w->n = before;
      w->slots = slots;
    }
    if (i == 0) first = types;
    if (!emitting) continue;
    const uint32_t target = wsr_emit_target(e, w->local_slots + l->slots);
    if (l->op != WSR_OP_LOOP) {
      wsr_add_fixup(e, &l->fixups, target, true);
    } else if (!e->failed) {
      e->targets[target].cell = l->first;
    }
  }
  if (emitting && !e->failed) e->cells[cell].n = (uint16_t)slots_of(first);
  set_unreachable(w);
  return true;
}

static bool do_return(walker *w) {
  const label *function = &w->labels[0];
  const uint32_t n = slots_of(function->results);
  emit(w, WSR_OP_RETURN, n, top(w) - n, 0, 0);
  NEED(pop_all(w, function->results));
  set_unreachable(w);
  return true;
}

/* The type of the length of a copy between two memories or tables. */
static wsr_type length_type(const wsr_bounds *a, const wsr_bounds *b) {
  return a->address64 && b->address64 ? WSR_I64 : WSR_I32;
}

static bool do_call(walker *w, uint32_t op) {
  const bool indirect = op == WSR_OP_CALL_INDIRECT || op == WSR_OP_RETURN_CALL_INDIRECT;
  const bool tail = wsr_is_tail_call(op);
  uint32_t index, table = 0, type;
  NEED(wsr_read_u32(&w->r, &index));
  if (indirect) {
    NEED(wsr_read_u32(&w->r, &table));
    if (table >= w->m->n.tables) return unknown(w, "table", table);
    if (!wsr_is_subtype(w->m->subtypes, w->m->tables[table].type, WSR_FUNCREF))
      return invalid(w, "type mismatch: call_indirect needs a table of funcref");
    if (!wsr_is_function_type(w->m, index)) return unknown(w, "type", index);
    NEED(pop(w, wsr_address_type(&w->m->tables[table])));
    type = index;
  } else if (op == WSR_OP_CALL_REF || op == WSR_OP_RETURN_CALL_REF) {
    if (!wsr_is_function_type(w->m, index)) return unknown(w, "type", index);
    NEED(pop(w, wsr_reference_to(w->m->subtypes[index].canonical, true)));
    type = index;
  } else {
    if (index >= w->m->n.functions) return unknown(w, "function", index);
    type = w->m->functions[index].type;
  }
  const type_list params = params_of(&w->m->types[type]);
  const type_list results = results_of(&w->m->types[type]);
  if (tail && !are_subtypes(w, results, w->labels[0].results))
    return invalid(w, "type mismatch: a tail call must return what its function returns");
  const uint32_t n = slots_of(params);
  emit(w, op, n, top(w) - n, index, table);
  NEED(pop_all(w, params));
  if (!tail) return push_all(w, results);
  wsr_emitter *e = w->walk->emitter; /* a host function's results replace its arguments */
  if (e && top(w) + slots_of(results) > e->highest) e->highest = top(w) + slots_of(results);
  set_unreachable(w);
  return true;
}

static bool is_reference(wsr_type type) {
  return type == WSR_ANY_REFERENCE || wsr_is_reference(type);
}

static bool do_select(walker *w, bool typed) {
  wsr_type type = WSR_ANY, other;
  if (typed) {
    uint32_t n;
    NEED(wsr_read_u32(&w->r, &n));
    if (n != 1) return invalid(w, "invalid result arity: select gives one value");
    NEED(wsr_read_value_type(w->m, &w->r, &type));
  }
  NEED(pop(w, WSR_I32));
  if (typed) {
    NEED(pop(w, type) && pop(w, type));
  } else {
    NEED(pop_any(w, &type) && pop_any(w, &other));
    if (is_reference(type) || is_reference(other))
      return invalid(w, "type mismatch: select of references needs a type");
    if (type == WSR_ANY) type = other;
    if (other != WSR_ANY && other != type)
      return invalid(w, "type mismatch: the operands of select differ");
  }
  emit(w, type == WSR_V128 ? WSR_OP_SELECT_V128 : WSR_OP_SELECT, 0, top(w), 0, 0);
  return push(w, type);
}

static bool do_local(walker *w, uint32_t op) {
  uint32_t index;
  NEED(wsr_read_u32(&w->r, &index));
  if (index >= w->n_locals) return unknown(w, "local", index);
  const wsr_type type = w->locals[index];
  if (op != WSR_OP_LOCAL_GET) {
    NEED(pop(w, type));
    if (w->unset[index]) {
      if (!wsr_array_reserve(&w->set, &w->set_room, w->n_set + 1, sizeof *w->set))
        return no_memory(w);
      w->set[w->n_set++] = index;
      w->unset[index] = 0;
    }
  } else if (w->unset[index]) {
    return wsr_fail(w->r.error, WSR_INVALID, w->start, "uninitialized local %u", index);
  }
  const uint32_t row = type != WSR_V128         ? op
                       : op == WSR_OP_LOCAL_GET ? WSR_OP_LOCAL_GET_V128
                       : op == WSR_OP_LOCAL_SET ? WSR_OP_LOCAL_SET_V128
                                                : WSR_OP_LOCAL_TEE_V128;
  emit(w, row, 0, top(w), w->local_slot[index], 0);
  return op == WSR_OP_LOCAL_SET ? true : push(w, type);
}

static bool do_global(walker *w, uint32_t op) {
  uint32_t index;
  NEED(wsr_read_u32(&w->r, &index));
  if (index >= w->m->n.globals) return unknown(w, "global", index);
  const wsr_global_type *type = &w->m->globals[index].type;
  if (op == WSR_OP_GLOBAL_SET) {
    if (!type->mutability) return invalid(w, "immutable global");
    NEED(pop(w, type->type));
  }
  const uint32_t row = type->type != WSR_V128    ? op
                       : op == WSR_OP_GLOBAL_GET ? WSR_OP_GLOBAL_GET_V128
                                                 : WSR_OP_GLOBAL_SET_V128;
  emit(w, row, 0, top(w), index, 0);
  return op == WSR_OP_GLOBAL_SET ? true : push(w, type->type);
}

static bool read_table(walker *w, uint32_t *index, wsr_type *type) {
  NEED(wsr_read_u32(&w->r, index));
  if (*index >= w->m->n.tables) return unknown(w, "table", *index);
  *type = w->m->tables[*index].type;
  return true;
}

static bool do_table(walker *w, uint32_t op) {
  uint32_t index, other = 0;
  wsr_type type, from;
  if (op == WSR_OP_TABLE_INIT) {
    NEED(wsr_read_u32(&w->r, &other));
    if (other >= w->m->n.elements) return unknown(w, "elem segment", other);
  }
  NEED(read_table(w, &index, &type));
  const wsr_bounds *table = &w->m->tables[index], *source;
  const wsr_type at = wsr_address_type(table);
  switch (op) {
    case WSR_OP_TABLE_GET: NEED(pop(w, at)); break;
    case WSR_OP_TABLE_SET: NEED(pop(w, type) && pop(w, at)); break;
    case WSR_OP_TABLE_SIZE: break;
    case WSR_OP_TABLE_GROW: NEED(pop(w, at) && pop(w, type)); break;
    case WSR_OP_TABLE_FILL: NEED(pop(w, at) && pop(w, type) && pop(w, at)); break;
    case WSR_OP_TABLE_COPY:
      NEED(read_table(w, &other, &from));
      if (!wsr_is_subtype(w->m->subtypes, from, type))
        return invalid(w, "type mismatch: the tables differ in type");
      source = &w->m->tables[other];
      NEED(pop(w, length_type(table, source)) && pop(w, wsr_address_type(source)) && pop(w, at));
      break;
    default: /* table.init */
      if (!wsr_is_subtype(w->m->subtypes, w->m->elements[other].type, type))
        return invalid(w, "type mismatch: the segment's type is not the table's");
      NEED(pop(w, WSR_I32) && pop(w, WSR_I32) && pop(w, at));
      break;
  }
  emit(w, op, 0, top(w), index, other);
  if (op == WSR_OP_TABLE_GET) return push(w, type);
  return op == WSR_OP_TABLE_SIZE || op == WSR_OP_TABLE_GROW ? push(w, at) : true;
}

/* The memory's bounds, NULL with the error set where there is none. */
static const wsr_bounds *need_memory(walker *w, uint32_t index) {
  if (index < w->m->n.memories) return &w->m->memories[index];
  unknown(w, "memory", index);
  return NULL;
}

static bool read_data_index(walker *w, uint32_t *index) {
  NEED(wsr_read_u32(&w->r, index));
  if (w->m->n_data_declared == WSR_NONE)
    return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "data count section required");
  return *index < w->m->n_data_declared ? true : unknown(w, "data segment", *index);
}

/* Section 5.4.6: alignment, memory index if bit 6 says so, offset. `memory` is what a cell has in
 * n. */
static bool read_memarg(walker *w, const wsr_opcode_row *row, uint64_t *offset, uint32_t *memory,
                        wsr_type *address) {
  enum { HAS_MEMORY = 64, END = 128 };
  uint32_t align, index = 0;
  NEED(wsr_read_u32(&w->r, &align));
  if (align >= END) return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "malformed memop flags");
  if (align & HAS_MEMORY) {
    NEED(wsr_use(&w->r, w->start, WSR_FEATURE_MULTI_MEMORY));
    NEED(wsr_read_u32(&w->r, &index));
    align &= ~(uint32_t)HAS_MEMORY;
  }
  const wsr_bounds *bounds = need_memory(w, index);
  NEED(bounds);
  if (align >= 32 || (1U << align) > row->width)
    return invalid(w, "alignment must not be larger than natural");
  if (row->kind == WSR_KIND_ATOMIC && (1U << align) != row->width)
    return invalid(w, "atomic alignment must be natural");
  NEED(wsr_read_unsigned(&w->r, 64, offset));
  if (!bounds->address64 && *offset > UINT32_MAX) return invalid(w, "offset out of range");
  *memory = index || bounds->address64 ? index + 1 : 0;
  *address = wsr_address_type(bounds);
  return true;
}

static bool do_memory(walker *w, uint32_t op) {
  uint32_t index, other = 0;
  if (op == WSR_OP_MEMORY_INIT) NEED(read_data_index(w, &other));
  NEED(wsr_read_u32(&w->r, &index));
  const wsr_bounds *memory = need_memory(w, index), *source;
  NEED(memory);
  const wsr_type at = wsr_address_type(memory);
  switch (op) {
    case WSR_OP_MEMORY_SIZE: break;
    case WSR_OP_MEMORY_GROW: NEED(pop(w, at)); break;
    case WSR_OP_MEMORY_FILL: NEED(pop(w, at) && pop(w, WSR_I32) && pop(w, at)); break;
    case WSR_OP_MEMORY_COPY:
      NEED(wsr_read_u32(&w->r, &other));
      NEED(source = need_memory(w, other));
      NEED(pop(w, length_type(memory, source)) && pop(w, wsr_address_type(source)) && pop(w, at));
      break;
    default: NEED(pop(w, WSR_I32) && pop(w, WSR_I32) && pop(w, at)); break; /* memory.init */
  }
  emit(w, op, 0, top(w), index, other);
  return op == WSR_OP_MEMORY_SIZE || op == WSR_OP_MEMORY_GROW ? push(w, at) : true;
}

static bool read_lane(walker *w, uint32_t n, uint64_t *lane) {
  uint8_t byte = 0;
  NEED(wsr_read_byte(&w->r, &byte));
  *lane = byte;
  return byte < n ? true : invalid(w, "invalid lane index");
}

/* 16 bytes follow the opcode; the cell knows where they are in the module. */
static bool read_bytes(walker *w, uint32_t op, uint64_t *at) {
  *at = wsr_at(&w->r);
  for (int i = 0; i < 16; i++) {
    uint8_t byte = 0;
    NEED(wsr_read_byte(&w->r, &byte));
    if (op == WSR_OP_I8X16_SHUFFLE && byte >= 32) return invalid(w, "invalid lane index");
  }
  return true;
}

static bool read_zero(walker *w) {
  uint8_t byte = 0;
  NEED(wsr_read_byte(&w->r, &byte));
  return byte ? wsr_fail(w->r.error, WSR_MALFORMED, w->start, "zero byte expected") : true;
}

/* Wide arithmetic: four halves or two factors become two halves, low half first. */
static bool do_wide(walker *w, uint32_t op) {
  const bool factors = op == WSR_OP_I64_MUL_WIDE_S || op == WSR_OP_I64_MUL_WIDE_U;
  for (int i = factors ? 2 : 4; i > 0; i--) NEED(pop(w, WSR_I64));
  emit(w, op, 0, top(w), 0, 0);
  return push(w, WSR_I64) && push(w, WSR_I64);
}

/* Instructions whose operand types are in the opcode table. */
static bool do_row(walker *w, uint32_t op) {
  const wsr_opcode_row *row = &wsr_opcode_table[op];
  uint64_t imm = 0;
  uint32_t n = 0;
  wsr_type first = row->params[0]; /* the address of a load or store has the type of its memory */
  int64_t number;
  switch (row->immediate) {
    case WSR_IMM_I32:
      NEED(wsr_read_signed(&w->r, 32, &number));
      imm = (uint32_t)number;
      break;
    case WSR_IMM_I64:
      NEED(wsr_read_signed(&w->r, 64, &number));
      imm = (uint64_t)number;
      break;
    case WSR_IMM_F32:
    case WSR_IMM_F64: {
      const uint32_t width = row->immediate == WSR_IMM_F32 ? 4 : 8;
      if ((uint64_t)(w->r.end - w->r.at) < width)
        return wsr_fail(w->r.error, WSR_MALFORMED, wsr_at(&w->r), "unexpected end");
      for (uint32_t i = 0; i < width; i++) imm |= (uint64_t)w->r.at[i] << (8 * i);
      w->r.at += width;
      break;
    }
    case WSR_IMM_MEMARG: NEED(read_memarg(w, row, &imm, &n, &first)); break;
    case WSR_IMM_MEMARG_LANE: {
      uint64_t lane = 0;
      NEED(read_memarg(w, row, &imm, &n, &first));
      NEED(read_lane(w, 16 / row->width, &lane));
      imm = wsr_offset_and_lane(imm, (uint32_t)lane);
      break;
    }
    case WSR_IMM_LANE: NEED(read_lane(w, 16 / row->width, &imm)); break;
    case WSR_IMM_V128:
    case WSR_IMM_LANES: NEED(read_bytes(w, op, &imm)); break;
    case WSR_IMM_ZERO: NEED(read_zero(w)); break;
    default: break;
  }
  for (uint32_t i = row->n_params; i-- > 1;) NEED(pop(w, row->params[i]));
  if (row->n_params) NEED(pop(w, first));
  const uint32_t cell = emit(w, op, n, top(w), 0, 0);
  wsr_emitter *e = w->walk->emitter;
  if (cell != WSR_NONE && !e->failed) e->cells[cell].u.imm = imm;
  if (row->nan && e && e->deterministic) emit(w, row->nan, 0, top(w), 0, 0);
  return row->result ? push(w, row->result) : true;
}

static bool do_reference(walker *w, uint32_t op) {
  uint32_t index = 0;
  wsr_type type;
  switch (op) {
    case WSR_OP_REF_NULL: NEED(wsr_read_heap_type(w->m, &w->r, &type)); break;
    case WSR_OP_REF_FUNC:
      NEED(wsr_read_u32(&w->r, &index));
      if (index >= w->m->n.functions) return unknown(w, "function", index);
      if (!w->m->declared[index]) return invalid(w, "undeclared function reference");
      type = wsr_reference_to(w->m->subtypes[w->m->functions[index].type].canonical, false);
      break;
    default: /* ref.is_null and ref.as_non_null */
      NEED(pop_any(w, &type));
      if (type != WSR_ANY && !is_reference(type))
        return invalid(w, "type mismatch: the instruction takes a reference");
      type = op == WSR_OP_REF_IS_NULL ? WSR_I32 : type | WSR_NOT_NULL;
      break;
  }
  emit(w, op, 0, top(w), index, 0);
  return push(w, type);
}

static bool do_branch(walker *w, uint32_t op) {
  uint32_t index;
  label *l = NULL;
  NEED(wsr_read_u32(&w->r, &index));
  if (op == WSR_OP_BR_IF) NEED(pop(w, WSR_I32));
  NEED(find_label(w, index, &l));
  const type_list types = label_types(l);
  const uint32_t cell = emit(w, op, slots_of(types), top(w), 0, 0);
  NEED(pop_all(w, types));
  aim(w, cell, l);
  if (op == WSR_OP_BR_IF) return push_all(w, types);
  set_unreachable(w);
  return true;
}

/* br_on_null and br_on_non_null: the reference is under no other operand; the label of the second
 * takes it. */
static bool do_branch_on(walker *w, uint32_t op) {
  uint32_t index;
  label *l = NULL;
  wsr_type type;
  NEED(wsr_read_u32(&w->r, &index) && find_label(w, index, &l));
  type_list types = label_types(l);
  const bool taken = op == WSR_OP_BR_ON_NON_NULL;
  const wsr_type last = types.n ? type_at(&types, types.n - 1) : WSR_ANY;
  if (taken && !is_reference(last))
    return invalid(w, "type mismatch: the label of br_on_non_null takes no reference");
  NEED(pop_any(w, &type));
  if (type != WSR_ANY && !is_reference(type))
    return invalid(w, "type mismatch: the instruction takes a reference");
  type |= WSR_NOT_NULL;
  if (taken && !wsr_is_subtype(w->m->subtypes, type, last))
    return invalid(w, "type mismatch: the label takes another reference");
  const uint32_t cell = emit(w, op, slots_of(types), top(w), 0, 0);
  if (taken) types.n--;
  NEED(pop_all(w, types));
  aim(w, cell, l);
  NEED(push_all(w, types));
  return taken ? true : push(w, type);
}

static bool do_segment_drop(walker *w, uint32_t op) {
  uint32_t index;
  if (op == WSR_OP_DATA_DROP) {
    NEED(read_data_index(w, &index));
  } else {
    NEED(wsr_read_u32(&w->r, &index));
    if (index >= w->m->n.elements) return unknown(w, "elem segment", index);
  }
  emit(w, op, 0, top(w), index, 0);
  return true;
}

static bool step(walker *w, uint32_t op, bool *more) {
  wsr_type type;
  switch (op) {
    case WSR_OP_UNREACHABLE:
      emit(w, op, 0, top(w), 0, 0);
      set_unreachable(w);
      return true;
    case WSR_OP_BLOCK:
    case WSR_OP_LOOP:
    case WSR_OP_IF: return do_block(w, op);
    case WSR_OP_TRY_TABLE:
    case WSR_OP_TRY: return do_try(w, op);
    case WSR_OP_CATCH:
    case WSR_OP_CATCH_ALL: return do_catch(w, op);
    case WSR_OP_DELEGATE: return do_delegate(w);
    case WSR_OP_THROW:
    case WSR_OP_THROW_REF:
    case WSR_OP_RETHROW: return do_throw(w, op);
    case WSR_OP_ELSE: return do_else(w);
    case WSR_OP_END: return do_end(w, more);
    case WSR_OP_BR:
    case WSR_OP_BR_IF: return do_branch(w, op);
    case WSR_OP_BR_TABLE: return do_br_table(w);
    case WSR_OP_RETURN: return do_return(w);
    case WSR_OP_CALL:
    case WSR_OP_CALL_INDIRECT:
    case WSR_OP_CALL_REF:
    case WSR_OP_RETURN_CALL:
    case WSR_OP_RETURN_CALL_INDIRECT:
    case WSR_OP_RETURN_CALL_REF: return do_call(w, op);
    case WSR_OP_BR_ON_NULL:
    case WSR_OP_BR_ON_NON_NULL: return do_branch_on(w, op);
    case WSR_OP_REF_NULL:
    case WSR_OP_REF_IS_NULL:
    case WSR_OP_REF_AS_NON_NULL:
    case WSR_OP_REF_FUNC: return do_reference(w, op);
    case WSR_OP_DROP:
      NEED(pop_any(w, &type));
      emit(w, op, 0, top(w), 0, 0);
      return true;
    case WSR_OP_SELECT: return do_select(w, false);
    case WSR_OP_SELECT_T: return do_select(w, true);
    case WSR_OP_LOCAL_GET:
    case WSR_OP_LOCAL_SET:
    case WSR_OP_LOCAL_TEE: return do_local(w, op);
    case WSR_OP_GLOBAL_GET:
    case WSR_OP_GLOBAL_SET: return do_global(w, op);
    case WSR_OP_TABLE_GET:
    case WSR_OP_TABLE_SET:
    case WSR_OP_TABLE_INIT:
    case WSR_OP_TABLE_COPY:
    case WSR_OP_TABLE_GROW:
    case WSR_OP_TABLE_SIZE:
    case WSR_OP_TABLE_FILL: return do_table(w, op);
    case WSR_OP_MEMORY_SIZE:
    case WSR_OP_MEMORY_GROW:
    case WSR_OP_MEMORY_FILL:
    case WSR_OP_MEMORY_COPY:
    case WSR_OP_MEMORY_INIT: return do_memory(w, op);
    case WSR_OP_I64_ADD128:
    case WSR_OP_I64_SUB128:
    case WSR_OP_I64_MUL_WIDE_S:
    case WSR_OP_I64_MUL_WIDE_U: return do_wide(w, op);
    case WSR_OP_DATA_DROP:
    case WSR_OP_ELEM_DROP: return do_segment_drop(w, op);
    default: return do_row(w, op);
  }
}

/* Add `count` locals of a type; the caller has checked their number. */
static bool add_locals(walker *w, const wsr_type *types, wsr_type type, uint32_t count,
                       bool parameters) {
  const uint32_t n = w->n_locals + count;
  if (!wsr_array_reserve(&w->locals, &w->local_room, n, sizeof *w->locals) ||
      !wsr_array_reserve(&w->local_slot, &w->slot_room, n, sizeof *w->local_slot) ||
      !wsr_array_reserve(&w->unset, &w->unset_room, n, 1))
    return no_memory(w);
  for (; w->n_locals < n; w->n_locals++) {
    if (types) type = *types++;
    w->locals[w->n_locals] = type;
    w->local_slot[w->n_locals] = w->local_slots;
    w->unset[w->n_locals] = !parameters && type & WSR_NOT_NULL;
    w->local_slots += wsr_slots(type);
  }
  return true;
}

/* Read the declarations of the locals that follow the parameters. */
static bool read_locals(walker *w, type_list params) {
  w->n_locals = w->local_slots = w->n_set = 0;
  NEED(add_locals(w, params.types, WSR_ANY, params.n, true));
  uint32_t groups;
  uint64_t total = params.n;
  NEED(wsr_read_u32(&w->r, &groups));
  const uint8_t *first = w->r.at;
  for (int pass = 0; pass < 2;
       pass++) { /* the first pass only adds up: a hostile count then allocates nothing */
    w->r.at = first;
    for (uint32_t i = 0; i < groups; i++) {
      uint32_t count;
      wsr_type local;
      NEED(wsr_read_u32(&w->r, &count) && wsr_read_value_type(w->m, &w->r, &local));
      if (pass == 0) {
        total += count;
        if (total > UINT32_MAX)
          return wsr_fail(w->r.error, WSR_MALFORMED, w->start, "too many locals");
      } else {
        NEED(add_locals(w, NULL, local, count, false));
      }
    }
    if (pass == 0 && total > WSR_MAX_LOCALS)
      return wsr_fail(w->r.error, WSR_LIMIT, w->start,
                      "a function has %llu locals; %u is the limit", (unsigned long long)total,
                      WSR_MAX_LOCALS);
  }
  return true;
}

wsr_walker *wsr_walker_new(void) { return calloc(1, sizeof(wsr_walker)); }

void wsr_walker_free(wsr_walker *w) {
  if (!w) return;
  free(w->types);
  free(w->entries);
  free(w->labels);
  free(w->locals);
  free(w->local_slot);
  free(w->unset);
  free(w->set);
  free(w);
}

bool wsr_walk_body(wsr_walker *w, wsr_walk *walk, wsr_error *error) {
  const wsr_module *m = walk->module;
  const wsr_function_def *f = &m->functions[walk->function];
  const wsr_composite_type *type = &m->types[f->type];
  w->m = m;
  w->walk = walk;
  w->r = (wsr_reader){m->bytes, m->bytes + f->body, m->bytes + f->end, error, m->off, walk->used};
  w->n = w->depth = w->slots = 0;
  w->start = f->body;
  walk->n_types = WSR_NONE;
  NEED(read_locals(w, params_of(type)));
  walk->n_locals = w->n_locals;
  walk->local_slots = w->local_slots;
  walk->locals = w->locals;
  if (walk->emitter) walk->emitter->highest = w->local_slots;
  NEED(push_label(w, WSR_OP_CALL, (type_list){NULL, 0, WSR_ANY}, results_of(type), WSR_NONE));
  bool more = true;
  uint32_t cell = 0;
  for (uint32_t turn = 0; more; turn++) {
    uint32_t op;
    w->start = wsr_at(&w->r);
    if (walk->map) cell = note_operands(w, cell);
    if (walk->emitter && wsr_pause_requested_at(walk->emitter->interrupt, turn)) return false;
    if (w->start >= walk->stop) {
      const label *l = &w->labels[w->depth - 1];
      if (w->start == walk->stop && !l->unreachable && !l->dead) {
        walk->n_types = w->n;
        if (w->n)
          memcpy(walk->types_out, w->types,
                 (w->n < walk->room ? w->n : walk->room) * sizeof *w->types);
      }
      return true;
    }
    NEED(wsr_read_opcode(&w->r, &op));
    NEED(step(w, op, &more));
  }
  if (w->r.at != w->r.end)
    return wsr_fail(error, WSR_MALFORMED, wsr_at(&w->r), "END opcode expected");
  return true;
}

static const char NO_MEMORY[] = "no memory left to validate the module";

bool wsr_validate_function(const wsr_module *m, uint32_t function, uint64_t *used,
                           wsr_error *error) {
  wsr_walker *w = wsr_walker_new();
  if (!w) return wsr_fail(error, WSR_MEMORY, UINT64_MAX, NO_MEMORY);
  wsr_walk walk = {.module = m, .function = function, .stop = WSR_NONE, .used = used};
  const bool good = wsr_walk_body(w, &walk, error);
  wsr_walker_free(w);
  return good;
}

int wsr_validate(wsr_module *m, uint64_t bytes, uint64_t *used, wsr_error *error) {
  wsr_walker *w = wsr_walker_new();
  if (!w) {
    wsr_fail(error, WSR_MEMORY, UINT64_MAX, NO_MEMORY);
    return -1;
  }
  bool good = true;
  const uint32_t own = m->n.functions - m->n.imported_functions;
  for (uint64_t done = 0; good && m->n_validated < own && done < bytes;) {
    const uint32_t f = m->n.imported_functions + m->n_validated;
    wsr_walk walk = {.module = m, .function = f, .stop = WSR_NONE, .used = used};
    good = wsr_walk_body(w, &walk, error);
    if (good) m->n_validated++;
    done += m->functions[f].end - m->functions[f].body;
  }
  wsr_walker_free(w);
  return good ? m->n_validated == own : -1;
}

uint32_t wsr_types_before(const wsr_module *m, uint32_t function, uint32_t offset, wsr_type *types,
                          uint32_t room) {
  wsr_walker *w = wsr_walker_new();
  if (!w) return WSR_NONE;
  wsr_walk walk = {
      .module = m, .function = function, .stop = offset, .types_out = types, .room = room};
  const bool good = wsr_walk_body(w, &walk, NULL);
  wsr_walker_free(w);
  return good ? walk.n_types : WSR_NONE;
}

wsr_operand_map *wsr_map_operands(const wsr_module *m, const wsr_code *code) {
  wsr_walker *w = wsr_walker_new();
  wsr_operand_map *map = malloc(sizeof *map + code->n_cells * sizeof *map->top);
  if (map) {
    *map = (wsr_operand_map){.operands = NULL};
    for (uint32_t i = 0; i < code->n_cells; i++) map->top[i] = WSR_UNREACHED;
  }
  wsr_walk walk = {
      .module = m, .function = code->function, .stop = WSR_NONE, .map = map, .code = code};
  const bool good = w && map && wsr_walk_body(w, &walk, NULL);
  wsr_walker_free(w);
  if (good) return map;
  wsr_operand_map_free(map);
  return NULL;
}

void wsr_operand_map_free(wsr_operand_map *map) {
  if (!map) return;
  free(map->operands);
  free(map);
}
