/* Functions of a module that have code, and code made before it is needed: a process that forks
 * makes it once for all its children. */
#include "core/compile/compile.h"
#include "core/fast/fast.h"

static bool has_code(const wsr_code *code, bool metered) {
#if WSR_FAST
  return code && (WSR_PUBLISHED(&code->fast[WSR_FAST_PLAIN + metered]) ||
                  WSR_PUBLISHED(&code->fast[WSR_FAST_NATIVE + metered]));
#else
  (void)metered;
  return code != NULL;
#endif
}

uint32_t wsr_module_compiled(const wsr_module *m, int deterministic, int metered, uint32_t *out,
                             uint32_t room) {
  const uint32_t imported = m->n.imported_functions;
  uint32_t n = 0;
  for (uint32_t f = imported; f < m->n.functions; f++) {
    if (!has_code(WSR_PUBLISHED(&m->code[deterministic != 0][f - imported]), metered != 0))
      continue;
    if (n < room) out[n] = f;
    n++;
  }
  return n;
}

void wsr_module_compile(wsr_module *m, int deterministic, int metered, const uint32_t *functions,
                        uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    if (functions[i] < m->n.imported_functions || functions[i] >= m->n.functions) continue;
    const wsr_code *const code = wsr_compile(m, functions[i], deterministic != 0, NULL);
    if (!code) continue;
#if WSR_FAST
    (void)wsr_translate_fast(m, code, WSR_FAST_PLAIN + (metered != 0), false, NULL, NULL);
#else
    (void)metered;
#endif
  }
}
