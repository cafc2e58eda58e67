/* The store: allocating instances, and beginning and ending invocations.
 * Between the module (derived) and the hot loop (_core.c). Imports have been resolved and checked by
 * the caller. Source: WebAssembly specification, section 4.5 (Modules). */
#include "store.h"

#include <stdlib.h>

static uint32_t no_memory(wsr_error *error) {
  wsr_fail(error, WSR_MEMORY, UINT64_MAX, "no memory left for the store");
  return WSR_NONE;
}

static bool room(void *array, uint32_t *have, uint32_t need, size_t size) {
  void **pointer = array;
  if (need <= *have) return true;
  const uint32_t wanted = need < 16 ? 16 : need + need / 2;
  void *grown = realloc(*pointer, wanted * size);
  if (!grown) return false;
  *pointer = grown;
  *have = wanted;
  return true;
}

/* One slot more than the limit: fast code zeroes locals in pairs. */
static size_t stack_bytes(const wsr_limits *limits) {
  return ((size_t)limits->stack_slots + 1) * sizeof(uint64_t);
}

wsr_store *wsr_store_new(const wsr_limits *limits, wsr_error *error) {
  *error = (wsr_error){.kind = WSR_OK, .offset = UINT64_MAX};
  wsr_store *store = calloc(1, sizeof *store);
  if (!store) return no_memory(error), NULL;
  store->limits = *limits;
  const size_t stack = stack_bytes(limits);
  const size_t frames = limits->stack_frames * sizeof *store->frames;
  store->stack = wsr_reserve(stack);
  const size_t returns = limits->stack_frames * sizeof *store->returns;
  store->frames = wsr_reserve(frames);
  store->returns = wsr_reserve(returns);
  store->stack_end = store->stack + limits->stack_slots;
  if (!store->stack || !store->frames || !store->returns || !wsr_commit(store->stack, stack) ||
      !wsr_commit(store->frames, frames) || !wsr_commit(store->returns, returns)) {
    wsr_store_free(store);
    no_memory(error);
    return NULL;
  }
  return store;
}

static void free_instance(wsr_instance *i) {
  if (!i) return;
  for (uint32_t k = 0; i->elements && k < i->module->n.elements; k++) free(i->elements[k]);
  free(i->elements);
  free(i->functions);
  free(i->tables);
  free(i->memories);
  free(i->globals);
  free(i->types);
  free(i->dropped_elements);
  free(i->dropped_data);
  wsr_module_free(i->module);
  free(i);
}

/* Free all but the first so many tables and memories. */
static void drop_parts(wsr_store *store, uint32_t tables, uint32_t memories) {
  while (store->n_tables > tables) {
    wsr_table_instance *table = store->tables[--store->n_tables];
    free(table->elements);
    free(table);
  }
  while (store->n_memories > memories) {
    wsr_memory_instance *memory = store->memories[--store->n_memories];
    wsr_release(memory->data, memory->reserved);
    free(memory);
  }
}

void wsr_store_free(wsr_store *store) {
  if (!store) return;
  for (uint32_t i = 0; i < store->n_instances; i++) free_instance(store->instances[i]);
  drop_parts(store, 0, 0);
  for (uint32_t i = 0; i < store->n_types; i++) {
    free((void *)(uintptr_t)store->types[i].params);
    free((void *)(uintptr_t)store->types[i].results);
  }
  free(store->types);
  free(store->type_slots);
  free(store->functions);
  free(store->fast[0]);
  free(store->fast[1]);
  free(store->instances);
  free(store->tables);
  free(store->memories);
  free(store->globals);
  wsr_release(store->stack, stack_bytes(&store->limits));
  wsr_release(store->frames, store->limits.stack_frames * sizeof *store->frames);
  wsr_release(store->returns, store->limits.stack_frames * sizeof *store->returns);
  free(store->scratch_types);
  free(store->scratch_values);
  free(store);
}

static bool same_types(const uint8_t *a, uint32_t n, const uint8_t *b, uint32_t m) {
  return n == m && (n == 0 || memcmp(a, b, n) == 0);
}

static uint8_t *copy_types(const uint8_t *types, uint32_t n) {
  uint8_t *copy = malloc((size_t)n + 1);
  if (copy && n) memcpy(copy, types, n);
  return copy;
}

/* FNV-1a over both lists and the place where they meet. */
static uint32_t type_hash(const wsr_function_type *type) {
  uint32_t hash = 2166136261U;
  for (uint32_t i = 0; i < type->n_params; i++) hash = (hash ^ type->params[i]) * 16777619U;
  hash = (hash ^ 0xFFU) * 16777619U;
  for (uint32_t i = 0; i < type->n_results; i++) hash = (hash ^ type->results[i]) * 16777619U;
  return hash;
}

/* Where the type stands in the hash table, or the free place where it belongs. */
static uint32_t type_slot(const wsr_store *store, const wsr_function_type *type) {
  uint32_t at = type_hash(type) & (store->n_type_slots - 1);
  for (; store->type_slots[at]; at = (at + 1) & (store->n_type_slots - 1)) {
    const wsr_function_type *t = &store->types[store->type_slots[at] - 1];
    if (same_types(t->params, t->n_params, type->params, type->n_params) &&
        same_types(t->results, t->n_results, type->results, type->n_results))
      break;
  }
  return at;
}

static bool grow_type_slots(wsr_store *store) {
  if (2 * (store->n_types + 1) <= store->n_type_slots) return true;
  const uint32_t n = store->n_type_slots ? 2 * store->n_type_slots : 64;
  uint32_t *slots = calloc(n, sizeof *slots);
  if (!slots) return false;
  free(store->type_slots);
  store->type_slots = slots;
  store->n_type_slots = n;
  for (uint32_t i = 0; i < store->n_types; i++) slots[type_slot(store, &store->types[i])] = i + 1;
  return true;
}

/* The store's number of a function type: equal types have equal numbers. */
static uint32_t type_number(wsr_store *store, const wsr_function_type *type) {
  if (!grow_type_slots(store)) return WSR_NONE;
  const uint32_t slot = type_slot(store, type);
  if (store->type_slots[slot]) return store->type_slots[slot] - 1;
  if (!room(&store->types, &store->room_types, store->n_types + 1, sizeof *store->types))
    return WSR_NONE;
  const wsr_function_type own = {.params = copy_types(type->params, type->n_params),
                                 .results = copy_types(type->results, type->n_results),
                                 .n_params = type->n_params,
                                 .n_results = type->n_results};
  if (!own.params || !own.results) {
    free((void *)(uintptr_t)own.params);
    free((void *)(uintptr_t)own.results);
    return WSR_NONE;
  }
  store->types[store->n_types] = own;
  store->type_slots[slot] = ++store->n_types;
  return store->n_types - 1;
}

/* Room for functions up to `need`, in all arrays that go by their address. */
static bool room_for_functions(wsr_store *store, uint32_t need) {
  const uint32_t had = store->room_functions;
  uint32_t have = had;
  for (int i = 0; i < 2; i++, have = had) {
    if (!room(&store->fast[i], &have, need, sizeof *store->fast[i])) return false;
    if (have > had)
      memset(store->fast[i] + had, 0, ((size_t)have - had) * sizeof *store->fast[i]);
  }
  return room(&store->functions, &store->room_functions, need, sizeof *store->functions);
}

uint32_t wsr_add_host_function(wsr_store *store, const uint8_t *params, uint32_t n_params,
                               const uint8_t *results, uint32_t n_results, wsr_error *error) {
  const wsr_function_type type = {params, results, n_params, n_results};
  const uint32_t number = type_number(store, &type);
  if (number == WSR_NONE || !room_for_functions(store, store->n_functions + 1))
    return no_memory(error);
  store->functions[store->n_functions] =
      (wsr_function_instance){.instance = WSR_NONE, .index = store->n_functions, .type = number};
  return store->n_functions++;
}

uint32_t wsr_add_table(wsr_store *store, const wsr_bounds *bounds, uint32_t size,
                       wsr_error *error) {
  if (size > store->limits.table_elements || (bounds->has_maximum && size > bounds->maximum)) {
    wsr_fail(error, WSR_LIMIT, UINT64_MAX, "a table of %u elements exceeds the limit of %u", size,
             store->limits.table_elements);
    return WSR_NONE;
  }
  wsr_table_instance *table = calloc(1, sizeof *table);
  if (!table) return no_memory(error);
  table->bounds = *bounds;
  table->limit = store->limits.table_elements;
  if (wsr_table_grow(table, size, 0) == UINT32_MAX ||
      !room(&store->tables, &store->room_tables, store->n_tables + 1, sizeof *store->tables)) {
    free(table->elements);
    free(table);
    return no_memory(error);
  }
  store->tables[store->n_tables] = table;
  return store->n_tables++;
}

uint32_t wsr_add_memory(wsr_store *store, const wsr_bounds *bounds, uint32_t pages,
                        wsr_error *error) {
  if (pages > store->limits.memory_pages || (bounds->has_maximum && pages > bounds->maximum)) {
    wsr_fail(error, WSR_LIMIT, UINT64_MAX, "a memory of %u pages exceeds the limit of %u pages",
             pages, store->limits.memory_pages);
    return WSR_NONE;
  }
  wsr_memory_instance *memory = calloc(1, sizeof *memory);
  if (!memory) return no_memory(error);
  memory->bounds = *bounds;
  memory->limit = store->limits.memory_pages;
  if (!wsr_memory_init(memory, pages) ||
      !room(&store->memories, &store->room_memories, store->n_memories + 1,
            sizeof *store->memories)) {
    wsr_release(memory->data, memory->reserved);
    free(memory);
    return no_memory(error);
  }
  store->memories[store->n_memories] = memory;
  return store->n_memories++;
}

uint32_t wsr_add_global(wsr_store *store, uint32_t type, uint32_t mutability, uint64_t value,
                        wsr_error *error) {
  if (!room(&store->globals, &store->room_globals, store->n_globals + 1, sizeof *store->globals))
    return no_memory(error);
  store->globals[store->n_globals] = (wsr_global_instance){type, mutability, value};
  return store->n_globals++;
}

/* Evaluate a validated constant expression. */
static uint64_t evaluate(const wsr_store *store, const wsr_instance *instance, uint32_t offset,
                         uint32_t *end) {
  const wsr_module *m = instance->module;
  wsr_reader r = {m->bytes, m->bytes + offset, m->bytes + m->size, NULL, 0, NULL};
  uint64_t stack[64] = {0};
  uint32_t n = 0;
  for (;;) {
    uint32_t op, index = 0;
    int64_t number = 0;
    if (!wsr_read_opcode(&r, &op) || op == WSR_OP_END) break;
    switch (op) {
      case WSR_OP_I32_CONST:
        wsr_read_signed(&r, 32, &number);
        stack[n++] = (uint32_t)number;
        break;
      case WSR_OP_I64_CONST:
        wsr_read_signed(&r, 64, &number);
        stack[n++] = (uint64_t)number;
        break;
      case WSR_OP_F32_CONST:
      case WSR_OP_F64_CONST: {
        const uint32_t width = op == WSR_OP_F32_CONST ? 4 : 8;
        uint64_t bits = 0;
        for (uint32_t i = 0; i < width; i++) bits |= (uint64_t)r.at[i] << (8 * i);
        r.at += width;
        stack[n++] = bits;
        break;
      }
      case WSR_OP_REF_NULL:
        r.at++;
        stack[n++] = 0;
        break;
      case WSR_OP_REF_FUNC:
        wsr_read_u32(&r, &index);
        stack[n++] = (uint64_t)instance->functions[index] + 1;
        break;
      case WSR_OP_GLOBAL_GET:
        wsr_read_u32(&r, &index);
        stack[n++] = store->globals[instance->globals[index]].value;
        break;
      default: {
        const uint64_t b = stack[--n], a = stack[n - 1];
        uint64_t c = 0;
        switch (op) {
          case WSR_OP_I32_ADD:
          case WSR_OP_I64_ADD: c = a + b; break;
          case WSR_OP_I32_SUB:
          case WSR_OP_I64_SUB: c = a - b; break;
          default: c = a * b; break;
        }
        stack[n - 1] = wsr_rows[op].result == WSR_I32 ? (uint32_t)c : c;
      }
    }
  }
  if (end) *end = (uint32_t)wsr_at(&r);
  return stack[0];
}

static bool evaluate_elements(const wsr_store *store, wsr_instance *instance) {
  const wsr_module *m = instance->module;
  for (uint32_t i = 0; i < m->n.elements; i++) {
    const wsr_element_def *e = &m->elements[i];
    uint64_t *items = malloc(((size_t)e->n_items + 1) * sizeof *items);
    if (!items) return false;
    instance->elements[i] = items;
    wsr_reader r = {m->bytes, m->bytes + e->items, m->bytes + m->size, NULL, 0, NULL};
    uint32_t at = e->items, index = 0;
    for (uint32_t k = 0; k < e->n_items; k++) {
      if (e->expressions) {
        items[k] = evaluate(store, instance, at, &at);
      } else {
        wsr_read_u32(&r, &index);
        items[k] = (uint64_t)instance->functions[index] + 1;
      }
    }
  }
  return true;
}

static bool allocate_arrays(wsr_instance *i) {
  const wsr_counts *n = &i->module->n;
  i->functions = malloc(((size_t)n->functions + 1) * sizeof *i->functions);
  i->tables = malloc(((size_t)n->tables + 1) * sizeof *i->tables);
  i->memories = n->memories ? malloc(n->memories * sizeof *i->memories) : NULL;
  i->globals = malloc(((size_t)n->globals + 1) * sizeof *i->globals);
  i->types = malloc(((size_t)n->types + 1) * sizeof *i->types);
  i->elements = calloc((size_t)n->elements + 1, sizeof *i->elements);
  i->dropped_elements = calloc((size_t)n->elements + 1, 1);
  i->dropped_data = calloc((size_t)n->data + 1, 1);
  return i->functions && i->tables && (i->memories || !n->memories) && i->globals && i->types &&
         i->elements && i->dropped_elements && i->dropped_data;
}

static void copy_indices(uint32_t *to, const uint32_t *from, uint32_t n) {
  if (n) memcpy(to, from, n * sizeof *to);
}

static uint32_t allocate(wsr_store *store, wsr_module *m, const uint32_t *functions,
                         const uint32_t *tables, const uint32_t *memories,
                         const uint32_t *globals, wsr_error *error) {
  *error = (wsr_error){.kind = WSR_OK, .offset = UINT64_MAX};
  wsr_instance *i = calloc(1, sizeof *i);
  if (!i) return no_memory(error);
  i->module = m;
  atomic_fetch_add(&m->uses, 1); /* whatever Python's collector frees first */
  const uint32_t number = store->n_instances;
  const uint32_t own = m->n.functions - m->n.imported_functions;
  if (!allocate_arrays(i) ||
      !room(&store->instances, &store->room_instances, number + 1, sizeof *store->instances) ||
      !room_for_functions(store, store->n_functions + own)) {
    free_instance(i);
    return no_memory(error);
  }
  store->instances[store->n_instances++] = i; /* from here on the store owns it */
  for (uint32_t t = 0; t < m->n.types; t++)
    if ((i->types[t] = type_number(store, &m->types[t])) == WSR_NONE) return no_memory(error);
  copy_indices(i->functions, functions, m->n.imported_functions);
  copy_indices(i->tables, tables, m->n.imported_tables);
  copy_indices(i->memories, memories, m->n.imported_memories);
  copy_indices(i->globals, globals, m->n.imported_globals);
  for (uint32_t f = m->n.imported_functions; f < m->n.functions; f++) {
    store->functions[store->n_functions] = (wsr_function_instance){
        .owner = i, .instance = number, .index = f, .type = i->types[m->functions[f].type]};
    i->functions[f] = store->n_functions++;
  }
  for (uint32_t t = m->n.imported_tables; t < m->n.tables; t++)
    if ((i->tables[t] = wsr_add_table(store, &m->tables[t], m->tables[t].minimum, error)) ==
        WSR_NONE)
      return WSR_NONE;
  for (uint32_t k = m->n.imported_memories; k < m->n.memories; k++)
    if ((i->memories[k] = wsr_add_memory(store, &m->memories[k], m->memories[k].minimum, error)) ==
        WSR_NONE)
      return WSR_NONE;
  for (uint32_t g = m->n.imported_globals; g < m->n.globals; g++) {
    const wsr_global_def *def = &m->globals[g];
    const uint64_t value = evaluate(store, i, def->init, NULL);
    i->globals[g] = wsr_add_global(store, def->type.type, def->type.mutability, value, error);
    if (i->globals[g] == WSR_NONE) return WSR_NONE;
  }
  if (!evaluate_elements(store, i)) return no_memory(error);
  return number;
}

uint32_t wsr_add_instance(wsr_store *store, wsr_module *m, const uint32_t *functions,
                          const uint32_t *tables, const uint32_t *memories,
                          const uint32_t *globals, wsr_error *error) {
  wsr_store_counts before;
  wsr_store_count(store, &before);
  const uint32_t number = allocate(store, m, functions, tables, memories, globals, error);
  if (number != WSR_NONE) return number;
  /* Nothing refers to it yet: the store is again what it was, and the host's numbers agree. */
  while (store->n_instances > before.instances)
    free_instance(store->instances[--store->n_instances]);
  drop_parts(store, before.tables, before.memories);
  store->n_functions = before.functions;
  store->n_globals = before.globals;
  return WSR_NONE;
}

uint32_t wsr_apply_segments(wsr_store *store, uint32_t instance) {
  wsr_instance *i = store->instances[instance];
  const wsr_module *m = i->module;
  for (uint32_t k = 0; k < m->n.elements; k++) {
    const wsr_element_def *e = &m->elements[k];
    if (e->mode == WSR_ACTIVE) {
      const wsr_table_instance *t = store->tables[i->tables[e->table]];
      const uint64_t at = evaluate(store, i, e->at, NULL);
      if (at + e->n_items > t->size) return WSR_TRAP_TABLE_BOUNDS;
      if (e->n_items) memcpy(t->elements + at, i->elements[k], e->n_items * sizeof *t->elements);
    }
    if (e->mode != WSR_PASSIVE) i->dropped_elements[k] = 1;
  }
  for (uint32_t k = 0; k < m->n.data; k++) {
    const wsr_data_def *d = &m->data[k];
    if (d->mode != WSR_ACTIVE) continue;
    const wsr_memory_instance *memory = store->memories[i->memories[d->memory]];
    const uint64_t at = evaluate(store, i, d->at, NULL);
    if (at + d->size > memory->size) return WSR_TRAP_MEMORY_BOUNDS;
    if (d->size) memcpy(memory->data + at, m->bytes + d->bytes, d->size);
    i->dropped_data[k] = 1;
  }
  return WSR_TRAP_NONE;
}

/* ---- looking in and writing ---- */

void wsr_store_count(const wsr_store *store, wsr_store_counts *out) {
  *out = (wsr_store_counts){store->n_functions, store->n_tables, store->n_memories,
                            store->n_globals, store->n_instances};
}

void wsr_function(const wsr_store *store, uint32_t address, wsr_function_view *out) {
  const wsr_function_instance *f = &store->functions[address];
  *out = (wsr_function_view){f->instance == WSR_NONE, f->instance, f->index, store->types[f->type]};
}

void wsr_table(const wsr_store *store, uint32_t address, wsr_table_view *out) {
  const wsr_table_instance *t = store->tables[address];
  *out = (wsr_table_view){t->elements, t->size, t->bounds};
}

void wsr_memory(const wsr_store *store, uint32_t address, wsr_memory_view *out) {
  const wsr_memory_instance *m = store->memories[address];
  *out = (wsr_memory_view){m->data, m->size, m->bounds};
}

void wsr_global(const wsr_store *store, uint32_t address, wsr_global_type *type, uint64_t *value) {
  const wsr_global_instance *g = &store->globals[address];
  *type = (wsr_global_type){g->type, g->mutability};
  *value = g->value;
}

void wsr_set_global(wsr_store *store, uint32_t address, uint64_t value) {
  store->globals[address].value = value;
}

uint32_t wsr_grow_memory(wsr_store *store, uint32_t address, uint32_t pages) {
  return wsr_memory_grow(store->memories[address], pages);
}

uint32_t wsr_grow_table(wsr_store *store, uint32_t address, uint32_t elements, uint64_t value) {
  return wsr_table_grow(store->tables[address], elements, value);
}

uint32_t wsr_instance_address(const wsr_store *store, uint32_t instance, uint32_t kind,
                              uint32_t index) {
  const wsr_instance *i = store->instances[instance];
  switch (kind) {
    case WSR_FUNCTION: return i->functions[index];
    case WSR_TABLE: return i->tables[index];
    case WSR_MEMORY_KIND: return i->memories[index];
    default: return i->globals[index];
  }
}

int wsr_element_dropped(const wsr_store *store, uint32_t instance, uint32_t segment) {
  return store->instances[instance]->dropped_elements[segment];
}

int wsr_data_dropped(const wsr_store *store, uint32_t instance, uint32_t segment) {
  return store->instances[instance]->dropped_data[segment];
}

void wsr_drop_element(wsr_store *store, uint32_t instance, uint32_t segment) {
  store->instances[instance]->dropped_elements[segment] = 1;
}

void wsr_drop_data(wsr_store *store, uint32_t instance, uint32_t segment) {
  store->instances[instance]->dropped_data[segment] = 1;
}

/* ---- invocations ---- */

const wsr_code *wsr_function_code(wsr_store *store, uint32_t address) {
  wsr_function_instance *f = &store->functions[address];
  if (!f->code)
    f->code = wsr_compile(store->instances[f->instance]->module, f->index,
                          store->limits.deterministic != 0);
  return f->code;
}

uint32_t wsr_begin(wsr_store *store, uint32_t function, const uint64_t *arguments,
                   wsr_activation *outer) {
  *outer = store->now;
  const wsr_code *code = wsr_function_code(store, function);
  if (!code) return WSR_TRAP_NO_MEMORY;
  uint32_t slot = 0;
  wsr_frame *waiting = store->n_frames ? &store->frames[store->n_frames - 1] : NULL;
  if (waiting) /* above all that the innermost frame may use */
    slot = waiting->slot + store->functions[waiting->function].code->frame_slots;
  if (code->frame_slots > store->limits.stack_slots - slot ||
      store->n_frames == store->limits.stack_frames)
    return WSR_TRAP_EXHAUSTION;
  uint64_t *fp = store->stack + slot;
  if (code->n_params) memcpy(fp, arguments, code->n_params * sizeof *fp);
  memset(fp + code->n_params, 0, (code->n_locals - code->n_params) * sizeof *fp);
  if (waiting) waiting->cell++; /* like every frame that waits, it stands behind its call */
  store->now = (wsr_activation){store->n_frames, slot};
  store->returns[store->n_frames].pc = NULL;
  store->frames[store->n_frames++] = (wsr_frame){function, 0, slot};
  return WSR_TRAP_NONE;
}

void wsr_end(wsr_store *store, const wsr_activation *outer) {
  store->n_frames = store->now.base_frame;
  store->now = *outer;
  if (store->n_frames) store->frames[store->n_frames - 1].cell--; /* its host call is in hand again */
}

void wsr_host_return(wsr_store *store) {
  wsr_frame *frame = &store->frames[store->n_frames - 1];
  const wsr_code *code = store->functions[frame->function].code;
  const wsr_cell *cell = &code->cells[frame->cell];
  if (cell->op == WSR_OP_RETURN_CALL || cell->op == WSR_OP_RETURN_CALL_INDIRECT) {
    uint64_t *fp = store->stack + frame->slot;
    memmove(fp, fp + cell->s, code->n_results * sizeof *fp);
    store->n_frames--;
  } else {
    frame->cell++;
  }
}

void wsr_pause(wsr_store *store) { atomic_store(&store->pause, 1); }
int wsr_pause_requested(const wsr_store *store) { return atomic_load(&store->pause) != 0; }
void wsr_clear_pause(wsr_store *store) { atomic_store(&store->pause, 0); }
