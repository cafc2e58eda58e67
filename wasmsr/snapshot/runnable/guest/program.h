/* The program inside: a store of the core that is made of a plain state, and captured again. */
#ifndef PROGRAM_H
#define PROGRAM_H
#include "core/wsr.h"
#include "plain.h"

#define NO_FUEL UINT64_MAX   /* the program runs on no budget */
#define UNCOUNTED UINT64_MAX /* nobody counts its instructions */

typedef struct {
  uint32_t address;
  uint32_t n_slots;
  uint64_t *slots;
} invocation;

typedef struct {
  wsr_store *store;
  wsr_module **modules;
  uint32_t n_modules, n_functions, n_instances;
  uint32_t *calls;      /* of each function that the host provides, by address: its row of WASI */
  uint32_t *modules_of; /* of each instance */
  invocation *queue;
  uint32_t n_queue, next; /* invocations, and the first that has not begun */
  uint32_t result_of; /* the function whose results come next, plus one; 0 for a start function */
  uint64_t before;    /* instructions before this store was made, or UNCOUNTED */
  uint64_t fuel;      /* what is left at that moment, or NO_FUEL */
  plain_state state;
} program;

/* Make the program of a state; its pages follow later. A sentence and the end where it cannot be.
 */
void program_make(program *of, const plain_state *state);
/* Put pages of 4,096 bytes to their places, as many as follow in the runs of the state. */
typedef struct {
  reader runs;
  uint32_t memory, page, left;
} page_places;
page_places program_places(const program *of);
void program_put_pages(program *of, page_places *places, const uint8_t *pages, uint32_t count);
/* Push the frames, when everything else is there. */
void program_push_frames(program *of);
/* Begin the next invocation. False if there is none. */
bool program_begin_next(program *of, uint32_t *trap);
/* Instructions that the program has executed in all, or UNCOUNTED. */
uint64_t program_executed(const program *of);

/* The state as parts, but for the pages; `wasi` is the part of WASI. Returns how many pages follow.
 */
uint64_t program_capture(program *of, buffer *to, const buffer *wasi, uint64_t fuel);
/* Hand out the pages of the runs that were captured, in order. */
void program_each_page(program *of, void (*take)(const uint8_t *page, size_t size));
#endif
