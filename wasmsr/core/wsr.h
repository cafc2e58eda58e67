/* The core's public interface: modules, stores, running, capturing, restoring.
 *
 * Everything between the two cffi marks is also what Python sees: wasmsr/_ffi_build.py reads it
 * from here. The core knows no Python and does no input or output; it never calls back. Leaving the
 * hot loop is a return value (enum of outcomes). Names are those of the WebAssembly specification:
 * an index is static, an address is in the store.
 */
#ifndef WSR_H
#define WSR_H
#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

/* ---- errors ---------------------------------------------------------------------------------- */

enum {
  WSR_OK,
  WSR_MALFORMED,   /* the bytes are no module */
  WSR_INVALID,     /* the module does not validate */
  WSR_UNSUPPORTED, /* `feature` names what is lacking or off */
  WSR_LIMIT,       /* a limit of the store or of the implementation */
  WSR_STATE,       /* a state to be restored that no machine can be in */
  WSR_MEMORY       /* the host has no memory left */
};

typedef struct {
  uint32_t kind;
  uint64_t offset;     /* byte in the module, or UINT64_MAX */
  char message[200];   /* zero terminated */
  const char *feature; /* with WSR_UNSUPPORTED */
} wsr_error;

/* ---- modules --------------------------------------------------------------------------------- */

typedef struct wsr_module wsr_module;

enum { WSR_FUNCTION, WSR_TABLE, WSR_MEMORY_KIND, WSR_GLOBAL, WSR_TAG };

/* A value type. Bits 0 to 7: the binary format's code, of a numeric or vector type, or of a heap
 * type; bit 8: a reference that is never null; bit 9: the heap type is the concrete function type
 * whose number is in bits 10 and up (then the code is that of func): in a module its index, the
 * lowest of those that are equal; in a store the store's number. */
typedef uint32_t wsr_type;

typedef struct {
  const wsr_type *params;
  const wsr_type *results;
  uint32_t n_params, n_results;
} wsr_function_type;

/* An imported or exported thing: `index` is its place in its kind's index space. */
typedef struct {
  const uint8_t *module, *name; /* UTF-8, not terminated; `module` only for imports */
  uint32_t module_length, name_length;
  uint32_t kind, index;
} wsr_extern;

typedef struct {
  uint64_t minimum, maximum;
  uint32_t has_maximum;
  wsr_type type;      /* element type of a table */
  uint32_t address64; /* addresses in it are i64, else i32 */
} wsr_bounds;

typedef struct {
  wsr_type type;
  uint32_t mutability;
} wsr_global_type;

typedef struct {
  uint32_t types, imports, exports;
  uint32_t functions, tables, memories, globals; /* whole index spaces */
  uint32_t imported_functions, imported_tables, imported_memories, imported_globals;
  uint32_t tags, imported_tags;
  uint32_t elements, data;
  uint32_t start;     /* function index, or UINT32_MAX */
  uint64_t code_size; /* bytes of function bodies */
  uint64_t features;  /* what can be off and the module needs: a bit each, see
                         interp/instruction_set/features.py */
} wsr_counts;

/* Decode `size` bytes, which must outlive the module, and validate all but the bodies of functions;
 * `features` has a bit for each feature that is on. A body is validated when it is compiled, at the
 * latest. */
wsr_module *wsr_module_new(const uint8_t *bytes, size_t size, uint64_t features, wsr_error *error);
/* Validate bodies: the next `bytes` bytes of them or a little more, from where the last call
 * stopped, in one thread at a time. 1 when all are valid, 0 when there are more, -1 on an error. */
int wsr_module_validate(wsr_module *module, uint64_t bytes, wsr_error *error);
/* Whether a function could not be compiled because its body is invalid: its index, with the error,
 * or UINT32_MAX. */
uint32_t wsr_module_invalid(const wsr_module *module, wsr_error *error);
/* Give the module up; it goes when no store holds an instance of it either. */
void wsr_module_free(wsr_module *module);
void wsr_module_counts(const wsr_module *module, wsr_counts *counts);
void wsr_module_function_type(const wsr_module *module, uint32_t function, wsr_function_type *out);
void wsr_module_import(const wsr_module *module, uint32_t index, wsr_extern *out);
void wsr_module_export(const wsr_module *module, uint32_t index, wsr_extern *out);
void wsr_module_table(const wsr_module *module, uint32_t index, wsr_bounds *out);
void wsr_module_memory(const wsr_module *module, uint32_t index, wsr_bounds *out);
void wsr_module_tag(const wsr_module *module, uint32_t index, wsr_function_type *out);
void wsr_module_global(const wsr_module *module, uint32_t index, wsr_global_type *out);
/* Byte range of a defined function's body in the module, locals included. */
void wsr_module_body(const wsr_module *module, uint32_t function, uint32_t *begin, uint32_t *end);

/* The indices of functions that have code, in rising order: those that stores of this process have
 * called. `metered`: those with code that counts. `native`: only those with native code. Returns
 * how many they are; at most `room` are put to `out`. Stores can run the module meanwhile. */
uint32_t wsr_module_compiled(const wsr_module *module, int deterministic, int metered, int native,
                             uint32_t *out, uint32_t room);
/* For stores without native code; for those whose functions get it when they have run often enough;
 * native code at once. Where there can be none, all mean the first. */
typedef enum { WSR_AHEAD_INTERPRETED, WSR_AHEAD_LATER, WSR_AHEAD_NATIVE } wsr_ahead;
/* Make code of functions before they are called. Advice: what is no function of the module, has an
 * invalid body or finds no memory is left to its first call. Stores can run the module meanwhile.
 */
void wsr_module_compile(wsr_module *module, int deterministic, int metered, wsr_ahead how,
                        const uint32_t *functions, uint32_t n);

/* ---- stores: building ------------------------------------------------------------------------ */

typedef struct wsr_store wsr_store;

typedef struct {
  uint32_t memory_pages;   /* of 64 KiB, of each memory */
  uint32_t table_elements; /* of each table */
  uint32_t stack_slots;    /* of 64 bits */
  uint32_t stack_frames;
  uint32_t deterministic; /* NaN results of open bits become the positive canonical NaN */
} wsr_limits;

wsr_store *wsr_store_new(const wsr_limits *limits, wsr_error *error);
void wsr_store_free(wsr_store *store);

/* Each returns the new address, or UINT32_MAX with `error` set. */
uint32_t wsr_add_host_function(wsr_store *store, const wsr_type *params, uint32_t n_params,
                               const wsr_type *results, uint32_t n_results, wsr_error *error);
/* The same, with the type of an imported function of that index in the module. */
uint32_t wsr_add_host_import(wsr_store *store, wsr_module *module, uint32_t function,
                             wsr_error *error);
uint32_t wsr_add_table(wsr_store *store, const wsr_bounds *bounds, uint64_t size, wsr_error *error);
uint32_t wsr_add_memory(wsr_store *store, const wsr_bounds *bounds, uint64_t pages,
                        wsr_error *error);
/* `value` is one slot, of a v128 two. */
uint32_t wsr_add_global(wsr_store *store, wsr_type type, uint32_t mutability, const uint64_t *value,
                        wsr_error *error);
uint32_t wsr_add_tag(wsr_store *store, const wsr_type *params, uint32_t n_params, wsr_error *error);
/* The same, with the type of an imported tag of that index in the module. */
uint32_t wsr_add_tag_import(wsr_store *store, wsr_module *module, uint32_t tag, wsr_error *error);
/* Whether the thing at that address has the type that the module's import asks for (specification,
 * 3.3, subtypes included); sizes of tables and memories are not compared. */
int wsr_import_matches(wsr_store *store, wsr_module *module, uint32_t import, uint32_t address);
/* The type of a table's elements or a global's value of which is known that it is `type` and what
 * the module's import takes. */
wsr_type wsr_narrowed(wsr_store *store, wsr_module *module, uint32_t import, wsr_type type);
/* Whether a slot's value is one of that type in the store. Of an externref only null is looked at.
 */
int wsr_value_fits(const wsr_store *store, wsr_type type, uint64_t value);
/* Of many: the place of the first that is none, or `n`. */
uint64_t wsr_values_fit(const wsr_store *store, wsr_type type, const uint64_t *values, uint64_t n);

/* Allocate an instance; the imports' addresses are given for each kind in index order and have been
 * checked against the module's types. Defined functions, tables, memories and globals get the next
 * free addresses; segments are evaluated, not applied. The module's bytes must stay as long as the
 * store runs it. */
uint32_t wsr_add_instance(wsr_store *store, wsr_module *module, const uint32_t *functions,
                          const uint32_t *tables, const uint32_t *memories, const uint32_t *globals,
                          const uint32_t *tags, wsr_error *error);
/* Apply active segments and drop those that are active or declarative; returns a trap code. */
uint32_t wsr_apply_segments(wsr_store *store, uint32_t instance);

/* ---- stores: looking in and writing ---------------------------------------------------------- */

typedef struct {
  uint32_t functions, tables, memories, globals, instances, tags;
} wsr_store_counts;

typedef struct {
  uint32_t host;            /* 1 for a host function */
  uint32_t instance, index; /* of a module's function */
  wsr_function_type type;
} wsr_function_view;

typedef struct {
  uint8_t *data;
  uint64_t size; /* bytes */
  wsr_bounds bounds;
  uint64_t reserved; /* bytes of address space */
  uint64_t base;     /* bytes that are a private mapping of a file */
} wsr_memory_view;

/* The top of the hierarchy that a reference type is in (any, func, extern or exn), as the code of
 * the nullable reference to it. Of another type, the type itself. Snapshots name types so. */
uint32_t wsr_top_type(wsr_type type);

typedef struct {
  uint64_t *elements; /* 0 is null, otherwise address plus one */
  uint32_t size;
  wsr_bounds bounds;
} wsr_table_view;

void wsr_store_count(const wsr_store *store, wsr_store_counts *counts);
void wsr_function(const wsr_store *store, uint32_t address, wsr_function_view *out);
void wsr_table(const wsr_store *store, uint32_t address, wsr_table_view *out);
void wsr_memory(const wsr_store *store, uint32_t address, wsr_memory_view *out);
/* A global's value is two slots; the second is of use to a v128 only. */
void wsr_global(const wsr_store *store, uint32_t address, wsr_global_type *type, uint64_t *value);
void wsr_set_global(wsr_store *store, uint32_t address, const uint64_t *value);
/* Both return the old size, or UINT64_MAX where the limits do not allow it. */
uint64_t wsr_grow_memory(wsr_store *store, uint32_t address, uint64_t pages);
uint64_t wsr_grow_table(wsr_store *store, uint32_t address, uint64_t elements, uint64_t value);
/* How often the program could not grow a memory or table for want of room on the host, though its
 * limits allow it. */
uint64_t wsr_refused_growths(const wsr_store *store);
/* Write the bytes to the start of a memory that nothing was written to yet: zero pages are skipped,
 * so that they stay uncommitted. */
void wsr_fill_memory(wsr_store *store, uint32_t address, const uint8_t *data, size_t length);
/* The address of an instance's thing of that kind and index. */
uint32_t wsr_instance_address(const wsr_store *store, uint32_t instance, uint32_t kind,
                              uint32_t index);
/* The addresses of all things of that kind, by index. */
const uint32_t *wsr_instance_addresses(const wsr_store *store, uint32_t instance, uint32_t kind);
/* Read or set the flags of an instance's element segments, or of its data segments: a byte each,
 * not 0 if it is dropped. */
void wsr_get_dropped(const wsr_store *store, uint32_t instance, int data, uint8_t *flags);
void wsr_set_dropped(wsr_store *store, uint32_t instance, int data, const uint8_t *flags);

/* ---- exceptions ------------------------------------------------------------------------------ */

typedef struct {
  uint32_t tag; /* address */
  uint32_t n_slots;
  const uint64_t *slots; /* of its fields; valid until the program runs again */
} wsr_exception_fields;

/* The type of the tag at that address: the fields are its parameters. */
void wsr_tag_type(const wsr_store *store, uint32_t address, wsr_function_type *out);
/* A new exception, or 0 without memory. Unless it is kept, or stored where a program can find it,
 * it goes when one is thrown. */
uint64_t wsr_add_exception(wsr_store *store, uint32_t tag, const uint64_t *fields);
/* The same for one that is thrown: others may go for it. Zero with the trap that says why, if there
 * can be none. */
uint64_t wsr_new_exception(wsr_store *store, uint32_t tag, const uint64_t *fields, uint32_t *trap);
int wsr_is_exception(const wsr_store *store, uint64_t reference);
void wsr_exception_view(const wsr_store *store, uint64_t reference, wsr_exception_fields *out);
/* The host holds the exception (by = 1) or no longer (by = -1); not while the store runs. */
void wsr_keep_exception(wsr_store *store, uint64_t reference, int by);
/* Free the exceptions that nothing refers to, and count the others. */
uint64_t wsr_exception_count(wsr_store *store);

/* ---- running --------------------------------------------------------------------------------- */

enum { WSR_FINISHED, WSR_TRAPPED, WSR_PAUSED, WSR_HOST_CALL, WSR_UNCAUGHT };

/* What `wsr_run` ended with, beside the outcome itself. */
typedef struct {
  uint32_t trap;          /* WSR_TRAPPED: trap code */
  uint32_t host_function; /* WSR_HOST_CALL: address of the function to perform */
  uint32_t host_instance; /* WSR_HOST_CALL: the calling instance */
  uint64_t *slots;        /* WSR_HOST_CALL: arguments, to be overwritten by the results;
                             WSR_FINISHED: results of the outermost frame */
  uint64_t exception;     /* WSR_UNCAUGHT: a reference; the frames are unchanged */
} wsr_exit;

/* An invocation within an invocation (a host function calls back): what must be put back. */
typedef struct {
  uint32_t base_frame, entry_slot;
} wsr_activation;

/* Begin to invoke a module's function: push its frame. Returns a trap code (exhaustion). */
uint32_t wsr_begin(wsr_store *store, uint32_t function, const uint64_t *arguments,
                   wsr_activation *outer);
/* Run to an outcome. `fuel` is NULL, or counts down the instructions executed. */
uint32_t wsr_run(wsr_store *store, uint64_t *fuel, wsr_exit *exit);
/* The results of the host call are in the slots: let the program go on after its call. */
void wsr_host_return(wsr_store *store);
/* Both at once: `wsr_host_return`, then `wsr_run`. */
uint32_t wsr_host_return_run(wsr_store *store, uint64_t *fuel, wsr_exit *exit);
/* The host call throws: 1 where a frame of the innermost invocation catches it, which then is the
 * innermost frame; 0 where none does, and nothing has changed. */
int wsr_host_throw(wsr_store *store, uint64_t exception);
/* The run ended for a host call that was not made: the thread pauses at it and will make it again.
 * Take its instruction off the count and give it back to the fuel, if the run had fuel. */
void wsr_host_retry(wsr_store *store, uint64_t *fuel);
/* Instructions that the store's thread has executed in runs with fuel (and in those of
 * wsr_pause_after that count or are precise) since the store was made. Runs without fuel are not
 * counted. Exact while the thread does not run. */
uint64_t wsr_executed(const wsr_store *store);
/* Drop the frames of the innermost invocation (after a trap) and return to the outer one. */
void wsr_end(wsr_store *store, const wsr_activation *outer);
/* Drop all frames: the program has ended. */
void wsr_drop_frames(wsr_store *store);
/* Push a call of a module's function above the frames of a paused program; there is at least one.
 * The frame below stays before its next instruction. Returns a trap code. */
uint32_t wsr_push_call(wsr_store *store, uint32_t function, const uint64_t *arguments);
/* After WSR_FINISHED: 1 if a pushed call has finished. Its results are dropped, and the next run
 * goes on with the frames below it. */
int wsr_end_pushed_call(wsr_store *store);
/* How many pushed calls there are, and the number of the outermost frame of each, lowest first. */
uint32_t wsr_pushed_count(const wsr_store *store);
uint32_t wsr_pushed_frame(const wsr_store *store, uint32_t call);
/* Ask the running machine to pause; from any thread or signal handler. */
void wsr_pause(wsr_store *store);
int wsr_pause_requested(const wsr_store *store);
void wsr_clear_pause(wsr_store *store);

enum { WSR_THROUGH_CALLS = 1, WSR_PRECISE = 2, WSR_COUNTED = 4 };
/* For tests that compare the codes: let the next runs pause, as if requested, at the `points`th
 * canonical point, in fast code where it was built, in precise code, or in fast code that counts.
 * Points are loop headers reached by a branch and calls; with WSR_THROUGH_CALLS loop headers only.
 * They come in the same order in all codes. 0 switches it off. */
void wsr_pause_after(wsr_store *store, uint64_t points, uint32_t how);
/* Whether the paused program goes on in fast code at once: it is at a canonical point, and its
 * function has fast code. */
int wsr_enters_fast(wsr_store *store);

/* Which loop was built: "tail calls" or "portable". */
const char *wsr_variant(void);
/* 1 if native code can be made on this machine; else 0, and `why` says why not. */
int wsr_native_available(const char **why);
/* Let a store that has no functions yet run native code; 0 if there can be none. Its copies do what
 * it does. `later`: functions get native code not at the first call but when they have run often
 * enough, from `wsr_native_work`. */
int wsr_store_use_native(wsr_store *store, int later);
/* 0: it runs no native code; 1: it does; 2: `later`. */
int wsr_store_is_native(const wsr_store *store);
/* How often is often enough, for functions that are called first from now on: a turn of a loop
 * counts one, a call 16. */
enum { WSR_ENOUGH_TURNS = 4096 };
void wsr_native_enough(uint32_t turns);
/* Make native code of the functions of a module that wait for it, of so many at most; how many they
 * were. Stores can run the module meanwhile. */
uint32_t wsr_native_work(wsr_module *module, uint32_t most);
/* Limit the bytes of native code in this process; functions that come later run in the
 * interpreter. Code of freed modules is free again. */
void wsr_native_budget(uint64_t bytes);
/* Bytes of native code in this process. */
uint64_t wsr_native_used(void);
typedef struct {
  const uint8_t *code;
  uint32_t bytes;
} wsr_native_view;
/* The native code of a function by address, without or with counts of instructions; 0 if it has
 * none. */
int wsr_native_code(wsr_store *store, uint32_t function, int counts, wsr_native_view *out);
/* A cell of fast code in a listing. */
typedef struct {
  const char *name;  /* of its instruction, or of the cell if it has none */
  uint32_t offset;   /* of the instruction in the module */
  uint32_t native;   /* where its native code begins */
  uint32_t template; /* 0: its C handler runs */
} wsr_listed_cell;
/* What native code is made of a function, by index: cells, and the code, whose first part, of `hot`
 * bytes, is in the order of the cells. */
typedef struct {
  wsr_listed_cell *cells;
  uint32_t n_cells;
  uint8_t *code;
  uint32_t bytes, hot, records; /* records: bytes at the end that are no code */
} wsr_native_listing;
/* 0: the function has no native code; free what is listed in any case. */
int wsr_native_list(wsr_module *module, uint32_t function, wsr_native_listing *out);
void wsr_native_list_free(wsr_native_listing *listing);
/* The compiler that built it, with its version. */
const char *wsr_compiler(void);

/* ---- capture and restore --------------------------------------------------------------------- */

typedef struct {
  uint32_t function; /* address */
  uint32_t instance, index;
  uint32_t offset; /* of the next instruction in the module; of a waiting frame, after its call */
  uint32_t n_locals, n_operands, n_slots;
  const uint8_t *types;   /* of locals, then operands, a code each; valid until the next call */
  const uint64_t *values; /* likewise: `n_slots` slots, a v128 has two */
  const uint8_t *live;    /* likewise: a byte for each local, 0 if no execution can read it any
                             more; the restore ignores it */
} wsr_frame_view;

uint32_t wsr_frame_count(const wsr_store *store);
/* View frame `frame` (0 is outermost); dead locals read as zero unless `all`. The host call of the
 * innermost frame is not performed. Returns 0 where the host has no memory left. */
int wsr_view_frame(wsr_store *store, uint32_t frame, int all, wsr_frame_view *out);
/* Which locals a frame of the module's function can still read, without a store: the frame is
 * before the instruction at `offset`, or with `waiting` after the call that ends there. Writes a
 * byte for each of up to `room` locals; returns how many the function has, or UINT32_MAX where no
 * frame can be there, the body is invalid or the host has no memory left. */
uint32_t wsr_module_live(wsr_module *module, uint32_t function, uint32_t offset, int waiting,
                         uint8_t *live, uint32_t room);
/* Push a frame on a thread that is being restored, which is seen like `view` (without instance and
 * index); `innermost` says that none follows, or that of a pushed call, otherwise `callee` is the
 * address of the function of the frame that will. Checks all there is to check. */
int wsr_restore_frame(wsr_store *store, const wsr_frame_view *view, int innermost, uint32_t callee,
                      wsr_error *error);
/* The next frame that is restored is the outermost one of a pushed call, and the last one was
 * restored as `innermost`. Returns 0 where the host has no memory left. */
int wsr_restore_pushed_call(wsr_store *store);
/* Test every invariant of the machine; NULL, or a sentence about the first that does not hold. */
const char *wsr_check(wsr_store *store);

/* Return a store in the state of another one that does not run. The two share the half of it that
 * never changes. With `memories`, the memories have their sizes and are all zeros: their bytes are
 * for the caller. Without, they have no address space at all, and the copy must not run or be
 * looked at but for its frames; it keeps a state for others. NULL with `error` set. */
wsr_store *wsr_store_copy(const wsr_store *from, int memories, wsr_error *error);
/* Give a store the state of another one, as a copy has it. Memories keep the bytes that they have,
 * up to the new size. Returns 0 where the host has no memory left; then the store can only be
 * freed. */
int wsr_store_assign(wsr_store *store, const wsr_store *from);

/* ---- memories over bases --------------------------------------------------------------------- */

typedef struct {
  uint64_t first, count; /* pages */
} wsr_page_run;

/* A memory is a private mapping of a base, which is a file or nothing: pages that are written
 * become private. None of these functions may be called while the store runs. `address` is a
 * memory's, and the host's pages are not larger than 64 KiB. */

/* Map `length` bytes of a file from `offset` on, both multiples of 64 KiB, to the start of a memory
 * that has so many. The bytes before `first`, a multiple of 64 KiB too, are mapped already, from
 * the same file; what was private after them is lost. The file must not become shorter while it is
 * mapped. Returns 0 if the memory is smaller, its base is longer than `length` or shorter than
 * `first`, or the host refuses. */
int wsr_lay_memory(wsr_store *store, uint32_t address, int file, uint64_t offset, uint64_t first,
                   uint64_t length);
/* Give up private pages, in runs of 4 KiB pages: they have the bytes of the base again, without one
 * zeros. Returns 0 if a run is out of bounds or the host refuses; some may be given up then. */
int wsr_drop_pages(wsr_store *store, uint32_t address, const wsr_page_run *runs, size_t n);
/* Give a memory a size in pages of 64 KiB, all zeros, and no base. Returns 0 if its limits do not
 * allow it, or the host refuses. */
int wsr_clear_memory(wsr_store *store, uint32_t address, uint64_t pages);

/* ---- pages ----------------------------------------------------------------------------------- */

/* Functions over memories as pages of 4 KiB. They allocate nothing and keep no state, so several
 * threads can work on parts of one memory. Nobody may write to the memory meanwhile. */

enum { WSR_PAGE = 4096 };

/* Mark with 1 the pages (of `page` bytes, the last one may be shorter) that hold a byte other than
 * zero; returns how many. */
size_t wsr_page_map(const uint8_t *data, size_t length, size_t page, uint8_t *nonzero);
/* Mark with 1 the pages that differ between two memories of one length; returns how many. */
size_t wsr_page_differences(const uint8_t *one, const uint8_t *other, size_t length, size_t page,
                            uint8_t *differs);
/* Copy a memory to one of zeros: zero pages are skipped, so that they stay uncommitted. */
void wsr_copy_pages(uint8_t *to, const uint8_t *from, size_t length);
/* Write the runs of marked pages among `pages` to `runs`, which has room for `room` of them.
 * Returns how many runs there are, even where these are more. */
size_t wsr_flag_runs(const uint8_t *flags, size_t pages, wsr_page_run *runs, size_t room);
/* Return how many pages runs have, or SIZE_MAX where one goes beyond a memory of `pages`. */
size_t wsr_run_pages(const wsr_page_run *runs, size_t n, size_t pages);
/* Copy the pages of runs in a memory of `pages` to `to`, one after the other. Returns how many, or
 * SIZE_MAX where a run is out of bounds or there are more than `room`; then nothing is copied. */
size_t wsr_gather(const uint8_t *data, size_t pages, const wsr_page_run *runs, size_t n,
                  uint8_t *to, size_t room);
/* Copy the pages of runs to their places in a memory of zeros, of as many pages; zero pages are
 * skipped. Returns how many pages the runs have, or SIZE_MAX where one is out of bounds. */
size_t wsr_copy_runs(uint8_t *to, const uint8_t *from, size_t pages, const wsr_page_run *runs,
                     size_t n);
/* The way back of `wsr_gather`, from `count` pages. With `fresh` the memory's pages are all zero,
 * and zero pages are skipped. Returns how many, or SIZE_MAX where a run is out of bounds or the
 * runs do not have `count` pages; then nothing is written. */
size_t wsr_scatter(const uint8_t *from, size_t count, const wsr_page_run *runs, size_t n,
                   uint8_t *data, size_t pages, int fresh);
/* Combine two buffers by exclusive or; `to` may be one of them. */
void wsr_xor(uint8_t *to, const uint8_t *one, const uint8_t *other, size_t length);

/* The ways to compute SHA-256. A variant that is not built here is the portable one; one that the
 * CPU does not have must not be asked for. */
enum { WSR_SHA256_PORTABLE, WSR_SHA256_X86, WSR_SHA256_ARM };
/* The fastest that this CPU has. It may take long in a virtual machine: ask once. */
uint32_t wsr_sha256_best(void);
void wsr_sha256(uint32_t variant, const uint8_t *data, size_t length, uint8_t *digest);
/* Write the digest (32 bytes) of each page; of a zero page `zero`, which is not computed. */
void wsr_page_digests(uint32_t variant, const uint8_t *data, size_t pages, const uint8_t *zero,
                      uint8_t *digests);
/* Write the digest of each of `n` blocks of `size` bytes: one level of a tree. `to` may be `data`.
 */
void wsr_block_digests(uint32_t variant, const uint8_t *data, size_t n, size_t size, uint8_t *to);
/* Write the digest of each leaf of `leaf` bytes, the last one shorter: SHA-256 of `level` in one
 * byte and the leaf. */
void wsr_leaf_digests(uint32_t variant, uint8_t level, const uint8_t *data, size_t length,
                      size_t leaf, uint8_t *digests);

/* Write a hash of each page, of a zero page 0; returns how many are not zero. The key has
 * WSR_PAGE / 4 random words. Two pages of a program that does not have the key have the same hash
 * with a probability of 2^-32. */
size_t wsr_page_hashes(const uint32_t *key, const uint8_t *data, size_t pages, uint64_t *hashes);

/* A run of pages in one space. */
typedef struct {
  uint32_t space, first, count, stored; /* `stored`: the number of the first page in the store */
} wsr_page_entry;

/* Equal pages of several spaces, each stored once in the order of first use. The caller gives
 * arrays for `room` pages and a table of 2^`bits` words that are zero, more than `room`. */
typedef struct {
  const uint8_t **spaces; /* the bytes of each */
  uint64_t multiplier;    /* odd and random */
  uint32_t bits, room;
  uint32_t *table;         /* the number of a stored page plus one, by hash */
  uint64_t *hashes;        /* of the stored pages */
  wsr_page_entry *entries; /* the runs of pages that are not zero */
  wsr_page_entry *sources; /* the runs of pages that hold the stored pages */
  uint32_t stored, n_entries, n_sources;
} wsr_equal_pages;

/* Add the next space, whose pages have these hashes. Returns 0 without room. */
int wsr_add_pages(wsr_equal_pages *equal, uint32_t space, const uint64_t *hashes, uint32_t pages);
/* Copy `count` stored pages from number `first` on. Returns 0 where there are not so many. */
int wsr_stored_pages(const wsr_equal_pages *equal, uint32_t first, uint32_t count, uint8_t *to);

/* cffi: end */
#endif
