/* The core without Python: `alone FILE FUNCTION ARGUMENT FUEL` calls a function (i32) -> i32 of a
 * module that imports nothing. When FUEL instructions are executed it stands; its frames are taken
 * out and put on the store of a second instance, where it goes on to its end. Prints the frames and
 * the instructions of both runs, and the result.
 *
 * test_alone.py builds it with C libraries for which there is no Python here. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/wsr.h"

static const uint32_t NONE[1] = {0};

static void ensure(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "alone: %s\n", what);
  exit(1);
}

static wsr_store *instance(wsr_module *module) {
  const wsr_limits limits = {16, 1000, 1 << 20, 1 << 16, 1};
  wsr_error error;
  wsr_store *store = wsr_store_new(&limits, &error);
  ensure(store != NULL, "no store");
  ensure(wsr_add_instance(store, module, NONE, NONE, NONE, NONE, NONE, &error) == 0, error.message);
  ensure(wsr_apply_segments(store, 0) == 0, "a segment does not fit");
  return store;
}

/* The frames of one store to the other, outermost first: each is checked against the next. */
static void move(wsr_store *from, wsr_store *to) {
  const uint32_t n = wsr_frame_count(from);
  wsr_error error;
  for (uint32_t i = 0; i < n; i++) {
    wsr_frame_view view, next;
    uint32_t callee = UINT32_MAX;
    if (i + 1 < n) {
      ensure(wsr_view_frame(from, i + 1, 1, &next), "no such frame");
      callee = next.function;
    }
    ensure(wsr_view_frame(from, i, 1, &view), "no such frame");
    ensure(wsr_restore_frame(to, &view, i + 1 == n, callee, &error), error.message);
  }
  ensure(wsr_check(to) == NULL, "the restored state breaks an invariant");
}

int main(int count, char **words) {
  ensure(count == 5, "FILE FUNCTION ARGUMENT FUEL");
  static uint8_t bytes[1 << 20];
  FILE *file = fopen(words[1], "rb");
  ensure(file != NULL, "the file cannot be opened");
  const size_t size = fread(bytes, 1, sizeof bytes, file);
  fclose(file);

  wsr_error error;
  wsr_module *module = wsr_module_new(bytes, size, ~(uint64_t)0, &error);
  ensure(module != NULL, error.message);
  ensure(wsr_module_validate(module, UINT64_MAX, &error) == 1, error.message);

  wsr_store *here = instance(module);
  const uint64_t argument = strtoull(words[3], NULL, 10);
  const uint64_t given = strtoull(words[4], NULL, 10);
  wsr_activation outer;
  wsr_exit out;
  ensure(wsr_begin(here, (uint32_t)strtoul(words[2], NULL, 10), &argument, &outer) == 0, "begin");
  uint64_t fuel = given;
  ensure(wsr_run(here, &fuel, &out) == WSR_PAUSED && fuel == 0, "it does not stand");
  const uint32_t frames = wsr_frame_count(here);

  wsr_store *there = instance(module);
  move(here, there);
  wsr_store_free(here);
  const uint64_t plenty = (uint64_t)1 << 40;
  fuel = plenty;
  ensure(wsr_run(there, &fuel, &out) == WSR_FINISHED, "it does not end");
  printf("%" PRIu32 " %" PRIu64 " %" PRIu64 "\n", frames, given + plenty - fuel, out.slots[0]);
  wsr_store_free(there);
  wsr_module_free(module);
  return 0;
}
