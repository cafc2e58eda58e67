/* The body of the hot loop over precise code. _core.c includes it once for each variant:
 *
 *   RUN      the function's name
 *   METERED  1 counts instructions and stops where the fuel is used up, 0 does neither
 *   BRIDGE   1 leaves with WSR_SWITCH at the next canonical point, where fast code can go on
 *
 * One handler for each row of the instruction table, the regular ones generated
 * (precise/handlers.h). A comment at each handler says what the fields of its cell mean: s is a
 * slot, and fp + s is the operand's place. The loop has no program state of its own: it derives
 * `pc`, `fp` and the rest from the innermost frame when it begins, and writes the position back on
 * every way out. Source: WebAssembly specification, section 4.4.
 */

#include "core/precise/watch.h"

static uint32_t RUN(wsr_thread *thread, uint64_t *fuel, wsr_exit *out) {
  LABELS;
  WATCH_LOCALS();
  wsr_store *const store = thread->store;
  wsr_frame *frame;
  const wsr_code *code;
  const wsr_cell *pc;
  uint64_t *fp;
  const wsr_instance *instance;
  uint8_t *memory = NULL;
  uint64_t memory_size = 0;
  uint64_t *const stack_end = thread->stack + store->limits.stack_slots;
  uint32_t trap;
  uint32_t address; /* of the function that is being called */
#if METERED
  uint64_t left = *fuel;
#else
  (void)fuel;
#endif

#define LOAD_MEMORY()                                                        \
  do {                                                                       \
    const wsr_memory_instance *m = wsr_memory_of(store->memories, instance); \
    memory = m->space.data;                                                  \
    memory_size = m->space.size;                                             \
  } while (0)

#define LOAD_FRAME()                                                               \
  do {                                                                             \
    frame = &thread->frames[thread->n_frames - 1];                                 \
    const wsr_function_instance *own = &store->program.functions[frame->function]; \
    code = wsr_code_of(own);                                                       \
    pc = code->cells + frame->cell;                                                \
    fp = thread->stack + frame->slot;                                              \
    if (instance != store->program.instances[own->instance]) {                     \
      instance = store->program.instances[own->instance];                          \
      LOAD_MEMORY();                                                               \
    }                                                                              \
  } while (0)

#define SAVE() (frame->cell = (uint32_t)(pc - code->cells))

#if METERED
#define SPEND()               \
  do {                        \
    if (!left) goto fuel_out; \
    WATCH_POSITION();         \
    left--;                   \
  } while (0)
#define KEEP_FUEL() (*fuel = left + WATCH_ASIDE)
#define GIVE_BACK() (left++)
#else
#define SPEND() ((void)0)
#define KEEP_FUEL() ((void)0)
#define GIVE_BACK() ((void)0)
#endif

#if BRIDGE
#define CANONICAL() goto change_code
#else
#define CANONICAL() ((void)0)
#endif

/* OP: a handler of an instruction, which counts. SILENT: of a cell that the compiler added. */
#define OP(name) AT(name) SPEND();
#define SILENT(name) AT(name)
#define SLOTS uint64_t *const s = fp + pc->s
#define NEXT  \
  do {        \
    pc++;     \
    GO;       \
  } while (0)
#define TRAP(name)          \
  do {                      \
    trap = WSR_TRAP_##name; \
    goto trapped;           \
  } while (0)
/* `at`: where the load or store finds its bytes. */
#define LOCATE(width)                                          \
  uint8_t *at;                                                 \
  if (pc->n) {                                                 \
    at = wsr_locate(store, instance, pc, s[0], width);         \
    if (!at) TRAP(MEMORY_BOUNDS);                              \
  } else {                                                     \
    const uint64_t address_ = (uint32_t)s[0] + pc->u.imm;      \
    if (address_ + (width) > memory_size) TRAP(MEMORY_BOUNDS); \
    at = memory + address_;                                    \
  }
#define PAUSE_REQUESTED() (atomic_load_explicit(&thread->pause, memory_order_relaxed) != 0)
/* Pause before this call. The next run executes the call and counts it. */
#define POLL()                                                                           \
  do {                                                                                   \
    if (atomic_load_explicit(&thread->pause, memory_order_relaxed) & 1) goto pause_here; \
  } while (0)

  instance = NULL;
  if (thread->n_frames == thread->now.base_frame) goto finished;
  LOAD_FRAME();
  GO_FIRST {
    /* ---- control ---- */

    OP(UNREACHABLE) { TRAP(UNREACHABLE); }
    OP(NOP) { NEXT; }
    OP(ATOMIC_FENCE) { NEXT; }
    OP(BLOCK) { NEXT; }
    OP(LOOP) { NEXT; }

    /* s: test; a: the else-branch or the end */
    OP(IF) {
      SLOTS;
      if ((uint32_t)s[0]) NEXT;
      pc = code->cells + pc->u.p.a;
      GO;
    }
    SILENT(JUMP) {
      pc = code->cells + pc->u.p.a;
      GO;
    }
    /* n values end at slot s; they go to slot b; a: the label's cell */
    OP(BR) {
      move(fp + pc->u.p.b, fp + pc->s - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      GO;
    }
    OP(BR_BACK) {
      move(fp + pc->u.p.b, fp + pc->s - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      if (PAUSE_REQUESTED()) goto pause_after;
      CANONICAL();
      GO;
    }
    /* as br; s: the test */
    OP(BR_IF) {
      SLOTS;
      if (!(uint32_t)s[0]) NEXT;
      move(fp + pc->u.p.b, s - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      GO;
    }
    OP(BR_IF_BACK) {
      SLOTS;
      if (!(uint32_t)s[0]) NEXT;
      move(fp + pc->u.p.b, s - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      if (PAUSE_REQUESTED()) goto pause_after;
      CANONICAL();
      GO;
    }
    /* s: index; a: first target; b: number of targets, the default last; n values below s */
    OP(BR_TABLE) {
      SLOTS;
      const uint32_t last = pc->u.p.b - 1;
      const uint32_t index = (uint32_t)s[0] < last ? (uint32_t)s[0] : last;
      const wsr_target *target = &code->targets[pc->u.p.a + index];
      move(fp + target->slot, s - pc->n, pc->n);
      const wsr_cell *from = pc;
      pc = code->cells + target->cell;
      if (pc <= from) {
        if (PAUSE_REQUESTED()) goto pause_after;
        CANONICAL();
      }
      GO;
    }
    /* n values from slot s */
    OP(RETURN) { goto return_results; }
    SILENT(RETURN_AT_END) { goto return_results; }

    /* n arguments from slot s; a: function index */
    OP(CALL) {
      POLL();
      address = instance->functions[pc->u.p.a];
      goto call;
    }
    /* n arguments from slot s, then the element's index; a: type; b: table */
    OP(CALL_INDIRECT) {
      POLL();
      SLOTS;
      trap = wsr_resolve_indirect(store, instance, pc, s[pc->n], &address);
      if (trap) goto trapped;
      goto call;
    }
    OP(RETURN_CALL) {
      POLL();
      address = instance->functions[pc->u.p.a];
      goto tail_call;
    }
    OP(RETURN_CALL_INDIRECT) {
      POLL();
      SLOTS;
      trap = wsr_resolve_indirect(store, instance, pc, s[pc->n], &address);
      if (trap) goto trapped;
      goto tail_call;
    }

    /* n arguments from slot s, then the reference; a: type */
    OP(CALL_REF) {
      POLL();
      SLOTS;
      if (!s[pc->n]) TRAP(NULL_FUNCTION);
      address = (uint32_t)(s[pc->n] - 1);
      goto call;
    }
    OP(RETURN_CALL_REF) {
      POLL();
      SLOTS;
      if (!s[pc->n]) TRAP(NULL_FUNCTION);
      address = (uint32_t)(s[pc->n] - 1);
      goto tail_call;
    }
    /* as br_if, of n values below the reference in slot s */
    OP(BR_ON_NULL) {
      SLOTS;
      if (s[0]) NEXT;
      move(fp + pc->u.p.b, s - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      GO;
    }
    OP(BR_ON_NULL_BACK) {
      SLOTS;
      if (s[0]) NEXT;
      move(fp + pc->u.p.b, s - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      if (PAUSE_REQUESTED()) goto pause_after;
      CANONICAL();
      GO;
    }
    /* as br_if, of n values of which the last is the reference in slot s */
    OP(BR_ON_NON_NULL) {
      SLOTS;
      if (!s[0]) NEXT;
      move(fp + pc->u.p.b, s + 1 - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      GO;
    }
    OP(BR_ON_NON_NULL_BACK) {
      SLOTS;
      if (!s[0]) NEXT;
      move(fp + pc->u.p.b, s + 1 - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      if (PAUSE_REQUESTED()) goto pause_after;
      CANONICAL();
      GO;
    }

    /* ---- exceptions ---- */

    OP(TRY_TABLE) { NEXT; }
    OP(TRY) { NEXT; }
    /* the fields from slot s; a: tag */
    OP(THROW) { goto raise; }
    /* s: the reference */
    OP(THROW_REF) { goto raise; }
    OP(RETHROW) { goto raise; }
    /* as br */
    SILENT(LEAVE_CATCH) {
      move(fp + pc->u.p.b, fp + pc->s - pc->n, pc->n);
      pc = code->cells + pc->u.p.a;
      GO;
    }

    /* ---- reference, parametric, variable ---- */

    OP(REF_AS_NON_NULL) {
      SLOTS;
      if (!s[0]) TRAP(NULL_REFERENCE);
      NEXT;
    }

    OP(REF_NULL) {
      SLOTS;
      s[0] = 0;
      NEXT;
    }
    OP(REF_IS_NULL) {
      SLOTS;
      s[0] = s[0] == 0;
      NEXT;
    }
    OP(REF_FUNC) {
      SLOTS;
      s[0] = (uint64_t)instance->functions[pc->u.p.a] + 1;
      NEXT;
    }
    OP(DROP) { NEXT; }
    OP(SELECT) {
      SLOTS;
      if (!(uint32_t)s[2]) s[0] = s[1];
      NEXT;
    }
    OP(LOCAL_GET) {
      fp[pc->s] = fp[pc->u.p.a];
      NEXT;
    }
    OP(LOCAL_SET) {
      fp[pc->u.p.a] = fp[pc->s];
      NEXT;
    }
    OP(LOCAL_TEE) {
      fp[pc->u.p.a] = fp[pc->s];
      NEXT;
    }
    OP(GLOBAL_GET) {
      fp[pc->s] = store->globals[instance->globals[pc->u.p.a]].value;
      NEXT;
    }
    OP(GLOBAL_SET) {
      store->globals[instance->globals[pc->u.p.a]].value = fp[pc->s];
      NEXT;
    }

    OP(SELECT_V128) {
      SLOTS;
      if (!(uint32_t)s[4]) move(s, s + 2, 2);
      NEXT;
    }
    OP(LOCAL_GET_V128) {
      move(fp + pc->s, fp + pc->u.p.a, 2);
      NEXT;
    }
    OP(LOCAL_SET_V128) {
      move(fp + pc->u.p.a, fp + pc->s, 2);
      NEXT;
    }
    OP(LOCAL_TEE_V128) {
      move(fp + pc->u.p.a, fp + pc->s, 2);
      NEXT;
    }
    OP(GLOBAL_GET_V128) {
      const wsr_global_instance *g = &store->globals[instance->globals[pc->u.p.a]];
      fp[pc->s] = g->value;
      fp[pc->s + 1] = g->high;
      NEXT;
    }
    OP(GLOBAL_SET_V128) {
      wsr_global_instance *g = &store->globals[instance->globals[pc->u.p.a]];
      g->value = fp[pc->s];
      g->high = fp[pc->s + 1];
      NEXT;
    }

    /* ---- tables, memories, segments: runtime/bulk.c ---- */

    OP(TABLE_GET) { goto perform; }
    OP(TABLE_SET) { goto perform; }
    OP(TABLE_SIZE) { goto perform; }
    OP(TABLE_GROW) { goto perform; }
    OP(TABLE_FILL) { goto perform; }
    OP(TABLE_COPY) { goto perform; }
    OP(TABLE_INIT) { goto perform; }
    OP(ELEM_DROP) { goto perform; }
    OP(MEMORY_SIZE) {
      SLOTS;
      s[0] = store->memories[instance->memories[pc->u.p.a]]->space.size / PAGE;
      NEXT;
    }
    OP(MEMORY_GROW) { goto perform; }
    OP(I64_ADD128) { goto perform; }
    OP(I64_SUB128) { goto perform; }
    OP(I64_MUL_WIDE_S) { goto perform; }
    OP(I64_MUL_WIDE_U) { goto perform; }
    OP(MEMORY_FILL) { goto perform; }
    OP(MEMORY_COPY) { goto perform; }
    OP(MEMORY_INIT) { goto perform; }
    OP(DATA_DROP) { goto perform; }

    /* ---- numeric, loads and stores, constants ---- */
#include "core/precise/handlers.h"

    SILENT(CANONICAL_F32) {
      SLOTS;
      if ((s[0] & 0x7FFFFFFFU) > 0x7F800000U) s[0] = 0x7FC00000U;
      NEXT;
    }
    SILENT(CANONICAL_F64) {
      SLOTS;
      if ((s[0] & 0x7FFFFFFFFFFFFFFFU) > 0x7FF0000000000000U) s[0] = 0x7FF8000000000000U;
      NEXT;
    }
    /* No cell has these: `else` and `end` emit none, `select t` emits `select`. */
    AT(ELSE) AT(END) AT(SELECT_T) AT(CATCH) AT(CATCH_ALL) AT(DELEGATE) { TRAP(UNREACHABLE); }
  }

vector:
  wsr_vector_step(pc, fp + pc->s, instance->module->bytes);
  pc++;
  GO;

vector_memory: {
  uint64_t *const s = fp + pc->s;
  uint8_t *const at = wsr_locate_vector(store, instance, pc, s[0]);
  if (!at) TRAP(MEMORY_BOUNDS);
  WATCH_IF(wsr_vector_stores(pc->op) && wsr_watched(thread, at, wsr_opcode_table[pc->op].width));
  wsr_vector_access(pc, s, at);
  pc++;
  GO;
}

atomic:
  WATCH_IF(wsr_watched_atomic(thread, instance, pc, fp + pc->s));
  trap = wsr_atomic(store, instance, pc, fp + pc->s);
  if (trap) goto trapped;
  pc++;
  GO;

call: {
  const wsr_function_instance *f = &store->program.functions[address];
  if (f->instance == WSR_NONE) goto host_call;
  if (!wsr_code_of(f)) {
    wsr_compile_interruptible(thread, address);
    const bool made = wsr_function_code(thread, address) != NULL;
    if (wsr_compile_interrupted(thread, address, made)) goto pause_here;
    if (!made) TRAP(NO_MEMORY);
  }
  const wsr_code *callee = wsr_code_of(f);
  uint64_t *const callee_fp = fp + pc->s;
  if ((uint64_t)(stack_end - callee_fp) < callee->frame_slots ||
      thread->n_frames == store->limits.stack_frames)
    TRAP(EXHAUSTION);
  frame->cell = (uint32_t)(pc - code->cells) + 1;
  frame++;
  thread->n_frames++;
  frame->function = address;
  frame->slot = (uint32_t)(callee_fp - thread->stack);
  thread->returns[thread->n_frames - 1].pc = NULL; /* fast code cannot return here */
  fp = callee_fp;
  code = callee;
  pc = callee->cells;
  for (uint32_t i = callee->n_params; i < callee->n_locals; i++) fp[i] = 0;
  if (instance != store->program.instances[f->instance]) {
    instance = store->program.instances[f->instance];
    LOAD_MEMORY();
  }
  CANONICAL();
  GO;
}

tail_call: {
  const wsr_function_instance *f = &store->program.functions[address];
  if (f->instance == WSR_NONE) goto host_call;
  if (!wsr_code_of(f)) {
    wsr_compile_interruptible(thread, address);
    const bool made = wsr_function_code(thread, address) != NULL;
    if (wsr_compile_interrupted(thread, address, made)) goto pause_here;
    if (!made) TRAP(NO_MEMORY);
  }
  const wsr_code *callee = wsr_code_of(f);
  if ((uint64_t)(stack_end - fp) < callee->frame_slots) TRAP(EXHAUSTION);
  move(fp, fp + pc->s, pc->n);
  frame->function = address;
  code = callee;
  pc = callee->cells;
  for (uint32_t i = callee->n_params; i < callee->n_locals; i++) fp[i] = 0;
  if (instance != store->program.instances[f->instance]) {
    instance = store->program.instances[f->instance];
    LOAD_MEMORY();
  }
  CANONICAL();
  GO;
}

raise: {
  SAVE();
  const uint32_t outcome = wsr_throw_cell(thread, instance, pc, fp, out);
  if (outcome != WSR_SWITCH) {
    KEEP_FUEL();
    return outcome;
  }
  LOAD_FRAME();
  WATCH_RETURN();
  CANONICAL();
  GO;
}

return_results:
  move(fp, fp + pc->s, pc->n);
  if (--thread->n_frames == thread->now.base_frame) goto finished;
  LOAD_FRAME();
  WATCH_RETURN();
  CANONICAL();
  GO;

perform:
  WATCH_IF(wsr_watched_bulk(thread, instance, pc, fp + pc->s));
  trap = wsr_perform(thread, instance, pc, fp);
  LOAD_MEMORY();
  if (!trap) NEXT;
  if (trap != WSR_BULK_PAUSED) goto trapped;
pause_here:
  GIVE_BACK();
pause_after:
  SAVE();
  KEEP_FUEL();
  return WSR_PAUSED;

#if BRIDGE
change_code:
  SAVE();
  KEEP_FUEL();
  return WSR_SWITCH;
#endif

#if METERED
fuel_out:
  SAVE();
  KEEP_FUEL();
  return WSR_PAUSED;
#endif

trapped:
  SAVE();
  KEEP_FUEL();
  out->trap = trap;
  return WSR_TRAPPED;

host_call:
  SAVE(); /* the position is the call: it is made again unless the host has results */
  KEEP_FUEL();
  out->host_function = address;
  out->host_instance = store->program.functions[frame->function].instance;
  out->slots = fp + pc->s;
  return WSR_HOST_CALL;

finished:
  KEEP_FUEL();
  out->slots = thread->stack + thread->now.entry_slot;
  return WSR_FINISHED;
}

#undef LOAD_MEMORY
#undef LOAD_FRAME
#undef SAVE
#undef SPEND
#undef KEEP_FUEL
#undef GIVE_BACK
#undef OP
#undef SILENT
#undef SLOTS
#undef NEXT
#undef TRAP
#undef LOCATE
#undef PAUSE_REQUESTED
#undef POLL
#undef RUN
#undef METERED
#undef BRIDGE
#undef CANONICAL
