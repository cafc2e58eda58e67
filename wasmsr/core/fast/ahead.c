/* Functions of a module that have code, and code made before it is needed: a process that forks
 * makes it once for all its children. */
#include "core/compile/compile.h"
#include "core/fast/fast.h"

static bool has_code(const wsr_code *code, bool metered, bool native) {
#if WSR_FAST
  if (!code) return false;
  const wsr_fast *const tiered = WSR_PUBLISHED(&code->fast[WSR_FAST_NATIVE + metered]);
  if (native) return tiered && atomic_load(&tiered->native);
  return tiered || WSR_PUBLISHED(&code->fast[WSR_FAST_PLAIN + metered]);
#else
  (void)metered;
  return code && !native;
#endif
}

uint32_t wsr_module_compiled(const wsr_module *m, int deterministic, int metered, int native,
                             uint32_t *out, uint32_t room) {
  const uint32_t imported = m->n.imported_functions;
  uint32_t n = 0;
  for (uint32_t f = imported; f < m->n.functions; f++) {
    const wsr_code *const code = WSR_PUBLISHED(&m->code[deterministic != 0][f - imported]);
    if (!has_code(code, metered != 0, native != 0)) continue;
    if (n < room) out[n] = f;
    n++;
  }
  return n;
}

void wsr_module_compile(wsr_module *m, int deterministic, int metered, wsr_ahead how,
                        const uint32_t *functions, uint32_t n) {
#if WSR_FAST
  const char *why;
  const bool tiered = how != WSR_AHEAD_INTERPRETED && wsr_native_available(&why);
  const unsigned kind = (tiered ? WSR_FAST_NATIVE : WSR_FAST_PLAIN) + (metered != 0);
#else
  (void)metered, (void)how;
#endif
  for (uint32_t i = 0; i < n; i++) {
    if (functions[i] < m->n.imported_functions || functions[i] >= m->n.functions) continue;
    const wsr_code *const code = wsr_compile(m, functions[i], deterministic != 0, NULL);
    if (!code) continue;
#if WSR_FAST
    (void)wsr_translate_fast(m, code, kind, how == WSR_AHEAD_LATER, NULL, NULL);
#endif
  }
}
