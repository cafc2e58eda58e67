/* The store: allocating instances, and beginning and ending invocations.
 * Between the module (derived) and the hot loop (_core.c). Imports have been resolved and checked
 * by the caller. Source: WebAssembly specification, section 4.5 (Modules). */
#include "core/array.h"
#include "core/runtime/thread.h"

#include <stdlib.h>

static uint32_t no_memory(wsr_error *error) {
  wsr_fail(error, WSR_MEMORY, UINT64_MAX, "no memory left for the store");
  return WSR_NONE;
}

/* ---- arrays that never move ---- */

/* The most items that a store can have of each kind. Only address space is taken for them. */
#if UINTPTR_MAX > UINT32_MAX
enum { MOST_FUNCTIONS = 1 << 22, MOST_GLOBALS = 1 << 21, MOST_OTHERS = 1 << 18 };
#elif defined(__wasm__) /* one store, and engines limit a memory: 20 MiB of addresses */
enum { MOST_FUNCTIONS = 1 << 19, MOST_GLOBALS = 1 << 16, MOST_OTHERS = 1 << 12 };
#else
enum { MOST_FUNCTIONS = 1 << 15, MOST_GLOBALS = 1 << 13, MOST_OTHERS = 1 << 10 };
#endif
enum { GRAIN = 65536, LEAST_SHARE = 10 };

/* Each array begins at another place in its first page. Otherwise the first items of all, which are
 * used most, would compete for the same sets of the CPU's cache. */
enum { STAGGER = 448 };

static size_t whole_grains(size_t bytes) { return (bytes + GRAIN - 1) / GRAIN * GRAIN; }

static uint32_t most(const wsr_store *store, uint32_t items) { return items >> store->share; }

/* Give an array its place in an area of which `at` bytes are taken. */
#define LAY(ARRAY, NUMBER, MOST)                                                          \
  do {                                                                                    \
    (ARRAY) = (void *)(base + at + (NUMBER) * STAGGER);                                   \
    at += whole_grains((NUMBER) * STAGGER + (size_t)most(store, MOST) * sizeof *(ARRAY)); \
  } while (0)

/* Lay the arrays of the static half out from `base`; returns how many bytes they take. */
static size_t lay_out_program(const wsr_store *store, wsr_program *program, uint8_t *base) {
  size_t at = 0;
  LAY(program->functions, 0, MOST_FUNCTIONS);
  LAY(program->fast[0], 1, MOST_FUNCTIONS);
  LAY(program->fast[1], 2, MOST_FUNCTIONS);
  LAY(program->instances, 6, MOST_OTHERS);
  return at;
}

/* The same for the other half. */
static size_t lay_out(wsr_store *store, uint8_t *base) {
  size_t at = 0;
  LAY(store->globals, 3, MOST_GLOBALS);
  LAY(store->tables, 4, MOST_OTHERS);
  LAY(store->memories, 5, MOST_OTHERS);
  return at;
}

static uint8_t nowhere[1]; /* arrays are laid out here to see how large an area is */

static bool reserve_program(const wsr_store *store, wsr_program *program) {
  program->area_bytes = lay_out_program(store, program, nowhere);
  if (!(program->area = wsr_reserve(program->area_bytes))) return false;
  lay_out_program(store, program, program->area);
  return true;
}

/* Make room for `need` items where the array is. False without memory, or beyond what it can have.
 */
static bool reserve(const wsr_store *store, const uint8_t *area, void *array, uint32_t *room,
                    uint32_t need, uint32_t items, size_t size) {
  if (need <= *room) return true;
  if (need > most(store, items)) return false;
  const size_t begin = (size_t)((uint8_t *)array - area) % GRAIN;
  uint8_t *const start = (uint8_t *)array - begin;
  const size_t have = *room ? whole_grains(begin + *room * size) : 0;
  const size_t wanted = whole_grains(begin + need * size);
  if (!wsr_commit(start + have, wanted - have)) return false;
  const size_t fit = (wanted - begin) / size;
  *room = fit < most(store, items) ? (uint32_t)fit : most(store, items);
  return true;
}

/* Room for `need` items in an array of the store, or of its static half. */
#define RESERVE(FIELD, NEED, MOST) \
  reserve(store, store->area, store->FIELD, &store->room_##FIELD, NEED, MOST, sizeof *store->FIELD)
#define RESERVE_STATIC(PROGRAM, FIELD, ROOM, NEED, MOST)                          \
  reserve(store, (PROGRAM)->area, (PROGRAM)->FIELD, &(PROGRAM)->ROOM, NEED, MOST, \
          sizeof *(PROGRAM)->FIELD)

bool wsr_room_for_values(wsr_store *store, uint32_t globals, uint32_t tables, uint32_t memories) {
  return RESERVE(globals, globals, MOST_GLOBALS) && RESERVE(tables, tables, MOST_OTHERS) &&
         RESERVE(memories, memories, MOST_OTHERS);
}

/* Room in all arrays that go by the address of a function. */
static bool room_for_functions(const wsr_store *store, wsr_program *program, uint32_t need) {
  return RESERVE_STATIC(program, fast[0], room_fast[0], need, MOST_FUNCTIONS) &&
         RESERVE_STATIC(program, fast[1], room_fast[1], need, MOST_FUNCTIONS) &&
         RESERVE_STATIC(program, functions, room_functions, need, MOST_FUNCTIONS);
}

wsr_store *wsr_store_begin(const wsr_limits *limits, uint32_t share) {
  wsr_store *store = calloc(1, sizeof *store);
  if (!store) return NULL;
  store->limits = *limits;
  store->share = share;
  store->area_bytes = lay_out(store, nowhere);
  if (!(store->area = wsr_reserve(store->area_bytes))) {
    free(store);
    return NULL;
  }
  lay_out(store, store->area);
  return store;
}

/* Where there is too little address space for all, the store can have fewer items. */
static wsr_store *with_area(const wsr_limits *limits) {
  bool scarce = false; /* then what is left is for code and stacks: take a quarter of what fits */
  for (uint32_t share = 0; share <= LEAST_SHARE; share++) {
    wsr_store *store = wsr_store_begin(limits, share);
    const bool fits = store && reserve_program(store, &store->program);
    if (fits && (!share || scarce || share + 2 > LEAST_SHARE)) return store;
    if (fits) {
      wsr_release(store->program.area, store->program.area_bytes);
      scarce = true;
      share++;
    }
    if (store) wsr_release(store->area, store->area_bytes);
    free(store);
  }
  return NULL;
}

wsr_store *wsr_store_new(const wsr_limits *limits, wsr_error *error) {
  *error = (wsr_error){.kind = WSR_OK, .offset = UINT64_MAX};
  wsr_store *store = with_area(limits);
  if (!store) return no_memory(error), NULL;
  store->program.sharers = malloc(sizeof *store->program.sharers);
  if (store->program.sharers) {
    atomic_init(store->program.sharers, 1);
    store->main = wsr_thread_new(store);
  }
  if (!store->main) {
    wsr_store_free(store);
    no_memory(error);
    return NULL;
  }
  return store;
}

static void free_instance(wsr_instance *i) {
  if (!i || atomic_fetch_sub(&i->uses, 1) != 1) return;
  for (uint32_t k = 0; i->elements && k < i->module->n.elements; k++) free(i->elements[k]);
  free(i->elements);
  free(i->functions);
  free(i->tables);
  free(i->memories);
  free(i->globals);
  free(i->tags);
  free(i->types);
  wsr_module_free(i->module);
  free(i);
}

void wsr_drop_parts(wsr_store *store, uint32_t tables, uint32_t memories) {
  while (store->n_tables > tables) {
    wsr_table_instance *table = store->tables[--store->n_tables];
    free(table->elements);
    free(table);
  }
  while (store->n_memories > memories) {
    wsr_memory_instance *memory = store->memories[--store->n_memories];
    wsr_space_free(&memory->space);
    free(memory);
  }
}

static void drop_types(wsr_program *program, uint32_t down_to) {
  while (program->n_types > down_to)
    free((void *)(uintptr_t)program->types[--program->n_types].fields);
}

static void free_program(wsr_program *program) {
  for (uint32_t i = 0; i < program->n_instances; i++) free_instance(program->instances[i]);
  drop_types(program, 0);
  free(program->types);
  free(program->subtypes);
  free(program->groups.slots);
  if (program->linking) wsr_module_free(program->linking);
  free(program->link_types);
  free(program->tags);
  free(program->sharers);
  wsr_release(program->area, program->area_bytes);
}

void wsr_release_program(wsr_store *store) {
  _Atomic uint32_t *const sharers = store->program.sharers;
  if (!sharers || atomic_fetch_sub(sharers, 1) == 1) free_program(&store->program);
  store->program = (wsr_program){0};
}

void wsr_share_program(wsr_store *store, const wsr_program *program) {
  atomic_fetch_add(program->sharers, 1);
  store->program = *program;
  for (wsr_thread *t = store->main; t; t = t->next) t->functions = program->functions;
}

void wsr_store_free(wsr_store *store) {
  if (!store) return;
  wsr_drop_parts(store, 0, 0);
  wsr_free_exceptions(store);
  while (store->main) {
    wsr_thread *const next = store->main->next;
    wsr_thread_free(store->main);
    store->main = next;
  }
  wsr_release_program(store);
  free(store->dropped);
  wsr_release(store->area, store->area_bytes);
  free(store);
}

/* ---- a static half of its own ---- */

static void *copy_of(const void *from, size_t bytes) {
  void *const made = malloc(bytes ? bytes : 1);
  if (made && bytes) memcpy(made, from, bytes);
  return made;
}

/* Copy the types; what was copied is counted, so that it can be freed. */
static bool copy_program_types(wsr_program *to, const wsr_program *from) {
  const uint32_t n = from->n_types;
  to->types = malloc(((size_t)n + 1) * sizeof *to->types);
  to->subtypes = copy_of(from->subtypes, n * sizeof *to->subtypes);
  to->groups = from->groups;
  to->groups.slots = copy_of(from->groups.slots, from->groups.n_slots * sizeof *to->groups.slots);
  to->tags = copy_of(from->tags, from->n_tags * sizeof *to->tags);
  if (!to->types || !to->subtypes || !to->groups.slots || !to->tags) return false;
  if (!from->groups.n_slots) {
    free(to->groups.slots);
    to->groups.slots = NULL;
  }
  to->room_types = to->room_subtypes = n;
  to->room_tags = to->n_tags = from->n_tags;
  for (; to->n_types < n; to->n_types++) {
    wsr_composite_type *type = &to->types[to->n_types];
    *type = from->types[to->n_types];
    type->fields = copy_of(type->fields, type->n_fields * sizeof *type->fields);
    if (!type->fields) return false;
  }
  return true;
}

static bool copy_program(const wsr_store *store, wsr_program *to, const wsr_program *from) {
  if (!reserve_program(store, to) || !copy_program_types(to, from) ||
      !room_for_functions(store, to, from->n_functions) ||
      !RESERVE_STATIC(to, instances, room_instances, from->n_instances, MOST_OTHERS))
    return false;
  for (; to->n_functions < from->n_functions; to->n_functions++) {
    const uint32_t f = to->n_functions;
    const wsr_function_instance *function = &from->functions[f];
    to->functions[f] = (wsr_function_instance){.owner = function->owner,
                                               .instance = function->instance,
                                               .index = function->index,
                                               .type = function->type};
    WSR_PUBLISH(&to->functions[f].code, wsr_code_of(function));
    for (int i = 0; i < 2; i++) WSR_PUBLISH(&to->fast[i][f], WSR_PUBLISHED(&from->fast[i][f]));
  }
  for (; to->n_instances < from->n_instances; to->n_instances++) {
    to->instances[to->n_instances] = from->instances[to->n_instances];
    atomic_fetch_add(&to->instances[to->n_instances]->uses, 1);
  }
  return true;
}

/* Make sure that no other store shares the static half: something is to be added to it. */
static bool own_program(wsr_store *store) {
  if (atomic_load(store->program.sharers) == 1) return true;
  wsr_program made = {.sharers = malloc(sizeof *made.sharers),
                      .native = store->program.native,
                      .later = store->program.later};
  if (!made.sharers || !copy_program(store, &made, &store->program)) {
    free_program(&made);
    return false;
  }
  atomic_init(made.sharers, 1);
  wsr_release_program(store);
  store->program = made;
  for (wsr_thread *t = store->main; t; t = t->next) t->functions = made.functions;
  return true;
}

/* ---- types ---- */

/* A copy in the store's numbers. */
static wsr_type *copy_types(const wsr_type *types, uint32_t n, const uint32_t *numbers) {
  wsr_type *copy = malloc(((size_t)n + 1) * sizeof *copy);
  for (uint32_t i = 0; copy && i < n; i++) copy[i] = wsr_store_type(numbers, types[i]);
  return copy;
}

/* Append one type, of a group that begins at `group`. */
static bool append_type(wsr_store *store, const wsr_composite_type *type, const uint32_t *numbers,
                        uint32_t group, uint32_t size, uint32_t super, bool final) {
  if (!wsr_array_reserve(&store->program.types, &store->program.room_types,
                         store->program.n_types + 1, sizeof *store->program.types) ||
      !wsr_array_reserve(&store->program.subtypes, &store->program.room_subtypes,
                         store->program.n_types + 1, sizeof *store->program.subtypes))
    return false;
  store->program.subtypes[store->program.n_types] =
      (wsr_subtype){.canonical = store->program.n_types,
                    .super = super,
                    .group = group,
                    .size = size,
                    .final = final};
  wsr_composite_type *own = &store->program.types[store->program.n_types++];
  *own = *type;
  own->fields = copy_types(type->fields, type->n_fields, numbers);
  return own->fields;
}

/* The types from `start` on are a group: its number is that of an equal one, if there was one. */
static uint32_t close_group(wsr_store *store, uint32_t start) {
  const uint32_t found =
      wsr_find_group(&store->program.groups, store->program.types, store->program.subtypes, start);
  if (found != start) drop_types(&store->program, start);
  return found;
}

/* The store's number of a function type that refers to no other: equal types have equal numbers. */
static uint32_t type_number(wsr_store *store, const wsr_type *params, uint32_t n_params,
                            const wsr_type *results, uint32_t n_results) {
  if (!own_program(store)) return WSR_NONE;
  const uint32_t start = store->program.n_types;
  wsr_type *fields = malloc(((size_t)n_params + n_results + 1) * sizeof *fields);
  if (start >= WSR_MAX_TYPES || !fields) {
    free(fields);
    return WSR_NONE;
  }
  for (uint32_t i = 0; i < n_params; i++) fields[i] = params[i];
  for (uint32_t i = 0; i < n_results; i++) fields[n_params + i] = results[i];
  const wsr_composite_type type = {.kind = WSR_FUNCTION_TYPE,
                                   .fields = fields,
                                   .n_fields = n_params + n_results,
                                   .n_params = n_params};
  const bool good = append_type(store, &type, NULL, start, 1, WSR_NONE, true);
  free(fields);
  if (good) return close_group(store, start);
  drop_types(&store->program, start);
  return WSR_NONE;
}

/* The store's number of the group at `start` of a module, whose earlier ones are in `numbers`. */
static uint32_t group_number(wsr_store *store, const wsr_module *m, uint32_t start,
                             uint32_t *numbers) {
  const uint32_t base = store->program.n_types, size = m->subtypes[start].size;
  if (size > WSR_MAX_TYPES || base > WSR_MAX_TYPES - size) return WSR_NONE;
  for (uint32_t i = 0; i < size; i++) numbers[start + i] = base + i;
  for (uint32_t i = start; i < start + size; i++) {
    const wsr_subtype *sub = &m->subtypes[i];
    const uint32_t super = sub->super == WSR_NONE ? WSR_NONE : numbers[sub->super];
    if (!append_type(store, &m->types[i], numbers, base, size, super, sub->final)) {
      drop_types(&store->program, base);
      return WSR_NONE;
    }
  }
  return close_group(store, base);
}

/* The store's numbers of a module's types, by index; NULL without memory. Kept until another module
 * asks: imports are matched before the instance is allocated. */
static const uint32_t *numbers_of(wsr_store *store, wsr_module *m) {
  if (store->program.linking == m) return store->program.link_types;
  if (!own_program(store)) return NULL;
  uint32_t *numbers = malloc(((size_t)m->n.types + 1) * sizeof *numbers);
  if (!numbers) return NULL;
  for (uint32_t t = 0; t < m->n.types;) {
    const wsr_subtype *sub = &m->subtypes[t];
    if (sub->canonical != t) {
      numbers[t] = numbers[sub->canonical];
      t++;
      continue;
    }
    const uint32_t size = sub->size, first = group_number(store, m, t, numbers);
    if (first == WSR_NONE) {
      free(numbers);
      return NULL;
    }
    for (uint32_t i = 0; i < size; i++) numbers[t + i] = first + i;
    t += size;
  }
  atomic_fetch_add(&m->uses, 1);
  if (store->program.linking) wsr_module_free(store->program.linking);
  free(store->program.link_types);
  store->program.linking = m;
  store->program.link_types = numbers;
  return numbers;
}

static uint32_t add_tag(wsr_store *store, uint32_t type, wsr_error *error) {
  if (type == WSR_NONE || !own_program(store) ||
      !wsr_array_reserve(&store->program.tags, &store->program.room_tags, store->program.n_tags + 1,
                         sizeof *store->program.tags))
    return no_memory(error);
  store->program.tags[store->program.n_tags] = type;
  return store->program.n_tags++;
}

uint32_t wsr_add_tag(wsr_store *store, const wsr_type *params, uint32_t n_params,
                     wsr_error *error) {
  return add_tag(store, type_number(store, params, n_params, NULL, 0), error);
}

uint32_t wsr_add_tag_import(wsr_store *store, wsr_module *m, uint32_t tag, wsr_error *error) {
  const uint32_t *numbers = numbers_of(store, m);
  return add_tag(store, numbers ? numbers[m->tags[tag]] : WSR_NONE, error);
}

void wsr_tag_type(const wsr_store *store, uint32_t address, wsr_function_type *out) {
  *out = wsr_function_of(&store->program.types[store->program.tags[address]]);
}

static uint32_t add_host(wsr_store *store, uint32_t number, wsr_error *error) {
  if (number == WSR_NONE || !own_program(store) ||
      !room_for_functions(store, &store->program, store->program.n_functions + 1))
    return no_memory(error);
  store->program.functions[store->program.n_functions] = (wsr_function_instance){
      .instance = WSR_NONE, .index = store->program.n_functions, .type = number};
  return store->program.n_functions++;
}

uint32_t wsr_add_host_function(wsr_store *store, const wsr_type *params, uint32_t n_params,
                               const wsr_type *results, uint32_t n_results, wsr_error *error) {
  return add_host(store, type_number(store, params, n_params, results, n_results), error);
}

uint32_t wsr_add_host_import(wsr_store *store, wsr_module *m, uint32_t function, wsr_error *error) {
  const uint32_t *numbers = numbers_of(store, m);
  return add_host(store, numbers ? numbers[m->functions[function].type] : WSR_NONE, error);
}

uint32_t wsr_add_table(wsr_store *store, const wsr_bounds *bounds, uint64_t size,
                       wsr_error *error) {
  if (size > store->limits.table_elements || (bounds->has_maximum && size > bounds->maximum)) {
    wsr_fail(error, WSR_LIMIT, UINT64_MAX, "a table of %llu elements exceeds the limit of %u",
             (unsigned long long)size, store->limits.table_elements);
    return WSR_NONE;
  }
  wsr_table_instance *table = calloc(1, sizeof *table);
  if (!table) return no_memory(error);
  table->bounds = *bounds;
  table->limit = store->limits.table_elements;
  if (wsr_table_grow(table, size, 0) == UINT64_MAX ||
      !RESERVE(tables, store->n_tables + 1, MOST_OTHERS)) {
    free(table->elements);
    free(table);
    return no_memory(error);
  }
  store->tables[store->n_tables] = table;
  return store->n_tables++;
}

uint32_t wsr_add_memory(wsr_store *store, const wsr_bounds *bounds, uint64_t pages,
                        wsr_error *error) {
  if (pages > store->limits.memory_pages || (bounds->has_maximum && pages > bounds->maximum)) {
    wsr_fail(error, WSR_LIMIT, UINT64_MAX, "a memory of %llu pages exceeds the limit of %u pages",
             (unsigned long long)pages, store->limits.memory_pages);
    return WSR_NONE;
  }
  wsr_memory_instance *memory = calloc(1, sizeof *memory);
  if (!memory) return no_memory(error);
  memory->bounds = *bounds;
  memory->limit = store->limits.memory_pages;
  if (!wsr_memory_init(memory, pages) || !RESERVE(memories, store->n_memories + 1, MOST_OTHERS)) {
    wsr_space_free(&memory->space);
    free(memory);
    return no_memory(error);
  }
  store->memories[store->n_memories] = memory;
  return store->n_memories++;
}

uint32_t wsr_add_global(wsr_store *store, wsr_type type, uint32_t mutability, const uint64_t *value,
                        wsr_error *error) {
  if (!RESERVE(globals, store->n_globals + 1, MOST_GLOBALS)) return no_memory(error);
  store->globals[store->n_globals] = (wsr_global_instance){
      .type = type,
      .mutability = mutability,
      .value = value[0],
      .high = type == WSR_V128 ? value[1] : 0,
  };
  return store->n_globals++;
}

/* Evaluate a validated constant expression; a v128 gives two slots. */
static void evaluate(const wsr_store *store, const wsr_instance *instance, uint32_t offset,
                     uint32_t *end, uint64_t value[2]) {
  const wsr_module *m = instance->module;
  wsr_reader r = {m->bytes, m->bytes + offset, m->bytes + m->size, NULL, 0, NULL};
  uint64_t stack[2 * 64] = {0};
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
      case WSR_OP_V128_CONST:
        for (uint32_t i = 0; i < 16; i++) stack[n + i / 8] |= (uint64_t)r.at[i] << i % 8 * 8;
        r.at += 16;
        n += 2;
        break;
      case WSR_OP_REF_NULL:
        wsr_read_signed(&r, 33, &number);
        stack[n++] = 0;
        break;
      case WSR_OP_REF_FUNC:
        wsr_read_u32(&r, &index);
        stack[n++] = (uint64_t)instance->functions[index] + 1;
        break;
      case WSR_OP_GLOBAL_GET:
        wsr_read_u32(&r, &index);
        stack[n++] = store->globals[instance->globals[index]].value;
        if (instance->module->globals[index].type.type == WSR_V128)
          stack[n++] = store->globals[instance->globals[index]].high;
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
        stack[n - 1] = wsr_opcode_table[op].result == WSR_I32 ? (uint32_t)c : c;
      }
    }
  }
  if (end) *end = (uint32_t)wsr_at(&r);
  memcpy(value, stack, 2 * sizeof *value);
}

/* A constant expression that gives one slot. */
static uint64_t evaluate_one(const wsr_store *store, const wsr_instance *instance, uint32_t offset,
                             uint32_t *end) {
  uint64_t value[2];
  evaluate(store, instance, offset, end, value);
  return value[0];
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
        items[k] = evaluate_one(store, instance, at, &at);
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
  i->tags = malloc(((size_t)n->tags + 1) * sizeof *i->tags);
  i->types = malloc(((size_t)n->types + 1) * sizeof *i->types);
  i->elements = calloc((size_t)n->elements + 1, sizeof *i->elements);
  return i->functions && i->tables && (i->memories || !n->memories) && i->globals && i->tags &&
         i->types && i->elements;
}

/* Add the flags of an instance's segments, none of them dropped. */
static bool room_for_dropped(wsr_store *store, wsr_instance *instance) {
  const uint64_t have = store->n_dropped;
  const uint64_t need = have + instance->module->n.elements + instance->module->n.data;
  const uint64_t words = need / 64 + 1;
  if (words > UINT32_MAX) return false;
  if (!wsr_array_reserve(&store->dropped, &store->room_dropped, (uint32_t)words,
                         sizeof *store->dropped))
    return false;
  instance->dropped_at = have;
  const uint64_t used = (have + 63) / 64;
  if (have % 64) store->dropped[have / 64] &= ((uint64_t)1 << have % 64) - 1;
  memset(store->dropped + used, 0, (words - used) * sizeof *store->dropped);
  store->n_dropped = need;
  return true;
}

static void copy_indices(uint32_t *to, const uint32_t *from, uint32_t n) {
  if (n) memcpy(to, from, n * sizeof *to);
}

static uint32_t allocate(wsr_store *store, wsr_module *m, const uint32_t *functions,
                         const uint32_t *tables, const uint32_t *memories, const uint32_t *globals,
                         const uint32_t *tags, wsr_error *error) {
  *error = (wsr_error){.kind = WSR_OK, .offset = UINT64_MAX};
  wsr_instance *i = calloc(1, sizeof *i);
  if (!i) return no_memory(error);
  i->module = m;
  atomic_init(&i->uses, 1);
  atomic_fetch_add(&m->uses, 1); /* whatever Python's collector frees first */
  const uint32_t number = store->program.n_instances;
  const uint32_t own = m->n.functions - m->n.imported_functions;
  if (!allocate_arrays(i) || !own_program(store) ||
      !RESERVE_STATIC(&store->program, instances, room_instances, number + 1, MOST_OTHERS) ||
      !room_for_functions(store, &store->program, store->program.n_functions + own) ||
      !room_for_dropped(store, i)) {
    free_instance(i);
    return no_memory(error);
  }
  store->program.instances[store->program.n_instances++] = i; /* from here on the store owns it */
  const uint32_t *numbers = numbers_of(store, m);
  if (!numbers) return no_memory(error);
  copy_indices(i->types, numbers, m->n.types);
  copy_indices(i->functions, functions, m->n.imported_functions);
  copy_indices(i->tables, tables, m->n.imported_tables);
  copy_indices(i->memories, memories, m->n.imported_memories);
  copy_indices(i->globals, globals, m->n.imported_globals);
  copy_indices(i->tags, tags, m->n.imported_tags);
  for (uint32_t t = m->n.imported_tags; t < m->n.tags; t++)
    if ((i->tags[t] = add_tag(store, numbers[m->tags[t]], error)) == WSR_NONE) return WSR_NONE;
  for (uint32_t f = m->n.imported_functions; f < m->n.functions; f++) {
    i->own = store->program.n_functions - f;
    store->program.functions[store->program.n_functions] = (wsr_function_instance){
        .owner = i, .instance = number, .index = f, .type = i->types[m->functions[f].type]};
    i->functions[f] = store->program.n_functions++;
  }
  for (uint32_t t = m->n.imported_tables; t < m->n.tables; t++) {
    wsr_bounds bounds = m->tables[t];
    bounds.type = wsr_store_type(i->types, bounds.type);
    if ((i->tables[t] = wsr_add_table(store, &bounds, bounds.minimum, error)) == WSR_NONE)
      return WSR_NONE;
    if (!m->table_inits[t]) continue;
    const uint64_t value = evaluate_one(store, i, m->table_inits[t], NULL);
    const wsr_table_instance *table = store->tables[i->tables[t]];
    for (uint32_t k = 0; k < table->size; k++) table->elements[k] = value;
  }
  for (uint32_t k = m->n.imported_memories; k < m->n.memories; k++)
    if ((i->memories[k] = wsr_add_memory(store, &m->memories[k], m->memories[k].minimum, error)) ==
        WSR_NONE)
      return WSR_NONE;
  for (uint32_t g = m->n.imported_globals; g < m->n.globals; g++) {
    const wsr_global_def *def = &m->globals[g];
    uint64_t value[2];
    evaluate(store, i, def->init, NULL, value);
    const wsr_type type = wsr_store_type(i->types, def->type.type);
    i->globals[g] = wsr_add_global(store, type, def->type.mutability, value, error);
    if (i->globals[g] == WSR_NONE) return WSR_NONE;
  }
  if (!evaluate_elements(store, i)) return no_memory(error);
  return number;
}

uint32_t wsr_add_instance(wsr_store *store, wsr_module *m, const uint32_t *functions,
                          const uint32_t *tables, const uint32_t *memories, const uint32_t *globals,
                          const uint32_t *tags, wsr_error *error) {
  wsr_store_counts before;
  wsr_store_count(store, &before);
  const uint64_t segments = store->n_dropped;
  const uint32_t number = allocate(store, m, functions, tables, memories, globals, tags, error);
  if (number != WSR_NONE) return number;
  /* Nothing refers to it yet: the store is again what it was, and the host's numbers agree. */
  while (store->program.n_instances > before.instances)
    free_instance(store->program.instances[--store->program.n_instances]);
  wsr_drop_parts(store, before.tables, before.memories);
  store->n_dropped = segments;
  store->program.n_functions = before.functions;
  store->n_globals = before.globals;
  store->program.n_tags = before.tags;
  return WSR_NONE;
}

uint32_t wsr_apply_segments(wsr_store *store, uint32_t instance) {
  wsr_instance *i = store->program.instances[instance];
  const wsr_module *m = i->module;
  for (uint32_t k = 0; k < m->n.elements; k++) {
    const wsr_element_def *e = &m->elements[k];
    if (e->mode == WSR_ACTIVE) {
      const wsr_table_instance *t = store->tables[i->tables[e->table]];
      const uint64_t at = evaluate_one(store, i, e->at, NULL);
      if (!wsr_within(at, e->n_items, t->size)) return WSR_TRAP_TABLE_BOUNDS;
      if (e->n_items) memcpy(t->elements + at, i->elements[k], e->n_items * sizeof *t->elements);
    }
    if (e->mode != WSR_PASSIVE) wsr_drop_segment(store, i->dropped_at + k);
  }
  for (uint32_t k = 0; k < m->n.data; k++) {
    const wsr_data_def *d = &m->data[k];
    if (d->mode != WSR_ACTIVE) continue;
    const wsr_memory_instance *memory = store->memories[i->memories[d->memory]];
    const uint64_t at = evaluate_one(store, i, d->at, NULL);
    if (!wsr_within(at, d->size, memory->space.size)) return WSR_TRAP_MEMORY_BOUNDS;
    if (d->size) memcpy(memory->space.data + at, m->bytes + d->bytes, d->size);
    wsr_drop_segment(store, i->dropped_at + m->n.elements + k);
  }
  return WSR_TRAP_NONE;
}

/* ---- looking in and writing ---- */

void wsr_store_count(const wsr_store *store, wsr_store_counts *out) {
  *out = (wsr_store_counts){store->program.n_functions, store->n_tables,
                            store->n_memories,          store->n_globals,
                            store->program.n_instances, store->program.n_tags};
}

void wsr_function(const wsr_store *store, uint32_t address, wsr_function_view *out) {
  const wsr_function_instance *f = &store->program.functions[address];
  *out = (wsr_function_view){.host = f->instance == WSR_NONE,
                             .instance = f->instance,
                             .index = f->index,
                             .type = wsr_function_of(&store->program.types[f->type])};
}

void wsr_table(const wsr_store *store, uint32_t address, wsr_table_view *out) {
  const wsr_table_instance *t = store->tables[address];
  *out = (wsr_table_view){t->elements, t->size, t->bounds};
}

void wsr_memory(const wsr_store *store, uint32_t address, wsr_memory_view *out) {
  const wsr_memory_instance *m = store->memories[address];
  *out =
      (wsr_memory_view){m->space.data, m->space.size, m->bounds, m->space.reserved, m->space.base};
}

void wsr_global(const wsr_store *store, uint32_t address, wsr_global_type *type, uint64_t *value) {
  const wsr_global_instance *g = &store->globals[address];
  *type = (wsr_global_type){g->type, g->mutability};
  value[0] = g->value;
  value[1] = g->high;
}

void wsr_set_global(wsr_store *store, uint32_t address, const uint64_t *value) {
  store->globals[address].value = value[0];
  if (store->globals[address].type == WSR_V128) store->globals[address].high = value[1];
}

uint64_t wsr_grow_memory(wsr_store *store, uint32_t address, uint64_t pages) {
  return wsr_memory_grow(store->memories[address], pages);
}

uint64_t wsr_refused_growths(const wsr_store *store) { return store->refused_growths; }

uint64_t wsr_grow_table(wsr_store *store, uint32_t address, uint64_t elements, uint64_t value) {
  return wsr_table_grow(store->tables[address], elements, value);
}

const uint32_t *wsr_instance_addresses(const wsr_store *store, uint32_t instance, uint32_t kind) {
  const wsr_instance *i = store->program.instances[instance];
  switch (kind) {
    case WSR_FUNCTION: return i->functions;
    case WSR_TABLE: return i->tables;
    case WSR_MEMORY_KIND: return i->memories;
    case WSR_TAG: return i->tags;
    default: return i->globals;
  }
}

uint32_t wsr_instance_address(const wsr_store *store, uint32_t instance, uint32_t kind,
                              uint32_t index) {
  return wsr_instance_addresses(store, instance, kind)[index];
}

/* Where the flags of an instance's element or data segments begin, and how many there are. */
static uint64_t segments_of(const wsr_store *store, uint32_t instance, int data, uint32_t *n) {
  const wsr_instance *i = store->program.instances[instance];
  *n = data ? i->module->n.data : i->module->n.elements;
  return i->dropped_at + (data ? i->module->n.elements : 0);
}

void wsr_get_dropped(const wsr_store *store, uint32_t instance, int data, uint8_t *flags) {
  uint32_t n;
  const uint64_t first = segments_of(store, instance, data, &n);
  for (uint32_t k = 0; k < n; k++) flags[k] = wsr_is_dropped(store, first + k);
}

void wsr_set_dropped(wsr_store *store, uint32_t instance, int data, const uint8_t *flags) {
  uint32_t n;
  const uint64_t first = segments_of(store, instance, data, &n);
  for (uint32_t k = 0; k < n; k++) {
    const uint64_t bit = (uint64_t)1 << (first + k) % 64;
    uint64_t *const word = &store->dropped[(first + k) / 64];
    *word = flags[k] ? *word | bit : *word & ~bit;
  }
}

/* ---- values ---- */

bool wsr_visit_values(const wsr_store *store, wsr_visitor *visit, void *context) {
  for (uint32_t i = 0; i < store->n_globals; i++)
    if (!visit(context, store->globals[i].type, &store->globals[i].value, 1)) return false;
  for (uint32_t i = 0; i < store->n_tables; i++) {
    const wsr_table_instance *t = store->tables[i];
    if (!visit(context, t->bounds.type, t->elements, t->size)) return false;
  }
  for (uint32_t i = 0; i < store->program.n_instances; i++) {
    const wsr_instance *instance = store->program.instances[i];
    for (uint32_t k = 0; k < instance->module->n.elements; k++) {
      const wsr_element_def *e = &instance->module->elements[k];
      const wsr_type type = wsr_store_type(instance->types, e->type);
      if (!visit(context, type, instance->elements[k], e->n_items)) return false;
    }
  }
  return true;
}

/* ---- types of values and externs ---- */

int wsr_value_fits(const wsr_store *store, wsr_type type, uint64_t value) {
  if (type == WSR_I32 || type == WSR_F32) return value <= UINT32_MAX;
  if (!wsr_is_reference(type)) return 1;
  if (!value) return !(type & WSR_NOT_NULL);
  switch (type & 0xFF) {
    case WSR_NOFUNC:
    case WSR_NOEXTERN:
    case WSR_NOEXN: return 0;
    case WSR_FUNCREF: break;
    case WSR_EXNREF: return wsr_is_exception(store, value);
    default: return 1;
  }
  if (value > store->program.n_functions) return 0;
  return !(type & WSR_INDEXED) ||
         wsr_descends(store->program.subtypes, store->program.functions[value - 1].type,
                      type >> WSR_INDEX_SHIFT);
}

uint64_t wsr_values_fit(const wsr_store *store, wsr_type type, const uint64_t *values, uint64_t n) {
  uint64_t i = 0;
  while (i < n && wsr_value_fits(store, type, values[i])) i++;
  return i;
}

int wsr_import_matches(wsr_store *store, wsr_module *m, uint32_t import, uint32_t address) {
  const wsr_extern *item = &m->imports[import];
  const uint32_t *numbers = numbers_of(store, m);
  if (!numbers) return 0;
  switch (item->kind) {
    case WSR_FUNCTION:
      return wsr_descends(store->program.subtypes, store->program.functions[address].type,
                          numbers[m->functions[item->index].type]);
    case WSR_TABLE:
      return store->tables[address]->bounds.address64 == m->tables[item->index].address64 &&
             store->tables[address]->bounds.type ==
                 wsr_store_type(numbers, m->tables[item->index].type);
    case WSR_MEMORY_KIND:
      return store->memories[address]->bounds.address64 == m->memories[item->index].address64;
    case WSR_GLOBAL: {
      const wsr_global_instance *g = &store->globals[address];
      const wsr_global_type *wanted = &m->globals[item->index].type;
      const wsr_type type = wsr_store_type(numbers, wanted->type);
      if (g->mutability != wanted->mutability) return 0;
      return g->mutability ? g->type == type
                           : wsr_is_subtype(store->program.subtypes, g->type, type);
    }
    case WSR_TAG: return store->program.tags[address] == numbers[m->tags[item->index]];
    default: return 1;
  }
}

/* The narrower of two types that are both of one value. */
static wsr_type narrower(const wsr_store *store, wsr_type a, wsr_type b) {
  const bool first = wsr_is_subtype(store->program.subtypes, a | WSR_NOT_NULL, b | WSR_NOT_NULL);
  return (first ? a : b) | ((a | b) & WSR_NOT_NULL);
}

wsr_type wsr_narrowed(wsr_store *store, wsr_module *m, uint32_t import, wsr_type type) {
  const wsr_extern *item = &m->imports[import];
  const uint32_t *numbers = numbers_of(store, m);
  if (!numbers || !wsr_is_reference(type)) return type;
  const wsr_type wanted =
      item->kind == WSR_TABLE ? m->tables[item->index].type : m->globals[item->index].type.type;
  return wsr_is_reference(wanted) ? narrower(store, type, wsr_store_type(numbers, wanted)) : type;
}
