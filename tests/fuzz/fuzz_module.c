/* A libFuzzer target for the core alone: decode, validate and compile whatever bytes come, run what
 * is valid for a while, with every invariant checked and each frame taken out and put in again.
 *
 * scripts/fuzz-module builds and runs it; so does `make fuzz`. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/wsr.h"

enum { MOST_FRAMES = 64, FUEL = 2000 };
#define ALL (~(uint64_t)0) /* features */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ensure(int holds) {
  if (!holds) abort();
}

/* Push the same frames on a store of its own: what execution has reached must be restorable. */
static void restore(wsr_store *from, wsr_module *module, const wsr_limits *limits,
                    const uint32_t *none) {
  wsr_error error;
  const uint32_t n = wsr_frame_count(from);
  wsr_store *to = wsr_store_new(limits, &error);
  if (!to) return;
  if (n <= MOST_FRAMES && wsr_add_instance(to, module, none, none, none, none, none, &error) == 0) {
    for (uint32_t i = 0; i < n; i++) {
      wsr_frame_view next = {0}, view;
      if (i + 1 < n) ensure(wsr_view_frame(from, i + 1, 1, &next));
      ensure(wsr_view_frame(from, i, 1, &view));
      ensure(
          wsr_restore_frame(to, &view, i + 1 == n, i + 1 < n ? next.function : UINT32_MAX, &error));
    }
    ensure(wsr_frame_count(to) == n);
  }
  wsr_store_free(to);
}

/* Zero is no value of a reference that is never null (bit 8 of a wsr_type). */
static int takes_no_zero(const wsr_function_type *type) {
  for (uint32_t i = 0; i < type->n_params; i++)
    if (type->params[i] & 0x100) return 1;
  return 0;
}

static void run(wsr_module *module, const wsr_counts *counts) {
  const wsr_limits limits = {16, 1000, 10000, 100, 1};
  const uint32_t none[1] = {0};
  const uint64_t arguments[256] = {0};
  wsr_error error;
  wsr_store *store = wsr_store_new(&limits, &error);
  if (!store) return;
  if (wsr_add_instance(store, module, none, none, none, none, none, &error) == 0 &&
      wsr_apply_segments(store, 0) == 0) {
    for (uint32_t f = 0; f < counts->functions && f < 20; f++) {
      wsr_function_type type;
      wsr_module_function_type(module, f, &type);
      wsr_activation outer;
      if (type.n_params > 128 || takes_no_zero(&type)) continue;
      if (wsr_begin(store, f, arguments, &outer)) continue;
      wsr_exit out;
      uint64_t fuel = FUEL;
      const uint32_t code = wsr_run(store, &fuel, &out);
      ensure(wsr_check(store) == NULL);
      if (code == WSR_PAUSED) restore(store, module, &limits, none);
      if (code != WSR_FINISHED) wsr_end(store, &outer);
    }
  }
  wsr_store_free(store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  wsr_error error;
  wsr_module *module = wsr_module_new(data, size, ALL, &error);
  if (!module) {
    ensure(error.kind != WSR_OK && memchr(error.message, 0, sizeof error.message) != NULL);
    return 0;
  }
  /* Half of the modules are validated whole before they run, as they are by default; in the others
   * each body is validated when it is compiled, as in modules that the cache knows. */
  if (size & 1 && wsr_module_validate(module, UINT64_MAX, &error) != 1) {
    ensure(error.kind != WSR_OK && memchr(error.message, 0, sizeof error.message) != NULL);
    wsr_module_free(module);
    return 0;
  }
  wsr_counts counts;
  wsr_module_counts(module, &counts);
  if (counts.imports == 0) run(module, &counts);
  wsr_module_free(module);
  return 0;
}
