/* The handlers of fast code: one small function each, which ends in a jump to the next.
 *
 * Their arguments and operands are described in fast/handler.h. Handlers are leaves; what is slow
 * or rare is in functions of its own. Regular handlers are in handlers_regular.inc, one for each
 * combination of operand classes. Leaving is a return value, as everywhere.
 */
#include "core/fast/handler.h"

#if WSR_FAST
#include "core/native/native.h"
#include "core/runtime/bulk.h"

#ifdef WSR_COUNT
#include "core/fast/count.h"
#endif

#ifdef WSR_NO_POLL /* a build that cannot be paused, to measure what asking costs: bench/poll.py \
                    */
#define REQUESTED(thread) ((void)(thread), 0U)
#else
#define REQUESTED(thread) atomic_load_explicit(&(thread)->pause, memory_order_relaxed)
#endif

#if defined(__x86_64__) && defined(__GNUC__)
/* Let the handlers begin at a fixed place of a page. Otherwise each change of code that is linked
 * before them moves them, and their speed changes: that of bench/kernels/sha256.c by 20 %. */
__asm__(".text\n\t.p2align 12\n\t.skip 0x210, 0x90\n");
#endif

static inline bool pausing(const wsr_thread *thread) { return REQUESTED(thread) != 0; }

/* ---- ways out ---- */

/* While fast code runs, the frames are counted by the place of the innermost. */
static inline void count_frames(wsr_thread *thread) {
  thread->n_frames = (uint32_t)(thread->frame - thread->frames) + 1;
}

static uint32_t leave(wsr_thread *thread, uint32_t cell, uint32_t outcome) {
  thread->frame->cell = cell;
  count_frames(thread);
  return outcome;
}

/* The precise cell of the handler that traps. */
__attribute__((noinline, cold)) static uint32_t cell_of(const wsr_thread *thread,
                                                        const uint64_t *pc) {
  const wsr_fast *fast = WSR_PUBLISHED(&thread->codes[thread->frame->function]);
  const uint32_t word = (uint32_t)(pc - fast->words);
  uint32_t first = 0, last = fast->n_map;
  while (first < last) {
    const uint32_t middle = first + (last - first) / 2;
    if (fast->map[middle].word < word)
      first = middle + 1;
    else
      last = middle;
  }
  return fast->map[first].cell;
}

static uint32_t trapped_in(wsr_thread *thread, uint32_t cell, uint32_t trap) {
  const wsr_fast *const fast = WSR_PUBLISHED(&thread->codes[thread->frame->function]);
  thread->out->trap = trap;
  if (fast->metered) thread->left += wsr_left_in_block(fast->code, cell);
  return leave(thread, cell, WSR_TRAPPED);
}

/* `acc` is the trap's code, or one of the above. */
__attribute__((noinline, cold)) uint32_t wsr_trapped(PARAMETERS) {
  (void)fp, (void)memory, (void)size, (void)fd, (void)fs, (void)va;
  if (acc == WSR_TOO_SHORT) return leave(thread, high(pc[2]), WSR_SHORT);
  const uint32_t cell = acc & WSR_EARLIER ? low(pc[3]) : cell_of(thread, pc);
  return trapped_in(thread, cell, (uint32_t)acc & (WSR_EARLIER - 1U));
}

/* ---- regular handlers ---- */

#include "core/fast/handlers_regular.inc"

/* ---- two i32 loads: from a to b, from c to the accumulator (and d); third word: offsets; fourth:
 * the cell of the first, where it may trap ---- */

#define LOAD_2(NAME, AND_SLOT)                                                  \
  STEP(NAME, 4) {                                                               \
    const uint64_t first = (uint64_t)(uint32_t)fp[field(pc, 0)] + low(pc[2]);   \
    if (first + 4 > size) return WSR_TRAP_MEMORY_BOUNDS | WSR_EARLIER;          \
    fp[field(pc, 1)] = wsr_get32(memory + first);                               \
    const uint64_t second = (uint64_t)(uint32_t)fp[field(pc, 2)] + high(pc[2]); \
    if (second + 4 > size) TRAP(MEMORY_BOUNDS);                                 \
    r->acc = wsr_get32(memory + second);                                        \
    if (AND_SLOT) fp[field(pc, 3)] = r->acc;                                    \
    DONE;                                                                       \
  }                                                                             \
  HANDLER(NAME)
LOAD_2(load_2_a, false)
LOAD_2(load_2_w, true)

/* ---- moves ---- */

STEP(move, 2) { /* a to d */
  fp[field(pc, 3)] = fp[field(pc, 0)];
  DONE;
}
HANDLER(move)
STEP(move_2, 2) { /* a to b, then c to d */
  fp[field(pc, 1)] = fp[field(pc, 0)];
  fp[field(pc, 3)] = fp[field(pc, 2)];
  DONE;
}
HANDLER(move_2)
STEP(constant, 3) { /* third word to d */
  fp[field(pc, 3)] = pc[2];
  DONE;
}
HANDLER(constant)
STEP(move_acc_i, 2) {
  fp[field(pc, 3)] = r->acc;
  DONE;
}
HANDLER(move_acc_i)
STEP(move_acc_f, 2) {
  fp[field(pc, 3)] = wsr_bits_f32(r->fs);
  DONE;
}
HANDLER(move_acc_f)
STEP(move_acc_d, 2) {
  fp[field(pc, 3)] = wsr_bits_f64(r->fd);
  DONE;
}
HANDLER(move_acc_d)
STEP(move_acc_v, 2) {
  wsr_slots_put(fp + field(pc, 3), r->va);
  DONE;
}
HANDLER(move_acc_v)
STEP(constant_v, 4) { /* third and fourth word to d and the slot after it */
  fp[field(pc, 3)] = pc[2];
  fp[field(pc, 3) + 1] = pc[3];
  DONE;
}
HANDLER(constant_v)
STEP(select_s, 2) { /* d = c ? a : b */
  fp[field(pc, 3)] = fp[field(pc, (uint32_t)fp[field(pc, 2)] ? 0 : 1)];
  DONE;
}
HANDLER(select_s)
STEP(select_a, 2) {
  fp[field(pc, 3)] = fp[field(pc, (uint32_t)r->acc ? 0 : 1)];
  DONE;
}
HANDLER(select_a)

/* The same for v128: two slots. */
#define EITHER() wsr_slots_get(fp + field(pc, (uint32_t)fp[field(pc, 2)] ? 0 : 1))
STEP(select_v_a, 2) {
  r->va = EITHER();
  DONE;
}
HANDLER(select_v_a)
STEP(select_v_w, 2) {
  r->va = EITHER();
  wsr_slots_put(fp + field(pc, 3), r->va);
  DONE;
}
HANDLER(select_v_w)

/* ---- globals: the offset is the index, b the destination, a the source ---- */

#define GLOBAL (thread->globals[thread->instance->globals[offset_of(pc)]].value)
STEP(get_i_a, 2) {
  r->acc = GLOBAL;
  DONE;
}
HANDLER(get_i_a)
STEP(get_i_w, 2) {
  r->acc = fp[field(pc, 1)] = GLOBAL;
  DONE;
}
HANDLER(get_i_w)
STEP(get_f_a, 2) {
  r->fs = wsr_f32(GLOBAL);
  DONE;
}
HANDLER(get_f_a)
STEP(get_f_w, 2) {
  r->fs = wsr_f32(fp[field(pc, 1)] = GLOBAL);
  DONE;
}
HANDLER(get_f_w)
STEP(get_d_a, 2) {
  r->fd = wsr_f64(GLOBAL);
  DONE;
}
HANDLER(get_d_a)
STEP(get_d_w, 2) {
  r->fd = wsr_f64(fp[field(pc, 1)] = GLOBAL);
  DONE;
}
HANDLER(get_d_w)
STEP(get_add_a, 3) { /* the global and the third word */
  r->acc = (uint32_t)(GLOBAL + pc[2]);
  DONE;
}
HANDLER(get_add_a)
STEP(get_add_w, 3) {
  r->acc = fp[field(pc, 1)] = (uint32_t)(GLOBAL + pc[2]);
  DONE;
}
HANDLER(get_add_w)
STEP(set_add, 3) { /* a and the third word */
  GLOBAL = (uint32_t)(fp[field(pc, 0)] + pc[2]);
  DONE;
}
HANDLER(set_add)
STEP(set_s, 2) {
  GLOBAL = fp[field(pc, 0)];
  DONE;
}
HANDLER(set_s)
STEP(set_i, 2) {
  GLOBAL = r->acc;
  DONE;
}
HANDLER(set_i)
STEP(set_f, 2) {
  GLOBAL = wsr_bits_f32(r->fs);
  DONE;
}
HANDLER(set_f)
STEP(set_d, 2) {
  GLOBAL = wsr_bits_f64(r->fd);
  DONE;
}
HANDLER(set_d)

/* a v128 */
#define GLOBAL_V (&thread->globals[thread->instance->globals[offset_of(pc)]])
STEP(get_v_a, 2) {
  r->va = wsr_slots_get(&GLOBAL_V->value);
  DONE;
}
HANDLER(get_v_a)
STEP(get_v_w, 2) {
  r->va = wsr_slots_get(&GLOBAL_V->value);
  wsr_slots_put(fp + field(pc, 1), r->va);
  DONE;
}
HANDLER(get_v_w)
STEP(set_v, 2) {
  wsr_slots_put(&GLOBAL_V->value, r->va);
  DONE;
}
HANDLER(set_v)
STEP(set_v_s, 2) {
  wsr_slots_put(&GLOBAL_V->value, wsr_slots_get(fp + field(pc, 0)));
  DONE;
}
HANDLER(set_v_s)

/* ---- branches: a is the test; the distance is in words; back: the third word is the cell ---- */

END(branch) { NEXT(distance(pc)); }
END(branch_back) {
  if (pausing(thread)) return leave(thread, low(pc[2]), WSR_PAUSED);
  NEXT(distance(pc));
}
#define TEST(NAME, CONDITION)          \
  END(NAME) {                          \
    if (CONDITION) NEXT(distance(pc)); \
    NEXT(2);                           \
  }
#define TEST_BACK(NAME, CONDITION)                                       \
  END(NAME) {                                                            \
    if (CONDITION) {                                                     \
      if (pausing(thread)) return leave(thread, low(pc[2]), WSR_PAUSED); \
      NEXT(distance(pc));                                                \
    }                                                                    \
    NEXT(3);                                                             \
  }
TEST(true_s, (uint32_t)fp[field(pc, 0)])
TEST(true_a, (uint32_t)acc)
TEST(false_s, !(uint32_t)fp[field(pc, 0)])
TEST(false_a, !(uint32_t)acc)
TEST_BACK(true_back_s, (uint32_t)fp[field(pc, 0)])
TEST_BACK(true_back_a, (uint32_t)acc)
TEST_BACK(false_back_s, !(uint32_t)fp[field(pc, 0)])
TEST_BACK(false_back_a, !(uint32_t)acc)

/* Third word: number of labels, the default last, and what is added to the index; then for each two
 * words: distance and slot, cell. Fields: a index, b arity (0 but for those that copy), c first
 * operand. */
#define TABLE(NAME, INDEX, COPIES)                                                         \
  END(NAME) {                                                                              \
    const uint32_t index = (INDEX) + high(pc[2]), last = low(pc[2]) - 1, n = field(pc, 1); \
    const uint64_t *const entry = pc + 3 + 2 * (size_t)(index < last ? index : last);      \
    const uint64_t *const from = fp + field(pc, 2);                                        \
    uint64_t *const to = fp + high(entry[0]);                                              \
    for (uint32_t i = 0; COPIES && i < n; i++) to[i] = from[i];                            \
    const int32_t by = (int32_t)low(entry[0]);                                             \
    if (by <= 0 && pausing(thread)) return leave(thread, low(entry[1]), WSR_PAUSED);       \
    NEXT(by);                                                                              \
  }
TABLE(table_s, (uint32_t)fp[field(pc, 0)], false)
TABLE(table_a, (uint32_t)acc, false)
TABLE(table_copy_s, (uint32_t)fp[field(pc, 0)], true)
TABLE(table_copy_a, (uint32_t)acc, true)

/* ---- calls: a first argument, d length of the cell; third word: index and cell ---- */

__attribute__((noinline)) static uint32_t host_call(PARAMETERS) { /* acc: address */
  (void)memory, (void)size, (void)fd, (void)fs, (void)va;
  thread->out->host_function = (uint32_t)acc;
  thread->out->host_instance = thread->functions[thread->frame->function].instance;
  thread->out->slots = fp + field(pc, 0);
  return leave(thread, high(pc[2]), WSR_HOST_CALL);
}

static uint32_t first_call(PARAMETERS);

/* Two at a time: one operand slot after the locals may be written too: it holds nothing yet. The
 * barrier keeps the compiler from calling memset, which would cost every call a prologue. */
static inline void zero_locals(uint64_t *fp, const wsr_fast *callee) {
  uint64_t *const end = fp + callee->n_locals;
  for (uint64_t *p = fp + callee->n_params; p < end; p += 2) {
    p[0] = p[1] = 0;
    __asm__ volatile("" : : : "memory");
  }
}

static inline uint64_t room_above(const wsr_thread *thread, const uint64_t *slot) {
  return (uintptr_t)thread->stack_end - (uintptr_t)slot;
}

/* Go on at `pc` in another instance, which is in `acc`: it has another memory. */
__attribute__((noinline)) static uint32_t change_instance(PARAMETERS) {
  thread->instance = (wsr_instance *)(uintptr_t)acc;
  const wsr_memory_instance *const m = wsr_memory_of(thread->memories, thread->instance);
  memory = m->space.data;
  size = m->space.size;
  GO(pc);
}

/* Go to `pc`, code of `owner`. */
#define GO_IN(owner)                           \
  do {                                         \
    wsr_instance *const instance_ = (owner);   \
    if (thread->instance == instance_) GO(pc); \
    acc = (uint64_t)(uintptr_t)instance_;      \
    WSR_TAIL change_instance(ARGUMENTS);       \
  } while (0)

/* How fast code goes on when the frame returns. The two arrays run side by side, so one pointer
 * into the first serves both. */
static inline wsr_return *back_of(const wsr_thread *thread, const wsr_frame *frame) {
  return (wsr_return *)(thread->returns_from +
                        sizeof(wsr_return) / sizeof(wsr_frame) * (uintptr_t)frame);
}
_Static_assert(sizeof(wsr_return) % sizeof(wsr_frame) == 0, "returns_from");

/* Force values to be read again after this point. It keeps them out of registers that a
 * call does not have (there are three beside the arguments). */
#define FORGET() __asm__ volatile("" : : : "memory")
/* Force what was computed from x to be computed again. */
#define FORGET_WHENCE(x) __asm__("" : "+r"(x))
/* Halves of the third word, one load each. (Fast code runs on little-endian CPUs only.) */
static inline uint32_t low_third(const uint64_t *pc) {
  uint32_t value;
  memcpy(&value, pc + 2, sizeof value);
  return value;
}
static inline uint32_t high_third(const uint64_t *pc) {
  uint32_t value;
  memcpy(&value, (const char *)(pc + 2) + 4, sizeof value);
  return value;
}

/* Push a frame of `callee`, the function at address acc, over the operands. */
#define PUSH_FRAME()                                                                      \
  FORGET_WHENCE(acc);                                                                     \
  if (room_above(thread, fp + field(pc, 0)) < callee->frame_bytes) TRAP_HERE(EXHAUSTION); \
  FORGET();                                                                               \
  wsr_frame *const frame = thread->frame;                                                 \
  if (frame == thread->last_frame) TRAP_HERE(EXHAUSTION);                                 \
  frame[1].function = (uint32_t)acc;                                                      \
  frame->cell = high_third(pc) + 1;                                                       \
  FORGET();                                                                               \
  frame[1].slot = frame->slot + field(pc, 0);                                             \
  thread->frame = frame + 1;                                                              \
  wsr_return *const back = back_of(thread, frame + 1);                                    \
  back->pc = pc + field(pc, 3);                                                           \
  back->fp = fp;                                                                          \
  FORGET();                                                                               \
  back->instance = thread->instance;                                                      \
  fp += field(pc, 0);                                                                     \
  zero_locals(fp, callee);                                                                \
  pc = callee->words

__attribute__((always_inline)) static inline uint32_t enter(PARAMETERS) { /* acc: address */
  const wsr_fast *const callee = WSR_PUBLISHED(&thread->codes[acc]);
  if (!callee) WSR_TAIL first_call(ARGUMENTS);
  PUSH_FRAME();
  FORGET();
  FORGET_WHENCE(acc);
  wsr_instance *const owner = thread->functions[acc].owner;
  GO_IN(owner);
}

__attribute__((always_inline)) static inline uint32_t enter_tail(
    PARAMETERS) { /* acc: address; b: number of arguments */
  const wsr_fast *const callee = WSR_PUBLISHED(&thread->codes[acc]);
  if (!callee) WSR_TAIL first_call(ARGUMENTS);
  if (room_above(thread, fp) < callee->frame_bytes) TRAP_HERE(EXHAUSTION);
  const uint64_t *const from = fp + field(pc, 0);
  const uint32_t n = field(pc, 1);
  for (uint32_t i = 0; i < n; i++) fp[i] = from[i];
  thread->frame->function = (uint32_t)acc;
  zero_locals(fp, callee);
  pc = callee->words;
  wsr_instance *const owner = thread->functions[acc].owner;
  GO_IN(owner);
}

/* Stop before the call; its block has been counted with it (of use to metered code only). */
__attribute__((noinline, cold)) static uint32_t pause_at_call(wsr_thread *thread, uint32_t cell) {
  thread->left++;
  return leave(thread, cell, WSR_PAUSED);
}

/* Make the fast code of the function at address acc, then try the call again; or leave for a host
 * function, which never has any. To compile a function of 200 KB takes 10 ms: so it makes way for a
 * pause. */
__attribute__((noinline, cold)) static uint32_t first_call(PARAMETERS) {
  if (thread->functions[acc].instance == WSR_NONE) WSR_TAIL host_call(ARGUMENTS);
  const bool metered = thread->codes == thread->store->program.fast[1];
  wsr_compile_interruptible(thread, (uint32_t)acc);
  const bool made = wsr_function_fast(thread, (uint32_t)acc, metered) != NULL;
  if (wsr_compile_interrupted(thread, (uint32_t)acc, made))
    return pause_at_call(thread, high(pc[2]));
  if (!made) TRAP_HERE(NO_MEMORY);
  GO(pc);
}

#define POLL_CALL()                                                    \
  if (REQUESTED(thread) & 1) return pause_at_call(thread, high(pc[2]))

END(call) {
  POLL_CALL();
  acc = thread->instance->functions[low(pc[2])];
  return enter(ARGUMENTS);
}
/* A function that the module defines itself: it belongs to the same instance. */
END(call_own) {
  POLL_CALL();
  acc = thread->instance->own + low_third(pc);
  FORGET_WHENCE(acc);
  const wsr_fast *const callee = WSR_PUBLISHED(&thread->codes[acc]);
  if (!callee) WSR_TAIL first_call(ARGUMENTS);
  PUSH_FRAME();
  GO(pc);
}
END(tail_call) {
  POLL_CALL();
  acc = thread->instance->functions[low(pc[2])];
  return enter_tail(ARGUMENTS);
}

/* The function has another type than the call names. It can still be a subtype. */
#define DESCENDS()                                                                \
  if (!wsr_descends(thread->store->program.subtypes, thread->functions[acc].type, \
                    thread->instance->types[low(pc[2])]))                         \
  TRAP_HERE(INDIRECT_TYPE)
__attribute__((noinline, cold)) static uint32_t call_subtype(PARAMETERS) {
  DESCENDS();
  return enter(ARGUMENTS);
}
__attribute__((noinline, cold)) static uint32_t tail_call_subtype(PARAMETERS) {
  DESCENDS();
  return enter_tail(ARGUMENTS);
}

/* c: the element's index; third word: type and cell; fourth: table */
#define INDIRECT(SUBTYPE)                                                                       \
  POLL_CALL();                                                                                  \
  const wsr_table_instance *const table = thread->tables[thread->instance->tables[low(pc[3])]]; \
  const uint64_t element = fp[field(pc, 2)];                                                    \
  if (element >= table->size) TRAP_HERE(UNDEFINED_ELEMENT);                                     \
  acc = table->elements[element];                                                               \
  if (!acc) TRAP_HERE(UNINITIALIZED_ELEMENT);                                                   \
  acc--;                                                                                        \
  if (thread->functions[acc].type != thread->instance->types[low(pc[2])])                       \
  WSR_TAIL SUBTYPE(ARGUMENTS)

END(call_indirect) {
  INDIRECT(call_subtype);
  return enter(ARGUMENTS);
}
END(tail_call_indirect) {
  INDIRECT(tail_call_subtype);
  return enter_tail(ARGUMENTS);
}

/* c: the reference; third word: type and cell */
END(call_ref) {
  POLL_CALL();
  acc = fp[field(pc, 2)];
  if (!acc) TRAP_HERE(NULL_FUNCTION);
  acc--;
  return enter(ARGUMENTS);
}
END(tail_call_ref) {
  POLL_CALL();
  acc = fp[field(pc, 2)];
  if (!acc) TRAP_HERE(NULL_FUNCTION);
  acc--;
  return enter_tail(ARGUMENTS);
}
STEP(non_null, 2) { /* a: the reference, which does not move */
  if (!fp[field(pc, 0)]) TRAP(NULL_REFERENCE);
  DONE;
}
HANDLER(non_null)

/* Return to a caller that runs in precise code, or to the host. */
__attribute__((noinline, cold)) static uint32_t return_out(wsr_thread *thread) {
  count_frames(thread);
  if (thread->n_frames != thread->now.base_frame) return WSR_SWITCH;
  thread->out->slots = thread->stack + thread->now.entry_slot;
  return WSR_FINISHED;
}

#define RETURN()                                         \
  const wsr_frame *const frame = thread->frame--;        \
  const wsr_return *const back = back_of(thread, frame); \
  pc = back->pc;                                         \
  if (!pc) return return_out(thread);                    \
  fp = back->fp;                                         \
  GO_IN(back->instance)

END(return_0) { RETURN(); }
END(return_1) { /* a: the result */
  fp[0] = fp[field(pc, 0)];
  RETURN();
}
END(return_n) { /* a: first result, b: their number */
  const uint32_t n = field(pc, 1);
  const uint64_t *const from = fp + field(pc, 0);
  for (uint32_t i = 0; i < n; i++) fp[i] = from[i];
  RETURN();
}

END(unreachable) { TRAP_HERE(UNREACHABLE); }

/* All rare instructions. Third word: the precise cell; fourth: its index. */
static uint32_t slow(PARAMETERS) {
  const wsr_cell *const cell = (const wsr_cell *)(uintptr_t)pc[2];
  const uint32_t trap = wsr_perform(thread, thread->instance, cell, fp);
  const wsr_memory_instance *const m = wsr_memory_of(thread->memories, thread->instance);
  memory = m->space.data;
  size = m->space.size;
  if (trap == WSR_BULK_PAUSED) {
    thread->left++; /* likewise */
    return leave(thread, low(pc[3]), WSR_PAUSED);
  }
  if (trap) {
    acc = trap;
    return wsr_trapped(ARGUMENTS);
  }
  NEXT(4);
}

/* A vector load or store of another memory; third word: the precise cell. */
static uint32_t vector_memory(PARAMETERS) {
  const wsr_cell *const cell = (const wsr_cell *)(uintptr_t)pc[2];
  uint64_t *const s = fp + cell->s;
  uint8_t *const at = wsr_locate_vector(thread->store, thread->instance, cell, s[0]);
  if (!at) TRAP_HERE(MEMORY_BOUNDS);
  wsr_vector_access(cell, s, at);
  NEXT(3);
}

/* An atomic access; third word: the precise cell. */
static uint32_t atomic(PARAMETERS) {
  const wsr_cell *const cell = (const wsr_cell *)(uintptr_t)pc[2];
  const uint32_t trap = wsr_atomic(thread->store, thread->instance, cell, fp + cell->s);
  if (trap) {
    acc = trap;
    return wsr_trapped(ARGUMENTS);
  }
  NEXT(3);
}

/* Throw. Third and fourth word as above. The driver enters the code of the frame that catches. */
static uint32_t raise(PARAMETERS) {
  (void)memory, (void)size, (void)acc, (void)fd, (void)fs, (void)va;
  const wsr_cell *const cell = (const wsr_cell *)(uintptr_t)pc[2];
  leave(thread, low(pc[3]), 0);
  return wsr_throw_cell(thread, thread->instance, cell, fp, thread->out);
}

/* ---- metered code: the offset is the block's number of instructions ---- */

STEP(spend, 2) {
  thread->left -= offset_of(pc);
  DONE;
}
HANDLER(spend)
/* third word: the longest way to the next canonical point, and the cell */
STEP(decide, 3) {
  const uint64_t left = thread->left;
  if (left < low(pc[2])) return WSR_TOO_SHORT;
  thread->left = left - offset_of(pc);
  DONE;
}
HANDLER(decide)

/* The only cell of a function that runs in precise code only. */
static uint32_t not_here(PARAMETERS) {
  (void)pc, (void)fp, (void)memory, (void)size, (void)acc, (void)fd, (void)fs, (void)va;
  return leave(thread, 0, WSR_SWITCH);
}

/* ---- sequences: several cells in one handler ---- */

#define THEN(NAME)      \
  do {                  \
    DO(NAME);           \
    pc += WORDS_##NAME; \
  } while (0)
#define SUPERINSTRUCTION_2(A, B)                  \
  SEPARATE static uint32_t A##__##B(PARAMETERS) { \
    THEN(A);                                      \
    WSR_TAIL end_##B(ARGUMENTS);                  \
  }
#define SUPERINSTRUCTION_3(A, B, C)                      \
  SEPARATE static uint32_t A##__##B##__##C(PARAMETERS) { \
    THEN(A);                                             \
    THEN(B);                                             \
    WSR_TAIL end_##C(ARGUMENTS);                         \
  }
#define SUPERINSTRUCTION_4(A, B, C, D)                          \
  SEPARATE static uint32_t A##__##B##__##C##__##D(PARAMETERS) { \
    THEN(A);                                                    \
    THEN(B);                                                    \
    THEN(C);                                                    \
    WSR_TAIL end_##D(ARGUMENTS);                                \
  }
#ifndef WSR_NO_SUPERINSTRUCTIONS
#include "core/fast/superinstructions.inc"
#endif
#undef SUPERINSTRUCTION_2
#undef SUPERINSTRUCTION_3
#undef SUPERINSTRUCTION_4
#define SUPERINSTRUCTION_2(A, B) {{A, B}, A##__##B},
#define SUPERINSTRUCTION_3(A, B, C) {{A, B, C}, A##__##B##__##C},
#define SUPERINSTRUCTION_4(A, B, C, D) {{A, B, C, D}, A##__##B##__##C##__##D},
const wsr_superinstruction wsr_superinstructions[] = {
#ifndef WSR_NO_SUPERINSTRUCTIONS
#include "core/fast/superinstructions.inc"
#endif
    {{NULL}, NULL}};
const uint32_t wsr_n_superinstructions =
    sizeof wsr_superinstructions / sizeof *wsr_superinstructions - 1;

/* ---- tables of handlers ---- */

#include "core/fast/handler_tables.inc"

#define SPECIAL(name) [WSR_FAST_##name] = name,
wsr_handler *const wsr_fast_special[WSR_FAST_SPECIALS] = {WSR_EACH_SPECIAL(SPECIAL)};

#if WSR_NATIVE
uint32_t wsr_return_out(wsr_thread *thread) { return return_out(thread); }
uint32_t wsr_change_instance(PARAMETERS) { WSR_TAIL change_instance(ARGUMENTS); }
__attribute__((noinline, cold)) uint32_t wsr_count_run(PARAMETERS) {
  const uint64_t handler = wsr_native_counted(thread, pc);
  WSR_TAIL((wsr_handler *)(uintptr_t)handler)(ARGUMENTS);
}
#endif

uint32_t wsr_run_fast(wsr_thread *thread, const wsr_fast *fast, uint32_t word, wsr_exit *out) {
  wsr_frame *frame = &thread->frames[thread->n_frames - 1];
  const wsr_function_instance *f = &thread->functions[frame->function];
  thread->frame = frame;
  thread->last_frame = &thread->frames[thread->store->limits.stack_frames - 1];
  thread->returns_from = (uintptr_t)thread->returns -
                         sizeof(wsr_return) / sizeof(wsr_frame) * (uintptr_t)thread->frames;
  thread->instance = f->owner;
  thread->codes = thread->store->program.fast[fast->metered];
  thread->out = out;
  const wsr_memory_instance *m = wsr_memory_of(thread->memories, f->owner);
  const uint64_t *pc = fast->words + word;
#if WSR_NATIVE
  if (thread->store->program.native) {
    if (!wsr_native_stack_make(thread)) {
      out->trap = WSR_TRAP_NO_MEMORY;
      return WSR_TRAPPED;
    }
    return wsr_native_run(thread, pc, thread->stack + frame->slot, m->space.data, m->space.size);
  }
#endif
  return ((wsr_handler *)(uintptr_t)pc[0])(pc, thread->stack + frame->slot, m->space.data,
                                           m->space.size, thread, 0, 0, 0, (wsr_vector){0, 0});
}
#endif
