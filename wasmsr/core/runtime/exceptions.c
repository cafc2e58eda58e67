/* Exceptions: throwing, and the heap in which their instances live until nothing refers to them.
 *
 * Both codes throw here. The code of each function has a table of its tries (compile/precise.c).
 * A throw searches these tables, from the innermost frame of the invocation outward. The frame that
 * catches becomes the innermost one. Frames are data, so to unwind is to reduce their number. A try
 * in which nothing is thrown costs nothing. Source: WebAssembly specification, section 4.6.9
 * (Exception Handling); for `try`, `catch`, `delegate` and `rethrow` the legacy part of the
 * exception handling proposal.
 */
#include <stdlib.h>

#include "core/runtime/thread.h"

struct wsr_exception {
  uint32_t tag;  /* address */
  uint32_t n;    /* slots of fields */
  uint32_t next; /* in `collect`: index of the next on the list, plus one */
  uint32_t kept; /* how often the host holds it */
  bool marked;
  uint64_t fields[];
};

/* A reference is an index plus one, with these bits set. Few numbers of a program have these bits,
 * so `collect` seldom takes a number for a reference. */
#define MARK UINT64_C(0xE8C7000000000000)
enum { LEAST_TO_COLLECT = 1 << 20 }; /* bytes */

static size_t size_of(uint32_t n) { return sizeof(wsr_exception) + n * sizeof(uint64_t) + 16; }

static uint64_t reference_to(uint32_t index) { return MARK | ((uint64_t)index + 1); }

static uint32_t index_of(const wsr_store *store, uint64_t reference) {
  const uint64_t index = (reference ^ MARK) - 1;
  return index < store->n_exceptions && store->exceptions[index] ? (uint32_t)index : WSR_NONE;
}

int wsr_is_exception(const wsr_store *store, uint64_t reference) {
  return index_of(store, reference) != WSR_NONE;
}

/* ---- the heap ---- */

/* Mark the exception that the reference names, and put it on the list: its fields come later. */
static void mark(wsr_store *store, uint32_t *list, uint64_t reference) {
  const uint32_t index = index_of(store, reference);
  if (index == WSR_NONE || store->exceptions[index]->marked) return;
  store->exceptions[index]->marked = true;
  store->exceptions[index]->next = *list;
  *list = index + 1;
}

static bool refers(wsr_type type) { return wsr_top_type(type) == WSR_EXNREF; }

static void mark_fields(wsr_store *store, uint32_t *list, const wsr_exception *e) {
  const wsr_composite_type *type = &store->program.types[store->program.tags[e->tag]];
  for (uint32_t i = 0, slot = 0; i < type->n_fields; i++) {
    if (refers(type->fields[i])) mark(store, list, e->fields[slot]);
    slot += wsr_slots(type->fields[i]);
  }
}

typedef struct {
  wsr_store *store;
  uint32_t *list;
} marking;

static bool mark_values(void *context, wsr_type type, const uint64_t *values, uint64_t n) {
  const marking *const m = context;
  for (uint64_t i = 0; refers(type) && i < n; i++) mark(m->store, m->list, values[i]);
  return true;
}

/* Free each exception that cannot be reached from the host, a global, a table or the stack. The
 * types of the stack's slots are not known here, so each slot that looks like a reference counts as
 * one. A number that looks like a reference keeps only what was alive at once. A snapshot goes by
 * types, so it contains no such exception (RATIONALE.md). */
static void collect(wsr_store *store) {
  uint32_t list = 0;
  for (uint32_t i = 0; i < store->n_exceptions; i++)
    if (store->exceptions[i] && store->exceptions[i]->kept) mark(store, &list, reference_to(i));
  marking context = {store, &list};
  wsr_visit_values(store, mark_values, &context);
  for (const wsr_thread *t = store->main; t; t = t->next) {
    if (!t->n_frames) continue;
    const wsr_frame *top = &t->frames[t->n_frames - 1];
    const uint32_t end =
        top->slot + wsr_code_of(&store->program.functions[top->function])->frame_slots;
    for (uint32_t i = 0; i < end; i++) mark(store, &list, t->stack[i]);
  }
  while (list) {
    const wsr_exception *e = store->exceptions[list - 1];
    list = e->next;
    mark_fields(store, &list, e);
  }
  size_t alive = 0;
  for (uint32_t i = 0; i < store->n_exceptions; i++) {
    wsr_exception *e = store->exceptions[i];
    if (!e) continue;
    if (e->marked) {
      e->marked = false;
      alive += size_of(e->n);
      continue;
    }
    free(e);
    store->exceptions[i] = NULL;
    store->free_exceptions[store->n_free_exceptions++] = i;
  }
  store->exception_bytes = alive;
  store->collect_at = alive > LEAST_TO_COLLECT / 2 ? 2 * alive : LEAST_TO_COLLECT;
}

static bool room_for_one(wsr_store *store) {
  if (store->n_free_exceptions || store->n_exceptions < store->room_exceptions) return true;
  if (store->room_exceptions > UINT32_MAX / 4) return false;
  const uint32_t wanted = store->room_exceptions ? 2 * store->room_exceptions : 64;
  wsr_exception **grown = realloc(store->exceptions, wanted * sizeof *grown);
  if (!grown) return false;
  store->exceptions = grown;
  uint32_t *free_ones = realloc(store->free_exceptions, wanted * sizeof *free_ones);
  if (!free_ones) return false;
  store->free_exceptions = free_ones;
  store->room_exceptions = wanted;
  return true;
}

uint64_t wsr_add_exception(wsr_store *store, uint32_t tag, const uint64_t *fields) {
  const wsr_composite_type *type = &store->program.types[store->program.tags[tag]];
  const uint32_t n = wsr_slots_of(type->fields, type->n_fields);
  wsr_exception *e = room_for_one(store) ? malloc(sizeof *e + n * sizeof *fields) : NULL;
  if (!e) return 0;
  *e = (wsr_exception){.tag = tag, .n = n};
  if (n) memcpy(e->fields, fields, n * sizeof *fields);
  const uint32_t index = store->n_free_exceptions
                             ? store->free_exceptions[--store->n_free_exceptions]
                             : store->n_exceptions++;
  store->exceptions[index] = e;
  store->exception_bytes += size_of(n);
  return reference_to(index);
}

/* The most bytes that exceptions may take: 1 MiB, and eight slots for each element that a table may
 * have. Without a limit, a chain of exceptions could fill the host's memory. */
static uint64_t most_bytes(const wsr_store *store) {
  return LEAST_TO_COLLECT + (uint64_t)store->limits.table_elements * 8 * sizeof(uint64_t);
}

/* Whether the store may have one more exception of this tag. Collects if there is no room. After a
 * collection an eighth must be free: otherwise every throw would soon need a collection. */
static bool within_limit(wsr_store *store, uint32_t tag) {
  const wsr_composite_type *type = &store->program.types[store->program.tags[tag]];
  const uint64_t most = most_bytes(store);
  const size_t size = size_of(wsr_slots_of(type->fields, type->n_fields));
  if (store->exception_bytes + size <= most) return true;
  collect(store);
  return store->exception_bytes + size <= most - most / 8;
}

uint64_t wsr_new_exception(wsr_store *store, uint32_t tag, const uint64_t *fields, uint32_t *trap) {
  if (store->exception_bytes >= store->collect_at) {
    if (store->collect_at) collect(store);
    if (!store->collect_at) store->collect_at = LEAST_TO_COLLECT;
  }
  *trap = WSR_TRAP_EXCEPTIONS;
  if (!within_limit(store, tag)) return 0;
  *trap = WSR_TRAP_NO_MEMORY;
  return wsr_add_exception(store, tag, fields);
}

void wsr_exception_view(const wsr_store *store, uint64_t reference, wsr_exception_fields *out) {
  const wsr_exception *e = store->exceptions[index_of(store, reference)];
  *out = (wsr_exception_fields){.tag = e->tag, .n_slots = e->n, .slots = e->fields};
}

void wsr_keep_exception(wsr_store *store, uint64_t reference, int by) {
  const uint32_t index = index_of(store, reference);
  if (index != WSR_NONE) store->exceptions[index]->kept += (uint32_t)by;
}

uint64_t wsr_exception_count(wsr_store *store) {
  collect(store);
  return store->n_exceptions - store->n_free_exceptions;
}

void wsr_free_exceptions(wsr_store *store) {
  for (uint32_t i = 0; i < store->n_exceptions; i++) free(store->exceptions[i]);
  free(store->exceptions);
  free(store->free_exceptions);
}

bool wsr_copy_exceptions(wsr_store *to, const wsr_store *from) {
  wsr_free_exceptions(to);
  to->exceptions = NULL;
  to->free_exceptions = NULL;
  to->n_exceptions = to->n_free_exceptions = to->room_exceptions = 0;
  to->exception_bytes = 0;
  to->collect_at = from->collect_at;
  if (!from->n_exceptions) return true;
  to->exceptions = calloc(from->room_exceptions, sizeof *to->exceptions);
  to->free_exceptions = malloc(from->room_exceptions * sizeof *to->free_exceptions);
  if (!to->exceptions || !to->free_exceptions) return false;
  to->room_exceptions = from->room_exceptions;
  to->n_exceptions = from->n_exceptions;
  for (uint32_t i = 0; i < from->n_exceptions; i++) {
    const wsr_exception *e = from->exceptions[i];
    if (!e) continue;
    wsr_exception *made = malloc(sizeof *e + e->n * sizeof *e->fields);
    if (!made) return false;
    *made = (wsr_exception){.tag = e->tag, .n = e->n};
    if (e->n) memcpy(made->fields, e->fields, e->n * sizeof *e->fields);
    to->exceptions[i] = made;
  }
  if (from->n_free_exceptions)
    memcpy(to->free_exceptions, from->free_exceptions,
           from->n_free_exceptions * sizeof *to->free_exceptions);
  to->n_free_exceptions = from->n_free_exceptions;
  to->exception_bytes = from->exception_bytes;
  return true;
}

/* ---- throwing ---- */

uint32_t wsr_try_at(const wsr_code *code, uint32_t cell) {
  uint32_t low = 0, high = code->n_tries; /* the first that begins after the cell */
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (code->tries[middle].begin <= cell)
      low = middle + 1;
    else
      high = middle;
  }
  uint32_t at = low ? low - 1 : WSR_NONE;
  while (at != WSR_NONE && code->tries[at].end <= cell) at = code->tries[at].outer;
  return at;
}

static const wsr_catch *find_catch(const wsr_code *code, const wsr_instance *instance,
                                   uint32_t cell, uint32_t tag) {
  for (uint32_t t = wsr_try_at(code, cell); t != WSR_NONE; t = code->tries[t].parent)
    for (uint32_t c = code->tries[t].first; c != WSR_NONE; c = code->catches[c].next)
      if (code->catches[c].tag == WSR_NONE || instance->tags[code->catches[c].tag] == tag)
        return &code->catches[c];
  return NULL;
}

/* Write what the label of the catch expects: the fields if the catch names a tag, then the
 * reference if the catch asks for it. A legacy catch has the reference first. */
static void put_caught(uint64_t *to, const wsr_catch *caught, const wsr_exception *e,
                       uint64_t reference) {
  if (caught->what == WSR_CATCH_LEGACY) *to++ = reference;
  if (caught->tag != WSR_NONE && e->n) {
    memcpy(to, e->fields, e->n * sizeof *to);
    to += e->n;
  }
  if (caught->what == WSR_CATCH_REF) *to = reference;
}

uint32_t wsr_throw(wsr_thread *thread, uint64_t reference) {
  const wsr_store *const store = thread->store;
  const wsr_exception *e = store->exceptions[index_of(store, reference)];
  for (uint32_t n = thread->n_frames; n-- > thread->now.base_frame;) {
    wsr_frame *frame = &thread->frames[n];
    const wsr_function_instance *f = &store->program.functions[frame->function];
    const uint32_t cell = frame->cell - (n + 1 != thread->n_frames); /* after its call */
    const wsr_code *code = wsr_code_of(f);
    if (!code->n_tries || wsr_is_tail_call(code->cells[cell].op)) continue;
    const wsr_catch *caught = find_catch(code, f->owner, cell, e->tag);
    if (!caught) continue;
    const wsr_target *target = &code->targets[caught->target];
    put_caught(thread->stack + frame->slot + target->slot, caught, e, reference);
    frame->cell = target->cell;
    thread->n_frames = n + 1;
    return target->cell <= cell ? WSR_CAUGHT_BACK : WSR_CAUGHT;
  }
  return WSR_NOT_CAUGHT;
}

static uint32_t throw_on(wsr_thread *thread, uint64_t reference, wsr_exit *out) {
  switch (wsr_throw(thread, reference)) {
    case WSR_NOT_CAUGHT: out->exception = reference; return WSR_UNCAUGHT;
    case WSR_CAUGHT_BACK:
      return atomic_load_explicit(&thread->pause, memory_order_relaxed) ? WSR_PAUSED : WSR_SWITCH;
    default: return WSR_SWITCH;
  }
}

uint32_t wsr_throw_cell(wsr_thread *thread, const wsr_instance *instance, const wsr_cell *cell,
                        const uint64_t *fp, wsr_exit *out) {
  uint64_t reference = fp[cell->s];
  if (cell->op == WSR_OP_THROW) {
    uint32_t trap = WSR_TRAP_NONE;
    reference = wsr_new_exception(thread->store, instance->tags[cell->u.p.a], fp + cell->s, &trap);
    if (!reference) {
      out->trap = trap;
      return WSR_TRAPPED;
    }
  } else if (!reference) {
    out->trap = WSR_TRAP_NULL_EXCEPTION;
    return WSR_TRAPPED;
  }
  return throw_on(thread, reference, out);
}

int wsr_host_throw(wsr_store *store, uint64_t exception) {
  return wsr_throw(store->main, exception) != WSR_NOT_CAUGHT;
}
