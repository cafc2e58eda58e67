/* From a plain state to a store of the core, and back. The core checks what it is given; what it
 * does not look at is checked here, because the bytes may be damaged. */
#include <stdlib.h>
#include <string.h>

#include "program.h"

enum { V128 = 0x7B, EXNREF = 0x69, SNAPSHOT_ERROR = 123, PAGES_OF_WASM = 16 };

static _Noreturn void wrong(const char *what) {
  fail_about(SNAPSHOT_ERROR,
             "the state in this file is damaged: ", (span){(const uint8_t *)what, strlen(what)},
             "");
}

static void need(bool holds, const char *what) {
  if (!holds) wrong(what);
}

static void core(const wsr_error *error) {
  fail_about(SNAPSHOT_ERROR, "the program cannot go on: ",
             (span){(const uint8_t *)error->message, strlen(error->message)}, "");
}

/* ---- the way in ---- */

static uint64_t make_store(program *of) {
  reader from = read_part(&of->state, PART_LIMITS);
  uint64_t numbers[8];
  for (int i = 0; i < 8; i++) numbers[i] = read_u64(&from);
  need(!from.bad, "limits");
  for (int i = 0; i < 5; i++) need(numbers[i] <= UINT32_MAX, "limits");
  const wsr_limits limits = {(uint32_t)numbers[0], (uint32_t)numbers[1], (uint32_t)numbers[2],
                             (uint32_t)numbers[3], (uint32_t)numbers[4]};
  of->fuel = numbers[6];
  wsr_error error;
  of->store = wsr_store_new(&limits, &error);
  if (!of->store) fail(1, "the engine has too little memory for the program");
  return numbers[5]; /* features */
}

static void make_modules(program *of, uint64_t features) {
  reader from = read_part(&of->state, PART_MODULES);
  of->n_modules = read_count(&from, 4);
  need(of->n_modules > 0, "modules");
  of->modules = allocate(of->n_modules, sizeof *of->modules);
  uint32_t *const sizes = allocate(of->n_modules, sizeof *sizes);
  for (uint32_t i = 0; i < of->n_modules; i++) sizes[i] = read_u32(&from);
  for (uint32_t i = 0; i < of->n_modules; i++) {
    const span bytes = read_bytes(&from, sizes[i]);
    need(!from.bad, "modules");
    wsr_error error;
    of->modules[i] = wsr_module_new(bytes.data, bytes.size, features, &error);
    if (!of->modules[i]) core(&error);
  }
  free(sizes);
}

static void add_host_function(program *of, wsr_module *module, reader *from) {
  wsr_counts counts;
  wsr_module_counts(module, &counts);
  const uint32_t function = read_u32(from), row = read_u32(from);
  need(!from->bad && function < counts.imported_functions, "host functions");
  wsr_error error;
  const uint32_t at = wsr_add_host_import(of->store, module, function, &error);
  if (at == UINT32_MAX) core(&error);
  uint32_t *const grown = realloc(of->calls, ((size_t)at + 1) * sizeof *grown);
  if (!grown) fail(1, "the engine has too little memory for the program");
  for (uint32_t i = of->n_functions; i < at; i++) grown[i] = UINT32_MAX;
  grown[at] = row;
  of->calls = grown;
  of->n_functions = at + 1;
}

static void add_instance(program *of, uint32_t number, reader *from) {
  enum { KINDS = 5 };
  static const uint32_t none[1];
  wsr_module *const module = of->modules[number];
  uint32_t *imports[KINDS] = {NULL};
  wsr_counts counts;
  wsr_store_counts have;
  wsr_module_counts(module, &counts);
  wsr_store_count(of->store, &have);
  const uint32_t wanted[KINDS] = {counts.imported_functions, counts.imported_tables,
                                  counts.imported_memories, counts.imported_globals,
                                  counts.imported_tags};
  const uint32_t there[KINDS] = {have.functions, have.tables, have.memories, have.globals,
                                 have.tags};
  for (int kind = 0; kind < KINDS; kind++) {
    const uint32_t count = read_count(from, 4);
    need(!from->bad && count == wanted[kind], "imports");
    imports[kind] = allocate(count, sizeof *imports[kind]);
    for (uint32_t i = 0; i < count; i++) {
      imports[kind][i] = read_u32(from);
      need(imports[kind][i] < there[kind], "imports");
    }
  }
  uint32_t places[KINDS] = {0};
  for (uint32_t i = 0; i < counts.imports; i++) {
    wsr_extern item;
    wsr_module_import(module, i, &item);
    const uint32_t at = imports[item.kind][places[item.kind]++];
    need(wsr_import_matches(of->store, module, i, at), "imports of another type");
  }
  const uint32_t *given[KINDS];
  for (int kind = 0; kind < KINDS; kind++) given[kind] = wanted[kind] ? imports[kind] : none;
  wsr_error error;
  if (wsr_add_instance(of->store, module, given[0], given[1], given[2], given[3], given[4],
                       &error) == UINT32_MAX)
    core(&error);
  of->modules_of[of->n_instances++] = number;
  for (int kind = 0; kind < KINDS; kind++) free(imports[kind]);
}

static void build(program *of) {
  reader from = read_part(&of->state, PART_BUILD);
  const uint32_t steps = read_count(&from, 8);
  of->modules_of = allocate(steps, sizeof *of->modules_of);
  for (uint32_t step = 0; step < steps; step++) {
    const uint32_t kind = read_u32(&from), module = read_u32(&from);
    need(!from.bad && module < of->n_modules && kind < 2, "instances");
    if (kind == 0)
      add_host_function(of, of->modules[module], &from);
    else
      add_instance(of, module, &from);
  }
  need(!from.bad && from.at == from.end, "instances");
}

static void drop_segments(program *of) {
  reader from = read_part(&of->state, PART_SEGMENTS);
  for (uint32_t i = 0; i < of->n_instances; i++) {
    wsr_counts counts;
    wsr_module_counts(of->modules[of->modules_of[i]], &counts);
    for (int data = 0; data < 2; data++) {
      const span flags = read_string(&from);
      need(!from.bad && flags.size == (data ? counts.data : counts.elements), "segments");
      if (flags.size) wsr_set_dropped(of->store, i, data, flags.data);
    }
  }
}

/* References to exceptions by their saved number; [0] is null. */
typedef struct {
  uint64_t *bits;
  uint64_t n;
} exceptions;

static uint32_t slots_of(const wsr_type *types, uint32_t n) {
  uint32_t slots = n;
  for (uint32_t i = 0; i < n; i++) slots += (types[i] & 0xFF) == V128;
  return slots;
}

static void make_exceptions(program *of, exceptions *made) {
  reader from = read_part(&of->state, PART_EXCEPTIONS);
  const uint64_t n = from.at == from.end ? 0 : read_u64(&from);
  need(!from.bad && n <= (size_t)(from.end - from.at) / 16, "exceptions");
  made->bits = allocate((size_t)n + 1, sizeof *made->bits);
  made->n = n;
  reader fields = from;
  read_bytes(&fields, (size_t)n * 16);
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  for (uint64_t i = 0; i < n; i++) {
    read_u64(&from);
    const uint64_t tag = read_u64(&from);
    need(tag < counts.tags, "exceptions");
    wsr_function_type type;
    wsr_tag_type(of->store, (uint32_t)tag, &type);
    const uint32_t slots = slots_of(type.params, type.n_params);
    uint64_t *const values = allocate(slots, sizeof *values);
    for (uint32_t k = 0, slot = 0; k < type.n_params; k++) {
      values[slot] = read_u64(&fields);
      if (wsr_top_type(type.params[k]) == EXNREF) {
        need(values[slot] <= i, "exceptions");
        values[slot] = made->bits[values[slot]];
      }
      need(wsr_value_fits(of->store, type.params[k], values[slot]), "exceptions");
      slot++;
      if ((type.params[k] & 0xFF) == V128) values[slot++] = read_u64(&fields);
    }
    need(!fields.bad, "exceptions");
    made->bits[i + 1] = wsr_add_exception(of->store, (uint32_t)tag, values);
    need(made->bits[i + 1] != 0, "exceptions");
    wsr_keep_exception(of->store, made->bits[i + 1], 1);
    free(values);
  }
  need(fields.at == fields.end, "exceptions");
}

/* The bits in the store of a saved value. */
static uint64_t restored(const program *of, const exceptions *made, wsr_type type, uint64_t bits) {
  if (wsr_top_type(type) == EXNREF) {
    need(bits <= made->n, "a reference to an exception");
    bits = made->bits[bits];
  }
  need(wsr_value_fits(of->store, type, bits), "a value of another type");
  return bits;
}

static void fill_globals(program *of, const exceptions *made) {
  reader from = read_part(&of->state, PART_GLOBALS);
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  for (uint32_t i = 0; i < counts.globals; i++) {
    const uint32_t code = read_u32(&from), mutability = read_u32(&from);
    uint64_t value[2] = {read_u64(&from), 0}, before[2];
    value[1] = read_u64(&from);
    wsr_global_type type;
    wsr_global(of->store, i, &type, before);
    need(!from.bad && code == wsr_top_type(type.type) && mutability == type.mutability, "globals");
    if (code != V128) value[0] = restored(of, made, type.type, value[0]);
    wsr_set_global(of->store, i, value);
  }
  need(from.at == from.end, "globals");
}

static void fill_tables(program *of, const exceptions *made) {
  reader from = read_part(&of->state, PART_TABLES);
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  const uint64_t n = counts.tables ? read_u64(&from) : 0;
  need(n == counts.tables, "tables");
  reader elements = from;
  read_bytes(&elements, (size_t)n * 48);
  for (uint32_t i = 0; i < counts.tables; i++) {
    uint64_t head[6];
    for (int k = 0; k < 6; k++) head[k] = read_u64(&from);
    wsr_table_view view;
    wsr_table(of->store, i, &view);
    need(!from.bad && head[1] == wsr_top_type(view.bounds.type) && head[4] >= view.size &&
             head[5] <= head[4] && head[2] == view.bounds.minimum,
         "tables");
    if (head[4] > view.size && wsr_grow_table(of->store, i, head[4] - view.size, 0) == UINT64_MAX)
      fail(SNAPSHOT_ERROR, "a table of the program is larger than its limits allow");
    wsr_table(of->store, i, &view);
    for (uint64_t k = 0; k < head[5]; k++)
      view.elements[k] = restored(of, made, view.bounds.type, read_u64(&elements));
    memset(view.elements + head[5], 0, (size_t)(head[4] - head[5]) * sizeof *view.elements);
  }
  need(!elements.bad && elements.at == elements.end, "tables");
}

static void size_memories(program *of) {
  reader from = read_part(&of->state, PART_SIZES);
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  for (uint32_t i = 0; i < counts.memories; i++) {
    const uint64_t pages = read_u64(&from);
    wsr_memory_view view;
    wsr_memory(of->store, i, &view);
    const uint64_t have = view.size / PAGES_OF_WASM / WSR_PAGE;
    need(!from.bad && pages >= have, "sizes of memories");
    if (pages > have && wsr_grow_memory(of->store, i, pages - have) == UINT64_MAX)
      fail(1, "the engine has too little memory for the program");
  }
  need(from.at == from.end, "sizes of memories");
}

void program_make(program *of, const plain_state *state) {
  *of = (program){.state = *state};
  make_modules(of, make_store(of));
  build(of);
  drop_segments(of);
  size_memories(of);
}

page_places program_places(const program *of) {
  return (page_places){.runs = read_part(&of->state, PART_RUNS)};
}

void program_put_pages(program *of, page_places *places, const uint8_t *pages, uint32_t count) {
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  while (count) {
    if (!places->left) {
      places->memory = read_u32(&places->runs);
      places->page = read_u32(&places->runs);
      places->left = read_u32(&places->runs);
      read_u32(&places->runs);
      need(!places->runs.bad && places->left && places->memory < counts.memories,
           "places of pages");
    }
    wsr_memory_view view;
    wsr_memory(of->store, places->memory, &view);
    const uint32_t now = count < places->left ? count : places->left;
    need((uint64_t)places->page + now <= view.size / WSR_PAGE, "places of pages");
    memcpy(view.data + (size_t)places->page * WSR_PAGE, pages, (size_t)now * WSR_PAGE);
    pages += (size_t)now * WSR_PAGE;
    places->page += now;
    places->left -= now;
    count -= now;
  }
}

static void queue_invocations(program *of, const exceptions *made, reader heads, uint32_t n,
                              reader *slots) {
  of->queue = allocate(n, sizeof *of->queue);
  of->n_queue = n;
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  for (uint32_t i = 0; i < n; i++) {
    invocation *const one = of->queue + i;
    one->address = read_u32(&heads);
    one->n_slots = read_u32(&heads);
    need(!heads.bad && one->address < counts.functions, "invocations");
    wsr_function_view view;
    wsr_function(of->store, one->address, &view);
    need(!view.host && one->n_slots == slots_of(view.type.params, view.type.n_params),
         "invocations");
    one->slots = allocate(one->n_slots, sizeof *one->slots);
    for (uint32_t k = 0, slot = 0; k < view.type.n_params; k++) {
      const bool wide = (view.type.params[k] & 0xFF) == V128;
      const uint64_t bits = read_u64(slots);
      one->slots[slot++] = wide ? bits : restored(of, made, view.type.params[k], bits);
      if (wide) one->slots[slot++] = read_u64(slots);
      if (wsr_top_type(view.type.params[k]) == EXNREF && one->slots[slot - 1])
        wsr_keep_exception(of->store, one->slots[slot - 1], 1);
    }
  }
}

/* The address of a function of an instance. */
static uint32_t address_of(const program *of, uint32_t instance, uint32_t index) {
  need(instance < of->n_instances, "a frame");
  wsr_counts counts;
  wsr_module_counts(of->modules[of->modules_of[instance]], &counts);
  need(index >= counts.imported_functions && index < counts.functions, "a frame");
  return wsr_instance_address(of->store, instance, WSR_FUNCTION, index);
}

/* What is left of the thread while its frames are pushed. */
typedef struct {
  reader heads, types, slots;
} frame_reader;

static void push_frame(program *of, const exceptions *made, frame_reader *from, bool outermost,
                       bool innermost) {
  wsr_frame_view view = {0};
  view.instance = read_u32(&from->heads);
  view.index = read_u32(&from->heads);
  view.offset = read_u32(&from->heads);
  view.n_locals = read_u32(&from->heads);
  const uint32_t height = read_u32(&from->heads);
  need(read_u32(&from->heads) == 0 && view.n_locals <= height, "a frame");
  view.function = address_of(of, view.instance, view.index);
  view.n_operands = height - view.n_locals;
  view.types = read_bytes(&from->types, height).data;
  uint64_t *const values = allocate((size_t)height * 2, sizeof *values);
  for (uint32_t i = 0; i < height && !from->types.bad; i++) {
    uint64_t bits = read_u64(&from->slots);
    if (view.types[i] == EXNREF) {
      need(bits <= made->n, "a frame");
      bits = made->bits[bits];
    }
    values[view.n_slots++] = bits;
    if (view.types[i] == V128) values[view.n_slots++] = read_u64(&from->slots);
  }
  need(!from->types.bad && !from->slots.bad, "a frame");
  view.values = values;
  if (outermost) of->result_of = view.function + 1;
  uint32_t callee = UINT32_MAX;
  if (!innermost) {
    reader peek = from->heads;
    const uint32_t instance = read_u32(&peek);
    callee = address_of(of, instance, read_u32(&peek));
  }
  wsr_error error;
  if (!wsr_restore_frame(of->store, &view, innermost, callee, &error)) core(&error);
  free(values);
}

static void push_thread(program *of, const exceptions *made) {
  reader from = read_part(&of->state, PART_THREADS), pushed = read_part(&of->state, PART_PUSHED);
  const uint64_t threads = read_u64(&from);
  const uint32_t id = read_u32(&from), status = read_u32(&from);
  of->before = read_u64(&from);
  const uint64_t frames = read_u64(&from), calls = read_u64(&from), waiting = read_u64(&from);
  need(!from.bad && threads == 1 && !id && !status && !waiting, "the thread");
  const size_t room = (size_t)(from.end - from.at);
  need(frames <= room / 24 && calls <= room / 8, "the thread");
  frame_reader reading = {.heads = from};
  reader heights = from;
  read_bytes(&from, (size_t)frames * 24);
  const reader invocations = from;
  read_bytes(&from, (size_t)calls * 8);
  reading.types = from;
  uint64_t all = 0;
  for (uint64_t i = 0; i < frames; i++) {
    read_bytes(&heights, 16);
    all += read_u32(&heights);
    read_u32(&heights);
  }
  need(!from.bad && all <= (size_t)(from.end - from.at), "the thread");
  read_bytes(&from, (size_t)all);
  reading.slots = from;
  uint64_t next_pushed = pushed.at == pushed.end ? UINT64_MAX : read_u32(&pushed);
  for (uint64_t i = 0; i < frames; i++) {
    if (i == next_pushed) {
      need(i > 0 && wsr_restore_pushed_call(of->store), "a pushed call");
      next_pushed = pushed.at == pushed.end ? UINT64_MAX : read_u32(&pushed);
    }
    push_frame(of, made, &reading, i == 0, i + 1 == frames || i + 1 == next_pushed);
  }
  need(next_pushed == UINT64_MAX && pushed.at == pushed.end, "pushed calls");
  queue_invocations(of, made, invocations, (uint32_t)calls, &reading.slots);
  need(!reading.slots.bad && reading.slots.at == reading.slots.end, "the thread");
}

void program_push_frames(program *of) {
  exceptions made;
  make_exceptions(of, &made);
  fill_globals(of, &made);
  fill_tables(of, &made);
  push_thread(of, &made);
  for (uint64_t i = 1; i <= made.n; i++) wsr_keep_exception(of->store, made.bits[i], -1);
  free(made.bits);
  const char *const broken = wsr_check(of->store);
  if (broken) wrong(broken);
}

bool program_begin_next(program *of, uint32_t *trap) {
  if (of->next == of->n_queue) return false;
  const invocation *const one = of->queue + of->next++;
  wsr_activation outer;
  of->result_of = one->address + 1;
  *trap = wsr_begin(of->store, one->address, one->slots, &outer);
  return true;
}

uint64_t program_executed(const program *of) {
  return of->before == UNCOUNTED ? UNCOUNTED : of->before + wsr_executed(of->store);
}

/* ---- the way out ---- */

/* Exceptions that were met, in the order in which a snapshot numbers them. */
typedef struct {
  wsr_store *store;
  uint64_t *met;
  uint32_t n, room;
} numbering;

static uint64_t number_of(const numbering *of, uint64_t reference) {
  for (uint32_t i = 0; i < of->n; i++)
    if (of->met[i] == reference) return i + 1;
  return 0;
}

/* The saved number of a reference; first come those in its fields. */
static uint64_t saved_exception(numbering *of, uint64_t reference) {
  if (!reference) return 0;
  buffer waiting = {0};
  put_u64(&waiting, reference);
  while (waiting.size) {
    uint64_t one;
    memcpy(&one, waiting.data + waiting.size - 8, 8);
    const size_t top = waiting.size;
    if (!number_of(of, one)) {
      wsr_exception_fields fields;
      wsr_function_type type;
      wsr_exception_view(of->store, one, &fields);
      wsr_tag_type(of->store, fields.tag, &type);
      /* The last of the fields is put on first, so that the first one is looked at first. */
      uint32_t slot = fields.n_slots;
      for (uint32_t k = type.n_params; k-- > 0;) {
        slot -= 1 + ((type.params[k] & 0xFF) == V128);
        const uint64_t inner = fields.slots[slot];
        if (wsr_top_type(type.params[k]) == EXNREF && inner && !number_of(of, inner))
          put_u64(&waiting, inner);
      }
      if (waiting.size > top) continue;
      if (of->n == of->room) {
        of->room = of->room * 2 + 16;
        of->met = realloc(of->met, of->room * sizeof *of->met);
        if (!of->met) fail(1, "the engine has too little memory for the state");
      }
      of->met[of->n++] = one;
    }
    waiting.size = top - 8;
  }
  free(waiting.data);
  return number_of(of, reference);
}

static uint64_t saved(numbering *of, wsr_type type, uint64_t bits) {
  return wsr_top_type(type) == EXNREF ? saved_exception(of, bits) : bits;
}

static void put_part(buffer *to, uint32_t *parts, uint32_t kind, const void *data, size_t size) {
  if (!size) return;
  static const uint8_t zeros[8];
  put_u32(to, kind);
  put_u32(to, 0);
  put_u64(to, size);
  put_bytes(to, data, size);
  put_bytes(to, zeros, (8 - size % 8) % 8);
  ++*parts;
}

static void capture_tables(program *of, numbering *numbers, buffer *to) {
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  if (!counts.tables) return;
  put_u64(to, counts.tables);
  buffer elements = {0};
  for (uint32_t i = 0; i < counts.tables; i++) {
    wsr_table_view view;
    wsr_table(of->store, i, &view);
    uint32_t used = view.size;
    while (used && !view.elements[used - 1]) used--;
    put_u64(to, view.bounds.has_maximum | view.bounds.address64 << 1);
    put_u64(to, wsr_top_type(view.bounds.type));
    put_u64(to, view.bounds.minimum);
    put_u64(to, view.bounds.has_maximum ? view.bounds.maximum : 0);
    put_u64(to, view.size);
    put_u64(to, used);
    if (wsr_top_type(view.bounds.type) != EXNREF)
      put_bytes(&elements, view.elements, used * sizeof *view.elements);
    else
      for (uint32_t k = 0; k < used; k++)
        put_u64(&elements, saved_exception(numbers, view.elements[k]));
  }
  put_bytes(to, elements.data, elements.size);
  free(elements.data);
}

static void capture_globals(program *of, numbering *numbers, buffer *to) {
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  for (uint32_t i = 0; i < counts.globals; i++) {
    wsr_global_type type;
    uint64_t value[2];
    wsr_global(of->store, i, &type, value);
    const uint32_t code = wsr_top_type(type.type);
    put_u32(to, code);
    put_u32(to, type.mutability);
    put_u64(to, code == V128 ? value[0] : saved(numbers, type.type, value[0]));
    put_u64(to, code == V128 ? value[1] : 0);
  }
}

static void capture_thread(program *of, numbering *numbers, buffer *to, buffer *pushed) {
  const uint32_t frames = wsr_frame_count(of->store), calls = of->n_queue - of->next;
  put_u64(to, 1);
  put_u64(to, 0);
  const uint64_t executed = program_executed(of);
  put_u64(to, executed);
  put_u64(to, frames);
  put_u64(to, calls);
  put_u64(to, 0);
  buffer types = {0}, slots = {0};
  for (uint32_t i = 0; i < frames; i++) {
    wsr_frame_view view;
    if (!wsr_view_frame(of->store, i, 0, &view))
      fail(1, "the engine has too little memory for the state");
    put_u32(to, view.instance);
    put_u32(to, view.index);
    put_u32(to, view.offset);
    put_u32(to, view.n_locals);
    put_u32(to, view.n_locals + view.n_operands);
    put_u32(to, 0);
    put_bytes(&types, view.types, view.n_locals + view.n_operands);
    for (uint32_t k = 0, slot = 0; k < view.n_locals + view.n_operands; k++) {
      const uint64_t bits = view.values[slot++];
      put_u64(&slots, view.types[k] == EXNREF ? saved_exception(numbers, bits) : bits);
      if (view.types[k] == V128) put_u64(&slots, view.values[slot++]);
    }
  }
  for (uint32_t i = of->next; i < of->n_queue; i++) {
    const invocation *const one = of->queue + i;
    put_u32(to, one->address);
    put_u32(to, one->n_slots);
    wsr_function_view view;
    wsr_function(of->store, one->address, &view);
    for (uint32_t k = 0, slot = 0; k < view.type.n_params; k++) {
      const bool wide = (view.type.params[k] & 0xFF) == V128;
      const uint64_t bits = one->slots[slot++];
      put_u64(&slots, wide ? bits : saved(numbers, view.type.params[k], bits));
      if (wide) put_u64(&slots, one->slots[slot++]);
    }
  }
  put_bytes(to, types.data, types.size);
  put_bytes(to, slots.data, slots.size);
  free(types.data);
  free(slots.data);
  for (uint32_t i = 0; i < wsr_pushed_count(of->store); i++)
    put_u32(pushed, wsr_pushed_frame(of->store, i));
}

static void capture_exceptions(numbering *numbers, buffer *to) {
  if (!numbers->n) return;
  put_u64(to, numbers->n);
  buffer slots = {0};
  for (uint32_t i = 0; i < numbers->n; i++) {
    wsr_exception_fields fields;
    wsr_function_type type;
    wsr_exception_view(numbers->store, numbers->met[i], &fields);
    wsr_tag_type(numbers->store, fields.tag, &type);
    put_u64(to, i);
    put_u64(to, fields.tag);
    for (uint32_t k = 0, slot = 0; k < type.n_params; k++) {
      put_u64(&slots, saved(numbers, type.params[k], fields.slots[slot++]));
      if ((type.params[k] & 0xFF) == V128) put_u64(&slots, fields.slots[slot++]);
    }
  }
  put_bytes(to, slots.data, slots.size);
  free(slots.data);
}

static void capture_segments(program *of, buffer *to) {
  for (uint32_t i = 0; i < of->n_instances; i++) {
    wsr_counts counts;
    wsr_module_counts(of->modules[of->modules_of[i]], &counts);
    for (int data = 0; data < 2; data++) {
      const uint32_t n = data ? counts.data : counts.elements;
      uint8_t *const flags = allocate(n, 1);
      if (n) wsr_get_dropped(of->store, i, data, flags);
      for (uint32_t k = 0; k < n; k++) flags[k] = flags[k] != 0;
      put_string(to, (span){flags, n});
      free(flags);
    }
  }
}

/* Sizes of memories, and the runs of pages that hold a byte other than zero. */
static uint64_t capture_pages(program *of, buffer *sizes, buffer *runs) {
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  uint64_t all = 0;
  for (uint32_t i = 0; i < counts.memories; i++) {
    wsr_memory_view view;
    wsr_memory(of->store, i, &view);
    put_u64(sizes, view.size / WSR_PAGE / PAGES_OF_WASM);
    const size_t pages = (size_t)(view.size / WSR_PAGE);
    uint8_t *const map = allocate(pages, 1);
    wsr_page_map(view.data, (size_t)view.size, WSR_PAGE, map);
    for (size_t at = 0; at < pages;) {
      if (!map[at]) {
        at++;
        continue;
      }
      const size_t first = at;
      while (at < pages && map[at]) at++;
      put_u32(runs, i);
      put_u32(runs, (uint32_t)first);
      put_u32(runs, (uint32_t)(at - first));
      put_u32(runs, 0);
      all += at - first;
    }
    free(map);
  }
  return all;
}

uint64_t program_capture(program *of, buffer *to, const buffer *wasi, uint64_t fuel) {
  numbering numbers = {.store = of->store};
  buffer tables = {0}, globals = {0}, thread = {0}, pushed = {0}, thrown = {0}, segments = {0};
  buffer sizes = {0}, runs = {0}, limits = {0};
  /* In this order references get their numbers. */
  capture_tables(of, &numbers, &tables);
  capture_globals(of, &numbers, &globals);
  capture_thread(of, &numbers, &thread, &pushed);
  capture_exceptions(&numbers, &thrown);
  capture_segments(of, &segments);
  const uint64_t pages = capture_pages(of, &sizes, &runs);
  const span old = of->state.parts[PART_LIMITS];
  put_bytes(&limits, old.data, 48);
  put_u64(&limits, fuel);
  put_u64(&limits, 0);

  buffer parts = {0};
  uint32_t n = 0;
  put_part(&parts, &n, PART_GLOBALS, globals.data, globals.size);
  put_part(&parts, &n, PART_TABLES, tables.data, tables.size);
  put_part(&parts, &n, PART_THREADS, thread.data, thread.size);
  put_part(&parts, &n, PART_EXCEPTIONS, thrown.data, thrown.size);
  put_part(&parts, &n, PART_LIMITS, limits.data, limits.size);
  for (uint32_t kind = PART_MODULES; kind <= PART_BUILD; kind++) {
    const span same = of->state.parts[kind];
    put_part(&parts, &n, kind, same.data, same.size);
  }
  put_part(&parts, &n, PART_SEGMENTS, segments.data, segments.size);
  put_part(&parts, &n, PART_PUSHED, pushed.data, pushed.size);
  const span template = of->state.parts[PART_TEMPLATE];
  put_part(&parts, &n, PART_TEMPLATE, template.data, template.size);
  put_part(&parts, &n, PART_WASI, wasi->data, wasi->size);
  put_part(&parts, &n, PART_SIZES, sizes.data, sizes.size);
  put_part(&parts, &n, PART_RUNS, runs.data, runs.size);
  put_bytes(to, plain_magic, 8);
  put_u32(to, PLAIN_VERSION);
  put_u32(to, n + (pages > 0));
  put_bytes(to, parts.data, parts.size);
  if (pages) {
    put_u32(to, PART_PAGES);
    put_u32(to, 0);
    put_u64(to, pages * WSR_PAGE);
  }
  buffer *const all[] = {&tables,   &globals, &thread, &pushed, &thrown,
                         &segments, &sizes,   &runs,   &limits, &parts};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->data);
  free(numbers.met);
  return pages;
}

void program_each_page(program *of, void (*take)(const uint8_t *page, size_t size)) {
  wsr_store_counts counts;
  wsr_store_count(of->store, &counts);
  for (uint32_t i = 0; i < counts.memories; i++) {
    wsr_memory_view view;
    wsr_memory(of->store, i, &view);
    const size_t pages = (size_t)(view.size / WSR_PAGE);
    uint8_t *const map = allocate(pages, 1);
    wsr_page_map(view.data, (size_t)view.size, WSR_PAGE, map);
    for (size_t at = 0; at < pages;) {
      const size_t first = at;
      while (at < pages && map[at] == map[first]) at++;
      if (map[first]) take(view.data + first * WSR_PAGE, (at - first) * WSR_PAGE);
    }
    free(map);
  }
}
