/* Native code: what core/native/ makes of fast code.
 *
 * The native code of a function replaces the handler words of some cells of its fast code, so a
 * jump to such a cell enters it. Native code uses the registers of the handlers: the cell is in
 * rdi, the frame in rsi, memory 0 and its size in rdx and rcx, the thread in r8, the accumulators
 * in r9, xmm0, xmm1 and xmm2. A cell without a template runs in its C handler, and so does the cold
 * path of every cell that can: a poll that finds a request, and a trap. Frames, canonical points
 * and polls are those of fast code.
 *
 * Native code runs on a stack of its own, which holds no state of the program: a return address for
 * each frame that native code has called. Frames are written from these addresses before a C
 * handler runs (native/settle.c). */
#ifndef WSR_NATIVE_H
#define WSR_NATIVE_H
#include "core/fast/fast.h"

#if WSR_FAST && defined(__x86_64__) && defined(__linux__) && !defined(WSR_NO_NATIVE)
#define WSR_NATIVE 1
#else
#define WSR_NATIVE 0
#endif

#if WSR_NATIVE

/* ---- native/cells.c: what a cell of fast code does ---- */

enum {
  CELL_OTHER,
  CELL_UNARY,
  CELL_BINARY,
  CELL_BRANCH,
  CELL_LOAD,
  CELL_LOAD_SUM,
  CELL_STORE,
  CELL_VECTOR_1, /* of one operand */
  CELL_VECTOR_2,
  CELL_VECTOR_3, /* a: 1 + the operand that is in the accumulator, or 0 */
  CELL_VECTOR_LOAD,
  CELL_VECTOR_LOAD_SUM,
  CELL_VECTOR_STORE,
  CELL_VECTOR_LANE, /* reads one */
  CELL_VECTOR_REPLACE,
  CELL_VECTOR_SHUFFLE,
  CELL_SPECIAL
};
enum { SUM_SLOT_CONSTANT, SUM_ACC_CONSTANT, SUM_SLOT_SLOT, SUM_SLOT_ACC };

/* What a handler does. `op`: the instruction's row, or a number of wsr_fast_special. */
typedef struct {
  uint8_t kind;
  uint8_t a, b;  /* operand classes; of a sum: a is the kind of sum */
  bool writes;   /* a slot, in addition to the accumulator */
  bool if_false; /* of a branch */
  bool back;     /* of a branch: it polls */
  uint16_t op;
  wsr_handler *handler;
} wsr_shape;

/* What the handler of a word does; of a sequence, its first cell. */
bool wsr_shape_of(uint64_t handler, wsr_shape *shape);

/* Accumulators, as numbers of slots behind the frame's. */
enum { ACC_I, ACC_F, ACC_D, ACC_V, ACCUMULATORS };
/* Types of a slot, as far as registers know them. A vector's two slots never have registers. */
enum { TYPE_ANY, TYPE_I, TYPE_F, TYPE_D, TYPE_V };

typedef struct {
  uint16_t slot; /* NO_SLOT for none; from n_slots on: an accumulator */
  uint8_t type;
} wsr_access;
enum { NO_SLOT = 0xFFFF };

/* `check` of a cell: compare the end of its own access; no comparison is needed. */
enum { CHECK_OWN = 0 };
#define CHECK_DONE UINT32_MAX
enum { MOST_READS = 6, MOST_WRITES = 3 };

/* A cell of fast code, with what the analysis finds. */
typedef struct {
  wsr_shape shape;
  const uint64_t *pc;
  uint32_t word, cell;
  uint32_t target; /* of a branch: a number of a cell, or WSR_NONE */
  uint32_t region;
  uint16_t dirty;      /* pinned registers that may differ from their slots, before the cell */
  uint16_t loaded;     /* pinned registers that have the values of their slots, before the cell */
  uint16_t wanted;     /* pinned registers that are read after the cell, before a call or handler */
  uint16_t uses, sets; /* pinned registers of the slots that the cell reads and writes */
  bool falls;          /* control can go on with the next cell */
  bool has_template;
  bool label;     /* control can come from elsewhere than the cell before */
  uint32_t check; /* of a load or store: what to compare with the memory's size, see make_checks */
  bool entry;     /* C handlers can go on here, so the word leads into native code */
  wsr_access reads[MOST_READS], writes[MOST_WRITES];
} wsr_native_cell;

static inline uint32_t wsr_cell_field(const wsr_native_cell *c, unsigned k) {
  return (uint32_t)(c->pc[1] >> 16 * k) & 0xFFFF;
}
/* The number that takes the place of the last two fields. */
static inline uint32_t wsr_cell_number(const wsr_native_cell *c) {
  return (uint32_t)(c->pc[1] >> 32);
}

/* Fill in reads, writes and control flow of a cell from its shape. */
void wsr_describe_cell(wsr_native_cell *cell, uint32_t n_slots);
/* Whether this machine has a template for the shape. */
bool wsr_has_template(const wsr_shape *shape);

/* ---- native/analyse.c: regions, liveness, pinned slots, dirty and loaded registers ---- */

/* The last register for integers has the fuel, in code with counts. */
enum { INTEGER_PINS = 6, FLOAT_PINS = 8, PINS = INTEGER_PINS + FLOAT_PINS };

/* An innermost loop, or the rest of the function. */
typedef struct {
  uint32_t first, last; /* cells */
  uint32_t depth;
  uint32_t slot[PINS]; /* by register, WSR_NONE for none */
  uint8_t type[PINS];
} wsr_region;

typedef struct {
  const wsr_fast *fast;
  const wsr_request *interrupt; /* give up when it is requested; or NULL */
  wsr_native_cell *cells;
  uint32_t *cell_at; /* by word: the number of the cell there, or WSR_NONE */
  uint32_t n_cells, n_slots, n_locals;
  wsr_region *regions; /* the last is the rest of the function */
  uint32_t n_regions;
  uint64_t *live; /* by cell and after the last: `live_words` words, a bit for each slot */
  uint32_t live_words;
} wsr_analysis;

/* Analyse a function; false without memory, for a pause, or if it is too large for native code. */
bool wsr_analyse(wsr_analysis *analysis, const wsr_fast *fast, const wsr_request *interrupt);
void wsr_analysis_free(wsr_analysis *analysis);
/* The number of the cell at a word. */
static inline uint32_t wsr_cell_at(const wsr_analysis *a, uint32_t word) {
  return word < a->fast->n_words ? a->cell_at[word] : WSR_NONE;
}
static inline bool wsr_is_live(const wsr_analysis *a, uint32_t cell, uint32_t slot) {
  return a->live[(size_t)cell * a->live_words + slot / 64] >> slot % 64 & 1;
}
/* The registers that stay dirty on the way from one region to the cell `to`. */
uint16_t wsr_carried(const wsr_analysis *analysis, uint32_t region, uint16_t dirty, uint32_t to);
/* The registers that have the values of their slots behind a cell, before code on edges. */
uint16_t wsr_loaded_behind(const wsr_analysis *analysis, uint32_t cell);
/* The targets of a branch table. */
static inline uint32_t wsr_n_targets(const wsr_native_cell *c) { return (uint32_t)c->pc[2]; }
static inline uint32_t wsr_target_word(const wsr_native_cell *c, uint32_t i) {
  return c->word + (uint32_t)c->pc[3 + 2 * (size_t)i];
}
static inline bool wsr_is_table(const wsr_shape *s) {
  return s->kind == CELL_SPECIAL &&
         (s->op == WSR_FAST_table_s || s->op == WSR_FAST_table_a ||
          s->op == WSR_FAST_table_copy_s || s->op == WSR_FAST_table_copy_a);
}

/* ---- native/pages.c: memory for code ---- */

/* Where the routines that all functions share are, from the start of a code space. */
typedef struct {
  uint32_t enter, to_handler, to_own_handler, set_limit, shadow_stack;
  uint32_t generic_return[2], redo[2]; /* of code without and with counts */
} wsr_routines;

typedef struct {
  uint32_t offset, size;
} wsr_code_range;

/* A piece of address space for code. Its bytes are mapped twice: once to be written, once to be
 * run. No mapping is both. */
typedef struct wsr_code_space {
  uint8_t *writable;
  const uint8_t *code;
  uint32_t size;
  bool ours; /* made by this process, not before a fork */
  wsr_routines routines;
  uint32_t start, end;  /* behind the routines; no code from here on */
  uint32_t sealed;      /* code before this offset may run in a child */
  uint32_t live, lost;  /* bytes: of code that may run here, and given back but sealed */
  wsr_code_range *free; /* ascending */
  uint32_t n_free, room_free;
  struct wsr_code_space *before; /* the one that this one took the place of */
} wsr_code_space;

/* The space of this process; NULL where code may not be made. */
wsr_code_space *wsr_code_space_get(void);
/* A space whose code runs here, if any was ever made: this process's, or one before a fork. */
const wsr_code_space *wsr_code_space_any(void);
/* Take `size` bytes: their space and offset, or NULL where the budget or the space is used up. */
wsr_code_space *wsr_code_take(uint32_t size, uint32_t *offset);
/* Give code back that nobody runs any more. */
void wsr_code_give(uint64_t start, uint32_t size);

/* ---- native/x64/routines.c, native/x64/compile.c ---- */

/* Give a function native code. It keeps running as it is if that fails. */
void wsr_native_compile(const wsr_module *module, wsr_fast *fast, const wsr_request *interrupt);
/* Let native code of the same module call it. */
void wsr_native_publish(const wsr_module *module, const wsr_fast *fast);

/* ---- native/heat.c ---- */

/* Count how often a function runs that nobody runs yet; it gets native code when that is enough. */
void wsr_native_count(wsr_fast *fast);
/* Give a function native code now, unless somebody does or did. */
void wsr_native_now(const wsr_module *module, wsr_fast *fast);
/* The function of the innermost frame has come to a head: count, and return the head's handler. */
uint64_t wsr_native_counted(wsr_thread *thread, const uint64_t *pc);

/* ---- native/settle.c ---- */

/* A call in native code, which the code behind its return address leads to. The records of a
 * function follow each other; before the first is the address of its fast code. */
typedef struct {
  uint32_t word;
  uint32_t number : 31; /* of the record */
  uint32_t indirect : 1;
} wsr_site;
enum { SITE_MARK = 5 }; /* bytes of that code: test eax, distance from behind it to the site */
#define HANDLER_BASE ((uint64_t)(uintptr_t)wsr_return_out)

/* Write all frames whose return addresses are on the native stack down to `top`; `fast` is the
 * innermost function. */
void wsr_native_settle(wsr_thread *thread, const wsr_fast *fast, const uint64_t *top);
/* The callee of the call at `top` cannot run in native code now: settle its caller's frame. Return
 * the C handler of the call; its other arguments are native_pc and native_fp of the thread. */
uint64_t wsr_native_redo(wsr_thread *thread, const uint64_t *top);

/* Exported by fast/handlers.c for native code. */
uint32_t wsr_return_out(wsr_thread *thread);
wsr_handler wsr_change_instance;
wsr_handler wsr_count_run; /* of the heads of a function whose runs are counted */
#endif

/* The stack of a thread for native code. False without memory. */
bool wsr_native_stack_make(wsr_thread *thread);
void wsr_native_stack_free(wsr_thread *thread);
/* Enter fast code that can lead into native code. */
uint32_t wsr_native_run(wsr_thread *thread, const uint64_t *pc, uint64_t *fp, uint8_t *memory,
                        uint64_t size);
#endif
