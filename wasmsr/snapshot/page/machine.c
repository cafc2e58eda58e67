/* A saved program that a page steps through, forwards and backwards: the core and the reader of
 * plain states, without input and output. JavaScript (machine.js) calls the exports, and answers
 * host calls.
 *
 * It keeps states, to go back: a copy of the store without memories, and the pages that differed
 * from the state kept before. The pages of the last kept state are in a second memory beside the
 * program's. To go back from there means to put back what differed, state by state. */
#include <stdlib.h>
#include <string.h>

#include "core/runtime/thread.h"
#include "program.h"

#define EXPORT(name) __attribute__((used, visibility("default"), export_name(#name)))

static program inner;
static buffer answer; /* what the last export has to say */
static char trouble[400];
static uint64_t *call_slots;
static uint32_t called; /* the function whose parameters they are */

/* ---- sentences ---- */

void say_about(const char *sentence, span name, const char *rest) {
  size_t size = 0;
  const span parts[3] = {
      {(const uint8_t *)sentence, strlen(sentence)}, name, {(const uint8_t *)rest, strlen(rest)}};
  for (int i = 0; i < 3; i++)
    for (size_t k = 0; k < parts[i].size && size < sizeof trouble - 1; k++)
      trouble[size++] = (char)parts[i].data[k];
  trouble[size] = 0;
}

void say(const char *sentence) { say_about(sentence, (span){NULL, 0}, ""); }

_Noreturn void fail_about(int code, const char *sentence, span name, const char *rest) {
  (void)code;
  say_about(sentence, name, rest);
  __builtin_trap(); /* JavaScript reads the sentence */
}

_Noreturn void fail(int code, const char *sentence) {
  fail_about(code, sentence, (span){NULL, 0}, "");
}

EXPORT(trouble) const char *machine_trouble(void) { return trouble; }

/* ---- what JavaScript gives and gets ---- */

EXPORT(allocate) uint8_t *machine_allocate(uint32_t size) { return allocate(size, 1); }
EXPORT(release) void machine_release(uint8_t *bytes) { free(bytes); }
EXPORT(answer) const uint8_t *machine_answer(void) { return answer.data; }
EXPORT(answer_size) uint32_t machine_answer_size(void) { return (uint32_t)answer.size; }

/* The plain state of a program, which stays allocated; the pages are put afterwards. */
EXPORT(begin) void machine_begin(const uint8_t *state, uint32_t size) {
  plain_state parts;
  const char *const wrong = plain_open(&parts, (span){state, size});
  if (wrong)
    fail_about(123, "the state is damaged: ", (span){(const uint8_t *)wrong, strlen(wrong)}, "");
  program_make(&inner, &parts);
}

static page_places places;

/* Pages in the order of the runs, in pieces; with none the program is complete. */
EXPORT(put_pages) void machine_put_pages(const uint8_t *pages, uint32_t count) {
  if (!places.runs.at) places = program_places(&inner);
  program_put_pages(&inner, &places, pages, count);
  if (count) return;
  if (places.left || places.runs.at != places.runs.end) fail(123, "the state lacks pages");
  program_push_frames(&inner);
}

/* ---- running ---- */

/* Instructions since the program was loaded. */
EXPORT(executed) uint64_t machine_executed(void) { return wsr_executed(inner.store); }
EXPORT(executed_before) uint64_t machine_before(void) {
  return inner.before == UNCOUNTED ? 0 : inner.before;
}

static uint32_t ended_with;

static uint32_t outcome_of(uint32_t outcome, const wsr_exit *out) {
  if (outcome == WSR_HOST_CALL) {
    call_slots = out->slots;
    called = out->host_function;
    answer.size = 0;
    put_u32(&answer, out->host_function);
    put_u32(&answer, out->host_instance);
    wsr_function_view view;
    wsr_function(inner.store, out->host_function, &view);
    put_u32(&answer, inner.calls[out->host_function]);
    put_u32(&answer, view.type.n_params);
    for (uint32_t i = 0, slot = 0; i < view.type.n_params; i++) {
      put_u64(&answer, out->slots[slot]); /* of a vector, its lower half */
      slot += wsr_slots(view.type.params[i]);
    }
  }
  if (outcome == WSR_TRAPPED) ended_with = out->trap;
  return outcome;
}

EXPORT(memories) uint32_t machine_memories(void) {
  wsr_store_counts counts;
  wsr_store_count(inner.store, &counts);
  return counts.memories;
}

/* What stops the program before its fuel ends, beside what is always there. A position is a
 * function's address and an offset. */
static struct {
  bool position;
  uint32_t function, offset;
} stop;
static wsr_watch wanted;

EXPORT(watch_position) uint32_t machine_watch_position(uint32_t function, uint32_t offset) {
  stop.function = function;
  stop.offset = offset;
  return stop.position = wsr_cell_of_position(inner.store, function, offset) != NULL;
}
EXPORT(watch_frames) void machine_watch_frames(uint32_t frames) { wanted.frames = frames; }
EXPORT(watch_memory) void machine_watch_memory(uint32_t memory, uint64_t begin, uint64_t end) {
  if (memory >= machine_memories()) return;
  wanted.memory = memory;
  wanted.begin = begin;
  wanted.end = end;
}
EXPORT(watch_nothing) void machine_watch_nothing(void) {
  stop.position = false;
  wanted = (wsr_watch){0};
}
/* Which of them has stopped the last run: none, the position, a return, a write. */
EXPORT(hit) uint32_t machine_hit(void) { return inner.store->main->watch.hit; }

static bool leaving;

/* Whether the next run makes one instruction before the position counts. */
EXPORT(leave_position) void machine_leave_position(uint32_t leave) { leaving = leave; }

static uint32_t run_watched(uint64_t *left, wsr_exit *out) {
  wsr_watch *const watch = &inner.store->main->watch;
  *watch = wanted;
  if (stop.position && leaving) {
    leaving = false;
    uint64_t one = 1;
    const uint32_t outcome = wsr_run(inner.store, &one, out);
    *left -= 1 - one;
    if (outcome != WSR_PAUSED || watch->hit || !*left) return outcome;
  }
  /* The code of a function may be made anew between two runs. */
  if (stop.position) watch->cell = wsr_cell_of_position(inner.store, stop.function, stop.offset);
  return wsr_run(inner.store, left, out);
}

/* Run so many instructions at most. Returns the core's outcome: finished, trapped, paused, host
 * call or uncaught exception. */
EXPORT(run) uint32_t machine_run(uint64_t most) {
  for (;;) {
    if (!wsr_frame_count(inner.store)) {
      uint32_t trap = 0;
      if (!program_begin_next(&inner, &trap)) return WSR_FINISHED;
      if (trap) return ended_with = trap, WSR_TRAPPED;
    }
    if (!most) return WSR_PAUSED;
    wsr_exit out;
    const uint32_t outcome = run_watched(&most, &out);
    wsr_clear_pause(inner.store);
    if (outcome != WSR_FINISHED) return outcome_of(outcome, &out);
    if (!wsr_end_pushed_call(inner.store)) wsr_drop_frames(inner.store);
  }
}

/* A result in the form of its type; false if it is no value of it. */
static bool result_of_type(wsr_type type, uint64_t *bits) {
  const bool narrow = type == WSR_I32 || type == WSR_F32;
  if (narrow && *bits >> 32 == UINT32_MAX) *bits = (uint32_t)*bits; /* a negative number */
  return wsr_value_fits(inner.store, type, *bits) != 0;
}

/* The host call is made: its result, if it has one; others are zero or null. Returns 0, and the
 * call is not made, if a result is no value of its type. */
EXPORT(host_return) uint32_t machine_host_return(uint64_t result) {
  wsr_function_view view;
  wsr_function(inner.store, called, &view);
  for (uint32_t i = 0; i < view.type.n_results; i++) {
    uint64_t bits = i ? 0 : result;
    if (!result_of_type(view.type.results[i], &bits)) return 0;
  }
  for (uint32_t i = 0, slot = 0; i < view.type.n_results; i++) {
    uint64_t bits = i ? 0 : result;
    result_of_type(view.type.results[i], &bits);
    call_slots[slot] = bits;
    if (wsr_slots(view.type.results[i]) > 1) call_slots[slot + 1] = 0;
    slot += wsr_slots(view.type.results[i]);
  }
  wsr_host_return(inner.store);
  return 1;
}

/* The host call is to be made again: the program stands before it. */
EXPORT(host_retry) void machine_host_retry(void) {
  uint64_t fuel = 0; /* the run had fuel, so the instruction was counted */
  wsr_host_retry(inner.store, &fuel);
}

EXPORT(trap) uint32_t machine_trap(void) { return ended_with; }

/* ---- looking ---- */

EXPORT(memory_data) uint8_t *machine_memory_data(uint32_t address) {
  wsr_memory_view view;
  wsr_memory(inner.store, address, &view);
  return view.data;
}

EXPORT(memory_size) uint32_t machine_memory_size(uint32_t address) {
  wsr_memory_view view;
  wsr_memory(inner.store, address, &view);
  return (uint32_t)view.size;
}

EXPORT(module_of) uint32_t machine_module_of(uint32_t instance) {
  return inner.modules_of[instance];
}
EXPORT(instances) uint32_t machine_instances(void) { return inner.n_instances; }
EXPORT(frame_count) uint32_t machine_frame_count(void) { return wsr_frame_count(inner.store); }

static void put_addresses(const uint32_t *addresses, uint32_t count) {
  put_u32(&answer, count);
  if (count) put_bytes(&answer, addresses, count * sizeof *addresses);
}

/* The addresses of an instance's functions, tables, memories and globals: four counts, each with
 * its numbers. */
EXPORT(addresses) void machine_addresses(uint32_t instance) {
  answer.size = 0;
  const wsr_instance *const one = inner.store->program.instances[instance];
  put_addresses(one->functions, one->module->n.functions);
  put_addresses(one->tables, one->module->n.tables);
  put_addresses(one->memories, one->module->n.memories);
  put_addresses(one->globals, one->module->n.globals);
}

/* The frames from a number on, outermost first: instance, function, offset, locals, operands, then
 * types, padded to 8, then slots, and for each local whether it can still be read. */
EXPORT(frames) void machine_frames(uint32_t first) {
  answer.size = 0;
  const uint32_t n = wsr_frame_count(inner.store);
  put_u32(&answer, first < n ? n - first : 0);
  put_u32(&answer, 0);
  for (uint32_t i = first; i < n; i++) {
    wsr_frame_view view;
    if (!wsr_view_frame(inner.store, i, 1, &view)) fail(1, "there is too little memory");
    static const uint8_t zeros[8];
    const uint32_t height = view.n_locals + view.n_operands;
    const uint32_t head[6] = {view.instance, view.index,      view.offset,
                              view.n_locals, view.n_operands, view.n_slots};
    put_bytes(&answer, head, sizeof head);
    put_bytes(&answer, view.types, height);
    put_bytes(&answer, zeros, (8 - height % 8) % 8);
    put_bytes(&answer, view.values, view.n_slots * sizeof *view.values);
    put_bytes(&answer, view.live, view.n_locals);
    put_bytes(&answer, zeros, (8 - view.n_locals % 8) % 8);
  }
}

/* Globals: type, mutability, two slots each. */
EXPORT(globals) void machine_globals(void) {
  answer.size = 0;
  wsr_store_counts counts;
  wsr_store_count(inner.store, &counts);
  for (uint32_t i = 0; i < counts.globals; i++) {
    wsr_global_type type;
    uint64_t value[2] = {0, 0};
    wsr_global(inner.store, i, &type, value);
    put_u32(&answer, wsr_top_type(type.type));
    put_u32(&answer, type.mutability);
    put_u64(&answer, value[0]);
    put_u64(&answer, value[1]);
  }
}

static void take_page(const uint8_t *page, size_t size) { put_bytes(&answer, page, size); }

/* All of it, as a plain state. */
EXPORT(state) void machine_state(void) {
  answer.size = 0;
  const span wasi = inner.state.parts[PART_WASI];
  buffer same = {0};
  put_bytes(&same, wasi.data, wasi.size);
  program_capture(&inner, &answer, &same, inner.fuel);
  program_each_page(&inner, take_page);
  free(same.data);
}

/* ---- kept states ---- */

/* A page as it was in the state kept before. */
typedef struct {
  uint32_t memory, page;
} old_page;

typedef struct {
  wsr_store *store; /* a copy without memories */
  uint64_t count;   /* instructions executed, or UNCOUNTED */
  uint32_t next;    /* the invocation that had not begun */
  uint32_t result_of;
  uint32_t n_old; /* pages that differ from the state before: which, and their old bytes */
  old_page *old;
  uint8_t *bytes;
} kept_state;

static kept_state *kept;
static uint32_t n_kept, room_kept;

/* The bytes of the memories in the last kept state. */
typedef struct {
  uint8_t *data;
  size_t size;
} last_memory;
static last_memory *last;

static bool grow_last(uint32_t memory, size_t size) {
  if (size <= last[memory].size) return true;
  uint8_t *const grown = realloc(last[memory].data, size);
  if (!grown) return false;
  memset(grown + last[memory].size, 0, size - last[memory].size);
  last[memory] = (last_memory){grown, size};
  return true;
}

/* Which pages differ from the last kept state: a flag for each, memory after memory. */
static uint8_t *differing;
static size_t room_differing;

/* Find them, and count them. False if there is too little memory, and nothing has changed. Where
 * the memories are as large as in a kept state, there is room. */
static bool find_differences(size_t *count) {
  size_t pages = 0;
  for (uint32_t memory = 0; memory < machine_memories(); memory++) {
    if (!grow_last(memory, machine_memory_size(memory))) return false;
    pages += machine_memory_size(memory) / WSR_PAGE;
  }
  if (pages > room_differing) {
    uint8_t *const grown = realloc(differing, pages);
    if (!grown) return false;
    differing = grown;
    room_differing = pages;
  }
  *count = 0;
  uint8_t *flags = differing;
  for (uint32_t memory = 0; memory < machine_memories(); memory++) {
    const size_t size = machine_memory_size(memory);
    *count +=
        wsr_page_differences(machine_memory_data(memory), last[memory].data, size, WSR_PAGE, flags);
    flags += size / WSR_PAGE;
  }
  return true;
}

/* Call `take` for each page that was found. */
static void each_difference(void (*take)(uint32_t memory, uint32_t page, uint8_t *now,
                                         uint8_t *then)) {
  const uint8_t *flag = differing;
  for (uint32_t memory = 0; memory < machine_memories(); memory++) {
    uint8_t *const data = machine_memory_data(memory);
    const size_t pages = machine_memory_size(memory) / WSR_PAGE;
    for (size_t page = 0; page < pages; page++)
      if (*flag++)
        take(memory, (uint32_t)page, data + page * WSR_PAGE, last[memory].data + page * WSR_PAGE);
  }
}

static old_page *next_old;
static uint8_t *next_bytes;

static void note_old(uint32_t memory, uint32_t page, uint8_t *now, uint8_t *then) {
  *next_old++ = (old_page){memory, page};
  memcpy(next_bytes, then, WSR_PAGE);
  next_bytes += WSR_PAGE;
  memcpy(then, now, WSR_PAGE);
}

static void put_back(uint32_t memory, uint32_t page, uint8_t *now, uint8_t *then) {
  (void)memory;
  (void)page;
  memcpy(now, then, WSR_PAGE);
}

/* Room for old pages; false without memory. */
static bool make_room(kept_state *of, size_t count) {
  of->n_old = (uint32_t)count;
  of->old = malloc(count * sizeof *of->old + 1);
  of->bytes = malloc(count * WSR_PAGE + 1);
  if (of->old && of->bytes) return true;
  free(of->old);
  free(of->bytes);
  return false;
}

static uint64_t kept_bytes; /* of old pages */

EXPORT(kept_bytes) uint64_t machine_kept_bytes(void) { return kept_bytes; }

/* Keep this state as the next one. Returns 0 if there is too little memory; then nothing has
 * changed.
 */
EXPORT(keep) uint32_t machine_keep(void) {
  if (!last) last = allocate(machine_memories() + 1, sizeof *last);
  if (n_kept == room_kept) {
    const uint32_t room = room_kept * 2 + 16;
    kept_state *const grown = realloc(kept, room * sizeof *kept);
    if (!grown) return 0;
    kept = grown;
    room_kept = room;
  }
  size_t count;
  if (!find_differences(&count)) return 0;
  kept_state one = {
      .count = program_executed(&inner), .next = inner.next, .result_of = inner.result_of};
  if (!make_room(&one, count)) return 0;
  wsr_error error;
  one.store = wsr_store_copy(inner.store, 0, &error);
  if (!one.store) {
    free(one.old);
    free(one.bytes);
    return 0;
  }
  next_old = one.old;
  next_bytes = one.bytes;
  each_difference(note_old);
  kept_bytes += (uint64_t)count * WSR_PAGE;
  kept[n_kept++] = one;
  return 1;
}

EXPORT(kept) uint32_t machine_kept(void) { return n_kept; }

static void forget_last(void) {
  const kept_state *const one = kept + --n_kept;
  for (uint32_t i = 0; i < one->n_old; i++)
    memcpy(last[one->old[i].memory].data + (size_t)one->old[i].page * WSR_PAGE,
           one->bytes + (size_t)i * WSR_PAGE, WSR_PAGE);
  kept_bytes -= (uint64_t)one->n_old * WSR_PAGE;
  wsr_store_free(one->store);
  free(one->old);
  free(one->bytes);
}

/* Go back to a kept state; those after it are forgotten. */
EXPORT(go_back) void machine_go_back(uint32_t number) {
  if (number >= n_kept) fail(1, "there is no such kept state");
  while (n_kept > number + 1) forget_last();
  const kept_state *const one = kept + number;
  if (!wsr_store_assign(inner.store, one->store))
    fail(1, "there is too little memory to step backwards");
  if (one->count != UNCOUNTED) inner.before = one->count - wsr_executed(inner.store);
  inner.next = one->next;
  inner.result_of = one->result_of;
  size_t count;
  if (!find_differences(&count)) fail(1, "there is too little memory to step backwards");
  each_difference(put_back);
  ended_with = 0;
}

/* How two pages are ordered; a missing one is after all others. */
static int order_of(const old_page *one, const old_page *other) {
  if (!one || !other) return one ? -1 : 1;
  if (one->memory != other->memory) return one->memory < other->memory ? -1 : 1;
  return one->page == other->page ? 0 : one->page < other->page ? -1 : 1;
}

/* The old pages of two states after one another, as those of one; a page that changed both times
 * has its oldest bytes in `gone`. Returns how many; with `to` they are written there. */
static size_t merge(const kept_state *gone, const kept_state *after, const kept_state *to) {
  size_t count = 0;
  for (uint32_t i = 0, at = 0; i < gone->n_old || at < after->n_old; count++) {
    const old_page *const one = i < gone->n_old ? gone->old + i : NULL;
    const old_page *const other = at < after->n_old ? after->old + at : NULL;
    const int order = order_of(one, other);
    if (to) {
      const uint8_t *const bytes =
          order > 0 ? after->bytes + (size_t)at * WSR_PAGE : gone->bytes + (size_t)i * WSR_PAGE;
      to->old[count] = order > 0 ? *other : *one;
      memcpy(to->bytes + count * WSR_PAGE, bytes, WSR_PAGE);
    }
    i += order <= 0;
    at += order >= 0;
  }
  return count;
}

/* Forget a kept state between two others: what differed goes to the one after it. Returns 0 if
 * there is too little memory; then nothing has changed. */
EXPORT(forget) uint32_t machine_forget(uint32_t number) {
  if (!number || number + 1 >= n_kept) fail(1, "there is no kept state between two others");
  kept_state *const gone = kept + number, *const after = kept + number + 1;
  kept_state made = *after;
  if (!make_room(&made, merge(gone, after, NULL))) return 0;
  merge(gone, after, &made);
  kept_bytes += (uint64_t)made.n_old * WSR_PAGE;
  kept_bytes -= ((uint64_t)gone->n_old + after->n_old) * WSR_PAGE;
  wsr_store_free(gone->store);
  free(gone->old);
  free(gone->bytes);
  free(after->old);
  free(after->bytes);
  *after = made;
  memmove(gone, after, (n_kept - number - 1) * sizeof *kept);
  n_kept--;
  return 1;
}
