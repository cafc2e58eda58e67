/* Fast code: what fast/translate_fast.c makes of precise code and fast/handlers.c runs.
 *
 * A function's fast code is an array of words. A cell is a handler's address, a word of four 16-bit
 * fields (a, b, c, d; or a, b and a 32-bit branch distance), and for some a constant. Operands are
 * named by class: in a slot (S), in the accumulator of their kind (A), or constant (C). Frames lie
 * on the value stack exactly as for precise code. The two agree at canonical points: function
 * entry, the first instruction of a loop's body, before a call, after its return, before an
 * instruction of runtime/bulk.c, and the label of a catch. There every operand is in its slot. */
#ifndef WSR_FAST_H
#define WSR_FAST_H
#include "core/numeric/numeric.h"
#include "core/runtime/thread.h"

/* The tail-called loop needs calls in tail position to be jumps. clang promises it by an attribute;
 * gcc makes them so when it optimises and neither sanitizers nor coverage are on (setup.py passes
 * -foptimize-sibling-calls last, a test reads the object file). Elsewhere precise code does all the
 * work. */
#if defined(WSR_NO_FAST) || !(defined(__x86_64__) || defined(__AARCH64EL__))
#define WSR_FAST 0
#elif defined(__clang__)
#if __has_attribute(musttail)
#define WSR_FAST 1
#define WSR_TAIL __attribute__((musttail)) return
#else
#define WSR_FAST 0
#endif
#elif defined(__GNUC__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
#define WSR_FAST 1
#define WSR_TAIL return
#else
#define WSR_FAST 0
#endif

#if WSR_FAST
typedef uint32_t wsr_handler(const uint64_t *pc, uint64_t *fp, uint8_t *memory, uint64_t size,
                             wsr_thread *thread, uint64_t acc, double fd, float fs, wsr_vector va);

enum { WSR_S, WSR_A, WSR_C }; /* operand classes */

/* By row, then by operand classes as each table says; NULL where there is no such handler. */
extern wsr_handler *const wsr_fast_unary[WSR_OP_COUNT][4];   /* a * 2 + write */
extern wsr_handler *const wsr_fast_binary[WSR_OP_COUNT][12]; /* (a * 3 + b) * 2 + write */
extern wsr_handler *const wsr_fast_load[WSR_OP_COUNT][6];    /* a * 2 + write */
/* The address is a sum: slot and constant, accumulator and constant, two slots, slot and
 * accumulator. */
extern wsr_handler *const wsr_fast_load_sum[WSR_OP_COUNT][8]; /* sum * 2 + write */
extern wsr_handler *const wsr_fast_store[WSR_OP_COUNT][9];    /* a * 3 + b */
extern wsr_handler *const wsr_fast_branch[WSR_OP_COUNT][24];  /* ((a * 3 + b) * 2 + if false) * 2
                                                                 + back */
/* As the rows of fast/handlers_other_memories.c say. */
extern wsr_handler *const wsr_memory64_load[WSR_OP_COUNT][4];     /* a * 2 + write */
extern wsr_handler *const wsr_memory64_load_sum[WSR_OP_COUNT][8]; /* sum * 2 + write */
extern wsr_handler *const wsr_memory64_store[WSR_OP_COUNT][6];    /* a * 3 + b */
extern wsr_handler *const wsr_any_memory_load[WSR_OP_COUNT][2];   /* write */
extern wsr_handler *const wsr_any_memory_store[WSR_OP_COUNT];
/* The handlers of a vector instruction that suit this CPU best, in the order of
 * fast/handlers_simd.c. */
wsr_handler *const *wsr_vector_handlers(uint32_t op);
extern const uint16_t wsr_fast_inverse[WSR_OP_COUNT]; /* row plus one, 0 for none */
extern const uint8_t wsr_fast_commutes[WSR_OP_COUNT];

/* clang-format off */
#define WSR_EACH_SPECIAL(X)                                                               \
  X(move) X(constant) X(move_acc_i) X(move_acc_f) X(move_acc_d) X(move_acc_v) X(branch)   \
  X(branch_back) X(true_s) X(true_a) X(true_back_s) X(true_back_a) X(false_s)             \
  X(false_a) X(false_back_s) X(false_back_a) X(table_s) X(table_a) X(select_s)            \
  X(select_a) X(call) X(call_indirect) X(tail_call) X(tail_call_indirect) X(return_n)     \
  X(return_0) X(return_1) X(unreachable) X(slow) X(get_i_a) X(get_i_w) X(get_f_a)         \
  X(get_f_w) X(get_d_a) X(get_d_w) X(set_s) X(set_i) X(set_f) X(set_d) X(not_here)        \
  X(spend) X(decide) X(move_2) X(get_add_a) X(get_add_w) X(set_add) X(load_2_a)           \
  X(load_2_w) X(constant_v) X(select_v_a) X(select_v_w) X(get_v_a) X(get_v_w) X(set_v)    \
  X(set_v_s) X(call_ref) X(tail_call_ref) X(non_null) X(vector_memory) X(atomic)          \
  X(raise) X(call_own) X(table_copy_s) X(table_copy_a)
/* clang-format on */

#define WSR_SPECIAL_NAME(name) WSR_FAST_##name,
enum { WSR_EACH_SPECIAL(WSR_SPECIAL_NAME) WSR_FAST_SPECIALS };
extern wsr_handler *const wsr_fast_special[WSR_FAST_SPECIALS];

/* Cells that often follow each other without a branch between them: one handler does the work of
 * all. */
enum { WSR_LONGEST_SUPERINSTRUCTION = 4 };
typedef struct {
  wsr_handler *cells[WSR_LONGEST_SUPERINSTRUCTION]; /* NULL after the last */
  wsr_handler *all;
} wsr_superinstruction;
extern const wsr_superinstruction wsr_superinstructions[];
extern const uint32_t wsr_n_superinstructions;
#endif

typedef struct {
  uint32_t cell; /* of precise code */
  uint32_t word; /* of fast code */
} wsr_place;

/* How often a function without native code still runs before it gets some: native/heat.c. */
typedef struct wsr_heat wsr_heat;

struct wsr_fast {
  uint64_t *words; /* where n_canonical is 0, this function runs in precise code only */
  uint32_t n_words;
  uint32_t n_params, n_locals;
  uint64_t frame_bytes; /* of locals and operands */
  uint32_t n_map, n_canonical;
  bool metered;
  _Atomic uint64_t native; /* where native code calls its native code; 0: it has none */
  uint32_t native_bytes;
  atomic_bool claimed; /* somebody makes native code of it, has done so or will */
  wsr_heat *heat;      /* NULL where native code is made at the first call */
  wsr_fast *next;      /* in the module's list of functions that are to get native code */
  const wsr_code *code;
  wsr_place *map;       /* of every fast cell, ascending: for the place of a trap */
  wsr_place *canonical; /* ascending by cell: where the codes can be changed */
  uint32_t *heads;      /* words, ascending: the first cell, and those that loops return to */
  uint32_t n_heads;
};

/* Fold a function's precise code; kept with it. Metered code counts: the first cell of each block
 * spends the block's instructions, and at canonical points it first decides whether what is left
 * suffices for the longest way to the next one. Native code (core/native/) leads into words of its
 * own, so that stores without it never meet it; a function gets none if `no_native` is requested
 * meanwhile. `later`: native code is made when the function has run often enough. NULL without
 * memory, or for `interrupt`. */
const wsr_fast *wsr_translate_fast(const wsr_module *module, const wsr_code *code, unsigned kind,
                                   bool later, const wsr_request *interrupt,
                                   const wsr_request *no_native);
/* Plain fast code of a function that nobody runs, for listings. NULL without memory. */
wsr_fast *wsr_fast_copy(const wsr_module *module, const wsr_code *code);
/* Join the `n` cells that the map names into sequences; false without memory. */
bool wsr_join_cells(uint64_t *words, const wsr_place *map, uint32_t n);
/* The fast code of a function by address, made now if need be. */
const wsr_fast *wsr_function_fast(wsr_thread *thread, uint32_t address, bool metered);
/* Counted instructions after `cell` in its block: what a trap there gives back. */
uint64_t wsr_left_in_block(const wsr_code *code, uint32_t cell);
/* The word where fast code can be entered at `cell`, or WSR_NONE. */
uint32_t wsr_fast_entry(const wsr_fast *fast, uint32_t cell);
/* Run fast code from that word of the innermost frame's function; `thread->left` is the fuel of
 * metered code. */
uint32_t wsr_run_fast(wsr_thread *thread, const wsr_fast *fast, uint32_t word, wsr_exit *out);

#endif
